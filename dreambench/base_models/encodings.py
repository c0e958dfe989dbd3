"""What a denoising network is conditioned on and sees: texts and images, encoded."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from safetensors.torch import load, save
from torch import Tensor

from dreambench.machine.devices import send

ENCODED_PIXELS = 4 * 512**2
"""Pixels that an autoencoder on an accelerator gets at once: four images of 512 px."""


@dataclass(frozen=True)
class Conditioning:
    """What a family's denoising network gets for n texts: tensors (n, ...) by name."""

    tensors: Mapping[str, Tensor]

    def repeat(self, row: int, n: int) -> Conditioning:
        """Return the row-th text n times."""
        return Conditioning(
            {
                name: value[row : row + 1].expand(n, *[-1] * (value.ndim - 1))
                for name, value in self.tensors.items()
            }
        )

    def take(self, rows: Sequence[int]) -> Conditioning:
        """Return the texts of these rows, which may repeat."""
        return Conditioning({name: _take_rows(value, rows) for name, value in self.tensors.items()})

    def join(self, other: Conditioning) -> Conditioning:
        """Return the texts of both."""
        return Conditioning(
            {name: torch.cat([value, other.tensors[name]]) for name, value in self.tensors.items()}
        )


def _take_rows(values: Tensor, rows: Sequence[int]) -> Tensor:
    """Return rows by their numbers, one by one.

    The gradient of indexing with a tensor adds up what rows that repeat get in whatever order the
    threads come, so that no training would end with the same bits twice.
    """
    parts = values.unbind()
    return torch.stack([parts[row] for row in rows])


@dataclass(frozen=True)
class EncodedImages:
    """The autoencoder's posterior of n images: mean and deviation (n, c, h, w).

    Latents as the denoising network sees them are `(value - shift) * scale`. A family without an
    autoencoder has its pixels as the mean, and no deviation.
    """

    mean: Tensor
    std: Tensor
    scale: float
    shift: float = 0.0

    def __len__(self) -> int:
        return len(self.mean)

    def sample(self, rows: Tensor, noise: torch.Generator) -> Tensor:
        """Return latents (len(rows), c, h, w) of these rows' images, drawn from the posterior."""
        mean, std = self.mean, self.std
        spread = send(torch.randn((len(rows), *mean.shape[1:]), generator=noise), mean.device)
        rows = send(rows, mean.device)
        return self._scaled(mean[rows] + std[rows] * spread)

    def save(self) -> bytes:
        """Return them as the content of a safetensors file, for `load`."""
        numbers = torch.tensor([self.scale, self.shift], dtype=torch.float64)
        tensors = {"mean": self.mean, "std": self.std, "scale_shift": numbers}
        return save({name: value.cpu().contiguous() for name, value in tensors.items()})

    @classmethod
    def load(cls, content: bytes, *, device: torch.device) -> EncodedImages:
        """Return what `save` made, on a device."""
        tensors = load(content)
        scale, shift = tensors["scale_shift"].tolist()
        return cls(tensors["mean"].to(device), tensors["std"].to(device), scale, shift)

    def means(self) -> Tensor:
        """Return the most likely latents (n, c, h, w) of all images."""
        return self._scaled(self.mean)

    def _scaled(self, values: Tensor) -> Tensor:
        return (values - self.shift) * self.scale if self.shift else values * self.scale


@dataclass(frozen=True)
class TextEncoder:
    """A tokenizer and the network that reads its tokens."""

    tokenizer: Any
    network: Any


def encode_squares(
    encode: Callable[[Tensor], Any],
    images: Sequence[Image.Image],
    side_px: int,
    device: torch.device,
) -> tuple[Tensor, Tensor]:
    """Return mean and deviation (n, c, ...) of an autoencoder's posterior of images, cut square.

    `encode` gets pixels (n, 3, side, side) from -1 to 1. On a CPU images are encoded one by one,
    since a batch would change last bits, and cores are busy with one. An accelerator gets batches,
    whose bits depend on how many images there are.
    """
    squares = [ImageOps.fit(one, (side_px, side_px), Image.Resampling.BICUBIC) for one in images]
    size = 1 if device.type == "cpu" else max(1, ENCODED_PIXELS // side_px**2)
    means, stds = [], []
    for start in range(0, len(squares), size):
        batch = np.stack([np.asarray(one, np.float32) for one in squares[start : start + size]])
        pixels = torch.from_numpy(batch / 127.5 - 1).permute(0, 3, 1, 2).to(device)
        posterior = encode(pixels).latent_dist
        means.append(posterior.mean)
        stds.append(posterior.std)
    return torch.cat(means), torch.cat(stds)
