"""The small world as a camera: a `Shot` says what is to be seen, `render` takes the picture.

The same words that a protocol's prompts use are the world's captions, so the program knows for
each picture which subject, which place and which pixels it shows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dreambench.mini.world.accessories import ACCESSORIES
from dreambench.mini.world.bodies import LIVE
from dreambench.mini.world.identities import Identity
from dreambench.mini.world.parts import make_parts
from dreambench.mini.world.scenes import SCENES, draw_scene
from dreambench.mini.world.shapes import Array, Camera, Light, bounds, draw
from dreambench.mini.world.styles import STYLES

RENDERER_VERSION = 1
SIZE_PX = 64
SUPERSAMPLING = 2

VIEWS: dict[str, tuple[tuple[float, float], tuple[float, float]]] = {
    # Phrase: range of yaw, range of pitch, in degrees.
    "seen from the top": ((-40, 40), (66, 84)),
    "seen from the side": ((78, 102), (4, 18)),
    "seen from the back": ((150, 210), (6, 26)),
    "seen from below": ((-40, 40), (-48, -34)),
}
FRONT = ((-55.0, 55.0), (6.0, 30.0))
PROPERTIES = ("red", "purple", "golden", "shiny", "transparent", "cube shaped")
MARBLE = "a marble statue of"


@dataclass(frozen=True)
class Shot:
    """What one picture shows. None means: a studio wall, a front view, no change, a photo.

    `seed` decides all that the words leave open: the place's details, position, light, exact angle.
    """

    identity: Identity
    seed: int
    scene: str | None = None
    view: str | None = None
    accessory: str | None = None
    property_name: str | None = None
    style: str | None = None


@dataclass(frozen=True)
class Picture:
    """A rendered shot: RGB image of 64 x 64 px and the subject's pixels (accessories left out).

    `background` is the same place without the subject.
    """

    image: Image.Image
    mask: NDArray[np.bool_]
    background: Image.Image


def _article(words: str) -> str:
    return ("an " if words[0] in "aeiou" else "a ") + words


def make_caption(
    shot: Shot, *, identifier: str = "", described: bool = False, name_scene: bool = True
) -> str:
    """The caption of a shot in the words of the protocol's prompts.

    `described` adds the identity's colours and pattern, `identifier` a token before the class.
    """
    words = [
        shot.property_name or "",
        identifier,
        shot.identity.description if described else "",
        shot.identity.class_name,
    ]
    text = _article(" ".join(word for word in words if word))
    if shot.style == "marble":
        text = f"{MARBLE} {text}"
    elif shot.style is not None:
        text = f"{STYLES[shot.style][0]} {text}"
    if shot.accessory is not None:
        text += f" {ACCESSORIES[shot.accessory]}"
    if shot.view is not None:
        text += f" {shot.view}"
    if shot.scene is not None and name_scene:
        text += f" {shot.scene}"
    return text


def _blend_shadow(ground: Array, x: float, y: float, rx: float, ry: float) -> Array:
    rows, columns = np.mgrid[: len(ground), : len(ground)].astype(np.float32)
    distance = ((columns - x) / rx) ** 2 + ((rows - y) / ry) ** 2
    dark = 0.42 * np.clip(1.25 - distance, 0, 1)
    return (ground * (1 - dark[..., None])).astype(np.float32)


def render(shot: Shot, *, size_px: int = SIZE_PX) -> Picture:
    """Takes the picture; equal shots give equal pixels on one platform."""
    rng = np.random.default_rng(shot.seed)
    n = size_px * SUPERSAMPLING
    yaw_range, pitch_range = FRONT if shot.view is None else VIEWS[shot.view]
    yaw = rng.uniform(*yaw_range)
    if shot.view == "seen from the side":
        yaw *= rng.choice([-1, 1])
    camera = Camera(float(yaw), float(rng.uniform(*pitch_range)))
    material = "stone" if shot.style == "marble" else shot.property_name
    parts = make_parts(shot.identity, accessory=shot.accessory, property_name=material)

    right, up, _ = camera.axes()
    low_x, high_x = bounds(parts, right)
    low_y, high_y = bounds(parts, up)
    extent = max(high_x - low_x, high_y - low_y)
    scale = n * rng.uniform(0.6, 0.74) / extent
    margin = (n - scale * extent) / 2
    x = n / 2 + rng.uniform(-0.6, 0.6) * margin - scale * (low_x + high_x) / 2
    # Feet stand in the lower part of the frame, as a photographer would have it.
    bottom = n * rng.uniform(0.86, 0.93)
    y = bottom + scale * low_y

    light = Light(
        direction=(float(rng.uniform(-0.7, 0.1)), 0.75, 0.65),
        ambient=float(rng.uniform(0.5, 0.58)),
    )
    if material == "shiny":
        light = Light(light.direction, light.ambient * 0.9, light.diffuse, 0.95, 14.0)
    ground = place = draw_scene(rng, shot.scene, size_px=n)
    width = scale * (high_x - low_x) / 2
    flat = width * (0.14 + 0.5 * max(0.0, np.sin(np.deg2rad(camera.pitch))))
    middle = x + scale * (low_x + high_x) / 2
    ground = _blend_shadow(ground, middle, bottom - flat * 0.55, width * 0.95, flat + 1)

    layer = draw(
        parts, camera, size_px=n, scale_px=float(scale), center_px=(float(x), float(y)), light=light
    )
    seen = layer.mask[..., None]
    color = np.clip(layer.color, 0, 1)
    if material == "transparent":
        glass = np.clip(0.42 * color + 0.62 * ground, 0, 1)
        color = glass
    picture = np.where(seen, color, ground)
    if shot.style in STYLES:
        picture = STYLES[shot.style][1](picture, rng)

    worn = np.array([role == "accessory" for role in layer.roles] + [True])
    subject = layer.mask & ~worn[layer.part]
    shares = subject.reshape(size_px, SUPERSAMPLING, size_px, SUPERSAMPLING).mean((1, 3))
    return Picture(_expose(picture, size_px), shares >= 0.5, _expose(place, size_px))


@dataclass(frozen=True)
class GroupPicture:
    """Subjects side by side: the image, and the pixels of each (accessories left out).

    Where one hides a part of another, the pixels are those of the one in front.
    """

    image: Image.Image
    masks: tuple[NDArray[np.bool_], ...]


def render_together(shots: Sequence[Shot], *, size_px: int = SIZE_PX) -> GroupPicture:
    """Take a picture of up to two subjects side by side; seed, place and style of the first.

    Each has about half the width; which stands on the left is random. Views, accessories and
    properties are those of each shot.
    """
    first = shots[0]
    rng = np.random.default_rng(first.seed)
    n = size_px * SUPERSAMPLING
    light = Light(
        direction=(float(rng.uniform(-0.7, 0.1)), 0.75, 0.65),
        ambient=float(rng.uniform(0.5, 0.58)),
    )
    ground = draw_scene(rng, first.scene, size_px=n)
    places = [0.27, 0.73] if rng.uniform() < 0.5 else [0.73, 0.27]
    layers = []
    for shot, place in zip(shots, places, strict=False):
        yaw_range, pitch_range = FRONT if shot.view is None else VIEWS[shot.view]
        camera = Camera(float(rng.uniform(*yaw_range)), float(rng.uniform(*pitch_range)))
        parts = make_parts(
            shot.identity, accessory=shot.accessory, property_name=shot.property_name
        )
        right, up, _ = camera.axes()
        low_x, high_x = bounds(parts, right)
        low_y, high_y = bounds(parts, up)
        scale = n * rng.uniform(0.4, 0.46) / max(high_x - low_x, high_y - low_y)
        middle = n * (place + rng.uniform(-0.02, 0.02))
        bottom = n * rng.uniform(0.78, 0.9)
        width = scale * (high_x - low_x) / 2
        flat = width * (0.14 + 0.5 * max(0.0, np.sin(np.deg2rad(camera.pitch))))
        ground = _blend_shadow(ground, middle, bottom - flat * 0.55, width * 0.95, flat + 1)
        center = (float(middle - scale * (low_x + high_x) / 2), float(bottom + scale * low_y))
        layers.append(
            draw(parts, camera, size_px=n, scale_px=float(scale), center_px=center, light=light)
        )
    picture, masks = ground, list[NDArray[np.bool_]]()
    for layer in layers:
        picture = np.where(layer.mask[..., None], np.clip(layer.color, 0, 1), picture)
        worn = np.array([role == "accessory" for role in layer.roles] + [True])
        masks = [mask & ~layer.mask for mask in masks] + [layer.mask & ~worn[layer.part]]
    if first.style in STYLES:
        picture = STYLES[first.style][1](picture, rng)
    shares = [
        mask.reshape(size_px, SUPERSAMPLING, size_px, SUPERSAMPLING).mean((1, 3)) for mask in masks
    ]
    return GroupPicture(_expose(picture, size_px), tuple(share >= 0.5 for share in shares))


def _expose(picture: Array, size_px: int) -> Image.Image:
    image = Image.fromarray((np.clip(picture, 0, 1) * 255 + 0.5).astype(np.uint8))
    return image.resize((size_px, size_px), Image.Resampling.BOX)


def sample_shot(rng: np.random.Generator, identity: Identity) -> Shot:
    """A shot as the training set has them: mostly photos in places, each prompt family present."""
    scene = str(rng.choice(list(SCENES))) if rng.uniform() < 0.82 else None
    choice = rng.uniform()
    view = accessory = property_name = style = None
    if choice < 0.14:
        property_name = str(rng.choice(PROPERTIES))
    elif choice < 0.26:
        style = str(rng.choice([*STYLES, "marble"]))
    elif choice < 0.36:
        view = str(rng.choice(list(VIEWS)))
    elif choice < 0.62 and identity.class_name in LIVE:
        accessory = str(rng.choice(list(ACCESSORIES)))
    return Shot(identity, int(rng.integers(2**31)), scene, view, accessory, property_name, style)
