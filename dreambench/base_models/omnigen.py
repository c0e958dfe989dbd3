"""OmniGen (Xiao et al., CVPR 2025, arXiv 2409.11340): one transformer for words, photos and image.

It has no text encoder: tokens of words and of photos stand in the sequence themselves. Nothing here
trains it, since diffusers has no script that does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from PIL import Image
from torch import Tensor, nn

from dreambench.base_models.encodings import Conditioning
from dreambench.base_models.flow import InContextModel
from dreambench.base_models.spec import BaseModel
from dreambench.config.sampler import Sampler

NOT_TRAINED = "is not trained here, since no public recipe trains it"


class OmniGen(InContextModel):
    """OmniGen v1, which names its photos in the text and is guided by text and photos apart."""

    pipeline_class = "OmniGenPipeline"
    tokenizer_class = "LlamaTokenizer"
    rounded_networks: ClassVar[Sequence[str]] = ("transformer", "vae")
    offloaded_networks: ClassVar[Sequence[str]] = ()
    # Its times run from noise to the image.
    own_schedule: ClassVar[Mapping[str, Any]] = {"invert_sigmas": True}
    photo_words = "<img><|image_{number}|></img>"
    has_image_guidance = True
    draws_by_own_steps = True

    def __init__(self, model: BaseModel, sampler: Sampler, **options: Any) -> None:
        super().__init__(model, sampler, **options)
        self.pipeline.encode_input_images = self._encode_photos
        self._noise = torch.Generator("cpu")

    @property
    def tokenizer(self) -> Any:
        """See `LoadedModel`."""
        return self.pipeline.tokenizer

    def encode_prompts(self, prompts: Sequence[str]) -> Conditioning:
        """Raise UserError: its transformer reads words itself."""
        raise self.refuse(NOT_TRAINED)

    def predict(self, noisy: Tensor, times: Tensor, text: Conditioning) -> Tensor:
        """Raise UserError: see `encode_prompts`."""
        raise self.refuse(NOT_TRAINED)

    def trainable_networks(self, *, with_text_encoders: bool) -> dict[str, nn.Module]:
        """Raise UserError: see `encode_prompts`."""
        raise self.refuse(NOT_TRAINED)

    def _sample(
        self, prompts: Sequence[str], seeds: Sequence[int], **options: Any
    ) -> list[Image.Image]:
        """See `LoadedModel`; prompts are run one by one.

        In a batch, diffusers (0.42.1) takes the places of the first prompt's tokens for all.
        """
        found = []
        for prompt, seed in zip(prompts, seeds, strict=True):
            self._noise.manual_seed(seed)
            found += super()._sample([prompt], [seed], **options)
        return found

    def sample_in_context(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        *,
        photos: Sequence[Image.Image],
        image_guidance: float = 0.0,
    ) -> list[Image.Image]:
        """See `InContextModel`; each photo is named in each prompt, and takes 1024 px at most."""
        return self._sample(
            prompts, seeds, input_images=[list(photos)], img_guidance_scale=image_guidance
        )

    def _encode_photos(self, pixels: Sequence[Tensor], device: torch.device) -> list[Tensor]:
        """Sample the posterior of photos by the image's seed, and not by torch's own generator.

        Stands in for what the pipeline calls.
        """
        vae = self.pipeline.vae
        posteriors = [vae.encode(one.to(device)).latent_dist for one in pixels]
        return [one.sample(self._noise) * vae.config.scaling_factor for one in posteriors]
