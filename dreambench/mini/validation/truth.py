"""Pictures whose truth is exact, to put metrics to the test: what was changed, and how far.

The program that draws the small world can draw the same subject in a new place, one that is between
it and another individual, or the photo itself on another background. Each picture is a case with a
known answer to "is this the subject?" and "is this the prompt?".
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
from PIL import Image, ImageFilter

from dreambench.mini.world.identities import CLASSES, Identity, sample_identity
from dreambench.mini.world.renderer import Picture, Shot, render
from dreambench.mini.world.scenes import PHOTO_PLACES, SCENES
from dreambench.mini.world.shapes import Vec3
from dreambench.types import Mask

PROMPT_PLACES = tuple(name for name in SCENES if name not in PHOTO_PLACES)
VIEW = "seen from the back"
IDENTITY_STEPS = (0.15, 0.3, 0.45, 0.6, 0.8, 1.0)
DAMAGES = {
    "blur": (0.6, 1.2, 2.4),  # deviation in pixels
    "crop": (0.85, 0.7, 0.55),  # share of the side that is left, enlarged again
    "JPEG": (60, 20, 5),  # quality
}
N_DISTRACTORS = 3
TRUTH_SEED = 42


@dataclass(frozen=True)
class Case:
    """One picture. `set_name` is a level of `cause`, `level` its rank from 0 (nothing changed) up.

    `subject` and `prompt` in [0, 1] say how much of each is right; None where the answer is not a
    number (a blurred picture still shows its subject), and only the order of levels is known.
    """

    cause: str
    set_name: str
    level: int
    subject: float | None
    prompt: float | None
    image: Image.Image
    text: str


@dataclass(frozen=True)
class TrueSubject:
    """A subject with its photos and their masks, photos of others of its class, and its cases."""

    name: str
    class_name: str
    photos: tuple[Picture, ...]
    distractors: tuple[Picture, ...]
    texts: tuple[str, ...]
    cases: tuple[Case, ...]


def blend(first: Identity, second: Identity, share: float) -> Identity:
    """The individual that is `share` of the way from one to another of its class.

    Tints, proportions and the pattern's width move evenly; the kind of pattern changes half-way.
    """

    def mix(a: float, b: float) -> float:
        return a + (b - a) * share

    nearer = first if share < 0.5 else second
    tints = tuple(
        cast(Vec3, tuple(mix(a, b) for a, b in zip(one, other, strict=True)))
        for one, other in zip(first.tints, second.tints, strict=True)
    )
    return replace(
        nearer,
        tints=cast(tuple[Vec3, Vec3, Vec3], tints),
        pattern_width=mix(first.pattern_width, second.pattern_width),
        shape=tuple(mix(a, b) for a, b in zip(first.shape, second.shape, strict=True)),
    )


def paste(picture: Image.Image, mask: Mask, background: Image.Image) -> Image.Image:
    """One picture's masked pixels on another picture."""
    return Image.fromarray(np.where(mask[..., None], np.asarray(picture), np.asarray(background)))


def damage(image: Image.Image, kind: str, amount: float) -> Image.Image:
    """A picture blurred, cropped and enlarged again, or compressed; see DAMAGES."""
    if kind == "blur":
        return image.filter(ImageFilter.GaussianBlur(amount))
    if kind == "crop":
        side = round(image.width * amount)
        left = (image.width - side) // 2
        box = (left, left, left + side, left + side)
        return image.crop(box).resize(image.size, Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=int(amount))
    return Image.open(buffer).convert("RGB")


def make_true_subject(index: int) -> TrueSubject:
    """The index-th subject; classes take turns, and no individual is one of mini's other sets."""
    rng = np.random.default_rng([TRUTH_SEED, index])
    class_name = list(CLASSES)[index % len(CLASSES)]
    own, *others = (sample_identity(rng, class_name) for _ in range(1 + N_DISTRACTORS))

    def photograph(identity: Identity) -> tuple[Picture, ...]:
        return tuple(
            render(Shot(identity, int(rng.integers(2**31)), place)) for place in PHOTO_PLACES
        )

    photos = photograph(own)
    distractors = tuple(picture for other in others for picture in photograph(other))
    texts = (*(f"a {class_name} {place}" for place in PROMPT_PLACES), f"a {class_name} {VIEW}")
    cases = tuple(_make_cases(own, others[0], photos, rng))
    return TrueSubject(f"{class_name}-{index}", class_name, photos, distractors, texts, cases)


def _make_cases(
    own: Identity, other: Identity, photos: tuple[Picture, ...], rng: np.random.Generator
) -> Iterator[Case]:
    """All cases of a subject: each place that a prompt asks for, and the view."""
    for number, place in enumerate(PROMPT_PLACES):
        text = f"a {own.class_name} {place}"
        seed = int(rng.integers(2**31))
        faithful = render(Shot(own, seed, place))
        yield Case("faithful", "faithful", 0, 1.0, 1.0, faithful.image, text)
        for level, share in enumerate(IDENTITY_STEPS, start=1):
            name = "class only" if share == 1 else f"identity {share:g}"
            image = render(Shot(blend(own, other, share), seed, place)).image
            yield Case("identity", name, level, 1 - share, 1.0, image, text)
        elsewhere = PROMPT_PLACES[(number + 3) % len(PROMPT_PLACES)]
        image = render(Shot(own, seed, elsewhere)).image
        yield Case("scene", "wrong scene", 1, 1.0, 0.0, image, text)
        photo = photos[number % len(photos)]
        kept = paste(faithful.image, faithful.mask, photo.background)
        yield Case("background", "background kept", 1, 1.0, 0.0, kept, text)
        yield Case("copy", "copy-reference", 2, None, 0.0, photo.image, text)
        pasted = paste(photo.image, photo.mask, faithful.background)
        yield Case("copy", "photo on scene", 1, None, 1.0, pasted, text)
        for level, share in enumerate((0.4, 0.8), start=1):
            tinted = replace(blend(own, other, share), shape=own.shape, pattern=own.pattern)
            image = render(Shot(tinted, seed, place)).image
            yield Case("colour", f"colour {share:g}", level, None, 1.0, image, text)
        for kind, amounts in DAMAGES.items():
            for level, amount in enumerate(amounts, start=1):
                image = damage(faithful.image, kind, amount)
                yield Case(kind, f"{kind} {amount:g}", level, None, None, image, text)
        behind = f"a {own.class_name} {VIEW}"
        right = render(Shot(own, seed, None, view=VIEW)).image
        yield Case("view", "right view", 0, 1.0, 1.0, right, behind)
        yield Case("view", "wrong view", 1, 1.0, 0.0, render(Shot(own, seed)).image, behind)
