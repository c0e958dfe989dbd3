"""Stable Diffusion 3 and 3.5 (Esser et al., ICML 2024, arXiv 2403.03206).

Training is that of diffusers' `examples/dreambooth/train_dreambooth_lora_sd3.py`, but for the
length at which T5 reads a text: the script's 77 tokens are not what its own pipeline reads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor

from dreambench.base_models.encodings import Conditioning
from dreambench.base_models.flow import FlowModel


class StableDiffusion3(FlowModel):
    """A transformer on latents, conditioned on text by two CLIP encoders and T5."""

    pipeline_class = "StableDiffusion3Pipeline"
    pipeline_options: ClassVar[Mapping[str, Any]] = {
        "feature_extractor": None, "image_encoder": None,
    }  # fmt: skip
    rounded_networks: ClassVar[Sequence[str]] = (
        *FlowModel.rounded_networks, "text_encoder_2", "text_encoder_3",
    )  # fmt: skip
    offloaded_networks: ClassVar[Sequence[str]] = ("text_encoder_3",)
    density: ClassVar[Mapping[str, Any]] = {
        "weighting_scheme": "logit_normal", "logit_mean": 0.0, "logit_std": 1.0,
    }  # fmt: skip
    trains_on_latents = True
    lora_layers: ClassVar[Sequence[str]] = (
        "attn.add_k_proj", "attn.add_q_proj", "attn.add_v_proj", "attn.to_add_out", "attn.to_k",
        "attn.to_out.0", "attn.to_q", "attn.to_v",
    )  # fmt: skip
    trained_text_encoders: ClassVar[Sequence[str]] = ("", "_2")
    redrawing_class = "StableDiffusion3Img2ImgPipeline"

    def encode_prompts(self, prompts: Sequence[str]) -> Conditioning:
        """Return hidden states of all encoders (n, length, d), and what CLIP's pool (n, d)."""
        states, _, pooled, _ = self.pipeline.encode_prompt(
            list(prompts), None, None, device=self.device, do_classifier_free_guidance=False
        )
        return Conditioning({"states": states.float(), "pooled": pooled.float()})

    def _ask(self, prompts: Sequence[str]) -> dict[str, Any]:
        text, scale = self.encode_prompts(prompts).tensors, self.sampler.guidance_scale
        asked = {
            "prompt_embeds": text["states"], "pooled_prompt_embeds": text["pooled"],
            "guidance_scale": scale,
        }  # fmt: skip
        if scale > 1:
            nothing = self.encode_prompts([""] * len(prompts)).tensors
            asked["negative_prompt_embeds"] = nothing["states"]
            asked["negative_pooled_prompt_embeds"] = nothing["pooled"]
        return asked

    def predict(self, noisy: Tensor, times: Tensor, text: Conditioning) -> Tensor:
        """See `FlowModel`."""
        found: Tensor
        (found,) = self.pipeline.transformer(
            hidden_states=noisy, timestep=times, encoder_hidden_states=text.tensors["states"],
            pooled_projections=text.tensors["pooled"], return_dict=False,
        )  # fmt: skip
        return found
