"""Extractors that are not encoders: hashes, black images, thumbnails, parts of an image."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch.nn.functional import interpolate

from dreambench.encoders.base import Encoder
from dreambench.encoders.preprocessing import Joined, Pixels, Preparation
from dreambench.encoders.segmentation import Segmenter
from dreambench.encoders.spec import HASH_IDENTITY, THUMBNAIL_IDENTITY, THUMBNAIL_PX
from dreambench.errors import UserError
from dreambench.types import Features, Mask

HASH_PX = 32
"""The side to which pHash resizes an image: four times that of its 8 x 8 bits."""


@dataclass(frozen=True)
class _Hashes:
    def prepare(self, image: Image.Image) -> NDArray[np.float32]:
        import imagehash  # noqa: PLC0415  (slow import)

        # As the hash begins, here once for both; its own resizing then finds nothing to do.
        small = image.convert("L").resize((HASH_PX, HASH_PX), Image.Resampling.LANCZOS)
        seen = (small, ImageOps.mirror(small))
        return np.concatenate([imagehash.phash(one).hash.ravel() for one in seen]).astype("f4")


class _PixelExtractor:
    """Extracts rows that are an image's prepared pixels: no network is needed."""

    identity: str
    pixels: Preparation
    batch_size = 8
    on_cpu = True

    def encode_pixels(self, pixels: NDArray[np.float32]) -> Features:
        """See `base.Extractor`."""
        return pixels

    def encode_images(self, images: Sequence[Image.Image]) -> Features:
        """Return one row per image."""
        return np.stack([self.pixels.prepare(image) for image in images])


class HashExtractor(_PixelExtractor):
    """Extracts perceptual hashes of an image and of its mirror image: (n, 128) of 0 and 1.

    The hash is imagehash's pHash (a DCT of the grey picture), 64 bits.
    """

    identity = HASH_IDENTITY
    pixels = _Hashes()


@dataclass(frozen=True)
class _IsBlack:
    def prepare(self, image: Image.Image) -> NDArray[np.float32]:
        return np.array([image.getbbox() is None], np.float32)


class BlackDetector(_PixelExtractor):
    """Extracts whether every pixel of an image is black: (n, 1), 1 for black.

    Diffusers' safety checker hands out such images in place of what it censors.
    """

    identity = "black|v1"
    pixels = _IsBlack()


@dataclass(frozen=True)
class _Look:
    def prepare(self, image: Image.Image) -> NDArray[np.float32]:
        pixels = np.asarray(image.convert("RGB"))
        is_black, is_plain = not pixels.any(), bool((pixels == pixels[0, 0]).all())
        content = hashlib.sha256(repr(image.size).encode() + pixels.tobytes()).digest()
        return np.array([is_black, is_plain, *content], np.float32)


class LookExtractor(_PixelExtractor):
    """Extracts what shows that a picture is none, or one that is there already: (n, 34).

    Whether it is black all over, whether it has one colour, and the bytes of its pixels' SHA-256.
    """

    identity = "look|v1"
    pixels = _Look()


WHOLLY = 0.9
"""Share of a thumbnail's pixel above which it shows nothing but the subject: no rim, in which the
background is mixed."""


@dataclass(frozen=True)
class _Thumbnail:
    mode: Literal["RGB", "L"]

    def prepare(self, image: Image.Image) -> NDArray[np.float32]:
        scale = THUMBNAIL_PX / max(image.size)
        width, height = (max(1, round(side * scale)) for side in image.size)
        small = image.convert(self.mode).resize((width, height), Image.Resampling.BICUBIC)
        canvas = Image.new(self.mode, (THUMBNAIL_PX, THUMBNAIL_PX))
        canvas.paste(small, ((THUMBNAIL_PX - width) // 2, (THUMBNAIL_PX - height) // 2))
        return (np.asarray(canvas, np.float32) / np.float32(255)).ravel()


class ThumbnailExtractor(_PixelExtractor):
    """Extracts small pictures: (n, 3 x 48 x 48) of colours in [0, 1], pixel by pixel.

    The longer side is resized to 48 px, bicubically; black bars fill the shorter one.
    """

    identity = THUMBNAIL_IDENTITY
    pixels = _Thumbnail("RGB")


class MaskExtractor:
    """Extracts which pixels of an image's thumbnail show nothing but the subject: (n, 48 x 48).

    A segmenter, which may need the class noun, finds the subject.
    """

    def __init__(self, segmenter: Segmenter, *, class_name: str) -> None:
        self.segmenter = segmenter
        self.class_name = class_name
        self.pixels = Joined((segmenter.spec.pixels,))
        self.batch_size = 8
        self.on_cpu = segmenter.device.type == "cpu"
        self.identity = f"mask v1|{ThumbnailExtractor.identity}|{_ask(segmenter, class_name)}"

    def encode_pixels(self, pixels: NDArray[np.float32]) -> Features:
        """See `base.Extractor`."""
        sizes = pixels[:, -2:].astype(int)
        side = self.segmenter.spec.pixels.crop_px
        inputs = pixels[:, :-2].reshape(-1, 3, side, side)
        maps = torch.from_numpy(self.segmenter.find_logits(inputs, self.class_name))[:, None]
        return self.encode_masks(
            [
                (interpolate(one[None], (int(height), int(width)), mode="bilinear") > 0)[
                    0, 0
                ].numpy()
                for one, (width, height) in zip(maps, sizes, strict=True)
            ]
        )

    @staticmethod
    def encode_masks(masks: Sequence[Mask]) -> Features:
        """Return the same for known masks: one bool array (height, width) per image."""
        shrink = _Thumbnail("L").prepare
        rows = [shrink(Image.fromarray(np.uint8(mask) * np.uint8(255))) for mask in masks]
        return (np.stack(rows) > WHOLLY).astype(np.float32)


def _ask(segmenter: Segmenter, class_name: str) -> str:
    """Return a segmenter's identity, with the noun where it needs one."""
    asked = f"|asked:{class_name}" if segmenter.spec.network == "clipseg" else ""
    return f"{segmenter.identity}{asked}"


class PartsExtractor:
    """Extracts features of parts of an image: subject and background by DINO, subject by CLIP.

    The three are one row. Each encoder sees its part and zeros elsewhere, which is its mean colour.
    The subject is found once for all three by a segmenter, which may need the class noun. Parts are
    cut out of prepared images, so both encoders' preprocessing has to be `Pixels`.
    """

    def __init__(
        self, dino: Encoder, clip: Encoder, segmenter: Segmenter, *, class_name: str
    ) -> None:
        self.dino = dino
        self.clip = clip
        self.segmenter = segmenter
        self.class_name = class_name
        self.inputs = (segmenter.spec.pixels, known_pixels(dino), known_pixels(clip))
        self.pixels = Joined(self.inputs)
        self.batch_size = dino.batch_size
        self.on_cpu = dino.on_cpu
        found = _ask(segmenter, class_name)
        self.identity = f"parts v1|{dino.identity}|{clip.identity}|{found}"

    def encode_pixels(self, pixels: NDArray[np.float32]) -> Features:
        """See `base.Extractor`."""
        logits = self.segmenter.find_logits(self._split_inputs(pixels)[0], self.class_name)
        return self._encode_parts(pixels, [torch.from_numpy(row) for row in logits], threshold=0.0)

    def encode_images(self, images: Sequence[Image.Image]) -> Features:
        """Return one row per image."""
        return self.encode_pixels(np.stack([self.pixels.prepare(image) for image in images]))

    def encode_masked(self, images: Sequence[Image.Image], masks: Sequence[Mask]) -> Features:
        """Return the same for known masks: one bool array (height, width) per image."""
        pixels = np.stack([self.pixels.prepare(image) for image in images])
        return self._encode_parts(
            pixels, [torch.from_numpy(mask.astype(np.float32)) for mask in masks], threshold=0.5
        )

    def _encode_parts(
        self, pixels: NDArray[np.float32], maps: Sequence[torch.Tensor], *, threshold: float
    ) -> Features:
        _, for_dino, for_clip = self._split_inputs(pixels)
        sizes = pixels[:, -2:].astype(int)

        def cut(target: Pixels) -> NDArray[np.float32]:
            masks = [
                frame_map(one, target, (int(width), int(height))) > threshold
                for one, (width, height) in zip(maps, sizes, strict=True)
            ]
            return torch.stack(masks).numpy()[:, None].astype(np.float32)

        seen, by_clip = cut(self.inputs[1]), cut(self.inputs[2])
        return np.concatenate(
            [
                self.dino.encode_pixels(for_dino * seen),
                self.dino.encode_pixels(for_dino * (1 - seen)),
                self.clip.encode_pixels(for_clip * by_clip),
            ],
            axis=1,
        )

    def _split_inputs(self, rows: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        """Return the batch of each network, (n, 3, side, side)."""
        found, start = [], 0
        for pixels in self.inputs:
            side = pixels.crop_px
            found.append(rows[:, start : start + 3 * side**2].reshape(-1, 3, side, side))
            start += 3 * side**2
        return found

    @staticmethod
    def split(rows: Features, n_dino: int) -> dict[str, Features]:
        """Return the three parts of rows by kind; `n_dino` is the width of DINO's rows."""
        return {
            "dino-fg": rows[:, :n_dino],
            "dino-bg": rows[:, n_dino : 2 * n_dino],
            "clip-fg": rows[:, 2 * n_dino :],
        }


def known_pixels(encoder: Encoder) -> Pixels:
    """Return an encoder's preprocessing; UserError for one of its own."""
    if not isinstance(encoder.pixels, Pixels):
        raise UserError(
            f"encoder '{encoder.spec.name}' prepares images by its own code, so that no part can "
            "be cut out of them",
            hint="use dreambench.encoders.preprocessing.Pixels",
            code="own-pixels",
        )
    return encoder.pixels


def frame_map(values: torch.Tensor, target: Pixels, size: tuple[int, int]) -> torch.Tensor:
    """Return a map over an image (h, w) as a network sees that image: resized, cropped.

    `size` is the image's width and height; the map may have another resolution; (crop, crop).
    """
    (width, height), left, top = target.frame(size)
    full = interpolate(values[None, None], (height, width), mode="bilinear")[0, 0]
    return full[top : top + target.crop_px, left : left + target.crop_px]
