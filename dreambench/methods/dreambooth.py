"""DreamBooth (Ruiz et al., CVPR 2023): full fine-tuning on a few photos with prior preservation."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from pydantic import Field
from safetensors.torch import load_file, save
from torch import Tensor, nn

from dreambench.base_models import BaseModel
from dreambench.errors import UserError
from dreambench.files import load_image, write_bytes, write_json
from dreambench.methods import Context, Settings, Work
from dreambench.methods.diffusion import (
    Conditioning,
    PipelineGenerator,
    autocast,
    encode_texts,
    is_out_of_memory,
    load_base,
    make_class_images,
    predict,
)
from dreambench.methods.identifier import choose_identifier
from dreambench.subjects import Subject

if TYPE_CHECKING:
    from diffusers import DDPMScheduler


class DreamBoothSettings(Settings):
    """Numbers of a DreamBooth recipe."""

    identifier: str = Field(min_length=1, description="a token, or auto for a rare one")
    learning_rate: float = Field(gt=0)
    n_steps: int = Field(ge=1)
    batch_size: int = Field(ge=1, description="photos in a step; as many class images join them")
    train_text_encoder: bool
    prior_weight: float = Field(ge=0, description="lambda of the paper; 0 leaves the prior out")
    n_class_images: int = Field(ge=0)
    weight_decay: float = Field(ge=0)
    max_grad_norm: float = Field(gt=0)
    class_noun: Literal["correct", "none", "wrong"] = Field(
        description="the paper's table 4; without a noun there is no prior either"
    )
    n_photos: int = Field(ge=0, description="the first so many photos, the paper's table 5; 0: all")
    gradient_checkpointing: bool = Field(description="less memory for more time")


def choose_noun(subject: Subject, class_noun: str) -> str:
    """The noun that stands behind the identifier; the wrong one is of the other kind."""
    wrong = "teapot" if subject.kind == "live" else "dog"
    return {"correct": subject.class_name, "none": "", "wrong": wrong}[class_noun]


class DreamBooth:
    """Fine-tunes all layers of the UNet (and the text encoder by choice) on "a [V] [class]"."""

    Settings = DreamBoothSettings
    tunes = True
    n_references = None

    def __init__(self, settings: DreamBoothSettings, context: Context) -> None:
        if settings.prior_weight > 0 and settings.n_class_images == 0:
            raise UserError(
                "prior_weight is above 0 but n_class_images is 0",
                hint="set n_class_images, or prior_weight = 0",
            )
        if settings.prior_weight > 0 and settings.class_noun == "none":
            raise UserError(
                "without a class noun there is no prior to preserve", hint="set prior_weight = 0"
            )
        self.settings = settings
        self.context = context
        self.pipeline = load_base(context)
        self.identifier = choose_identifier(self.pipeline.tokenizer, settings.identifier)
        self.trained = {"unet": self.pipeline.unet}
        if settings.train_text_encoder:
            self.trained["text_encoder"] = self.pipeline.text_encoder
            if hasattr(self.pipeline, "text_encoder_2"):
                self.trained["text_encoder_2"] = self.pipeline.text_encoder_2
        if settings.gradient_checkpointing:
            self.pipeline.unet.enable_gradient_checkpointing()
        # One load for all subjects: each starts from these, kept in memory.
        self._initial = {
            name: {key: value.detach().cpu().clone() for key, value in module.state_dict().items()}
            for name, module in self.trained.items()
        }
        self._class_latents: dict[str, tuple[Tensor, Tensor]] = {}

    @classmethod
    def count_work(cls, settings: DreamBoothSettings, base_model: BaseModel) -> Work:
        """See `methods.Method`. The UNet's size counts; text encoders are small beside it."""
        with_prior = settings.prior_weight > 0
        return Work(
            optimizer_steps=settings.n_steps,
            images_per_step=settings.batch_size * (2 if with_prior else 1),
            class_images=settings.n_class_images if with_prior else 0,
            saved_bytes=2 * base_model.n_unet_parameters,
            draws=True,
        )

    def fit(self, subject: Subject, out_dir: Path, *, seed: int) -> None:
        """Trains on the subject's photos and writes `<module>.safetensors` in half precision."""
        for name, module in self.trained.items():
            module.load_state_dict(self._initial[name])
        try:
            losses = self._train(subject, seed=seed)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise UserError(
                f"no memory for a training step of batch {self.settings.batch_size}",
                hint="lower batch_size in a copy of the recipe, or use --precision bf16",
            ) from error
        for name, module in self.trained.items():
            state = {
                key: value.half().cpu().contiguous() for key, value in module.state_dict().items()
            }
            write_bytes(out_dir / f"{name}.safetensors", save(state, metadata={"format": "pt"}))
        write_json(out_dir / "losses.json", losses)

    def load(self, subject: Subject, out_dir: Path) -> PipelineGenerator:
        """Puts the subject's weights into the pipeline."""
        for name, module in self.trained.items():
            module.load_state_dict(load_file(out_dir / f"{name}.safetensors"))
        return PipelineGenerator(self.pipeline, self.context, subject_phrase=self._phrase(subject))

    def _phrase(self, subject: Subject) -> str:
        return f"{self.identifier} {choose_noun(subject, self.settings.class_noun)}".strip()

    def _train(self, subject: Subject, *, seed: int) -> list[dict[str, float]]:
        from diffusers import DDPMScheduler  # noqa: PLC0415  (slow import)

        settings, pipeline = self.settings, self.pipeline
        given = subject.photos[: settings.n_photos or None]
        photos = self._encode([load_image(path) for path in given])
        noun, prior = choose_noun(subject, settings.class_noun), None
        if settings.prior_weight > 0:
            prior = self._encode_class_images(noun)
        texts = [f"a {self._phrase(subject)}", f"a {noun}"]
        schedule = DDPMScheduler.from_config(pipeline.scheduler.config)
        parameters = [p for module in self.trained.values() for p in module.parameters()]
        optimizer = torch.optim.AdamW(
            parameters, settings.learning_rate, weight_decay=settings.weight_decay, fused=True
        )
        for module in self.trained.values():
            module.train()
        noise = torch.Generator("cpu").manual_seed(seed)
        with torch.no_grad():
            frozen_text = encode_texts(pipeline, texts)
        history = []
        for step in range(settings.n_steps):
            with autocast(self.context):
                text = encode_texts(pipeline, texts) if settings.train_text_encoder else frozen_text
                subject_loss, prior_loss = self._losses(schedule, text, photos, prior, noise)
                loss = subject_loss + settings.prior_weight * prior_loss
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, settings.max_grad_norm)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            history.append(
                {"subject": float(subject_loss.detach()), "prior": float(prior_loss.detach())}
            )
            self.context.progress(f"tuning on {subject.name}", step + 1, settings.n_steps)
        for module in self.trained.values():
            module.eval()
        if not np.isfinite([row["subject"] for row in history]).all():
            raise UserError(
                f"the loss on {subject.name} became infinite", hint="lower the learning rate"
            )
        return history

    def _losses(
        self,
        schedule: DDPMScheduler,
        text: Conditioning,
        photos: tuple[Tensor, Tensor],
        prior: tuple[Tensor, Tensor] | None,
        noise: torch.Generator,
    ) -> tuple[Tensor, Tensor]:
        """Mean squared errors of the two halves of a batch (paper, equation 2)."""
        size = self.settings.batch_size
        latents = [self._draw(photos, size, noise)]
        words = text.repeat(0, size)
        if prior is not None:
            latents.append(self._draw(prior, size, noise))
            words = words.join(text.repeat(1, size))
        clean = torch.cat(latents)
        eps = torch.randn(clean.shape, generator=noise).to(clean.device)
        times = torch.randint(
            schedule.config.num_train_timesteps, (len(clean),), generator=noise
        ).to(clean.device)
        found = predict(self.pipeline, schedule.add_noise(clean, eps, times), times, words)
        targets = {"epsilon": eps, "sample": clean}
        kind = schedule.config.prediction_type
        target = (
            schedule.get_velocity(clean, eps, times) if kind == "v_prediction" else targets[kind]
        )
        errors = F.mse_loss(found.float(), target.float(), reduction="none").mean((1, 2, 3))
        if prior is None:
            return errors.mean(), torch.zeros((), device=clean.device)
        return errors[:size].mean(), errors[size:].mean()

    def _draw(self, posterior: tuple[Tensor, Tensor], size: int, noise: torch.Generator) -> Tensor:
        """Latents of `size` images drawn without repetition as far as there are enough."""
        mean, std = posterior
        rows = torch.cat(
            [torch.randperm(len(mean), generator=noise) for _ in range(-(-size // len(mean)))]
        )[:size]
        spread = torch.randn((size, *mean.shape[1:]), generator=noise).to(mean.device)
        rows = rows.to(mean.device)
        return (mean[rows] + std[rows] * spread) * self.pipeline.vae.config.scaling_factor

    @torch.no_grad()
    def _encode(self, images: list[Image.Image]) -> tuple[Tensor, Tensor]:
        """Mean and deviation of the autoencoder's posterior, each image once; (n, c, h, w)."""
        side = self.context.sampler.size_px
        means, stds = [], []
        for image in images:
            square = ImageOps.fit(image, (side, side), Image.Resampling.BICUBIC)
            pixels = torch.from_numpy(np.asarray(square, np.float32) / 127.5 - 1)
            pixels = pixels.permute(2, 0, 1)[None].to(self.context.device)
            posterior = self.pipeline.vae.encode(pixels).latent_dist
            means.append(posterior.mean)
            stds.append(posterior.std)
        return torch.cat(means), torch.cat(stds)

    def _encode_class_images(self, class_name: str) -> tuple[Tensor, Tensor]:
        if class_name not in self._class_latents:
            paths = make_class_images(
                self.pipeline,
                self.context,
                class_name=class_name,
                n_images=self.settings.n_class_images,
            )
            self._class_latents[class_name] = self._encode([load_image(path) for path in paths])
        return self._class_latents[class_name]
