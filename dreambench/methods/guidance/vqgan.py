"""VQGANs (Esser et al., CVPR 2021, arXiv 2012.09841) by name, as folders of diffusers' `VQModel`.

An encoder to a grid of latents, a codebook whose nearest entry stands for each of them, and a
decoder that was trained against a discriminator.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dreambench.base_models.loading import only_errors
from dreambench.base_models.weights import check_loading
from dreambench.errors import unknown_name
from dreambench.storage.snapshots import Snapshot

WEIGHTS = "diffusion_pytorch_model.safetensors"
FILES = ("config.json", WEIGHTS)


@dataclass(frozen=True, kw_only=True)
class VQGANSpec(Snapshot):
    """A VQGAN, alone in its folder of the repository."""

    kind: ClassVar[str] = "VQGAN"
    n_parameters: int
    files: tuple[str, ...] = FILES


VQGANS = {
    spec.name: spec
    for spec in (
        VQGANSpec(name="mini-vqgan", n_parameters=1_457_427, shipped="vqgan"),
        # Of aMUSEd (Patil et al., 2024, arXiv 2401.01808): reduction 16, 8,192 codes.
        VQGANSpec(
            name="amused-vqgan", n_parameters=146_244_675, n_download_bytes=4 * 146_244_675,
            hub="amused/amused-512", revision="5704d1f",
            files=tuple(f"vqvae/{file}" for file in FILES),
        ),
    )
}  # fmt: skip


def find_vqgan(name: str) -> VQGANSpec:
    """Return a VQGAN by name.

    Raises:
        UserError: the name is unknown.
    """
    if name not in VQGANS:
        raise unknown_name("VQGAN", name, list(VQGANS))
    return VQGANS[name]


class VQGAN:
    """A loaded VQGAN in fp32, frozen; gradients go through it to latents.

    Raises:
        UserError: its files are not on this machine, or are not those of a `VQModel`.
    """

    def __init__(self, spec: VQGANSpec, *, device: str) -> None:
        self.spec = spec
        self.device = torch.device(device)
        self.network = _load(spec).to(self.device).eval().requires_grad_(False)
        self.reduction = 2 ** (len(self.network.config.block_out_channels) - 1)

    @property
    def codes(self) -> Tensor:
        """The codebook (n, c)."""
        found: Tensor = self.network.quantize.embedding.weight
        return found

    def encode(self, images: Sequence[Image.Image]) -> Tensor:
        """Return the latents (n, c, h, w) of images of one size, before the codebook."""
        pixels = np.stack([np.asarray(image, np.float32) for image in images])
        batch = torch.from_numpy(pixels).permute(0, 3, 1, 2) / 127.5 - 1
        with torch.no_grad():
            found: Tensor = self.network.encode(batch.to(self.device)).latents
        return found

    def decode(self, latents: Tensor) -> Tensor:
        """Return RGB values (n, 3, H, W), about [0, 1], of latents (n, c, h, w).

        Each is replaced by the nearest code; the gradient passes as if it had not been.
        """
        values: Tensor = self.network.decode(latents).sample
        return (values + 1) / 2

    def draw_codes(self, side: int, noise: torch.Generator) -> Tensor:
        """Return latents (1, c, side, side) that are codes drawn at random."""
        picks = torch.randint(len(self.codes), (side * side,), generator=noise)
        rows = self.codes[picks.to(self.device)]
        return rows.T.reshape(1, -1, side, side)


def _load(spec: VQGANSpec) -> Any:
    from diffusers import VQModel  # noqa: PLC0415  (slow import)

    with spec.loading() as root, only_errors():  # It warns of what is refused below.
        folder = (root / spec.files[0]).parent
        network, found = VQModel.from_pretrained(
            folder, torch_dtype=torch.float32, use_safetensors=True, local_files_only=True,
            output_loading_info=True,
        )  # fmt: skip
    check_loading(found, where=str(folder), part=f"the VQGAN '{spec.name}'", hint=spec.how_to_get)
    return network
