"""A subject's shape and colours as a grid of cells, rendered from any side, and kept in a file.

A grid needs no library of meshes, and both ways to a shape give one. The grid spans [-1, 1] in x to
the right, y up and z towards who sees the front; the camera's rays are parallel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import save

from dreambench.base_models.weights import read_trained
from dreambench.errors import UserError
from dreambench.storage.files import write_bytes

FILE = "shape.safetensors"
MAX_CELLS = 256
"""A side of a grid: more than memory is for is refused before it is computed with."""
_SURFACE, _SHARPNESS = 0.4, 25.0
_REACH = 3**0.5

Floats = NDArray[np.float32]


def make_axes(azimuth: float, elevation: float) -> Floats:
    """Return the directions right, up and towards the camera: rows of (3, 3). Degrees."""
    a, e = np.deg2rad(azimuth), np.deg2rad(elevation)
    sa, ca, se, ce = np.sin(a), np.cos(a), np.sin(e), np.cos(e)
    return np.array([[ca, 0, -sa], [-sa * se, ce, -ca * se], [sa * ce, se, ca * ce]], np.float32)


@dataclass(frozen=True)
class Shape:
    """`solid` (n, n, n) by z, y, x: 0 outside and 255 inside; `colours` (n, n, n, 3) RGB.

    `views` (k, 2) are azimuth and elevation of each photo, in degrees.
    """

    solid: NDArray[np.uint8]
    colours: NDArray[np.uint8]
    views: Floats

    @property
    def is_solid(self) -> bool:
        """Whether there is anything to see."""
        return bool((self.solid > 255 * _SURFACE).any())

    @property
    def usual_elevation(self) -> float:
        """The elevation of the middle one of its photos."""
        return float(np.median(self.views[:, 1]))

    @torch.inference_mode()
    def draw(self, azimuth: float, elevation: float, *, side_px: int) -> Image.Image:
        """Return the shape as seen by a camera: RGBA, with parallel rays that span [-1.5, 1.5].

        Computed on the CPU, so that it is the same image on every device.
        """
        n = len(self.solid)
        cells = np.concatenate([self.solid[None], self.colours.transpose(3, 0, 1, 2)])
        grid = torch.from_numpy(cells).float()[None] / 255
        right, up, near = torch.from_numpy(make_axes(azimuth, elevation))
        places = (torch.arange(side_px) + 0.5) / side_px * 3 - 1.5
        plane = places[:, None] * right + (-places)[:, None, None] * up
        light, colour = torch.ones(side_px, side_px), torch.zeros(3, side_px, side_px)
        # From the front to the back; each layer dims what lies behind it.
        for depth in torch.linspace(_REACH, -_REACH, round(1.6 * n)):
            points = (plane + depth * near)[None, None]
            seen = torch.nn.functional.grid_sample(grid, points, align_corners=False)[0, :, 0]
            share = torch.sigmoid((seen[0] - _SURFACE) * _SHARPNESS) * (seen[0] > 0.02)
            colour += light * share * seen[1:]
            light = light * (1 - share)
        alpha = 1 - light
        pixels = torch.cat([colour / alpha.clamp(min=1e-3), alpha[None]]).clamp(0, 1)
        return Image.fromarray((pixels * 255).round().byte().permute(1, 2, 0).numpy(), "RGBA")

    def write(self, folder: Path) -> None:
        """Leave it in a folder; `read_shape` reads it."""
        arrays = {"solid": self.solid, "colours": self.colours, "views": self.views}
        tensors = {name: torch.from_numpy(np.ascontiguousarray(a)) for name, a in arrays.items()}
        write_bytes(folder / FILE, save(tensors, metadata={"format": "pt"}))


def count_bytes(n_cells: int) -> int:
    """Return how large the file of a shape with so many cells a side is."""
    return 4 * n_cells**3


def read_shape(folder: Path, *, n_photos: int) -> Shape:
    """Read what `Shape.write` left.

    Raises:
        UserError: the file is damaged, or does not hold a shape of so many photos.
    """
    file = folder / FILE
    found = read_trained(file)
    n = len(found["solid"]) if "solid" in found and found["solid"].ndim else 0
    wanted = {
        "solid": (torch.uint8, (n, n, n)), "colours": (torch.uint8, (n, n, n, 3)),
        "views": (torch.float32, (n_photos, 2)),
    }  # fmt: skip
    held = {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in found.items()}
    if not 2 <= n <= MAX_CELLS or held != wanted or not found["views"].isfinite().all():
        raise UserError(
            f"{file} does not hold the shape of a subject with {n_photos} photos",
            hint=f"delete {folder} and run again, which reconstructs this subject again",
            code="wrong-weights",
        )
    return Shape(*(found[name].numpy() for name in wanted))


def cut_box(image: Image.Image) -> Image.Image:
    """Return the part of an RGBA image that shows anything; the whole of an empty one."""
    box = image.getchannel("A").point(lambda value: 255 * (value > 127)).getbbox()
    return image if box is None else image.crop(box)


def find_box(mask: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """Return left, top, right and bottom of a mask that is not empty."""
    rows, columns = np.nonzero(mask)
    return int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1


def take_usable(masks: Sequence[NDArray[np.bool_]], subject: str) -> list[int]:
    """Return which masks show anything.

    Raises:
        UserError: none does.
    """
    found = [row for row, mask in enumerate(masks) if mask.any()]
    if not found:
        raise UserError(
            f"no photo of '{subject}' shows it: each mask is empty, or lies outside of the square "
            "about the photo's middle",
            hint="give masks that show the subject, or leave masks out",
            code="unsupported-subject",
        )
    return found
