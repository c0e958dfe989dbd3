"""From an individual to its parts: as it is, with another property, or dressed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from dreambench.mini.world.accessories import dress
from dreambench.mini.world.bodies import CLASSES, DARK, Builder
from dreambench.mini.world.identities import PALETTE, Identity
from dreambench.mini.world.shapes import Paint, Part, Vec3, bounds, fit_to_unit


def _luminance(color: Vec3) -> float:
    return float(np.dot(color, (0.30, 0.55, 0.15)))


def _recolor(paint: Paint, target: Vec3) -> Paint:
    """The paint in shades of one hue; light stays lighter than dark, so patterns survive."""

    def shade(color: Vec3) -> Vec3:
        light = 0.55 + 0.65 * _luminance(color)
        mixed = np.asarray(target) * light + max(0.0, light - 0.95) * 0.6
        return tuple(float(v) for v in np.clip(mixed, 0, 1))  # type: ignore[return-value]

    return replace(
        paint,
        color=shade(paint.color),
        color2=None if paint.color2 is None else shade(paint.color2),
    )


def _cube_shaped(parts: list[Part]) -> list[Part]:
    """Every part a box, and the whole stretched until it fills a cube."""
    spans = [bounds(parts, axis) for axis in np.eye(3, dtype=np.float32)]
    stretch = [2.0 / (high - low) for low, high in spans]
    return [
        replace(
            part,
            kind="box",
            center=tuple(c * s for c, s in zip(part.center, stretch, strict=True)),  # type: ignore[arg-type]
            size=tuple(h * s * 0.9 for h, s in zip(part.size, stretch, strict=True)),  # type: ignore[arg-type]
            rotation=(0.0, 0.0, 0.0),
        )
        for part in parts
    ]


def make_parts(
    identity: Identity, *, accessory: str | None = None, property_name: str | None = None
) -> list[Part]:
    """The parts of an individual, dressed or altered, standing on y = -1, longest side 2.

    Raises ValueError for an accessory on a class that is not live.
    """
    builder = Builder(identity)
    CLASSES[identity.class_name](builder)
    parts = builder.parts
    if property_name in ("red", "purple", "golden"):
        target = {"red": PALETTE["red"], "purple": PALETTE["purple"], "golden": (0.93, 0.70, 0.15)}
        # Eyes and noses keep their black: a red dog still looks at you.
        parts = [
            part
            if part.paint is DARK
            else replace(part, paint=_recolor(part.paint, target[property_name]))
            for part in parts
        ]
    elif property_name == "stone":
        parts = [replace(part, paint=_recolor(part.paint, (0.78, 0.77, 0.74))) for part in parts]
    elif property_name == "cube shaped":
        parts = _cube_shaped(parts)
    if accessory is not None:
        if builder.anchor is None:
            raise ValueError(f"a {identity.class_name} wears nothing")
        torso = next((part for part in builder.parts if part.role == "torso"), None)
        parts = parts + dress(builder.anchor, accessory, torso)
    return fit_to_unit(parts)
