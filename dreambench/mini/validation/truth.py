"""Pictures whose truth is exact, to put metrics to the test: what was changed, and how far.

The program that renders the small world can render the same subject in a new place, one that is
between it and another individual, or the subject of a photo pasted into a scene or into an image of
a generator that has never seen it. Each picture is a case with a known answer to "is this the
subject?", "is this the prompt?" and "is this a new picture?".
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import cast

import cv2
import numpy as np
from PIL import Image, ImageFilter

from dreambench.mini.world.accessories import ACCESSORIES
from dreambench.mini.world.bodies import CLASSES, LIVE
from dreambench.mini.world.identities import Identity, sample_identity
from dreambench.mini.world.renderer import Picture, Shot, render
from dreambench.mini.world.scenes import PHOTO_PLACES, SCENES
from dreambench.mini.world.shapes import Vec3
from dreambench.types import Mask

PROMPT_PLACES = tuple(name for name in SCENES if name not in PHOTO_PLACES)
VIEW = "seen from the back"
ACCESSORY = "red-hat"
COLOUR = "purple"
IDENTITY_STEPS = (0.15, 0.3, 0.45, 0.6, 0.8, 1.0)
DAMAGES = {
    "blur": (0.6, 1.2, 2.4),  # deviation in pixels
    "crop": (0.85, 0.7, 0.55),  # share of the side that is left, enlarged again
    "JPEG": (60, 20, 5),  # quality
}
N_DISTRACTORS = 3
TRUTH_SEED = 42

Draw = Callable[[Sequence[str], Sequence[int]], list[Image.Image]]
"""Texts and seeds to images of a generator that has not seen the subject."""


@dataclass(frozen=True)
class Paste:
    """What happens to a subject between its photo and another picture.

    `turn` in degrees; `move` in pixels, to the right and down; `tint` multiplies red, green and
    blue; `blur` is a deviation in pixels; `opacity` below 1 lets the other picture through.
    """

    mirror: bool = False
    turn: float = 0.0
    size: float = 1.0
    move: tuple[float, float] = (0.0, 0.0)
    tint: tuple[float, float, float] = (1.0, 1.0, 1.0)
    blur: float = 0.0
    opacity: float = 1.0


PASTES = {
    "pasted": Paste(),
    "pasted, moved": Paste(move=(6, -5)),
    "pasted, mirrored": Paste(mirror=True),
    "pasted, turned": Paste(turn=20),
    "pasted, smaller": Paste(size=0.75),
    "pasted, recoloured": Paste(tint=(1.0, 0.75, 0.85)),
    "pasted, blurred": Paste(blur=1.0),
    "pasted, mixed": Paste(mirror=True, turn=-10, size=0.85, tint=(1.0, 0.9, 0.8), blur=0.7),
    "pasted, half": Paste(opacity=0.5),
}


@dataclass(frozen=True)
class Case:
    """One picture. `set_name` is a level of `cause`, `level` its rank from 0 (nothing changed) up.

    `subject` and `prompt` in [0, 1] say how much of each is right; None where the answer is not a
    number (a blurred picture still shows its subject), and only the order of levels is known.
    `copied` says that the subject's pixels are those of a photo, so that nothing was made.
    """

    cause: str
    set_name: str
    level: int
    subject: float | None
    prompt: float | None
    image: Image.Image
    text: str
    copied: bool = False

    @property
    def truth(self) -> float:
        """Subject x prompt, 0 for a copy; NaN where that is not known."""
        if self.prompt == 0 or self.copied:
            return 0.0
        if self.subject is None or self.prompt is None:
            return float("nan")
        return self.subject * self.prompt


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


def paste(
    picture: Image.Image, mask: Mask, background: Image.Image, how: Paste | None = None
) -> Image.Image:
    """One picture's masked pixels on another picture of its size, changed on the way."""
    how = how or Paste()
    rows, columns = np.nonzero(mask)
    middle = np.array([columns.mean(), rows.mean()])
    angle = np.deg2rad(how.turn)
    turn = how.size * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    turn[:, 0] *= -1 if how.mirror else 1
    matrix = np.column_stack([turn, middle + how.move - turn @ middle])
    colors, others = np.asarray(picture, np.float32), np.asarray(background, np.float32)
    size, edge = picture.size, cv2.BORDER_REFLECT
    seen = cv2.warpAffine(colors, matrix, size, flags=cv2.INTER_CUBIC, borderMode=edge)
    seen = seen * np.array(how.tint, np.float32)
    if how.blur:
        seen = cv2.GaussianBlur(seen, (0, 0), how.blur)
    opacity = how.opacity * (cv2.warpAffine(mask.astype(np.float32), matrix, size) > 0.5)
    mixed = others + (seen - others) * opacity[..., None]
    return Image.fromarray(mixed.clip(0, 255).round().astype(np.uint8))


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


def make_true_subject(index: int, draw: Draw) -> TrueSubject:
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
    seeds = [int(rng.integers(2**31)) for _ in PROMPT_PLACES]
    in_places = [f"a {class_name} {place}" for place in PROMPT_PLACES]
    cases = [
        *_make_cases(own, others, photos, seeds),
        *_make_pastes(photos, distractors, in_places, draw(in_places, seeds)),
        *_make_attributes(own, seeds),
    ]
    texts = tuple(dict.fromkeys([*in_places, *(case.text for case in cases)]))
    return TrueSubject(
        f"{class_name}-{index}", class_name, photos, distractors, texts, tuple(cases)
    )


def _make_cases(
    own: Identity, others: Sequence[Identity], photos: Sequence[Picture], seeds: Sequence[int]
) -> Iterator[Case]:
    """The cases in each place that a prompt asks for."""
    other, *strangers = others
    for number, (place, seed) in enumerate(zip(PROMPT_PLACES, seeds, strict=True)):
        text = f"a {own.class_name} {place}"
        faithful = render(Shot(own, seed, place))
        yield Case("faithful", "faithful", 0, 1.0, 1.0, faithful.image, text)
        for level, share in enumerate(IDENTITY_STEPS, start=1):
            name = "class only" if share == 1 else f"identity {share:g}"
            image = render(Shot(blend(own, other, share), seed, place)).image
            yield Case("identity", name, level, 1 - share, 1.0, image, text)
        stranger = strangers[number % len(strangers)]
        image = render(Shot(stranger, seed, place)).image
        yield Case("stranger", "wrong individual", 1, 0.0, 1.0, image, text)
        elsewhere = PROMPT_PLACES[(number + 3) % len(PROMPT_PLACES)]
        image = render(Shot(own, seed, elsewhere)).image
        yield Case("scene", "wrong scene", 1, 1.0, 0.0, image, text)
        photo = photos[number % len(photos)]
        kept = paste(faithful.image, faithful.mask, photo.background)
        yield Case("background", "background kept", 1, 1.0, 0.0, kept, text)
        yield Case("copy", "copy-reference", 2, None, 0.0, photo.image, text, copied=True)
        pasted = paste(photo.image, photo.mask, faithful.background)
        yield Case("copy", "photo on scene", 1, None, 1.0, pasted, text, copied=True)
        for level, share in enumerate((0.4, 0.8), start=1):
            tinted = replace(blend(own, other, share), shape=own.shape, pattern=own.pattern)
            image = render(Shot(tinted, seed, place)).image
            yield Case("colour", f"colour {share:g}", level, None, 1.0, image, text)
        for kind, amounts in DAMAGES.items():
            for level, amount in enumerate(amounts, start=1):
                image = damage(faithful.image, kind, amount)
                yield Case(kind, f"{kind} {amount:g}", level, None, None, image, text)


def _make_pastes(
    photos: Sequence[Picture],
    distractors: Sequence[Picture],
    texts: Sequence[str],
    images: Sequence[Image.Image],
) -> Iterator[Case]:
    """A photo's subject, and a stranger's, pasted into images of the class in the right places.

    What the image shows of its own subject sticks out behind the paste.
    """
    for number, (text, image) in enumerate(zip(texts, images, strict=True)):
        for step, (name, how) in enumerate(PASTES.items()):
            photo = photos[(number + step) % len(photos)]
            pasted = paste(photo.image, photo.mask, image, how)
            yield Case("paste", name, 1, None, 1.0, pasted, text, copied=True)
        other = distractors[(3 * number) % len(distractors)]
        pasted = paste(other.image, other.mask, image)
        yield Case("paste", "stranger pasted", 1, 0.0, 1.0, pasted, text)


def _make_attributes(own: Identity, seeds: Sequence[int]) -> Iterator[Case]:
    """The right individual with what a prompt asks of it, and without.

    How much of an individual is left in another colour is not a number.
    """
    asked = {
        "view": ({"view": VIEW}, f"a {own.class_name} {VIEW}"),
        "colour asked": ({"property_name": COLOUR}, f"a {COLOUR} {own.class_name}"),
    }
    if own.class_name in LIVE:
        worn = f"a {own.class_name} {ACCESSORIES[ACCESSORY]}"
        asked["accessory"] = ({"accessory": ACCESSORY}, worn)
    for cause, (change, text) in asked.items():
        for seed in seeds:
            right, lost = (Shot(own, seed, **change), Shot(own, seed))
            left = None if cause == "colour asked" else 1.0
            yield Case(cause, f"right {cause}", 0, left, 1.0, render(right).image, text)
            yield Case(cause, f"lost {cause}", 1, 1.0, 0.0, render(lost).image, text)
