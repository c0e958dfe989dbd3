"""Oracle: real images of the subject, the row "Real images" of the paper's table 1."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from PIL import Image
from pydantic import Field

from dreambench.base_models.spec import BaseModel
from dreambench.config.slots import fill_slot, fill_subjects, has_pair_slots, has_slot
from dreambench.datasets.index import find_dataset
from dreambench.datasets.subjects import Subject, load_subjects
from dreambench.errors import UserError
from dreambench.methods.base import Context, Generator, Method, Settings, Work
from dreambench.methods.photos import load_photo
from dreambench.mini.training.benchmark import FULL_SUBJECTS, make_benchmark_identity
from dreambench.mini.world.accessories import ACCESSORIES
from dreambench.mini.world.identities import Identity, sample_identity
from dreambench.mini.world.renderer import (
    PROPERTIES,
    VIEWS,
    Shot,
    make_caption,
    render,
    render_together,
)
from dreambench.mini.world.scenes import SCENES
from dreambench.mini.world.styles import STYLES


class RealImagesSettings(Settings):
    """What a real image is."""

    pictures: Literal["drawn", "photos"] = Field(
        description="drawn: new ones of what the prompt asks for, by the program of the small "
        "world; photos: the subject's own, whatever the prompt"
    )


class RealImages(Method):
    """No model: images that are the subject beyond doubt.

    On mini, `pictures = "drawn"`: the program that took the photos takes a new one of the same
    individual as the prompt says; for a class image one of another individual. This is the true
    answer, so what it scores is the most that a metric can give for being right. A photo of
    anything else cannot be had anew: there, `pictures = "photos"` gives the photos themselves, cut
    square as the other methods see them, where `copy-reference` squeezes a whole photo into the
    square; else the two are the same. Of a pair, drawn pictures show both.
    """

    Settings: ClassVar[type[RealImagesSettings]] = RealImagesSettings
    is_oracle = True
    most_subjects = 2

    def __init__(self, settings: RealImagesSettings, context: Context) -> None:
        self.settings = settings
        self.size_px = context.sampler.size_px

    @classmethod
    def count_work(cls, settings: RealImagesSettings, base_model: BaseModel) -> Work:
        """See `methods.Method`."""
        return Work()

    def load(self, subject: Subject, out_dir: Path) -> Generator:
        """Return what renders the subject, or has its photos.

        Raises:
            UserError: the small world's program does not know the subject.
        """
        if self.settings.pictures == "photos":
            if subject.members:
                raise UserError(
                    f"no photo shows both of '{subject.name}'",
                    hint="set pictures = 'drawn', on mini; or run copy-reference",
                    code="unsupported-subject",
                )
            return _Photos([load_photo(path, size_px=self.size_px) for path in subject.photos])
        return _Camera([find_identity(one) for one in subject.each], self.size_px)


def find_identity(subject: Subject) -> Identity:
    """Return the individual on a subject's photos.

    Raises:
        UserError: the photos are not mini's own.
    """
    if subject.name in FULL_SUBJECTS:
        (own,) = load_subjects(find_dataset("mini-full"), names=[subject.name])
        if own.sha256 == subject.sha256:
            return make_benchmark_identity(subject.name)
    raise UserError(
        f"'{subject.name}' is not a subject of mini, so that no program can draw it",
        hint="set pictures = 'photos' in a copy of the recipe",
        code="unsupported-subject",
    )


def read_prompt(prompt: str, identity: Identity, *, seed: int) -> Shot:
    """Return what a prompt of the small world asks for.

    Raises:
        UserError: it has words that the small world does not have.
    """
    text = fill_slot(prompt, identity.class_name)
    changes: list[dict[str, str]] = [{}]
    for field, words in (
        ("property_name", PROPERTIES), ("style", [*STYLES, "marble"]), ("view", VIEWS),
        ("accessory", ACCESSORIES),
    ):  # fmt: skip
        changes += [{field: word} for word in words]
    for scene in (None, *SCENES):
        for change in changes:
            shot = Shot(identity, seed, scene, **change)
            if make_caption(shot) == text:
                return shot
    raise _unknown_prompt(prompt)


def read_pair_prompt(prompt: str, identities: Sequence[Identity], *, seed: int) -> list[Shot]:
    """Return what a prompt of the small world asks for of two subjects, a shot each.

    Raises:
        UserError: it has words that the small world does not have.
    """
    first, second = identities
    changes: list[dict[str, str]] = [{}]
    for field, words in (("property_name", PROPERTIES), ("accessory", ACCESSORIES)):
        changes += [{field: word} for word in words]
    text = fill_subjects(prompt, [one.class_name for one in identities])
    for scene in (None, *SCENES):
        place = "" if scene is None else f" {scene}"
        for change in changes:
            shots = [Shot(first, seed, scene, **change), Shot(second, seed, scene)]
            plain = make_caption(shots[0], name_scene=False)
            others = f"a {second.class_name}"
            both = make_caption(Shot(second, seed, **change))
            if text in (f"{plain} and {others}{place}", f"{plain}, next to it is {others}{place}"):
                return shots
            if text == f"{plain} and {both}{place}":
                return [shots[0], Shot(second, seed, scene, **change)]
    raise _unknown_prompt(prompt)


def _unknown_prompt(prompt: str) -> UserError:
    return UserError(
        f"the small world cannot draw '{prompt}'",
        hint="set pictures = 'photos' in a copy of the recipe, or use the prompts of mini",
        code="unsupported-prompt",
    )


class _Camera:
    def __init__(self, identities: Sequence[Identity], size_px: int) -> None:
        self.identities = identities
        self.size_px = size_px

    def generate(self, prompts: Sequence[str], seeds: Sequence[int]) -> list[Image.Image]:
        return [self._take(prompt, seed) for prompt, seed in zip(prompts, seeds, strict=True)]

    def _take(self, prompt: str, seed: int) -> Image.Image:
        if has_pair_slots(prompt):
            shots = read_pair_prompt(prompt, self.identities, seed=seed)
            return render_together(shots, size_px=self.size_px).image
        seen = self.identities[0]
        if not has_slot(prompt):
            seen = sample_identity(np.random.default_rng(seed), seen.class_name)
        return render(read_prompt(prompt, seen, seed=seed), size_px=self.size_px).image


class _Photos:
    def __init__(self, photos: list[Image.Image]) -> None:
        self.photos = photos

    def generate(self, prompts: Sequence[str], seeds: Sequence[int]) -> list[Image.Image]:
        return [self.photos[seed % len(self.photos)].copy() for seed in seeds]
