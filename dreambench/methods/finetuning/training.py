"""What the methods that tune on a few photos share: latents made once, one loop, one optimizer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from pydantic import Field
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from dreambench.errors import UserError
from dreambench.methods.base import Context, Settings
from dreambench.methods.diffusion import (
    Conditioning,
    autocast,
    is_out_of_memory,
    load_base,
    make_class_images,
    predict,
)
from dreambench.storage.images import load_image

if TYPE_CHECKING:
    from diffusers import DDPMScheduler, StableDiffusionPipeline

Posterior = tuple[Tensor, Tensor]
"""Mean and deviation of the autoencoder's posterior of n images, each (n, c, h, w)."""


class TrainingSettings(Settings):
    """Numbers that every recipe of a tuned method has."""

    learning_rate: float = Field(gt=0)
    n_steps: int = Field(ge=1)
    batch_size: int = Field(ge=1, description="photos in a step; as many class images join them")
    weight_decay: float = Field(ge=0)
    max_grad_norm: float = Field(gt=0)
    optimizer: Literal["adamw", "adamw-8bit"] = Field(
        description="8 bits take a quarter of the memory of its state; needs bitsandbytes"
    )
    n_photos: int = Field(ge=0, description="the first so many photos, the paper's table 5; 0: all")
    gradient_checkpointing: bool = Field(description="less memory for more time")


def check_prior(prior_weight: float, n_class_images: int) -> None:
    """Raises UserError for a prior that is to be preserved without images of it."""
    if prior_weight > 0 and n_class_images == 0:
        raise UserError(
            "prior_weight is above 0 but n_class_images is 0",
            hint="set n_class_images, or prior_weight = 0",
        )


def load_frozen(context: Context, settings: TrainingSettings) -> StableDiffusionPipeline:
    """The base model without gradients; the method gives them to what it trains."""
    pipeline = load_base(context)
    for part in pipeline.components.values():
        if isinstance(part, nn.Module):
            part.requires_grad_(False)
    if settings.gradient_checkpointing:
        pipeline.unet.enable_gradient_checkpointing()
    return pipeline


def load_photos(photos: Sequence[Path], settings: TrainingSettings) -> list[Image.Image]:
    """The photos that a recipe lets its method see."""
    return [load_image(path) for path in photos[: settings.n_photos or None]]


@dataclass(frozen=True)
class Batch:
    """What one step learns from: clean latents (n, c, h, w) and their texts.

    The first `n_subject` rows show the subject, the others the plain class. `weights` (n, 1, h, w)
    says where the error counts; None for everywhere.
    """

    latents: Tensor
    text: Conditioning
    n_subject: int
    weights: Tensor | None = None


def make_optimizer(
    parameters: Sequence[nn.Parameter], settings: TrainingSettings
) -> torch.optim.Optimizer:
    """The recipe's optimizer; UserError when its library is not installed."""
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(
            parameters, settings.learning_rate, weight_decay=settings.weight_decay, fused=True
        )
    try:
        from bitsandbytes.optim import AdamW8bit  # noqa: PLC0415  (an extra)
    except ImportError as error:
        raise UserError(
            "optimizer 'adamw-8bit' needs the package bitsandbytes",
            hint="pip install 'dreambench[small-gpu]', or optimizer = 'adamw' in the recipe",
        ) from error
    return AdamW8bit(parameters, settings.learning_rate, weight_decay=settings.weight_decay)


def tune(
    pipeline: StableDiffusionPipeline,
    context: Context,
    settings: TrainingSettings,
    *,
    modules: Sequence[nn.Module],
    draw_batch: Callable[[torch.Generator], Batch],
    prior_weight: float,
    subject_name: str,
    seed: int,
) -> list[dict[str, float]]:
    """Trains the parameters of `modules` that want gradients; returns the losses of each step.

    `draw_batch` makes a step's batch with the generator that it is handed, which all of a subject's
    randomness comes from. Raises UserError when memory runs out or the loss becomes infinite.
    """
    from diffusers import DDPMScheduler  # noqa: PLC0415  (slow import)

    schedule = DDPMScheduler.from_config(pipeline.scheduler.config)
    parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
    optimizer = make_optimizer(parameters, settings)
    noise = torch.Generator("cpu").manual_seed(seed)
    for module in modules:
        module.train()
    history = []
    try:
        for step in range(settings.n_steps):
            with autocast(context):
                batch = draw_batch(noise)
                errors = _denoising_errors(pipeline, schedule, batch, noise)
                subject_loss = errors[: batch.n_subject].mean()
                prior_loss = torch.zeros_like(subject_loss)
                if len(errors) > batch.n_subject:
                    prior_loss = errors[batch.n_subject :].mean()
                loss = subject_loss + prior_weight * prior_loss
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, settings.max_grad_norm)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            history.append(
                {"subject": float(subject_loss.detach()), "prior": float(prior_loss.detach())}
            )
            context.progress(f"tuning on {subject_name}", step + 1, settings.n_steps)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise UserError(
            f"no memory for a training step of batch {settings.batch_size}",
            hint="in a copy of the recipe: gradient_checkpointing = true, optimizer = 'adamw-8bit',"
            " a lower batch_size; or use --precision bf16",
        ) from error
    finally:
        for module in modules:
            module.eval()
    if not np.isfinite([row["subject"] for row in history]).all():
        raise UserError(
            f"the loss on {subject_name} became infinite", hint="lower the learning rate"
        )
    return history


def keep_weights(module: nn.Module, file: Path | None) -> Callable[[], Mapping[str, Tensor]]:
    """A way to a module's present weights, for when they have changed.

    Where `file` holds them under the same names, they are mapped from it, so that a large UNet is
    in memory once; else they are copied.
    """
    if file is not None:
        with safe_open(file, "pt") as stored:
            same_names = set(stored.keys()) == set(module.state_dict())
        if same_names:
            return lambda: load_file(file)
    copy = {key: value.detach().cpu().clone() for key, value in module.state_dict().items()}
    return lambda: copy


def _denoising_errors(
    pipeline: StableDiffusionPipeline,
    schedule: DDPMScheduler,
    batch: Batch,
    noise: torch.Generator,
) -> Tensor:
    """Mean squared error of the UNet's prediction for each row of a batch (paper, equation 2)."""
    clean = batch.latents
    eps = torch.randn(clean.shape, generator=noise).to(clean.device)
    times = torch.randint(schedule.config.num_train_timesteps, (len(clean),), generator=noise).to(
        clean.device
    )
    found = predict(pipeline, schedule.add_noise(clean, eps, times), times, batch.text)
    targets = {"epsilon": eps, "sample": clean}
    kind = schedule.config.prediction_type
    target = schedule.get_velocity(clean, eps, times) if kind == "v_prediction" else targets[kind]
    errors = F.mse_loss(found.float(), target.float(), reduction="none")
    if batch.weights is None:
        return errors.mean((1, 2, 3))
    return (errors * batch.weights).mean((1, 2, 3)) / batch.weights.mean((1, 2, 3))


@torch.no_grad()
def encode_images(
    pipeline: StableDiffusionPipeline, context: Context, images: Sequence[Image.Image]
) -> Posterior:
    """The autoencoder's posterior of each image, cut square at the protocol's size."""
    side = context.sampler.size_px
    means, stds = [], []
    for image in images:
        square = ImageOps.fit(image, (side, side), Image.Resampling.BICUBIC)
        pixels = torch.from_numpy(np.asarray(square, np.float32) / 127.5 - 1)
        pixels = pixels.permute(2, 0, 1)[None].to(context.device)
        posterior = pipeline.vae.encode(pixels).latent_dist
        means.append(posterior.mean)
        stds.append(posterior.std)
    return torch.cat(means), torch.cat(stds)


def draw_rows(n: int, size: int, noise: torch.Generator) -> Tensor:
    """Indices (size,) below n, without repetition as far as there are enough."""
    return torch.cat([torch.randperm(n, generator=noise) for _ in range(-(-size // n))])[:size]


def sample_latents(
    pipeline: StableDiffusionPipeline, posterior: Posterior, rows: Tensor, noise: torch.Generator
) -> Tensor:
    """Scaled latents of these rows' images, drawn from their posteriors."""
    mean, std = posterior
    spread = torch.randn((len(rows), *mean.shape[1:]), generator=noise).to(mean.device)
    rows = rows.to(mean.device)
    return (mean[rows] + std[rows] * spread) * pipeline.vae.config.scaling_factor


def draw_latents(
    pipeline: StableDiffusionPipeline, posterior: Posterior, size: int, noise: torch.Generator
) -> Tensor:
    """Scaled latents of `size` images, drawn by `draw_rows`."""
    rows = draw_rows(len(posterior[0]), size, noise)
    return sample_latents(pipeline, posterior, rows, noise)


class ClassImages:
    """Latents of class images, made once for each class noun."""

    def __init__(
        self, pipeline: StableDiffusionPipeline, context: Context, *, n_images: int
    ) -> None:
        self._pipeline = pipeline
        self._context = context
        self._n_images = n_images
        self._posteriors: dict[str, Posterior] = {}

    def encode(self, class_name: str) -> Posterior:
        """The posterior of the class's images, which are drawn where the cache lacks them."""
        if class_name not in self._posteriors:
            paths = make_class_images(
                self._pipeline, self._context, class_name=class_name, n_images=self._n_images
            )
            images = [load_image(path) for path in paths]
            self._posteriors[class_name] = encode_images(self._pipeline, self._context, images)
        return self._posteriors[class_name]
