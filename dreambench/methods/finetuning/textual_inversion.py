"""Textual Inversion (Gal et al., ICLR 2023): a new word for the subject, and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import nn

from dreambench.artifacts.long_texts import ONE_TOKEN
from dreambench.base_models.spec import DIFFUSION, BaseModel
from dreambench.base_models.stable_diffusion import StableDiffusion
from dreambench.datasets.subjects import Subject
from dreambench.methods.base import Context, Method, Work
from dreambench.methods.finetuning.new_word import NewWord
from dreambench.methods.finetuning.training import (
    Batch,
    Checkpoints,
    TrainingSettings,
    freeze,
    load_photos,
    pick_rows,
    train,
)
from dreambench.methods.generators import TextGenerator
from dreambench.storage.files import write_json

WORD = "<subject>"
# The word has to stand for the subject in whatever sentence.
TEMPLATES = ("a {}", "a photo of a {}", "a picture of a {}")


class TextualInversionSettings(TrainingSettings):
    """Numbers of a Textual Inversion recipe."""

    n_vectors: int = Field(ge=1, le=64, description="vectors of the new word, in a row")
    initial: Literal["class-noun"] = Field(description="what the vectors start from")


class TextualInversion(Method):
    """Learns the vectors of a new word; all networks stay as they are.

    Saved as `NewWord` saves it, which is how `pipeline.load_textual_inversion` reads it.
    """

    Settings: ClassVar[type[TextualInversionSettings]] = TextualInversionSettings
    families = DIFFUSION
    tunes = True

    def __init__(self, settings: TextualInversionSettings, context: Context) -> None:
        super().__init__(settings, context)
        # Other pipelines read no word of several vectors.
        self.model = context.load_base_model(StableDiffusion)
        freeze(self.model, settings)
        self.word = NewWord(self.model, WORD, n_vectors=settings.n_vectors)

    @classmethod
    def count_work(cls, settings: TextualInversionSettings, base_model: BaseModel) -> Work:
        """See `methods.Method`."""
        n_trained = settings.n_vectors * base_model.text_width
        return Work(
            optimizer_steps=settings.n_steps,
            images_per_step=settings.photos_per_step,
            trained_parameters=n_trained,
            saved_bytes=4 * n_trained,
            samples=True,
        )

    @classmethod
    def name_subject(cls, settings: TextualInversionSettings, subject: Subject) -> str:
        """See `methods.Method`; each vector of the word is one token."""
        return " ".join([ONE_TOKEN] * settings.n_vectors)

    def fit(self, subject: Subject, out_dir: Path, *, seed: int) -> None:
        """Learn the word from the subject's photos; write its vectors and `losses.json`."""
        self.word.put(self.word.find_vectors(subject.class_name))
        checkpoints = Checkpoints(out_dir, self.context.checkpoints, self.word.save)
        with self.word.learning() as modules:
            losses = self._train(subject, modules, seed=seed, checkpoints=checkpoints)
        self.word.save(out_dir)
        write_json(out_dir / "losses.json", losses)

    def load(self, subject: Subject, out_dir: Path) -> TextGenerator:
        """Put the subject's word into the vocabulary."""
        self.word.load(out_dir)
        return TextGenerator(self.model, subject_phrase=WORD)

    def _train(
        self, subject: Subject, modules: list[nn.Module], *, seed: int, checkpoints: Checkpoints
    ) -> list[dict[str, float]]:
        settings, model = self.settings, self.model
        size = settings.batch_size
        photos = model.encode_images(load_photos(subject.photos, settings))
        texts = [template.format(WORD) for template in TEMPLATES]

        def make_batch(noise: torch.Generator) -> Batch:
            latents = photos.sample(pick_rows(len(photos), size, noise), noise)
            chosen = torch.randint(len(texts), (size,), generator=noise)
            words = model.encode_prompts(texts).take(chosen.tolist())
            return Batch(latents, words, n_subject=size)

        return train(
            model, settings, modules=modules, make_batch=make_batch, prior_weight=0.0,
            subject_name=subject.name, seed=seed, progress=self.context.progress,
            checkpoints=checkpoints,
        )  # fmt: skip
