"""What else reads an image, beside encoders: perceptual hashes, and encoders of one part of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from PIL import Image, ImageOps

from dreambench.encoders import Embeddings, Encoder
from dreambench.files import digest
from dreambench.segment import Mask, Segmenter

Part = Literal["subject", "background"]


class HashReader:
    """Perceptual hashes of an image and of its mirror image: (n, 2, 64) of 0 and 1.

    The hash is imagehash's pHash (a DCT of the grey picture), 64 bits.
    """

    identity = "phash64|imagehash|mirrored-too"
    key = digest(identity)

    def embed_images(self, images: Sequence[Image.Image], *, batch_size: int = 64) -> Embeddings:
        """See `embed.Reader`."""
        import imagehash  # noqa: PLC0415  (slow import)

        rows = [
            [imagehash.phash(seen).hash.ravel() for seen in (image, ImageOps.mirror(image))]
            for image in images
        ]
        return np.array(rows, np.float32)


class PartReader:
    """An encoder that sees one part of an image, the rest in the encoder's mean colour.

    The subject is found by a segmenter, which may need the class noun.
    """

    def __init__(
        self, encoder: Encoder, segmenter: Segmenter, part: Part, *, class_name: str
    ) -> None:
        self.encoder = encoder
        self.segmenter = segmenter
        self.part = part
        self.class_name = class_name
        asked = f"|asked:{class_name}" if segmenter.spec.kind == "clipseg" else ""
        self.identity = f"{encoder.identity}|only:{part}|{segmenter.identity}{asked}"
        self.key = digest(self.identity)

    def embed_images(self, images: Sequence[Image.Image], *, batch_size: int = 64) -> Embeddings:
        """See `embed.Reader`."""
        masks = self.segmenter.find_subjects(images, self.class_name, batch_size=batch_size)
        return self.embed_masked(images, masks, batch_size=batch_size)

    def embed_masked(
        self, images: Sequence[Image.Image], masks: Sequence[Mask], *, batch_size: int = 64
    ) -> Embeddings:
        """The same with masks that are known: one bool array (height, width) an image."""
        fill = self.encoder.spec.pixels.mean
        parts = [
            keep_part(image, mask, self.part, fill=fill)
            for image, mask in zip(images, masks, strict=True)
        ]
        return self.encoder.embed_images(parts, batch_size=batch_size)


def keep_part(
    image: Image.Image, mask: Mask, part: Part, *, fill: tuple[float, float, float]
) -> Image.Image:
    """The image with all but one part painted over; `fill` is RGB in [0, 1]."""
    kept = mask if part == "subject" else ~mask
    colour = np.round(np.array(fill) * 255).astype(np.uint8)
    return Image.fromarray(np.where(kept[..., None], np.asarray(image), colour))
