"""What the methods that edit a photo share: which photo, its subject's pixels, the plain class."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageOps

from dreambench.datasets.subjects import Subject
from dreambench.errors import UserError
from dreambench.methods.base import Context
from dreambench.methods.diffusion import ReferenceGenerator
from dreambench.storage.images import load_image
from dreambench.types import Mask

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline, StableDiffusionPipeline


# GrabCut looks at a picture of at most so many pixels a side: more of them change no outline that
# matters here, and take minutes.
GRABCUT_PX = 384
GRABCUT_ROUNDS = 8
# Outside of this margin nothing is the subject's, which stands in the middle of its photo.
GRABCUT_MARGIN = 0.04


def load_square(path: Path, side_px: int) -> Image.Image:
    """A photo as the tuned methods see it: cut square, at the protocol's size."""
    return ImageOps.fit(load_image(path), (side_px, side_px), Image.Resampling.BICUBIC)


def load_masks(subject: Subject, side_px: int) -> list[Mask]:
    """Which pixels of each photo of `load_square` are the subject: bool (side, side).

    The dataset's masks, or GrabCut where it has none.
    """
    if not subject.masks:
        return [find_mask(load_square(path, side_px)) for path in subject.photos]
    size = (side_px, side_px)
    masks = [ImageOps.fit(load_image(path).convert("L"), size) for path in subject.masks]
    return [np.asarray(mask) > 127 for mask in masks]


def find_mask(image: Image.Image) -> Mask:
    """The pixels of what stands in the middle of a picture: bool (height, width).

    GrabCut (Rother et al., SIGGRAPH 2004) from a frame inside the picture's edge, without holes and
    specks. Where it finds nothing, the frame itself, so that a picture is still made.
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
    """Parts of a tenth of the largest one's size and more, with their holes filled."""
    from scipy import ndimage  # noqa: PLC0415  (slow import)

    labels, _ = ndimage.label(mask)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    kept = sizes >= max(1, 0.1 * sizes.max())
    kept[0] = False
    return ndimage.binary_fill_holes(kept[labels])


def check_strength(strength: float, context: Context) -> None:
    """UserError where a strength is too low for a single step of the protocol's sampler."""
    n_steps = context.sampler.n_steps
    if int(n_steps * strength) < 1:
        raise UserError(
            f"strength {strength:g} is less than one of the protocol's {n_steps} steps",
            hint=f"set strength to {1 / n_steps:.3g} or more",
        )


def make_img2img(pipeline: StableDiffusionPipeline) -> DiffusionPipeline:
    """Diffusers' pipeline that starts from a picture, on the same networks and scheduler."""
    from diffusers import AutoPipelineForImage2Image  # noqa: PLC0415  (slow import)

    made = AutoPipelineForImage2Image.from_pipe(pipeline)
    made.set_progress_bar_config(disable=True)
    return made


class EditingGenerator(ReferenceGenerator):
    """Makes images out of the subject's photos; the seed picks which. The subject is its class.

    `strength` is the share of the steps that `_redraw` goes back; None where nothing is redrawn.
    """

    def __init__(
        self,
        pipeline: StableDiffusionPipeline,
        context: Context,
        *,
        subject: Subject,
        strength: float | None = None,
    ) -> None:
        super().__init__(pipeline, context, subject_phrase=subject.class_name)
        self.photos = [load_square(path, context.sampler.size_px) for path in subject.photos]
        self.strength = strength
        self.img2img = None if strength is None else make_img2img(pipeline)

    def _pick(self, seeds: Sequence[int]) -> list[int]:
        """Which photo each image is made of."""
        return [seed % len(self.photos) for seed in seeds]

    def _redraw(
        self, prompts: Sequence[str], seeds: Sequence[int], images: list[Image.Image]
    ) -> list[Image.Image]:
        """Pictures after noise for `strength` of the steps was added and taken away again."""
        options: dict[str, Any] = {"image": images, "strength": self.strength}
        return self._call(self.img2img, self._fill(prompts), seeds, **options)
