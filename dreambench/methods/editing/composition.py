"""Composition: the subject is cut out of a photo and set into a scene that the model generates.

As such it is the method `cut-and-paste`; `composition` harmonises the whole by partial denoising,
as SDEdit does for image compositing (Meng et al., ICLR 2022, arXiv 2108.01073).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from PIL import Image
from pydantic import Field

from dreambench.artifacts.plan import derive_seed
from dreambench.base_models.base import LoadedModel
from dreambench.base_models.spec import BaseModel
from dreambench.config.slots import has_pair_slots
from dreambench.datasets.subjects import Subject
from dreambench.methods.base import Context, Method, Settings, Work
from dreambench.methods.editing.generator import EditingGenerator, check_strength
from dreambench.methods.editing.masks import load_masks
from dreambench.types import Mask

MIDDLES, TOGETHER, FEET = (0.27, 0.73), 0.44, 0.88
"""Where two subjects stand in a picture, how large they are, and where their feet are."""


class CompositionSettings(Settings):
    """Numbers of a composition recipe."""

    strength: float = Field(gt=0, le=1, description="of harmonising")


def remove_subject(prompt: str) -> str:
    """Return a prompt without its subject: the place and the manner that it asks for.

    "a red {subject} on the beach" gives "on the beach", "an oil painting of a {subject}" gives
    "an oil painting". What a prompt says of the subject itself, of what it wears or is made of, is
    left out with it. So are both subjects of a pair: "a {first} and a {second} in the snow" gives
    "in the snow".
    """
    if has_pair_slots(prompt):
        others = r"(?:,\s+next to it is|\s+and)\s+(?:an?\s+)?(?:[\w'-]+\s+)*?\{second\}"
        prompt = re.sub(others, "", prompt).replace("{first}", "{subject}")
    word = r"(?!(?:an?|the|of)\b)[\w'-]+"
    phrase = rf"(?:\bof\s+)?(?:\b(?:an?|the)\s+)?(?:\b{word}\s+)*?\{{subject\}}"
    return " ".join(re.sub(rf"{phrase}(?:\s+(?:wearing|made of)\b.*)?", "", prompt).split())


def paste(photo: Image.Image, mask: Mask, scene: Image.Image) -> Image.Image:
    """Return the masked pixels of a photo on a scene of the same size."""
    return Image.fromarray(np.where(mask[..., None], np.asarray(photo), np.asarray(scene)))


def set_beside(photo: Image.Image, mask: Mask, scene: Image.Image, *, middle: float) -> Image.Image:
    """Return the masked pixels of a square photo on a scene of its size, as one of two subjects.

    They are scaled to TOGETHER of the scene's side and stand with their feet at FEET of it, their
    `middle` as far from the left (shares of the side).
    """
    side = scene.width
    rows, columns = np.nonzero(mask)
    if not len(rows):
        return scene
    box = (int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1)
    scale = TOGETHER * side / max(box[2] - box[0], box[3] - box[1])
    size = (max(1, round((box[2] - box[0]) * scale)), max(1, round((box[3] - box[1]) * scale)))
    cut = photo.crop(box).resize(size, Image.Resampling.LANCZOS)
    shape = Image.fromarray(np.uint8(mask) * np.uint8(255)).crop(box).resize(size)
    found = scene.copy()
    found.paste(cut, (round(middle * side - size[0] / 2), round(FEET * side) - size[1]), shape)
    return found


class CutAndPaste(Method):
    """Pastes the subject of a photo, at its place and size there, into a generated scene.

    A photographer has put it where a subject stands well, which is also where the model puts what
    no prompt asked for. The seed picks the photo among all. Two subjects are made smaller and stand
    side by side, the first on the left.
    """

    most_subjects = 2

    def __init__(self, settings: Any, context: Context) -> None:
        super().__init__(settings, context)
        self.model = context.load_base_model()

    @classmethod
    def count_work(cls, settings: Any, base_model: BaseModel) -> Work:
        """See `methods.Method`. A scene for each image, though some prompts ask for none."""
        return Work(samples=True)

    def load(self, subject: Subject, out_dir: Path) -> EditingGenerator:
        """Load the photos and masks."""
        return Pasted(self.model, subject=subject)


class Composition(CutAndPaste):
    """The same, harmonised by partial denoising with the whole prompt."""

    Settings: ClassVar[type[CompositionSettings]] = CompositionSettings

    def __init__(self, settings: CompositionSettings, context: Context) -> None:
        check_strength(settings.strength, context)
        super().__init__(settings, context)

    @classmethod
    def count_work(cls, settings: CompositionSettings, base_model: BaseModel) -> Work:
        """See `methods.Method`. A scene for each image, though some prompts ask for none."""
        return Work(samples=True, calls_per_image=1 + settings.strength)

    def load(self, subject: Subject, out_dir: Path) -> EditingGenerator:
        """Load the photos and masks."""
        return Harmonised(self.model, subject=subject, strength=self.settings.strength)


class Pasted(EditingGenerator):
    """Makes a scene for each prompt and sets the subject into it."""

    def __init__(self, model: LoadedModel, *, subject: Subject) -> None:
        super().__init__(model, subject=subject)
        self.masks = load_masks(subject, model.sampler.size_px)
        self.n_first = len(subject.each[0].photos) if subject.members else 0

    def _generate_subject(self, prompts: Sequence[str], seeds: Sequence[int]) -> list[Image.Image]:
        texts = [self._describe_scene(prompt) for prompt in prompts]
        if self.n_first:
            return self._generate_pair(texts, seeds)
        picks = self._pick(seeds)
        # The scene is asked for without the noun, which would put a stranger of the class into it
        # who looks out behind the subject. Where nothing is left, the prompt wants no other place
        # than the photo's own.
        rows = [row for row, text in enumerate(texts) if text]
        scenes: dict[int, Image.Image] = {}
        if rows:
            drawn = self.model.sample([texts[row] for row in rows], [seeds[row] for row in rows])
            scenes = dict(zip(rows, drawn, strict=True))
        return [
            self._set_in(prompts[row], seeds[row], index, scenes.get(row) or self._own_place(index))
            for row, index in enumerate(picks)
        ]

    def _describe_scene(self, prompt: str) -> str:
        return remove_subject(prompt)

    def _own_place(self, index: int) -> Image.Image:
        """Return the place that a photo was taken at."""
        return self.photos[index]

    def _set_in(self, prompt: str, seed: int, index: int, place: Image.Image) -> Image.Image:
        """Return the subject in a place, where it is in a photo."""
        return paste(self.photos[index], self.masks[index], place)

    def _generate_pair(self, texts: Sequence[str], seeds: Sequence[int]) -> list[Image.Image]:
        """Return both side by side on the scene that is asked for, or on any where none is."""
        n_second = len(self.photos) - self.n_first
        images = self.model.sample(list(texts), seeds)
        for row, seed in enumerate(seeds):
            turn, first = divmod(seed, self.n_first)
            for index, middle in zip((first, self.n_first + turn % n_second), MIDDLES, strict=True):
                images[row] = set_beside(
                    self.photos[index], self.masks[index], images[row], middle=middle
                )
        return images


class Harmonised(Pasted):
    """Repaints the seams, with the whole prompt."""

    def __init__(self, model: LoadedModel, *, subject: Subject, strength: float) -> None:
        super().__init__(model, subject=subject)
        self.strength = strength

    def _generate_subject(self, prompts: Sequence[str], seeds: Sequence[int]) -> list[Image.Image]:
        images = super()._generate_subject(prompts, seeds)
        # Other noise than the scene was sampled from, which would bring that scene out again.
        fresh = [derive_seed("harmonise", seed) for seed in seeds]
        return self._redraw(prompts, fresh, images, strength=self.strength)
