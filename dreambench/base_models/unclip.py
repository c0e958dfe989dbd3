"""Stable unCLIP (Ramesh et al., 2022, arXiv 2204.06125, on Stable Diffusion 2.1).

The UNet is conditioned on an image's CLIP embedding besides the text. Nothing here trains it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from PIL import Image
from torch import Tensor

from dreambench.base_models.encodings import Conditioning
from dreambench.base_models.stable_diffusion import StableDiffusion
from dreambench.errors import UserError


class StableUnCLIP(StableDiffusion):
    """A Stable Diffusion that was trained on CLIP's embeddings of images."""

    pipeline_class = "StableUnCLIPImg2ImgPipeline"
    pipeline_options: ClassVar[Mapping[str, Any]] = {}
    rounded_networks = ("unet", "vae", "image_encoder")

    def _extra_conditions(self, noisy: Tensor, text: Conditioning) -> dict[str, Any]:
        raise UserError(
            f"the base model '{self.model.name}' is told of images, which is not trained here",
            hint="use --base-model sd21",
            code="unsupported-base-model",
        )

    @property
    def highest_noise_level(self) -> int:
        """The noise level at which nothing of an embedding is left."""
        level: int = self.pipeline.image_noising_scheduler.config.num_train_timesteps - 1
        return level

    @torch.inference_mode()
    def encode_photo(self, photo: Image.Image) -> Tensor:
        """Return a photo's CLIP embedding (1, d)."""
        pixels = self.pipeline.feature_extractor(images=photo, return_tensors="pt").pixel_values
        found: Tensor = self.pipeline.image_encoder(pixels.to(self.device)).image_embeds
        return found

    def sample_from_embeddings(
        self, prompts: Sequence[str], seeds: Sequence[int], *, embeddings: Tensor, noise_level: int
    ) -> list[Image.Image]:
        """Sample with an embedding (n, d) of an image a prompt, under so much noise."""
        return self._sample(prompts, seeds, image_embeds=embeddings, noise_level=noise_level)
