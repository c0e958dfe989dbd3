"""What the inhabitants of the small world are made of: a class is a list of parts.

Axes: y is up, the front looks along +z. Sizes are in free units.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import numpy as np

from dreambench.mini.world.identities import Identity, mix
from dreambench.mini.world.shapes import Paint, Part, Vec3

DARK = Paint((0.06, 0.06, 0.08))


@dataclass(frozen=True)
class Anchor:
    """Where accessories go: middle and half width of the head, and of the neck."""

    head: Vec3
    head_size: Vec3
    neck: Vec3
    neck_width: float
    face_z: float


class Builder:
    """Gives class functions short names for paints, proportions and mirrored parts."""

    def __init__(self, identity: Identity) -> None:
        body, second, accent = identity.tints
        self.body = Paint(body, second, identity.pattern, identity.pattern_width)
        self.second = Paint(second)
        self.accent = Paint(accent)
        self._shape = identity.shape
        self.parts: list[Part] = []
        self.anchor: Anchor | None = None

    def p(self, index: int, low: float, high: float) -> float:
        """Return a proportion between two ends, where the individual's shape has it."""
        return mix(low, high, self._shape[index])

    def flag(self, index: int) -> bool:
        """Return one of two choices."""
        return self._shape[index] > 0.5

    def add(self, kind: str, center: Vec3, size: Vec3, paint: Paint, **more: object) -> None:
        """Add a part."""
        self.parts.append(Part(kind, center, size, paint, **more))  # type: ignore[arg-type]

    def pair(self, kind: str, center: Vec3, size: Vec3, paint: Paint, **more: object) -> None:
        """Add a part and its mirror image in x."""
        self.add(kind, center, size, paint, **more)
        x, y, z = center
        rx, ry, rz = cast(Vec3, more.pop("rotation", (0.0, 0.0, 0.0)))
        self.add(kind, (-x, y, z), size, paint, rotation=(rx, -ry, -rz), **more)


def _eyes(b: Builder, x: float, y: float, z: float, size: float) -> None:
    b.pair("ellipsoid", (x, y, z), (size, size, size * 0.7), DARK, role="eye")


def _dog(b: Builder) -> None:
    length, leg = b.p(0, 0.75, 1.05), b.p(1, 0.35, 0.6)
    girth, head = b.p(2, 0.42, 0.55), b.p(3, 0.42, 0.52)
    y = leg + girth * 0.8
    b.add("ellipsoid", (0, y, 0), (girth, girth, length), b.body, role="torso")
    for z in (length * 0.62, -length * 0.62):
        b.pair("frustum", (girth * 0.6, leg / 2, z), (0.17, leg / 2 + 0.1, 0.17), b.second)
    hy, hz = y + girth * 0.75 + head * 0.55, length * 0.85
    b.add("ellipsoid", (0, hy, hz), (head, head, head), b.second)
    snout = b.p(4, 0.25, 0.42)
    b.add("ellipsoid", (0, hy - 0.12, hz + head * 0.8), (0.23, 0.2, snout), b.body)
    b.add("ellipsoid", (0, hy - 0.04, hz + head * 0.8 + snout), (0.11, 0.09, 0.08), DARK)
    b.pair(
        "ellipsoid", (head * 0.95, hy + 0.02, hz), (0.13, 0.42, 0.24), b.accent, rotation=(0, 0, 14)
    )
    tail = (0.09, b.p(5, 0.25, 0.45), 0.09)
    b.add("frustum", (0, y + 0.35, -length * 1.02), tail, b.accent, rotation=(-35, 0, 0))
    _eyes(b, head * 0.42, hy + head * 0.35, hz + head * 0.82, 0.1)
    b.anchor = Anchor((0, hy, hz), (head, head, head), (0, y + girth * 0.75, hz * 0.92), 0.36, head)


def _cat(b: Builder) -> None:
    # Sits upright, so that a cat is not a dog with other ears.
    height, girth, head = b.p(0, 0.7, 0.95), b.p(1, 0.45, 0.6), b.p(2, 0.42, 0.55)
    b.add("ellipsoid", (0, height * 0.9, 0), (girth, height, girth * 0.95), b.body, role="torso")
    b.pair("ellipsoid", (girth * 0.62, 0.25, 0.15), (0.26, 0.25, 0.42), b.second)
    b.pair("frustum", (0.2, 0.45, girth * 0.85), (0.13, 0.45, 0.13), b.second)
    hy = height * 1.75 + head * 0.5
    b.add("ellipsoid", (0, hy, 0.12), (head * 1.12, head * 0.92, head), b.body)
    ear = b.p(3, 0.28, 0.45)
    b.pair(
        "frustum",
        (head * 0.68, hy + head * 0.7 + ear * 0.3, 0.12),
        (0.25, ear, 0.12),
        b.accent,
        taper=0.02,
        rotation=(0, 0, -14),
    )
    b.add("ellipsoid", (0, hy - head * 0.25, 0.12 + head * 0.85), (0.22, 0.15, 0.16), b.second)
    b.add("ellipsoid", (0, hy - head * 0.12, 0.12 + head * 1.02), (0.07, 0.05, 0.05), DARK)
    side = 1.0 if b.flag(5) else -1.0
    tail = b.p(4, 0.45, 0.75)
    b.add(
        "ellipsoid",
        (side * (girth + 0.2), tail * 0.9, -0.3),
        (0.12, tail, 0.12),
        b.accent,
        rotation=(0, 0, -22 * side),
    )
    _eyes(b, head * 0.45, hy + head * 0.2, 0.12 + head * 0.86, 0.11)
    b.anchor = Anchor(
        (0, hy, 0.12), (head * 1.12, head * 0.92, head), (0, hy - head * 0.85, 0.08), 0.46, head
    )


def _bird(b: Builder) -> None:
    girth, length, leg = b.p(0, 0.5, 0.65), b.p(1, 0.65, 0.9), b.p(2, 0.25, 0.45)
    y = leg + girth * 0.9
    b.add("ellipsoid", (0, y, 0), (girth, girth * 0.95, length), b.body, role="torso")
    b.pair("frustum", (0.2, leg / 2, 0.05), (0.06, leg / 2 + 0.06, 0.06), b.accent)
    b.pair("box", (0.2, 0.03, 0.17), (0.11, 0.04, 0.2), b.accent)
    b.pair(
        "ellipsoid",
        (girth * 0.95, y + 0.05, -0.12),
        (0.13, girth * 0.62, length * 0.72),
        b.second,
        rotation=(-12, 0, 0),
    )
    head = b.p(3, 0.34, 0.44)
    hy, hz = y + girth * 0.8 + head * 0.45, length * 0.62
    b.add("ellipsoid", (0, hy, hz), (head, head, head), b.second)
    beak = b.p(4, 0.2, 0.42)
    b.add(
        "frustum",
        (0, hy - 0.04, hz + head * 0.85 + beak * 0.7),
        (0.16, beak, 0.13),
        b.accent,
        taper=0.05,
        rotation=(90, 0, 0),
    )
    b.add("box", (0, y + 0.12, -length * 1.15), (0.26, 0.06, 0.4), b.accent, rotation=(-18, 0, 0))
    if b.flag(5):
        b.add("ellipsoid", (0, hy + head, hz - 0.05), (0.08, 0.28, 0.2), b.accent)
    _eyes(b, head * 0.62, hy + head * 0.3, hz + head * 0.68, 0.09)
    b.anchor = Anchor((0, hy, hz), (head, head, head), (0, y + girth * 0.68, hz * 0.85), 0.34, head)


def _plushie(b: Builder) -> None:
    girth, head, limb = b.p(0, 0.5, 0.68), b.p(1, 0.46, 0.6), b.p(2, 0.22, 0.32)
    y = 0.25 + girth
    b.add("ellipsoid", (0, y, 0), (girth, girth * 1.1, girth * 0.8), b.body)
    b.pair("ellipsoid", (girth * 0.62, 0.24, 0.22), (limb * 1.15, limb, limb * 1.3), b.accent)
    b.pair(
        "ellipsoid",
        (girth * 1.08, y + 0.12, 0.1),
        (limb * 0.85, 0.46, limb * 0.85),
        b.second,
        rotation=(0, 0, 28),
    )
    hy = y + girth + head * 0.62
    b.add("ellipsoid", (0, hy, 0.05), (head * 1.05, head, head * 0.95), b.second)
    ear = b.p(3, 0.18, 0.3)
    height = ear * (2.0 if b.flag(4) else 1.0)
    b.pair("ellipsoid", (head * 0.72, hy + head * 0.8, 0), (ear, height, ear * 0.6), b.accent)
    b.add("ellipsoid", (0, hy - 0.14, head * 0.9), (0.24, 0.18, 0.16), b.accent)
    b.add("ellipsoid", (0, hy - 0.06, head * 0.9 + 0.14), (0.08, 0.06, 0.05), DARK)
    _eyes(b, head * 0.4, hy + head * 0.25, head * 0.9, 0.09)


def _robot(b: Builder) -> None:
    w, h, leg = b.p(0, 0.5, 0.72), b.p(1, 0.5, 0.7), b.p(2, 0.3, 0.5)
    head = b.p(3, 0.32, 0.46)
    y = leg + h
    b.pair("box", (w * 0.5, leg / 2, 0), (0.18, leg / 2 + 0.05, 0.2), b.accent)
    b.add("box", (0, y, 0), (w, h, 0.42), b.body)
    b.pair("box", (w + 0.2, y + 0.05, 0), (0.14, h * 0.85, 0.18), b.second)
    hy = y + h + head * 0.8 + 0.08
    if b.flag(4):
        b.add("frustum", (0, hy, 0), (head, head * 0.8, head), b.second)
    else:
        b.add("box", (0, hy, 0), (head, head * 0.8, head * 0.85), b.second)
    b.add("frustum", (0, hy + head * 0.8 + 0.15, 0), (0.04, 0.16, 0.04), DARK)
    b.add("ellipsoid", (0, hy + head * 0.8 + 0.34, 0), (0.11, 0.11, 0.11), b.accent)
    glow = Paint((0.97, 0.97, 0.85))
    b.pair("ellipsoid", (head * 0.45, hy + 0.06, head * 0.9), (0.11, 0.11, 0.08), glow, role="eye")


def _car(b: Builder) -> None:
    length, width, height = b.p(0, 0.95, 1.2), b.p(1, 0.48, 0.6), b.p(2, 0.24, 0.36)
    wheel = b.p(3, 0.24, 0.34)
    y = wheel + height * 0.75
    b.add("box", (0, y, 0), (width, height, length), b.body)
    cabin = b.p(4, 0.42, 0.65)
    cy = y + height + 0.26
    b.add("box", (0, cy, -0.1), (width * 0.86, 0.28, length * cabin), b.second)
    glass = Paint((0.70, 0.84, 0.93))
    b.add("box", (0, cy + 0.02, -0.1 + length * cabin), (width * 0.68, 0.18, 0.03), glass)
    b.pair("box", (width * 0.87, cy + 0.02, -0.1), (0.02, 0.17, length * cabin * 0.75), glass)
    for z in (length * 0.6, -length * 0.6):
        b.pair("frustum", (width, wheel, z), (wheel, 0.12, wheel), DARK, rotation=(0, 0, 90))
        b.pair(
            "frustum",
            (width + 0.1, wheel, z),
            (wheel * 0.55, 0.06, wheel * 0.55),
            b.accent,
            rotation=(0, 0, 90),
        )
    lamp = Paint((0.98, 0.95, 0.72))
    b.pair("ellipsoid", (width * 0.65, y + 0.02, length), (0.12, 0.12, 0.07), lamp)


def _ring(b: Builder, center: Vec3, radius: float, thick: float, paint: Paint) -> None:
    """A handle in the x-y plane: a half ring open towards -x, rendered as a chain of ellipsoids."""
    x, y, z = center
    for angle in (-75, -38, 0, 38, 75):
        turn = np.deg2rad(angle)
        at = (x + radius * float(np.cos(turn)), y + radius * float(np.sin(turn)), z)
        size = (thick, radius * 0.42, thick)
        b.add("ellipsoid", at, size, paint, rotation=(0, 0, float(angle)))


def _mug(b: Builder) -> None:
    radius, height, taper = b.p(0, 0.55, 0.75), b.p(1, 0.6, 0.9), b.p(2, 0.9, 1.2)
    b.add("frustum", (0, height, 0), (radius, height, radius), b.body, taper=taper)
    rim = radius * taper
    b.add("frustum", (0, height * 1.93, 0), (rim * 1.05, 0.09, rim * 1.05), b.second)
    b.add("frustum", (0, height * 2.0 + 0.03, 0), (rim * 0.88, 0.03, rim * 0.88), DARK)
    b.add("frustum", (0, 0.07, 0), (radius * 1.04, 0.08, radius * 1.04), b.second)
    _ring(b, (radius * 0.98, height, 0), b.p(3, 0.36, 0.5), b.p(4, 0.1, 0.16), b.accent)


def _vase(b: Builder) -> None:
    belly, height, neck = b.p(0, 0.55, 0.8), b.p(1, 0.6, 0.85), b.p(2, 0.18, 0.32)
    b.add("frustum", (0, 0.1, 0), (belly * 0.6, 0.1, belly * 0.6), b.accent)
    b.add("ellipsoid", (0, height, 0), (belly, height, belly), b.body)
    tall = b.p(3, 0.3, 0.55)
    top = height * 1.85 + tall
    b.add("frustum", (0, top, 0), (neck, tall, neck), b.second)
    lip = b.p(4, 1.4, 2.1)
    b.add("frustum", (0, top + tall, 0), (neck, 0.12, neck), b.accent, taper=lip)
    b.add("frustum", (0, top + tall + 0.11, 0), (neck * lip * 0.8, 0.02, neck * lip * 0.8), DARK)


def _teapot(b: Builder) -> None:
    belly, height = b.p(0, 0.68, 0.85), b.p(1, 0.5, 0.68)
    b.add("ellipsoid", (0, height, 0), (belly, height, belly), b.body)
    b.add("frustum", (0, 0.08, 0), (belly * 0.62, 0.08, belly * 0.62), b.second)
    lid = b.p(2, 0.3, 0.45)
    b.add("frustum", (0, height * 1.95, 0), (lid, 0.1, lid), b.second, taper=0.7)
    b.add("ellipsoid", (0, height * 1.95 + 0.2, 0), (0.13, 0.13, 0.13), b.accent)
    spout = b.p(3, 0.4, 0.55)
    b.add(
        "frustum",
        (-belly - 0.16, height * 1.12, 0),
        (0.2, spout, 0.2),
        b.accent,
        taper=0.5,
        rotation=(0, 0, 42),
    )
    _ring(b, (belly * 0.92, height * 1.05, 0), b.p(4, 0.36, 0.5), 0.1, b.accent)


def _ball(b: Builder) -> None:
    # A ball has few parts, so patches and a belt in further colours make it an individual.
    b.add("ellipsoid", (0, 1, 0), (1, 1, 1), b.body)
    patch, flat = b.p(0, 0.32, 0.5), 0.1
    at = 0.96 - patch**2 * 0.35
    b.pair("ellipsoid", (at, 1, 0), (flat, patch, patch), b.accent)
    for side in (1, -1):
        b.add("ellipsoid", (0, 1 + side * at, 0), (patch, flat, patch), b.accent)
        b.add("ellipsoid", (0, 1, side * at), (patch, patch, flat), b.second)
    if b.flag(1):
        b.add("frustum", (0, 1, 0), (1.02, b.p(2, 0.07, 0.16), 1.02), b.second)


def _lamp(b: Builder) -> None:
    base, pole, shade = b.p(0, 0.42, 0.6), b.p(1, 0.5, 0.75), b.p(2, 0.6, 0.85)
    b.add("frustum", (0, 0.1, 0), (base, 0.12, base), b.second, taper=0.8)
    b.add("frustum", (0, 0.2 + pole, 0), (0.11, pole, 0.11), b.accent)
    if b.flag(4):
        b.add("ellipsoid", (0, 0.2 + pole * 0.8, 0), (0.26, 0.26, 0.26), b.accent)
    tall = b.p(3, 0.4, 0.6)
    y = 0.2 + 2 * pole + tall * 0.8
    b.add("frustum", (0, y, 0), (shade, tall, shade), b.body, taper=b.p(5, 0.4, 0.75))


def _backpack(b: Builder) -> None:
    w, h, d = b.p(0, 0.62, 0.8), b.p(1, 0.8, 1.0), b.p(2, 0.34, 0.46)
    b.add("box", (0, h * 0.9, 0), (w, h * 0.85, d), b.body)
    b.add("ellipsoid", (0, h * 1.72, 0), (w, h * 0.35, d), b.body)
    pocket = b.p(3, 0.3, 0.45)
    b.add("box", (0, 0.1 + pocket, d + 0.1), (w * 0.72, pocket, 0.16), b.second)
    b.add("box", (0, 0.1 + pocket * 1.9, d + 0.14), (w * 0.76, 0.07, 0.16), b.accent)
    b.pair("box", (w * 0.6, h * 0.95, -d - 0.06), (0.12, h * 0.85, 0.08), b.accent)
    b.pair("ellipsoid", (w + 0.05, 0.1 + pocket, 0), (0.16, pocket, d * 0.8), b.second)
    b.add("ellipsoid", (0, h * 2.1, 0), (0.2, 0.16, 0.08), b.accent)


def _rocket(b: Builder) -> None:
    radius, height, nose = b.p(0, 0.36, 0.5), b.p(1, 0.75, 1.0), b.p(2, 0.3, 0.5)
    y = 0.35 + height
    b.add("frustum", (0, y, 0), (radius, height, radius), b.body)
    b.add("frustum", (0, y + height + nose, 0), (radius, nose, radius), b.second, taper=0.04)
    fin = b.p(3, 0.3, 0.48)
    b.pair("box", (radius + fin * 0.4, 0.45, 0), (fin, 0.4, 0.07), b.accent, rotation=(0, 0, -28))
    b.add("box", (0, 0.45, -radius - fin * 0.4), (0.07, 0.4, fin), b.accent, rotation=(28, 0, 0))
    b.add("box", (0, 0.45, radius + fin * 0.4), (0.07, 0.4, fin), b.accent, rotation=(-28, 0, 0))
    b.add("frustum", (0, 0.25, 0), (radius * 0.8, 0.14, radius * 0.8), DARK, taper=0.7)
    window = b.p(4, 0.16, 0.26)
    b.add("ellipsoid", (0, y + height * 0.35, radius * 0.9), (window, window, 0.12), b.accent)
    glass = Paint((0.72, 0.88, 0.96))
    inner = window * 0.65
    b.add("ellipsoid", (0, y + height * 0.35, radius * 0.9 + 0.06), (inner, inner, 0.12), glass)


def _boat(b: Builder) -> None:
    length, width, height = b.p(0, 0.9, 1.15), b.p(1, 0.4, 0.55), b.p(2, 0.24, 0.36)
    b.add("box", (0, height, 0), (length * 0.8, height, width), b.body)
    b.pair(
        "box",
        (length * 0.86, height * 1.12, 0),
        (0.3, height * 0.85, width * 0.75),
        b.body,
        rotation=(0, 0, 30),
    )
    b.add("box", (0, height * 2, 0), (length, 0.08, width * 1.04), b.accent)
    mast = b.p(3, 0.65, 0.95)
    x = b.p(4, -0.15, 0.15)
    b.add("frustum", (x, height * 2 + mast, 0), (0.07, mast, 0.07), DARK)
    sail = b.p(5, 0.38, 0.55)
    y = height * 2 + mast * 1.1
    b.add("frustum", (x + sail * 0.7, y, 0), (sail, mast * 0.8, 0.06), b.second, taper=0.1)
    b.add("box", (x - 0.18, height * 2 + mast * 1.9, 0), (0.18, 0.1, 0.04), b.accent)


LIVE = ("dog", "cat", "bird")
CLASSES: dict[str, Callable[[Builder], None]] = {
    "dog": _dog,
    "cat": _cat,
    "bird": _bird,
    "plushie": _plushie,
    "robot": _robot,
    "car": _car,
    "mug": _mug,
    "vase": _vase,
    "teapot": _teapot,
    "ball": _ball,
    "lamp": _lamp,
    "backpack": _backpack,
    "rocket": _rocket,
    "boat": _boat,
}
