"""What the live ones of the small world wear."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from dreambench.mini.world.bodies import Anchor
from dreambench.mini.world.identities import PALETTE
from dreambench.mini.world.shapes import Paint, Part, Vec3

ACCESSORIES: dict[str, str] = {
    "red-hat": "wearing a red hat",
    "santa-hat": "wearing a santa hat",
    "top-hat": "wearing a black top hat",
    "rainbow-scarf": "wearing a rainbow scarf",
    "pink-glasses": "wearing pink glasses",
    "yellow-shirt": "wearing a yellow shirt",
}


def dress(anchor: Anchor, accessory: str, torso: Part | None) -> list[Part]:
    """Return the parts of an accessory for whom these are the anchor and the torso.

    Raises:
        ValueError: there is no such accessory, or it is a shirt and there is no torso.
    """
    if accessory == "yellow-shirt":
        return _yellow_shirt(torso)
    if accessory not in _MAKERS:
        raise ValueError(f"unknown accessory {accessory!r}")
    return _MAKERS[accessory](anchor)


def _part(kind: str, center: Vec3, size: Vec3, paint: Paint, **more: object) -> Part:
    return Part(kind, center, size, paint, role="accessory", **more)  # type: ignore[arg-type]


def _find_top(anchor: Anchor) -> tuple[float, float, float, float]:
    """Return where a hat sits (x, y, z), and half the head's width."""
    x, y, z = anchor.head
    wide, high, _ = anchor.head_size
    return x, y + high * 0.8, z, wide


def _red_hat(anchor: Anchor) -> list[Part]:
    x, top, z, wide = _find_top(anchor)
    red = Paint((0.90, 0.08, 0.08))
    return [
        _part("frustum", (x, top, z), (wide * 1.25, 0.06, wide * 1.25), red),
        _part("ellipsoid", (x, top, z), (wide * 0.82, wide * 0.95, wide * 0.82), red),
    ]


def _santa_hat(anchor: Anchor) -> list[Part]:
    x, top, z, wide = _find_top(anchor)
    white, red = Paint((0.97, 0.97, 0.97)), Paint((0.88, 0.06, 0.10))
    cone = (wide * 0.8, wide * 0.75, wide * 0.8)
    return [
        _part("frustum", (x, top, z), (wide * 0.95, wide * 0.2, wide * 0.95), white),
        _part("frustum", (x, top + wide * 0.85, z), cone, red, taper=0.12),
        _part("ellipsoid", (x, top + wide * 1.7, z), (wide * 0.3, wide * 0.3, wide * 0.3), white),
    ]


def _top_hat(anchor: Anchor) -> list[Part]:
    x, top, z, wide = _find_top(anchor)
    black, gray = Paint((0.05, 0.05, 0.06)), Paint((0.35, 0.35, 0.38))
    crown, band = (wide * 0.78, wide * 0.75, wide * 0.78), (wide * 0.82, wide * 0.12, wide * 0.82)
    return [
        _part("frustum", (x, top, z), (wide * 1.25, 0.06, wide * 1.25), black),
        _part("frustum", (x, top + wide * 0.75, z), crown, black),
        _part("frustum", (x, top + wide * 0.18, z), band, gray),
    ]


def _rainbow_scarf(anchor: Anchor) -> list[Part]:
    x, y, z = anchor.neck
    width, step = anchor.neck_width, 0.1
    hues = [Paint(PALETTE[name]) for name in ("red", "yellow", "green", "blue")]
    ring = (width * 1.25, step * 0.85, width * 1.25)
    rings = [
        _part("frustum", (x, y + (1.5 - i) * step * 1.6, z), ring, hue)
        for i, hue in enumerate(hues)
    ]
    tails = [
        _part(
            "box", (x + width * 0.55, y - 0.38 - 0.12 * i, z + width * 1.2), (0.13, 0.07, 0.06), hue
        )
        for i, hue in enumerate(hues)
    ]
    return rings + tails


def _pink_glasses(anchor: Anchor) -> list[Part]:
    x, y, z = anchor.head
    wide, high, _ = anchor.head_size
    pink, lens = Paint((1.0, 0.30, 0.62)), Paint((1.0, 0.72, 0.86))
    ey, ez = y + high * 0.25, z + anchor.face_z * 0.98
    found = [_part("box", (x, ey, ez), (wide * 1.0, 0.05, 0.06), pink)]
    for side in (1, -1):
        at = (x + side * wide * 0.47, ey, ez)
        size = wide * 0.42
        found.append(_part("frustum", at, (size, 0.08, size), pink, rotation=(90, 0, 0)))
        inner, small = (at[0], ey, ez + 0.05), (size * 0.6, 0.08, size * 0.6)
        found.append(_part("frustum", inner, small, lens, rotation=(90, 0, 0)))
    return found


def _yellow_shirt(torso: Part | None) -> list[Part]:
    if torso is None:
        raise ValueError("a shirt needs a torso")
    width, height, depth = torso.size
    grown = (width * 1.16, height * 1.08, depth * 0.92)
    return [replace(torso, size=grown, paint=Paint((0.98, 0.84, 0.08)), role="accessory")]


_MAKERS: dict[str, Callable[[Anchor], list[Part]]] = {
    "red-hat": _red_hat,
    "santa-hat": _santa_hat,
    "top-hat": _top_hat,
    "rainbow-scarf": _rainbow_scarf,
    "pink-glasses": _pink_glasses,
}
