"""From an image to a network's input: what an encoder's preprocessing is, and the usual one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Interpolation = Literal["bicubic", "bilinear", "bicubic-tensor"]
Fit = Literal["crop", "squash"]

HALF = (0.5, 0.5, 0.5)
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
OPENAI = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))


class Preparation(Protocol):
    """What turns an image into a network's input; hashable, and equal ones do the same."""

    def prepare(self, image: Image.Image) -> NDArray[np.float32]:
        """Return a float32 array of the same shape for every RGB image."""
        ...


@dataclass(frozen=True)
class Pixels:
    """The usual preprocessing: resize, centre crop, subtract the mean, divide by the deviation.

    `fit` is how an image that is not square becomes square: its short side is resized to
    `resize_px` and its centre cropped ("crop"), or it is squashed to `crop_px` at once ("squash",
    and `resize_px` is unused). Resizing is PIL's, antialiased; "bicubic-tensor" is torch's without
    antialiasing, which old scorers used on tensors. `mean` and `std` are of RGB values in [0, 1].
    """

    resize_px: int
    crop_px: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: Interpolation = "bicubic"
    fit: Fit = "crop"

    def __str__(self) -> str:
        numbers = ",".join(f"{value:g}" for value in (*self.mean, *self.std))
        if self.fit == "squash":
            return f"squash{self.crop_px}-{self.interpolation},norm({numbers})"
        return f"resize{self.resize_px}-{self.interpolation},crop{self.crop_px},norm({numbers})"

    @property
    def smallest_side_px(self) -> int:
        """The shorter side of an image below which it would be enlarged."""
        return self.resize_px if self.fit == "crop" else self.crop_px

    def frame(self, image_size: tuple[int, int]) -> tuple[tuple[int, int], int, int]:
        """Return width and height after resizing, and left and top of what is cropped."""
        width, height = image_size
        size = (self.crop_px, self.crop_px)
        if self.fit == "crop":
            # To the pixel what torchvision's Resize and CenterCrop do, which published encoders
            # were given: the long side is truncated, and half a pixel rounded to an even one.
            long = int(self.resize_px * max(width, height) / min(width, height))
            size = (self.resize_px, long) if width <= height else (long, self.resize_px)
        left, top = (round((side - self.crop_px) / 2) for side in size)
        return size, left, top

    def prepare(self, image: Image.Image) -> NDArray[np.float32]:
        """Return a float32 array (3, crop, crop)."""
        size, left, top = self.frame(image.size)
        if size != image.size and self.interpolation == "bicubic-tensor":
            values = _resize_as_tensor(image, size)
        else:
            if size != image.size:
                image = image.resize(size, Image.Resampling[self.interpolation.upper()])
            values = (np.asarray(image, np.float32) / 255).astype(np.float32, copy=False)
        values = values[top : top + self.crop_px, left : left + self.crop_px]
        mean, std = (np.array(part, np.float32) for part in (self.mean, self.std))
        return np.ascontiguousarray(((values - mean) / std).transpose(2, 0, 1), np.float32)


def _resize_as_tensor(image: Image.Image, size: tuple[int, int]) -> NDArray[np.float32]:
    """Return values in [0, 1] (height, width, 3), resized bicubically without antialiasing."""
    import torch  # noqa: PLC0415  (slow import; encoders can be listed without it)
    from torch.nn.functional import interpolate  # noqa: PLC0415

    pixels = torch.from_numpy(np.asarray(image, np.float32) / 255).permute(2, 0, 1)[None]
    pixels = interpolate(pixels, size[::-1], mode="bicubic", align_corners=False)
    return pixels[0].permute(1, 2, 0).numpy()


@dataclass(frozen=True)
class Joined:
    """Several preparations at once: their arrays and the image's width and height, as a flat row.

    A preparation that another encoder has as well is computed once for both.
    """

    inputs: tuple[Preparation, ...]

    def prepare(self, image: Image.Image) -> NDArray[np.float32]:
        """See `Preparation`."""
        return self.join([one.prepare(image) for one in self.inputs], image.size)

    def join(
        self, arrays: Sequence[NDArray[np.float32]], size: tuple[int, int]
    ) -> NDArray[np.float32]:
        """Return the row of an image of that size from the arrays of its inputs."""
        return np.concatenate([*(one.ravel() for one in arrays), np.array(size, np.float32)])
