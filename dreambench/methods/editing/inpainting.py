"""Inpainting: the subject of a photo is kept and everything around it is drawn anew.

Blended Latent Diffusion (Avrahami et al., SIGGRAPH 2023, arXiv 2206.02779, section 4.1). diffusers'
inpainting pipelines do the same for UNets of 4 input channels, but refuse any other number that is
not the 9 of an inpainting model; so it is done here, at the end of each step, for all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from PIL import Image
from pydantic import Field
from torch import Tensor

from dreambench.base_models.registry import BaseModel
from dreambench.datasets.subjects import Subject
from dreambench.methods.base import Context, Method, Settings, Work
from dreambench.methods.diffusion import load_base
from dreambench.methods.editing.editing import EditingGenerator, load_masks
from dreambench.methods.finetuning.training import encode_images
from dreambench.types import Mask

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline


class InpaintingSettings(Settings):
    """Numbers of an inpainting recipe."""

    min_share: float = Field(
        gt=0, le=1, description="a latent is kept where so much of its pixels is the subject"
    )
    kept_steps: float = Field(
        ge=0,
        le=1,
        description="share of the steps after which the subject is put back; with fewer than all, "
        "the last ones may still change it where it meets its new place",
    )


class Inpainting(Method):
    """Draws the prompt with the class noun around the subject of a photo.

    Each image is made of one photo, but the seed picks it among all.
    """

    Settings: ClassVar[type[InpaintingSettings]] = InpaintingSettings

    def __init__(self, settings: InpaintingSettings, context: Context) -> None:
        super().__init__(settings, context)
        self.pipeline = load_base(context)

    @classmethod
    def count_work(cls, settings: InpaintingSettings, base_model: BaseModel) -> Work:
        """See `methods.Method`."""
        return Work(draws=True)

    def load(self, subject: Subject, out_dir: Path) -> EditingGenerator:
        """Reads the photos and masks, and encodes the photos."""
        return _Around(self.pipeline, self.context, subject=subject, settings=self.settings)


class _Around(EditingGenerator):
    def __init__(
        self,
        pipeline: StableDiffusionPipeline,
        context: Context,
        *,
        subject: Subject,
        settings: InpaintingSettings,
    ) -> None:
        super().__init__(pipeline, context, subject=subject)
        mean, _ = encode_images(pipeline, context, self.photos)
        self.latents = mean * pipeline.vae.config.scaling_factor
        masks = load_masks(subject, context.sampler.size_px)
        self.kept = shrink_masks(masks, mean.shape[-1], settings.min_share).to(mean.device)
        self.n_kept_steps = round(settings.kept_steps * context.sampler.n_steps)

    def _draw_subject(self, prompts: Sequence[str], seeds: Sequence[int]) -> list[Image.Image]:
        rows = self._pick(seeds)
        clean, kept = self.latents[rows], self.kept[rows]
        noise = torch.cat(
            [
                torch.randn((1, *clean.shape[1:]), generator=torch.Generator().manual_seed(seed))
                for seed in seeds
            ]
        ).to(clean.device)

        def put_back(pipeline: Any, step: int, time: Any, tensors: dict[str, Tensor]) -> dict:
            if step >= self.n_kept_steps:
                return {}
            times = pipeline.scheduler.timesteps
            known = clean
            if step + 1 < len(times):
                at = times[step + 1].expand(len(clean))
                known = pipeline.scheduler.add_noise(clean, noise, at)
            return {"latents": torch.where(kept, known, tensors["latents"]).to(noise.dtype)}

        return self._draw(self._fill(prompts), seeds, latents=noise, callback_on_step_end=put_back)


def shrink_masks(masks: Sequence[Mask], side: int, min_share: float) -> Tensor:
    """Masks of n photos at the latents' size, (n, 1, side, side): true where a share is in them."""
    pixels = torch.from_numpy(np.stack(masks)).float()[:, None]
    return torch.nn.functional.adaptive_avg_pool2d(pixels, side) >= min_share
