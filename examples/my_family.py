"""A family of base models of one's own: AuraFlow, a transformer trained by flow matching."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from dreambench.base_models.encodings import Conditioning
from dreambench.base_models.flow import FlowModel


class AuraFlow(FlowModel):
    """Reads a text with one encoder of T5's kind, and holds latents as its autoencoder does."""

    pipeline_class = "AuraFlowPipeline"
    tokenizer_class = "T5Tokenizer"

    def encode_prompts(self, prompts: Sequence[str]) -> Conditioning:
        """Return hidden states (n, length, d), and which of them are text, (n, length d)."""
        states, mask, *_ = self.pipeline.encode_prompt(
            list(prompts), do_classifier_free_guidance=False, device=self.device
        )
        return Conditioning({"states": states.float(), "mask": mask})

    def _ask(self, prompts: Sequence[str]) -> dict[str, Any]:
        text = self.encode_prompts(prompts).tensors
        nothing = self.encode_prompts([""] * len(prompts)).tensors
        return {
            "prompt_embeds": text["states"], "prompt_attention_mask": text["mask"],
            "negative_prompt_embeds": nothing["states"],
            "negative_prompt_attention_mask": nothing["mask"],
            "guidance_scale": self.sampler.guidance_scale,
        }  # fmt: skip

    def predict(self, noisy: Tensor, times: Tensor, text: Conditioning) -> Tensor:
        """Return the flow (n, c, h, w) at noisy latents (n, c, h, w) at `times` (n,)."""
        found: Tensor = self.pipeline.transformer(
            noisy, encoder_hidden_states=text.tensors["states"], timestep=times / 1000
        ).sample
        return found
