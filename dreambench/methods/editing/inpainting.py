"""Inpainting: the subject of a photo is kept and everything around it is generated.

Blended Latent Diffusion (Avrahami et al., SIGGRAPH 2023, arXiv 2206.02779, section 4.1). diffusers'
inpainting pipelines do the same for UNets of 4 input channels, but refuse any other number that is
not the 9 of an inpainting model; so it is done here, at the end of each step, for all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from PIL import Image
from pydantic import Field
from torch import Tensor

from dreambench.base_models.base import LoadedModel
from dreambench.base_models.spec import BaseModel
from dreambench.datasets.subjects import Subject
from dreambench.methods.base import Context, Method, Settings, Work
from dreambench.methods.editing.generator import EditingGenerator
from dreambench.methods.editing.masks import load_masks
from dreambench.types import Mask


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
    """Generates the prompt with the class noun around the subject of a photo.

    Each image is made of one photo, but the seed picks it among all.
    """

    Settings: ClassVar[type[InpaintingSettings]] = InpaintingSettings

    def __init__(self, settings: InpaintingSettings, context: Context) -> None:
        super().__init__(settings, context)
        self.model = context.load_base_model()

    @classmethod
    def count_work(cls, settings: InpaintingSettings, base_model: BaseModel) -> Work:
        """See `methods.Method`."""
        return Work(samples=True)

    def load(self, subject: Subject, out_dir: Path) -> EditingGenerator:
        """Load the photos and masks, and encode the photos."""
        return _Around(self.model, subject=subject, settings=self.settings)


class _Around(EditingGenerator):
    def __init__(
        self, model: LoadedModel, *, subject: Subject, settings: InpaintingSettings
    ) -> None:
        super().__init__(model, subject=subject)
        self.latents = model.encode_images(self.photos).means()
        masks = load_masks(subject, model.sampler.size_px)
        side = self.latents.shape[-1]
        self.kept = shrink_masks(masks, side, settings.min_share).to(self.latents.device)
        self.n_kept_steps = round(settings.kept_steps * model.sampler.n_steps)

    def _generate_subject(self, prompts: Sequence[str], seeds: Sequence[int]) -> list[Image.Image]:
        rows = self._pick(seeds)
        clean, kept = self.latents[rows], self.kept[rows]
        noise = torch.cat(
            [
                torch.randn((1, *clean.shape[1:]), generator=torch.Generator().manual_seed(seed))
                for seed in seeds
            ]
        ).to(clean.device)

        def put_back(step: int, latents: Tensor) -> Tensor:
            if step >= self.n_kept_steps:
                return latents
            known = self.model.add_noise(clean, noise, step=step)
            return torch.where(kept, known, latents).to(noise.dtype)

        return self.model.sample(self._fill(prompts), seeds, start=noise, after_step=put_back)


def shrink_masks(masks: Sequence[Mask], side: int, min_share: float) -> Tensor:
    """Return masks of n photos at the latents' size: bool (n, 1, side, side)."""
    pixels = torch.from_numpy(np.stack(masks)).float()[:, None]
    return torch.nn.functional.adaptive_avg_pool2d(pixels, side) >= min_share
