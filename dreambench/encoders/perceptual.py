"""The perceptual role: rows whose squared Euclidean distance is a perceptual distance."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import normalize

from dreambench.base_models.weights import check_state
from dreambench.encoders.base import Encoder
from dreambench.encoders.spec import EncoderSpec
from dreambench.encoders.vision import load_vit
from dreambench.encoders.weights import building, read_weights


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
        with building():
            model = lpips.LPIPS(net=self.spec.architecture, pnet_rand=True, verbose=False)
        part, state = f"the encoder '{self.spec.name}'", read_weights(weights)
        # lpips cuts AlexNet's features into five slices, and keeps their numbers.
        slices = {f"features.{key.partition('.')[2]}": key for key in model.net.state_dict()}
        own = {name: model.net.state_dict()[key] for name, key in slices.items()}
        check_state(
            own, state, where=str(weights), part=part, hint=self.spec.how_to_get,
            harmless=r"classifier\..*",
        )  # fmt: skip
        model.net.load_state_dict({key: state[name] for name, key in slices.items()})
        # The package's own, which it loads whatever they lack.
        file = Path(lpips.__file__).parent / "weights" / "v0.1" / f"{self.spec.architecture}.pth"
        heads = {key: v for key, v in model.state_dict().items() if re.match(r"lin\d+\.", key)}
        check_state(
            heads, read_weights(file), where=str(file), part="the heads of LPIPS",
            hint="pip install --force-reinstall lpips",
        )  # fmt: skip
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
