"""SDXL (Podell et al., 2023, arXiv 2307.01952): two text encoders, and sizes told to the UNet."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from dreambench.base_models.encodings import Conditioning
from dreambench.base_models.stable_diffusion import StableDiffusion


class StableDiffusionXL(StableDiffusion):
    """Stable Diffusion XL's base model, without the refiner."""

    pipeline_class = "StableDiffusionXLPipeline"
    pipeline_options: ClassVar[Mapping[str, Any]] = {
        "feature_extractor": None, "image_encoder": None, "add_watermarker": False,
    }  # fmt: skip

    def _extra_conditions(self, noisy: Tensor, text: Conditioning) -> dict[str, Any]:
        """Return pooled texts, and original size, crop corner and target size (section 2.2)."""
        pooled = text.tensors["pooled"]
        side = noisy.shape[-1] * self.cell_px
        sizes = torch.tensor([[side, side, 0, 0, side, side]], device=noisy.device)
        ids = sizes.to(pooled.dtype).expand(len(noisy), -1)
        return {"added_cond_kwargs": {"text_embeds": pooled, "time_ids": ids}}
