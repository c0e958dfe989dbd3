"""Which pixels of a photo are the subject: the dataset's masks, or GrabCut."""

from __future__ import annotations

import numpy as np
from PIL import Image

from dreambench.datasets.subjects import Subject
from dreambench.methods.photos import load_photo
from dreambench.storage.images import load_mask
from dreambench.types import Mask

# GrabCut looks at an image of at most so many pixels a side: more of them change no outline that
# matters here, and take minutes.
GRABCUT_PX = 384
GRABCUT_ROUNDS = 8
# Outside of this margin nothing is the subject's, which stands in the middle of its photo.
GRABCUT_MARGIN = 0.04


def load_masks(subject: Subject, side_px: int) -> list[Mask]:
    """Return which pixels of each photo of `load_photo` are the subject: bool (side, side).

    These are the dataset's masks, or GrabCut's where it has none.
    """
    if not subject.masks:
        return [find_mask(load_photo(path, size_px=side_px)) for path in subject.photos]
    return [load_mask(path, side_px=side_px) for path in subject.masks]


def find_mask(image: Image.Image) -> Mask:
    """Return the pixels of what stands in the middle of an image: bool (height, width).

    This is GrabCut (Rother et al., SIGGRAPH 2004) from a frame inside the image's edge, without
    holes and specks. Where it finds nothing, it is the frame itself, so that an image is made.
    """
    import cv2  # noqa: PLC0415  (slow import)

    small = image.convert("RGB")
    small.thumbnail((GRABCUT_PX, GRABCUT_PX), Image.Resampling.BOX)
    # GrabCut takes its colours in OpenCV's order.
    pixels = np.ascontiguousarray(np.asarray(small)[..., ::-1])
    height, width = pixels.shape[:2]
    top, left = max(1, round(height * GRABCUT_MARGIN)), max(1, round(width * GRABCUT_MARGIN))
    frame = (left, top, width - 2 * left, height - 2 * top)
    labels = np.zeros((height, width), np.uint8)
    # Its clusters start from OpenCV's own random numbers, which no argument reaches.
    cv2.setRNGSeed(0)
    models = np.zeros((1, 65)), np.zeros((1, 65))
    cv2.grabCut(pixels, labels, frame, *models, GRABCUT_ROUNDS, cv2.GC_INIT_WITH_RECT)
    found = np.isin(labels, (cv2.GC_FGD, cv2.GC_PR_FGD))
    mask = _clean(found)
    if mask.sum() < 0.005 * mask.size:
        mask[top:-top, left:-left] = True
    back = Image.fromarray(mask).convert("L").resize(image.size, Image.Resampling.BILINEAR)
    return np.asarray(back) > 127


def _clean(mask: Mask) -> Mask:
    """Keep parts of a tenth of the largest one's size and more, with their holes filled."""
    from scipy import ndimage  # noqa: PLC0415  (slow import)

    labels, _ = ndimage.label(mask)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    kept = sizes >= max(1, 0.1 * sizes.max())
    kept[0] = False
    return ndimage.binary_fill_holes(kept[labels])
