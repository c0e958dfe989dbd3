"""DINO's role: vision transformers that timm builds."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from dreambench.encoders.base import Encoder
from dreambench.encoders.spec import EncoderSpec
from dreambench.encoders.weights import building, fill_network, read_weights, to_timm_vit


class VisionEncoder(Encoder):
    """A vision transformer's class token, or the mean of its patches (Caron et al., ICCV 2021)."""

    roles: ClassVar[tuple[str, ...]] = ("dino",)
    spec: EncoderSpec

    def load(self, device: torch.device) -> Any:
        """See `Encoder`."""
        return load_vit(self.spec)

    def forward(self, batch: Tensor) -> Tensor:
        """See `Encoder`."""
        if self.spec.pooling == "mean-patches":
            tokens = self.model.forward_features(batch)[:, self.model.num_prefix_tokens :]
            return tokens.mean(1)
        return self.model(batch)


def load_vit(spec: EncoderSpec) -> Any:
    """Return timm's network with an encoder's weights.

    Raises:
        UserError: the weights are not on this machine, or are not its own.
    """
    import timm  # noqa: PLC0415  (slow import)

    weights = spec.find_weights()
    with building():
        if weights.is_dir():
            model = timm.create_model(f"local-dir:{weights}", num_classes=0)
            weights = weights / "model.safetensors"
        else:
            model = timm.create_model(
                spec.architecture, num_classes=0, img_size=spec.pixels.crop_px
            )
    state = to_timm_vit(read_weights(weights))
    if "pos_embed" in state and state["pos_embed"].shape != model.pos_embed.shape:
        # DINOv2 was trained at 518 px; timm resamples its places (bicubic, antialiased).
        state["pos_embed"] = timm.layers.resample_abs_pos_embed(
            state["pos_embed"], new_size=model.patch_embed.grid_size, num_prefix_tokens=1
        )
    fill_network(spec, weights, model, state)
    return model
