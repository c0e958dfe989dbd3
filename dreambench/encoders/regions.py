"""Extracts the regions of a picture with several subjects: each cut out, enlarged, and encoded.

The subject of a photo fills its frame; two in one picture are half as large. So that the same
individual has the same features in both, every region is enlarged to the network's whole input, in
pictures and photos alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.nn.functional import interpolate

from dreambench.encoders.base import Encoder
from dreambench.encoders.parts import known_pixels
from dreambench.encoders.preprocessing import Joined, Pixels
from dreambench.encoders.segmentation import Segmenter
from dreambench.encoders.spec import REGIONS_IDENTITY
from dreambench.types import Features, Mask

MAX_REGIONS = 4
"""Regions of a picture that are kept, the largest first."""
LEAST_SHARE = 0.15
"""Share of what a segmenter found below which a region is a crumb."""
MARGIN = 0.1
"""What is left around a region when it is enlarged, in its longer sides."""
N_LEVELS = 16


@dataclass(frozen=True)
class Region:
    """Pixels that hang together; `is_cut` for a half of such a region."""

    mask: Mask
    is_cut: bool = False


def find_regions(mask: Mask) -> list[Region]:
    """Return the regions of a mask (h, w), at most MAX_REGIONS, the largest first.

    Where all hangs together it comes whole, and then as two halves: whether those are two subjects
    that touch, or two ends of one, their looks have to say.
    """
    n, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
    areas = stats[1:n, cv2.CC_STAT_AREA]
    kept = [i for i in np.argsort(-areas, kind="stable") if areas[i] >= LEAST_SHARE * areas.sum()]
    found = [Region(labels == i + 1) for i in kept[:MAX_REGIONS]]
    if len(found) == 1:
        found += [Region(half, is_cut=True) for half in cut_in_two(found[0].mask)]
    return found


def cut_in_two(mask: Mask) -> list[Mask]:
    """Return two halves of a region, cut at its narrowest place; none for a single pixel.

    What is farthest from the rim falls apart when the rim is taken off step by step: each pixel
    goes to the nearer of the two pieces. What stays in one piece is cut across its longer side.
    """
    if mask.sum() < 2:
        return []
    depth = cv2.distanceTransform(np.pad(mask, 1).astype(np.uint8), cv2.DIST_L2, 5)[1:-1, 1:-1]
    for level in np.linspace(0, depth.max(), N_LEVELS, endpoint=False)[1:]:
        n, labels, stats, _ = cv2.connectedComponentsWithStats((depth > level).astype(np.uint8))
        areas = stats[1:n, cv2.CC_STAT_AREA]
        first, *others = np.argsort(-areas, kind="stable")
        if others and areas[others[0]] >= LEAST_SHARE * areas.sum():
            away = [
                cv2.distanceTransform((labels != i + 1).astype(np.uint8), cv2.DIST_L2, 5)
                for i in (first, others[0])
            ]
            return [mask & (away[0] <= away[1]), mask & (away[0] > away[1])]
    rows, columns = np.nonzero(mask)
    places = columns if np.ptp(columns) >= np.ptp(rows) else rows
    is_first = np.zeros_like(mask)
    is_first[rows, columns] = places < np.median(places)
    return [is_first, mask & ~is_first]


@dataclass(frozen=True)
class _Canvas:
    """A picture in the middle of a square, black around it: RGB in [0, 1], (3, side, side)."""

    side_px: int

    def place(self, size: tuple[int, int]) -> tuple[int, int, int, int]:
        """Return width, height, left and top of an image of this size on the square."""
        scale = self.side_px / max(size)
        width, height = (max(1, round(side * scale)) for side in size)
        return width, height, (self.side_px - width) // 2, (self.side_px - height) // 2

    def prepare(self, image: Image.Image) -> NDArray[np.float32]:
        width, height, left, top = self.place(image.size)
        canvas = Image.new("RGB", (self.side_px, self.side_px))
        small = image.convert("RGB").resize((width, height), Image.Resampling.BICUBIC)
        canvas.paste(small, (left, top))
        return np.ascontiguousarray((np.asarray(canvas, np.float32) / 255).transpose(2, 0, 1))


class RegionsExtractor:
    """Extracts the regions of pictures: share, whether it is a half, DINO's and CLIP's rows.

    MAX_REGIONS of them in one row, zeros where there are fewer. The segmenter is asked for each of
    the nouns, as far as it takes one, and what any of them finds counts.
    """

    def __init__(
        self, dino: Encoder, clip: Encoder, segmenter: Segmenter, *, nouns: Sequence[str]
    ) -> None:
        self.dino = dino
        self.clip = clip
        self.segmenter = segmenter
        takes_nouns = segmenter.spec.network == "clipseg"
        self.nouns = tuple(dict.fromkeys(nouns)) if takes_nouns else ("",)
        # Twice what the networks see, since a region is about half as wide as a picture.
        sides = [known_pixels(encoder).crop_px for encoder in (dino, clip)]
        self.canvas = _Canvas(2 * max(sides))
        self.pixels = Joined((segmenter.spec.pixels, self.canvas))
        self.batch_size = dino.batch_size
        self.on_cpu = dino.on_cpu
        asked = "|asked:" + ",".join(self.nouns) if takes_nouns else ""
        self.identity = (
            f"{REGIONS_IDENTITY}|{dino.identity}|{clip.identity}|{segmenter.identity}{asked}"
        )

    def encode_pixels(self, pixels: NDArray[np.float32]) -> Features:
        """See `base.Extractor`."""
        side = self.segmenter.spec.pixels.crop_px
        n_first = 3 * side**2
        inputs = pixels[:, :n_first].reshape(-1, 3, side, side)
        logits = np.max([self.segmenter.find_logits(inputs, noun) for noun in self.nouns], axis=0)
        canvases = pixels[:, n_first:-2].reshape(-1, 3, self.canvas.side_px, self.canvas.side_px)
        sizes = [(int(width), int(height)) for width, height in pixels[:, -2:]]
        masks = [
            self._lay(torch.from_numpy(row), size) > 0
            for row, size in zip(logits, sizes, strict=True)
        ]
        return self._encode(canvases, [find_regions(mask) for mask in masks])

    def encode_images(self, images: Sequence[Image.Image]) -> Features:
        """Return one row per image."""
        return self.encode_pixels(np.stack([self.pixels.prepare(image) for image in images]))

    def encode_masked(
        self, images: Sequence[Image.Image], masks: Sequence[Sequence[Mask]]
    ) -> Features:
        """Return the same for known regions: masks (height, width) of each image, in order."""
        canvases = np.stack([self.canvas.prepare(image) for image in images])
        regions = [
            [
                Region(self._lay(torch.from_numpy(mask.astype(np.float32)), image.size) > 0.5)
                for mask in known
            ]
            for image, known in zip(images, masks, strict=True)
        ]
        return self._encode(canvases, regions)

    def _lay(self, values: torch.Tensor, size: tuple[int, int]) -> NDArray[np.float32]:
        """Return a map over an image on the canvas, far below 0 beside the image."""
        width, height, left, top = self.canvas.place(size)
        found = np.full((self.canvas.side_px,) * 2, -np.inf, np.float32)
        full = interpolate(values[None, None], (height, width), mode="bilinear")[0, 0]
        found[top : top + height, left : left + width] = full.numpy()
        return found

    def _encode(
        self, canvases: NDArray[np.float32], regions: Sequence[Sequence[Region]]
    ) -> Features:
        places = [(i, r) for i, found in enumerate(regions) for r in range(len(found))]
        blocks = np.zeros((len(regions), MAX_REGIONS, 2), np.float32)
        for i, r in places:
            blocks[i, r] = regions[i][r].mask.mean(), regions[i][r].is_cut
        rows: list[Features] = [blocks]
        for encoder in (self.dino, self.clip):
            target = known_pixels(encoder)
            made = self._cut(canvases, regions, places, encoder, target)
            full = np.zeros((len(regions), MAX_REGIONS, made.shape[1]), np.float32)
            for (i, r), row in zip(places, made, strict=True):
                full[i, r] = row
            rows.append(full)
        return np.concatenate([one.reshape(len(regions), -1) for one in rows], axis=1)

    def _cut(
        self,
        canvases: NDArray[np.float32],
        regions: Sequence[Sequence[Region]],
        places: Sequence[tuple[int, int]],
        encoder: Encoder,
        target: Pixels,
    ) -> Features:
        """Return an encoder's row of each region, mean colour around it; of a blank for none."""
        mean, std = (
            np.array(part, np.float32)[:, None, None] for part in (target.mean, target.std)
        )
        cut = [
            enlarge((canvases[i] - mean) / std, regions[i][r].mask, target.crop_px)
            for i, r in places
        ] or [np.zeros((3, target.crop_px, target.crop_px), np.float32)]
        size = self.batch_size
        made = [
            encoder.encode_pixels(np.stack(cut[start : start + size]))
            for start in range(0, len(cut), size)
        ]
        return np.concatenate(made)

    @staticmethod
    def split(rows: Features, n_dino: int) -> dict[str, Features]:
        """Return rows by kind of features, (n, regions) and (n, regions, d).

        A region's share of the picture, 0 where there is none; whether it is a half of one that
        hangs together; and its rows by both encoders.
        """
        n = len(rows)
        heads = rows[:, : 2 * MAX_REGIONS].reshape(n, MAX_REGIONS, 2)
        rest = rows[:, 2 * MAX_REGIONS :]
        middle = n_dino * MAX_REGIONS
        return {
            "region-share": heads[..., 0],
            "region-cut": heads[..., 1],
            "region-dino": rest[:, :middle].reshape(n, MAX_REGIONS, -1),
            "region-clip": rest[:, middle:].reshape(n, MAX_REGIONS, -1),
        }


def enlarge(pixels: NDArray[np.float32], mask: Mask, side_px: int) -> NDArray[np.float32]:
    """Return a region of an image (c, h, w) alone, enlarged to (c, side, side); 0 around it."""
    rows, columns = np.nonzero(mask)
    height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
    side = round(max(height, width) * (1 + 2 * MARGIN))
    canvas = np.zeros((len(pixels), side, side), np.float32)
    top, left = (side - height) // 2, (side - width) // 2
    box = np.s_[rows.min() : rows.min() + height, columns.min() : columns.min() + width]
    canvas[:, top : top + height, left : left + width] = pixels[:, *box] * mask[box]
    made = interpolate(
        torch.from_numpy(canvas)[None], (side_px, side_px), mode="bicubic", antialias=True
    )
    found: NDArray[np.float32] = made[0].numpy()
    return found
