"""FLUX.1 (Black Forest Labs, 2024) and FLUX.1 Kontext (2025, arXiv 2506.15742).

Training is that of diffusers' `examples/dreambooth/train_dreambooth_lora_flux.py` and
`train_dreambooth_lora_flux_kontext.py`; Kontext is trained from text alone, as the latter does
without condition images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from PIL import Image
from torch import Tensor

from dreambench.base_models.encodings import Conditioning, EncodedImages
from dreambench.base_models.flow import (
    FlowModel,
    InContextModel,
    pack_patches,
    unpack_patches,
)

TRAINING_GUIDANCE = 1.0
"""The guidance that a distilled network is told in training: `--guidance_scale=1` of the README."""


class Flux(FlowModel):
    """FLUX.1 [dev], which is told its guidance, and [schnell], which takes a few steps."""

    pipeline_class = "FluxPipeline"
    pipeline_options: ClassVar[Mapping[str, Any]] = {
        "feature_extractor": None, "image_encoder": None,
    }  # fmt: skip
    rounded_networks: ClassVar[Sequence[str]] = (*FlowModel.rounded_networks, "text_encoder_2")
    offloaded_networks: ClassVar[Sequence[str]] = ("text_encoder_2",)
    lora_layers: ClassVar[Sequence[str]] = (
        "attn.to_k", "attn.to_q", "attn.to_v", "attn.to_out.0", "attn.add_k_proj",
        "attn.add_q_proj", "attn.add_v_proj", "attn.to_add_out", "ff.net.0.proj", "ff.net.2",
        "ff_context.net.0.proj", "ff_context.net.2",
    )  # fmt: skip
    trained_text_encoders: ClassVar[Sequence[str]] = ("",)
    redrawing_class = "FluxImg2ImgPipeline"
    starts_packed = True

    def encode_prompts(self, prompts: Sequence[str]) -> Conditioning:
        """Return T5's hidden states (n, length, d), and what CLIP pools (n, d)."""
        states, pooled, _ = self.pipeline.encode_prompt(list(prompts), device=self.device)
        return Conditioning({"states": states.float(), "pooled": pooled.float()})

    def _ask(self, prompts: Sequence[str]) -> dict[str, Any]:
        text = self.encode_prompts(prompts).tensors
        return {
            "prompt_embeds": text["states"], "pooled_prompt_embeds": text["pooled"],
            "guidance_scale": self.sampler.guidance_scale,
        }  # fmt: skip

    def pack(self, latents: Tensor) -> Tensor:
        """See `LoadedModel`; tokens (n, h w / 4, 4 c)."""
        return pack_patches(latents)

    def unpack(self, held: Tensor) -> Tensor:
        """See `LoadedModel`."""
        return unpack_patches(held)

    def predict(self, noisy: Tensor, times: Tensor, text: Conditioning) -> Tensor:
        """See `FlowModel`."""
        pipeline, states = self.pipeline, text.tensors["states"]
        n_rows, _, height, width = noisy.shape
        guidance = None
        if pipeline.transformer.config.guidance_embeds:
            guidance = torch.full([n_rows], TRAINING_GUIDANCE, device=noisy.device)
        (found,) = pipeline.transformer(
            hidden_states=self.pack(noisy), timestep=times / 1000, guidance=guidance,
            pooled_projections=text.tensors["pooled"], encoder_hidden_states=states,
            txt_ids=torch.zeros(states.shape[1], 3, device=noisy.device),
            img_ids=pipeline._prepare_latent_image_ids(
                n_rows, height // 2, width // 2, noisy.device, torch.float32
            ),
            return_dict=False,
        )  # fmt: skip
        return self.unpack(found)


class FluxKontext(Flux, InContextModel):
    """FLUX.1 Kontext [dev], which can be shown a photo besides the text."""

    pipeline_class = "FluxKontextPipeline"
    lora_layers: ClassVar[Sequence[str]] = (*Flux.lora_layers, "proj_mlp")
    max_photos = 1

    def encode_images(self, images: Sequence[Image.Image]) -> EncodedImages:
        """See `LoadedModel`. The posterior's most likely latents are all that is trained on."""
        found = super().encode_images(images)
        return replace(found, std=torch.zeros_like(found.mean))

    def _sample(
        self, prompts: Sequence[str], seeds: Sequence[int], **options: Any
    ) -> list[Image.Image]:
        # Its pipeline makes all images of one area, whichever size is asked for.
        return super()._sample(prompts, seeds, max_area=self.sampler.size_px**2, **options)

    def sample_in_context(
        self, prompts: Sequence[str], seeds: Sequence[int], *, photos: Sequence[Image.Image]
    ) -> list[Image.Image]:
        """See `InContextModel`; a photo takes the nearest in shape of the sizes of its training."""
        (photo,) = photos
        return self._sample(prompts, seeds, image=photo)
