"""FLUX.2 [klein] (Black Forest Labs, 2026): a transformer that reads a small language model.

Training is that of diffusers' `examples/dreambooth/train_dreambooth_lora_flux2_klein.py`, but for
the layers of the language model that texts are read from: the script names FLUX.2 [dev]'s, which
its own pipeline would not generate from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from dreambench.base_models.encodings import Conditioning, EncodedImages, encode_squares
from dreambench.base_models.flow import InContextModel, unpack_places
from dreambench.errors import UserError


class Flux2Klein(InContextModel):
    """FLUX.2 [klein], undistilled and distilled.

    Latents (n, c, h, w) are squares of 2 x 2 places of the autoencoder's, each channel normalised
    with statistics that come with the weights.
    """

    pipeline_class = "Flux2KleinPipeline"
    tokenizer_class = "Qwen2Tokenizer"
    text_options: ClassVar[Mapping[str, Any]] = {}
    """How its pipeline reads texts, where that is not by its defaults."""

    @classmethod
    def _round(cls, pipeline: Any) -> None:
        """Keep the statistics in fp32, which normalise latents in fp32."""
        statistics = {key: value.clone() for key, value in pipeline.vae.bn.state_dict().items()}
        super()._round(pipeline)
        pipeline.vae.bn.float().load_state_dict(statistics)

    def encode_prompts(self, prompts: Sequence[str]) -> Conditioning:
        """Return states of three layers of the language model, side by side (n, length, d)."""
        states, _ = self.pipeline.encode_prompt(
            list(prompts), device=self.device, **self.text_options
        )
        return Conditioning({"states": states.float()})

    def _ask(self, prompts: Sequence[str]) -> dict[str, Any]:
        scale = self.sampler.guidance_scale
        asked = {
            "prompt_embeds": self.encode_prompts(prompts).tensors["states"],
            "guidance_scale": scale,
        }
        if scale > 1 and not self.pipeline.config.is_distilled:
            nothing = self.encode_prompts([""] * len(prompts))
            asked["negative_prompt_embeds"] = nothing.tensors["states"]
        return asked

    @property
    def cell_px(self) -> int:
        """See `LoadedModel`."""
        return 2 * super().cell_px

    @torch.no_grad()
    def encode_images(self, images: Sequence[Image.Image]) -> EncodedImages:
        """See `LoadedModel`. The posterior's most likely latents are all that is trained on."""
        vae = self.pipeline.vae
        mean, _ = encode_squares(vae.encode, images, self.sampler.size_px, self.device)
        middle = vae.bn.running_mean.view(1, -1, 1, 1)
        spread = torch.sqrt(vae.bn.running_var.view(1, -1, 1, 1) + vae.config.batch_norm_eps)
        latents = (F.pixel_unshuffle(mean, 2) - middle) / spread
        return EncodedImages(latents, torch.zeros_like(latents), scale=1.0)

    def pack(self, latents: Tensor) -> Tensor:
        """See `LoadedModel`; tokens (n, h w, c)."""
        return latents.flatten(2).transpose(1, 2)

    def unpack(self, held: Tensor) -> Tensor:
        """See `LoadedModel`."""
        return unpack_places(held)

    def sample_in_context(
        self, prompts: Sequence[str], seeds: Sequence[int], *, photos: Sequence[Image.Image]
    ) -> list[Image.Image]:
        """See `InContextModel`; photos over a megapixel are made smaller, others are not.

        Raises:
            UserError: a photo is smaller or narrower than the pipeline takes.
        """
        for photo in photos:
            try:
                self.pipeline.image_processor.check_image_input(photo)
            except ValueError as error:
                raise UserError(
                    f"a photo cannot be shown to '{self.model.name}': {error}",
                    hint="leave the subject out with --subjects, or have larger photos of it",
                    code="unusable-image",
                ) from error
        return self._sample(prompts, seeds, image=list(photos))

    def predict(self, noisy: Tensor, times: Tensor, text: Conditioning) -> Tensor:
        """See `FlowModel`."""
        pipeline, states = self.pipeline, text.tensors["states"]
        (found,) = pipeline.transformer(
            hidden_states=self.pack(noisy), timestep=times / 1000, guidance=None,
            encoder_hidden_states=states,
            txt_ids=pipeline._prepare_text_ids(states).to(noisy.device),
            img_ids=pipeline._prepare_latent_ids(noisy).to(noisy.device), return_dict=False,
        )  # fmt: skip
        return self.unpack(found)

    def adapted_layers(self, network: str) -> list[str]:
        """See `LoadedModel`; attention of both kinds of blocks.

        A block of the second kind makes queries, keys, values and its hidden layer at once.
        """
        n_single = len(self.pipeline.transformer.single_transformer_blocks)
        outs = [f"single_transformer_blocks.{index}.attn.to_out" for index in range(n_single)]
        return [*super().adapted_layers(network), "to_qkv_mlp_proj", *outs]


class MiniFlow(Flux2Klein):
    """mini's transformer of the same shape, whose language model has three layers."""

    text_options: ClassVar[Mapping[str, Any]] = {
        "max_sequence_length": 32, "text_encoder_out_layers": (1, 2, 3),
    }  # fmt: skip
    max_photos = 2
