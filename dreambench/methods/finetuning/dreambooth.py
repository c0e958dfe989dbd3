"""DreamBooth (Ruiz et al., CVPR 2023): fine-tuning on a few photos with prior preservation."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from safetensors.torch import save
from torch import nn

from dreambench.artifacts.long_texts import ONE_TOKEN
from dreambench.base_models.base import LoadedModel
from dreambench.base_models.spec import UPSCALER_DIR, BaseModel
from dreambench.base_models.weights import load_trained
from dreambench.datasets.subjects import Subject
from dreambench.errors import UserError
from dreambench.methods.base import Context, Method, Work
from dreambench.methods.finetuning.class_images import ClassImages
from dreambench.methods.finetuning.identifier import (
    Identifier,
    choose_identifier,
    complete_identifiers,
)
from dreambench.methods.finetuning.training import (
    Batch,
    Checkpoints,
    PriorSettings,
    freeze,
    keep_weights,
    load_photos,
    pick_rows,
    train,
)
from dreambench.methods.generators import TextGenerator
from dreambench.storage.files import make_dir, write_bytes, write_json


class DreamBoothSettings(PriorSettings):
    """Numbers of a DreamBooth recipe."""

    identifier: Identifier = Field(description="a token, or auto for a rare one")
    train_text_encoder: bool
    class_noun: Literal["correct", "none", "wrong"] = Field(
        description="the paper's table 4; without a noun there is no prior either"
    )
    upscaler_n_steps: int = Field(
        default=0, ge=0, description="of a cascade's stage II, on the photos alone; 0: not trained"
    )
    upscaler_learning_rate: float | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _check_upscaler(self) -> Self:
        if (self.upscaler_n_steps > 0) != (self.upscaler_learning_rate is not None):
            raise ValueError("upscaler_n_steps and upscaler_learning_rate go together")
        return self

    @model_validator(mode="after")
    def _check_noun(self) -> Self:
        if self.prior_weight > 0 and self.class_noun == "none":
            raise ValueError("without a class_noun there is no prior for a prior_weight above 0")
        return self

    def of_upscaler(self) -> Self | None:
        """Return the numbers that a cascade's stage II is trained with, which has no prior."""
        if not self.upscaler_n_steps:
            return None
        changes = {
            "n_steps": self.upscaler_n_steps, "learning_rate": self.upscaler_learning_rate,
            "prior_weight": 0.0, "n_class_images": 0, "upscaler_n_steps": 0,
            "upscaler_learning_rate": None,
        }  # fmt: skip
        return self.model_copy(update=changes)


def choose_noun(subject: Subject, class_noun: str) -> str:
    """Return the noun that stands behind the identifier; the wrong one is of the other kind."""
    wrong = "teapot" if subject.kind == "live" else "dog"
    return {"correct": subject.class_name, "none": "", "wrong": wrong}[class_noun]


class DreamBooth(Method):
    """Fine-tunes the whole denoising network (and text encoders by choice) on "a [V] [class]".

    Of a pair each subject has an identifier of its own, the second always a rare token, and a step
    learns from a batch of each.
    """

    Settings: ClassVar[type[DreamBoothSettings]] = DreamBoothSettings
    tunes = True
    most_subjects = 2

    def __init__(
        self, settings: DreamBoothSettings, context: Context, model: LoadedModel | None = None
    ) -> None:
        """Load the base model, or train `model`, which is one of its networks' own."""
        super().__init__(settings, context)
        self.model = model or self._load_base_model()
        freeze(self.model, settings)
        self.identifier = choose_identifier(self.model.tokenizer, settings.identifier)
        self.trained: dict[str, nn.Module] = self.model.trainable_networks(
            with_text_encoders=settings.train_text_encoder
        )
        self._class_images = ClassImages(self.model, context, n_images=settings.n_class_images)
        self._prepare()
        self._second: DreamBooth | None = None
        if (numbers := settings.of_upscaler()) is not None:
            if context.checkpoints:
                raise UserError(
                    "what checkpoints hold is one network's, and this recipe trains two",
                    hint="set upscaler_n_steps = 0 and leave upscaler_learning_rate out",
                    code="invalid-value",
                )
            self._second = type(self)(numbers, context, self.model.upscaler)

    @classmethod
    def count_work(cls, settings: DreamBoothSettings, base_model: BaseModel) -> Work:
        """See `methods.Method`; memory is stage I's where a cascade is trained.

        Raises:
            UserError: there is no stage II that could be trained.
        """
        if settings.upscaler_n_steps and base_model.upscaler is None:
            raise UserError(
                f"the base model '{base_model.name}' has no stage II to train",
                hint="leave upscaler_n_steps and upscaler_learning_rate out of the recipe",
                code="unsupported-base-model",
            )
        with_prior = settings.prior_weight > 0
        n_trained = cls._count_trained(settings, base_model)
        n_second = settings.upscaler_n_steps
        return Work(
            optimizer_steps=settings.n_steps,
            second_steps=n_second,
            second_images=n_second * settings.photos_per_step,
            images_per_step=settings.photos_per_step * (2 if with_prior else 1),
            class_images=settings.n_class_images if with_prior else 0,
            trained_parameters=n_trained,
            saved_bytes=cls._saved_bytes_per_parameter
            * (n_trained + cls._count_second(settings, base_model)),
            samples=True,
        )

    @classmethod
    def name_subject(cls, settings: DreamBoothSettings, subject: Subject) -> str:
        """See `methods.Method`; an identifier that is yet to be chosen is one token."""
        word = ONE_TOKEN if settings.identifier == "auto" else settings.identifier
        return f"{word} {choose_noun(subject, settings.class_noun)}".strip()

    def fit(self, subject: Subject, out_dir: Path, *, seed: int) -> None:
        """Train on the subject's photos; write the weights and `losses.json`."""
        self._reset(seed)
        checkpoints = Checkpoints(out_dir, self.context.checkpoints, self._save)
        losses = self._train(subject, seed=seed, checkpoints=checkpoints)
        self._save(out_dir)
        write_json(out_dir / "losses.json", losses)
        if self._second is not None:
            self._second.fit(subject, make_dir(out_dir / UPSCALER_DIR), seed=seed)

    def load(self, subject: Subject, out_dir: Path) -> TextGenerator:
        """Put the subject's weights into the base model."""
        self._restore(out_dir)
        if self._second is not None:
            self._second._restore(out_dir / UPSCALER_DIR)
        return TextGenerator(self.model, subject_phrase=self._phrases(subject))

    def _phrases(self, subject: Subject) -> list[str]:
        """Return what each of the subjects is called."""
        words = complete_identifiers(self.model.tokenizer, self.identifier, len(subject.each))
        nouns = [choose_noun(one, self.settings.class_noun) for one in subject.each]
        return [f"{word} {noun}".strip() for word, noun in zip(words, nouns, strict=True)]

    def _train(
        self, subject: Subject, *, seed: int, checkpoints: Checkpoints
    ) -> list[dict[str, float]]:
        settings, model = self.settings, self.model
        photos = [model.encode_images(load_photos(one.photos, settings)) for one in subject.each]
        nouns = [choose_noun(one, settings.class_noun) for one in subject.each]
        priors = []
        if settings.prior_weight > 0:
            priors = [self._class_images.encode(noun) for noun in nouns]
        # One text a subject, then one a class.
        texts = [f"a {words}" for words in (*self._phrases(subject), *nouns)]
        with torch.no_grad():
            frozen_text = model.encode_prompts(texts)
        size = settings.batch_size

        def make_batch(noise: torch.Generator) -> Batch:
            text = model.encode_prompts(texts) if settings.train_text_encoder else frozen_text
            every = [*photos, *priors]
            latents = [one.sample(pick_rows(len(one), size, noise), noise) for one in every]
            words = text.repeat(0, size)
            for row in range(1, len(every)):
                words = words.join(text.repeat(row, size))
            return Batch(torch.cat(latents), words, n_subject=size * len(photos))

        return train(
            model, settings, modules=list(self.trained.values()), make_batch=make_batch,
            prior_weight=settings.prior_weight, subject_name=subject.name, seed=seed,
            progress=self.context.progress, checkpoints=checkpoints,
        )  # fmt: skip

    # What a variant on other weights (LoRA) does in its own way.

    _saved_bytes_per_parameter = 2

    def _load_base_model(self) -> LoadedModel:
        return self.context.load_base_model()

    @classmethod
    def _count_second(cls, settings: DreamBoothSettings, base_model: BaseModel) -> int:
        """Return the parameters of a cascade's stage II that are trained."""
        if base_model.upscaler is None or not settings.upscaler_n_steps:
            return 0
        return base_model.upscaler[2]

    @classmethod
    def _count_trained(cls, settings: DreamBoothSettings, base_model: BaseModel) -> int:
        n_text = base_model.n_text_parameters if settings.train_text_encoder else 0
        return base_model.n_denoiser_parameters + n_text

    def _prepare(self) -> None:
        """Keep the initial weights: one load serves all subjects, each starts from these again."""
        self.model.hold_masters(self.trained.values())
        self._initial = {
            name: keep_weights(module, self.model.find_weights(name))
            for name, module in self.trained.items()
        }
        for module in self.trained.values():
            module.requires_grad_(True)

    def _reset(self, seed: int) -> None:
        for name, module in self.trained.items():
            module.load_state_dict(self._initial[name]())

    def _save(self, out_dir: Path) -> None:
        """Write `<network>.safetensors` in half precision."""
        for name, module in self.trained.items():
            state = {
                key: value.half().cpu().contiguous() for key, value in module.state_dict().items()
            }
            write_bytes(out_dir / f"{name}.safetensors", save(state, metadata={"format": "pt"}))

    def _restore(self, out_dir: Path) -> None:
        for name, module in self.trained.items():
            file = out_dir / f"{name}.safetensors"
            module.load_state_dict(load_trained(file, module.state_dict(), part=name))
