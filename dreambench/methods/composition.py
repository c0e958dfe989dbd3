"""Composition: the subject is cut out of a photo and set into a scene that the model draws.

With `strength` 0 it stays a paste (the baseline `cut-and-paste`); above that the whole is
harmonised by partial denoising, as SDEdit does for image compositing (Meng et al., ICLR 2022,
arXiv 2108.01073).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from PIL import Image
from pydantic import Field

from dreambench.base_models import BaseModel
from dreambench.methods import Context, Settings, Work
from dreambench.methods.diffusion import load_base
from dreambench.methods.editing import (
    EditingGenerator,
    Mask,
    check_strength,
    load_masks,
    make_img2img,
)
from dreambench.plan import derive_seed
from dreambench.subjects import Subject

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline


class CompositionSettings(Settings):
    """Numbers of a composition recipe."""

    strength: float = Field(ge=0, le=1, description="of harmonising; 0 leaves the paste as it is")


def remove_subject(prompt: str) -> str:
    """A prompt without its subject: the place and the manner that it asks for.

    "a red {subject} on the beach" gives "on the beach", "an oil painting of a {subject}" gives
    "an oil painting". What a prompt says of the subject itself is left out with it.
    """
    word = r"(?!(?:an?|the|of)\b)[\w'-]+"
    rest = re.sub(rf"\b(?:(?:an?|the)\s+)?(?:{word}\s+)*?\{{subject\}}", "", prompt)
    return re.sub(r"\s+of\s*$", "", " ".join(rest.split()))


def paste(photo: Image.Image, mask: Mask, scene: Image.Image, *, shift_px: int) -> Image.Image:
    """The masked pixels of a photo, moved to the right, on a scene of the same size."""
    pixels, seen = (np.roll(array, shift_px, axis=1) for array in (np.asarray(photo), mask))
    return Image.fromarray(np.where(seen[..., None], pixels, np.asarray(scene)))


class Composition:
    """Pastes the subject of a photo, at its size and height there, into a drawn scene.

    The seed picks the photo among all, and how far to the left or right the subject stands.
    """

    Settings: ClassVar[type[CompositionSettings]] = CompositionSettings
    tunes = False
    n_references = None

    def __init__(self, settings: CompositionSettings, context: Context) -> None:
        if settings.strength:
            check_strength(settings.strength, context)
        self.settings = settings
        self.context = context
        self.pipeline = load_base(context)

    @classmethod
    def count_work(cls, settings: CompositionSettings, base_model: BaseModel) -> Work:
        """See `methods.Method`."""
        return Work(draws=True, drawing=1 + settings.strength)

    def fit(self, subject: Subject, out_dir: Path, *, seed: int) -> None:
        """Nothing to learn."""

    def load(self, subject: Subject, out_dir: Path) -> EditingGenerator:
        """Reads the photos and masks."""
        return _Composed(
            self.pipeline, self.context, subject=subject, strength=self.settings.strength
        )


class _Composed(EditingGenerator):
    def __init__(
        self,
        pipeline: StableDiffusionPipeline,
        context: Context,
        *,
        subject: Subject,
        strength: float,
    ) -> None:
        super().__init__(pipeline, context, subject=subject)
        self.img2img = make_img2img(pipeline)
        self.masks = load_masks(subject, context.sampler.size_px)
        self.strength = strength

    def _draw_subject(self, prompts: Sequence[str], seeds: Sequence[int]) -> list[Image.Image]:
        # The scene is asked for without the subject's noun, and the noun is its negative prompt:
        # a scene with the noun has a stranger of the class in it, who looks out behind the subject.
        texts = [remove_subject(prompt) for prompt in prompts]
        nouns = [self.subject_phrase] * len(texts)
        scenes = self._draw(texts, seeds, negative_prompt=nouns)
        images = [
            self._paste(index, scene, seed)
            for index, scene, seed in zip(self._pick(seeds), scenes, seeds, strict=True)
        ]
        if not self.strength:
            return images
        # Other noise than the scene was drawn from, which it would bring out again.
        fresh = [derive_seed("harmonise", seed) for seed in seeds]
        return self._redraw(
            self.img2img, self._fill(prompts), fresh, images, strength=self.strength
        )

    def _paste(self, index: int, scene: Image.Image, seed: int) -> Image.Image:
        mask = self.masks[index]
        columns = np.flatnonzero(mask.any(0))
        room = (-int(columns[0]), mask.shape[1] - int(columns[-1]))
        shift = int(np.random.default_rng(seed).integers(*room))
        return paste(self.photos[index], mask, scene, shift_px=shift)
