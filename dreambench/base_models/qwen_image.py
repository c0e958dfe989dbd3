"""Qwen-Image (Qwen team, 2025, arXiv 2508.02324): a transformer that reads Qwen2.5-VL.

Training is that of diffusers' `examples/dreambooth/train_dreambooth_lora_qwen_image.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from dreambench.base_models.base import Conditioning, EncodedImages, encode_squares
from dreambench.base_models.flow import FlowModel, pack_patches, unpack_patches

NO_WORDS = " "
"""What guidance goes away from, as the makers' examples have it."""


class QwenImage(FlowModel):
    """Qwen-Image; its autoencoder is one of videos, and an image a video of one frame."""

    pipeline_class = "QwenImagePipeline"
    tokenizer_class = "Qwen2Tokenizer"
    redrawing_class = "QwenImageImg2ImgPipeline"
    starts_packed = True

    def encode_prompts(self, prompts: Sequence[str]) -> Conditioning:
        """Return the language model's states (n, length, d), and where they are text (n, length).

        Each prompt is read by itself, so that none depends on how long the others are.
        """
        found = [
            self.pipeline.encode_prompt([prompt], device=self.device)[0][0].float()
            for prompt in prompts
        ]
        masks = [torch.ones(len(states), dtype=torch.long, device=self.device) for states in found]
        return Conditioning(
            {
                "states": pad_sequence(found, batch_first=True),
                "mask": pad_sequence(masks, batch_first=True),
            }
        )

    def _ask(self, prompts: Sequence[str]) -> dict[str, Any]:
        text, scale = self.encode_prompts(prompts).tensors, self.sampler.guidance_scale
        asked = {
            "prompt_embeds": text["states"], "prompt_embeds_mask": text["mask"],
            "true_cfg_scale": scale,
        }  # fmt: skip
        if scale > 1:
            nothing = self.encode_prompts([NO_WORDS]).repeat(0, len(prompts)).tensors
            asked["negative_prompt_embeds"] = nothing["states"]
            asked["negative_prompt_embeds_mask"] = nothing["mask"]
        return asked

    @torch.no_grad()
    def encode_images(self, images: Sequence[Image.Image]) -> EncodedImages:
        """See `LoadedModel`; each channel is normalised with its own statistics."""
        vae = self.pipeline.vae
        mean, std = encode_squares(
            lambda pixels: vae.encode(pixels[:, :, None]), images, self.sampler.size_px, self.device
        )
        middle, spread = (
            torch.tensor(values, device=self.device).view(1, -1, 1, 1)
            for values in (vae.config.latents_mean, vae.config.latents_std)
        )
        return EncodedImages((mean[:, :, 0] - middle) / spread, std[:, :, 0] / spread, scale=1.0)

    def pack(self, latents: Tensor) -> Tensor:
        """See `LoadedModel`; tokens (n, h w / 4, 4 c)."""
        return pack_patches(latents)

    def unpack(self, held: Tensor) -> Tensor:
        """See `LoadedModel`."""
        return unpack_patches(held)

    def predict(self, noisy: Tensor, times: Tensor, text: Conditioning) -> Tensor:
        """See `FlowModel`."""
        n_rows, _, height, width = noisy.shape
        (found,) = self.pipeline.transformer(
            hidden_states=self.pack(noisy), timestep=times / 1000,
            encoder_hidden_states=text.tensors["states"],
            encoder_hidden_states_mask=text.tensors["mask"],
            img_shapes=[[(1, height // 2, width // 2)]] * n_rows, return_dict=False,
        )  # fmt: skip
        return self.unpack(found)
