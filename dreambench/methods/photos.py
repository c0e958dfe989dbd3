"""Photos of a subject as methods see them."""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageOps

from dreambench.storage.images import load_image


def load_photo(path: Path, *, size_px: int) -> Image.Image:
    """Load a photo as an RGB image, cut square about its middle and resized to the given side.

    `size_px` is as a rule the protocol's: `context.sampler.size_px`.
    """
    return ImageOps.fit(load_image(path), (size_px, size_px), Image.Resampling.BICUBIC)
