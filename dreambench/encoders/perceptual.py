"""The perceptual role: rows whose squared Euclidean distance is a perceptual distance."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import normalize

from dreambench.encoders.base import Encoder
from dreambench.encoders.spec import EncoderSpec
from dreambench.encoders.vision import load_vit
from dreambench.encoders.weights import quietly, read_weights, refuse_weights


class PatchEncoder(Encoder):
    """Patches of some blocks of a vision transformer, compared as LPIPS compares places.

    As LPIPS does with a convolution net: unit-normalise each patch's features, compare patch by
    patch, average over patches and layers. The scale makes a plain squared distance of rows do so.
    """

    roles: ClassVar[tuple[str, ...]] = ("perceptual",)
    spec: EncoderSpec

    def load(self, device: torch.device) -> Any:
        """See `Encoder`."""
        return load_vit(self.spec)

    def forward(self, batch: Tensor) -> Tensor:
        """See `Encoder`."""
        maps = self.model.forward_intermediates(
            batch, indices=list(self.spec.layers), output_fmt="NLC", intermediates_only=True
        )
        scale = (len(maps) * maps[0].shape[1]) ** -0.5
        return torch.cat([normalize(part, dim=-1).flatten(1) for part in maps], dim=-1) * scale


class LpipsEncoder(Encoder):
    """LPIPS (Zhang et al., CVPR 2018, equation 1), split so that a squared distance gives it."""

    roles: ClassVar[tuple[str, ...]] = ("perceptual",)
    spec: EncoderSpec

    def load(self, device: torch.device) -> Any:
        """See `Encoder`."""
        import lpips  # noqa: PLC0415  (slow import)

        weights = self.spec.find_weights()
        with quietly():
            model = lpips.LPIPS(net=self.spec.architecture, pnet_rand=True, verbose=False)
        features = [v for key, v in read_weights(weights).items() if key.startswith("features.")]
        # lpips cuts AlexNet's features into five slices in the same order.
        own = model.net.state_dict()
        if [tuple(value.shape) for value in features] != [tuple(v.shape) for v in own.values()]:
            raise refuse_weights(self.spec, weights, "its feature layers are of other shapes")
        model.net.load_state_dict(dict(zip(own, features, strict=True)))
        return model

    def forward(self, batch: Tensor) -> Tensor:
        """See `Encoder`."""
        import lpips  # noqa: PLC0415  (slow import)

        maps = self.model.net.forward(self.model.scaling_layer(batch))
        parts = []
        for index, part in enumerate(maps):
            unit = lpips.normalize_tensor(part)
            weight = self.model.lins[index].model[-1].weight.clamp(min=0).sqrt()
            n_places = part.shape[2] * part.shape[3]
            parts.append((unit * weight / n_places**0.5).flatten(1))
        return torch.cat(parts, dim=-1)
