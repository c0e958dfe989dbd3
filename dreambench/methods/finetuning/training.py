"""What methods that train on a few photos share: one loop, one optimizer, one set of numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, Self

import torch
from PIL import Image
from pydantic import Field, model_validator
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from dreambench.base_models.base import LoadedModel
from dreambench.base_models.encodings import Conditioning
from dreambench.base_models.memory import is_out_of_memory, with_room
from dreambench.errors import UserError
from dreambench.methods.base import Settings, checkpoint_dir
from dreambench.progress import Progress
from dreambench.storage.files import make_dir, write_json
from dreambench.storage.images import load_image

STEPS_PER_CHECK = 10
"""Losses of so many steps are read at once."""


class TrainingSettings(Settings):
    """Numbers that every recipe of a method that trains has."""

    learning_rate: float = Field(gt=0)
    n_steps: int = Field(ge=1)
    batch_size: int = Field(ge=1, description="photos in a step; as many class images join them")
    weight_decay: float = Field(ge=0)
    max_grad_norm: float = Field(gt=0)
    optimizer: Literal["adamw", "adamw-8bit"] = Field(
        description="8 bits take a quarter of the memory of its state; needs bitsandbytes"
    )
    lr_scheduler: Literal["constant", "linear", "cosine"] = Field(
        default="constant", description="linear and cosine end at a learning rate of 0"
    )
    lr_warmup_steps: int = Field(
        default=0, ge=0, description="steps in which the learning rate rises from 0"
    )
    gradient_accumulation_steps: int = Field(
        default=1, ge=1, description="batches of a step, one after another: memory is that of one"
    )
    n_photos: int = Field(ge=0, description="the first so many photos, the paper's table 5; 0: all")
    gradient_checkpointing: bool = Field(description="less memory for more time")

    @property
    def photos_per_step(self) -> int:
        """Photos that one step of the optimizer learns from."""
        return self.batch_size * self.gradient_accumulation_steps


class PriorSettings(TrainingSettings):
    """Numbers of a recipe whose method can preserve a class's prior."""

    prior_weight: float = Field(ge=0, description="of the class images' loss; 0 leaves them out")
    n_class_images: int = Field(ge=0)

    @model_validator(mode="after")
    def _check_prior(self) -> Self:
        if self.prior_weight > 0 and self.n_class_images == 0:
            raise ValueError("a prior_weight above 0 needs an n_class_images above 0")
        return self


def freeze(model: LoadedModel, settings: TrainingSettings) -> None:
    """Make a base model ready for a recipe: no gradients but what the method asks for."""
    model.freeze()
    if settings.gradient_checkpointing:
        model.enable_gradient_checkpointing()


def load_photos(photos: Sequence[Path], settings: TrainingSettings) -> list[Image.Image]:
    """Load the photos that a recipe lets its method see, at their own sizes."""
    return [load_image(path) for path in photos[: settings.n_photos or None]]


def pick_rows(n: int, size: int, noise: torch.Generator) -> Tensor:
    """Return random indices (size,) below n, without repetition as far as there are enough."""
    return torch.cat([torch.randperm(n, generator=noise) for _ in range(-(-size // n))])[:size]


@dataclass(frozen=True)
class Batch:
    """What one step learns from: clean latents (n, c, h, w) and their texts.

    The first `n_subject` rows show the subject, the others the class. `weights` (n_subject, 1, h,
    w) says where the subject's error counts; None for everywhere.
    """

    latents: Tensor
    text: Conditioning
    n_subject: int
    weights: Tensor | None = None


def make_optimizer(
    parameters: Sequence[nn.Parameter], settings: TrainingSettings
) -> torch.optim.Optimizer:
    """Return the recipe's optimizer.

    Raises:
        UserError: its library is not installed.
    """
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
            code="missing-package",
        ) from error
    return AdamW8bit(parameters, settings.learning_rate, weight_decay=settings.weight_decay)


def make_lr_scheduler(
    optimizer: torch.optim.Optimizer, settings: TrainingSettings
) -> torch.optim.lr_scheduler.LRScheduler:
    """Return the recipe's schedule of the learning rate: diffusers', which its scripts use."""
    from diffusers.optimization import get_scheduler  # noqa: PLC0415  (slow import)

    name: str = settings.lr_scheduler
    if name == "constant" and settings.lr_warmup_steps:
        name += "_with_warmup"
    return get_scheduler(
        name,
        optimizer,
        num_warmup_steps=settings.lr_warmup_steps,
        num_training_steps=settings.n_steps,
    )


@dataclass(frozen=True)
class Checkpoints:
    """Steps after which a training's weights are kept, written by `save` into a folder."""

    out_dir: Path
    steps: Collection[int]
    save: Callable[[Path], None]

    def keep(self, history: Sequence[Mapping[str, float]]) -> None:
        """Write the present weights beside the losses of the steps so far."""
        folder = make_dir(checkpoint_dir(self.out_dir, len(history)))
        self.save(folder)
        write_json(folder / "losses.json", list(history))


def train(
    model: LoadedModel,
    settings: TrainingSettings,
    *,
    modules: Sequence[nn.Module],
    make_batch: Callable[[torch.Generator], Batch],
    prior_weight: float,
    subject_name: str,
    seed: int,
    progress: Progress,
    checkpoints: Checkpoints,
) -> list[dict[str, float]]:
    """Train the parameters of `modules` that want gradients; return the losses of each step.

    `make_batch` makes a step's batch with the generator that it is handed, which all of a subject's
    randomness comes from. Losses stay on the device, and are read and checked every so many steps,
    since a GPU has nothing to do while the next step waits for a number.

    Raises:
        UserError: memory runs out, or the loss becomes infinite.
    """
    parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
    optimizer = make_optimizer(parameters, settings)
    lr_scheduler = make_lr_scheduler(optimizer, settings)
    noise = torch.Generator("cpu").manual_seed(seed)
    for module in modules:
        module.train()
    history: list[dict[str, float]] = []
    unread: list[dict[str, Tensor]] = []
    try:
        for step in range(1, settings.n_steps + 1):
            n_batches = settings.gradient_accumulation_steps
            find_gradients = partial(
                _find_gradients, model, make_batch, noise, noise.get_state(), optimizer,
                n_batches=n_batches, prior_weight=prior_weight,
            )  # fmt: skip
            unread += with_room(model, find_gradients)
            nn.utils.clip_grad_norm_(parameters, settings.max_grad_norm)
            optimizer.step()
            lr_scheduler.step()
            optimizer.zero_grad(set_to_none=True)
            is_kept = step in checkpoints.steps
            if is_kept or step % STEPS_PER_CHECK == 0 or step == settings.n_steps:
                history += _read_losses(
                    unread, subject_name, n_before=len(history), n_batches=n_batches
                )
                unread.clear()
            if is_kept:
                checkpoints.keep(history)
            progress(f"training on {subject_name}", step, settings.n_steps)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise _no_memory(settings) from error
    finally:
        for module in modules:
            module.eval()
    return history


def _find_gradients(
    model: LoadedModel,
    make_batch: Callable[[torch.Generator], Batch],
    noise: torch.Generator,
    noise_state: Tensor,
    optimizer: torch.optim.Optimizer,
    *,
    n_batches: int,
    prior_weight: float,
) -> list[dict[str, Tensor]]:
    """Leave a step's gradients in the parameters, and return the losses of its batches.

    It starts from nothing but `noise_state`, so that a step that ran out of memory can be repeated.
    """
    noise.set_state(noise_state)
    optimizer.zero_grad(set_to_none=True)  # Of an attempt that memory did not hold.
    found = []
    for _ in range(n_batches):
        losses = compute_losses(model, make_batch, noise)
        ((losses["subject"] + prior_weight * losses["prior"]) / n_batches).backward()
        found.append({name: loss.detach() for name, loss in losses.items()})
    return found


def _read_losses(
    unread: Sequence[Mapping[str, Tensor]], subject_name: str, *, n_before: int, n_batches: int
) -> list[dict[str, float]]:
    """Return the mean losses of some steps; UserError for the first that is not finite.

    `unread` are those of each batch, of which a step has `n_batches`.
    """
    names = list(unread[0])
    rows = torch.stack([torch.stack([losses[name] for name in names]) for losses in unread])
    rows = rows.unflatten(0, (-1, n_batches)).mean(1)
    found = [dict(zip(names, row, strict=True)) for row in rows.tolist()]
    for index, losses in enumerate(found):
        if not math.isfinite(losses["subject"]):
            raise _diverged(subject_name, step=n_before + index + 1)
    return found


def _no_memory(settings: TrainingSettings) -> UserError:
    return UserError(
        f"not enough memory for a training step of batch size {settings.batch_size}",
        hint="in a copy of the recipe: gradient_checkpointing = true, optimizer = 'adamw-8bit',"
        " a lower batch_size with more gradient_accumulation_steps; or use --precision bf16",
        code="out-of-memory",
    )


def _diverged(subject_name: str, *, step: int) -> UserError:
    """Return the error for a loss that is not a finite number, which no later step repairs."""
    if step == 1:  # Nothing is trained yet.
        return UserError(
            f"the loss on {subject_name} is not a finite number before the first step of training",
            hint="the weights of the base model are broken: download it again, or try "
            "--precision fp32",
            code="infinite-loss",
        )
    return UserError(
        f"the loss on {subject_name} became infinite in step {step}",
        hint="lower the learning rate",
        code="infinite-loss",
    )


def compute_losses(
    model: LoadedModel, make_batch: Callable[[torch.Generator], Batch], noise: torch.Generator
) -> dict[str, Tensor]:
    """Return the mean errors of a step's subject and class rows; 0 where there are none."""
    with model.autocast():
        batch = make_batch(noise)
        errors = model.squared_errors(batch.latents, batch.text, noise=noise)
        rows = errors.mean((1, 2, 3))
        subject = rows[: batch.n_subject].mean()
        if batch.weights is not None:
            # A sum over channels, as the authors and diffusers' script have it: the prior is a mean
            # over them, and so has the weight beside it that their recipes mean.
            weighted = (errors[: batch.n_subject] * batch.weights).sum((1, 2, 3))
            subject = (weighted / batch.weights.sum((1, 2, 3))).mean()
        prior = torch.zeros_like(subject)
        if len(rows) > batch.n_subject:
            prior = rows[batch.n_subject :].mean()
    return {"subject": subject, "prior": prior}


def keep_weights(module: nn.Module, file: Path | None) -> Callable[[], Mapping[str, Tensor]]:
    """Return a way to a module's present weights, for when they have changed.

    Where `file` holds them under the same names, they are mapped from it, so that a large network
    is in memory once; else they are copied.
    """
    if file is not None:
        with safe_open(file, "pt") as stored:
            same_names = set(stored.keys()) == set(module.state_dict())
        if same_names:
            return lambda: load_file(file)
    copy = {key: value.detach().cpu().clone() for key, value in module.state_dict().items()}
    return lambda: copy
