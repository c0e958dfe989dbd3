"""Renders shaded 3-D primitives: parallel rays against ellipsoids, boxes and frusta.

Everything is numpy and closed form. A camera looks at the origin through parallel rays, so
one direction serves all pixels and each primitive is tested only inside its own rectangle on
the screen; that is what makes a picture cost milliseconds.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating[Any]]
Kind = Literal["ellipsoid", "box", "frustum"]
Vec3 = tuple[float, float, float]


@dataclass(frozen=True)
class Paint:
    """Surface of a part. `pattern` alternates `color` and `color2` in cells of `width` units."""

    color: Vec3
    color2: Vec3 | None = None
    pattern: str = "plain"
    width: float = 0.3


@dataclass(frozen=True)
class Part:
    """One primitive. `size` holds half extents; `taper` is a frustum's top over bottom radius."""

    kind: Kind
    center: Vec3
    size: Vec3
    paint: Paint
    rotation: Vec3 = (0.0, 0.0, 0.0)
    taper: float = 1.0
    role: str = "body"


@dataclass(frozen=True)
class Camera:
    """Parallel camera. Angles in degrees: yaw 0 sees the front, pitch 90 looks from above."""

    yaw: float = 0.0
    pitch: float = 15.0

    def axes(self) -> tuple[Array, Array, Array]:
        """Unit vectors right, up and forward (into the picture), each of shape (3,)."""
        yaw, pitch = np.deg2rad(self.yaw), np.deg2rad(self.pitch)
        to_camera = np.array(
            [np.sin(yaw) * np.cos(pitch), np.sin(pitch), np.cos(yaw) * np.cos(pitch)]
        )
        right = np.array([np.cos(yaw), 0.0, -np.sin(yaw)])
        up = np.cross(to_camera, right)
        return right.astype(np.float32), up.astype(np.float32), -to_camera.astype(np.float32)


@dataclass(frozen=True)
class Light:
    """Directional light, in camera axes (right, up, towards the viewer)."""

    direction: Vec3 = (-0.45, 0.75, 0.6)
    ambient: float = 0.5
    diffuse: float = 0.55
    specular: float = 0.08
    gloss: float = 12.0


@dataclass
class Layer:
    """What rendering leaves behind; arrays are (height, width[, 3]) at the rendering's own size."""

    color: Array
    depth: Array
    part: NDArray[np.int16]
    roles: list[str] = field(default_factory=list)

    @property
    def mask(self) -> NDArray[np.bool_]:
        """Which pixels the shapes cover."""
        return np.isfinite(self.depth)


def rotation_matrix(degrees: Vec3) -> Array:
    """Rotation by x, then y, then z, in degrees; shape (3, 3)."""
    x, y, z = np.deg2rad(degrees)
    rx = np.array([[1, 0, 0], [0, np.cos(x), -np.sin(x)], [0, np.sin(x), np.cos(x)]])
    ry = np.array([[np.cos(y), 0, np.sin(y)], [0, 1, 0], [-np.sin(y), 0, np.cos(y)]])
    rz = np.array([[np.cos(z), -np.sin(z), 0], [np.sin(z), np.cos(z), 0], [0, 0, 1]])
    return (rz @ ry @ rx).astype(np.float32)


def part_extent(part: Part, axis: Array) -> float:
    """Half length of the part's shadow on a unit axis; exact for ellipsoids and boxes."""
    along = rotation_matrix(part.rotation).T @ axis * np.asarray(part.size, np.float32)
    if part.kind == "ellipsoid":
        return float(np.linalg.norm(along))
    if part.kind == "box":
        return float(np.abs(along).sum())
    return float(np.hypot(along[0], along[2]) * max(1.0, part.taper) + abs(along[1]))


def bounds(parts: list[Part], axis: Array) -> tuple[float, float]:
    """Least and greatest coordinate of all parts along a unit axis."""
    middle = [float(np.dot(axis, part.center)) for part in parts]
    half = [part_extent(part, axis) for part in parts]
    return (
        min(m - h for m, h in zip(middle, half, strict=True)),
        max(m + h for m, h in zip(middle, half, strict=True)),
    )


def fit_to_unit(parts: list[Part]) -> list[Part]:
    """Moves and scales parts so that they stand on y = -1 and the longest side measures 2."""
    spans = [bounds(parts, axis) for axis in np.eye(3, dtype=np.float32)]
    scale = 2.0 / max(high - low for low, high in spans)
    shift = np.array([(low + high) / 2 for low, high in spans])
    shift[1] = spans[1][0] + 1.0 / scale
    return [
        replace(
            part,
            center=tuple((np.asarray(part.center) - shift) * scale),
            size=tuple(np.asarray(part.size) * scale),
            paint=replace(part.paint, width=part.paint.width * scale),
        )
        for part in parts
    ]


def _hit_ellipsoid(o: Array, d: Array) -> tuple[Array, Array]:
    a = float(d @ d)
    b = o @ d
    root = b * b - a * ((o * o).sum(-1) - 1.0)
    t = np.where(root > 0, (-b - np.sqrt(np.maximum(root, 0))) / a, np.inf)
    return t, o + np.where(np.isfinite(t), t, 0)[:, None] * d


def _hit_box(o: Array, d: Array) -> tuple[Array, Array]:
    d = np.where(np.abs(d) < 1e-6, 1e-6, d)
    near = np.minimum((-1 - o) / d, (1 - o) / d)
    far = np.maximum((-1 - o) / d, (1 - o) / d)
    enter = near.max(-1)
    normal = np.zeros_like(o)
    axis = near.argmax(-1)
    normal[np.arange(len(o)), axis] = -np.sign(d)[axis]
    return np.where(enter < far.min(-1), enter, np.inf), normal


def _hit_frustum(o: Array, d: Array, taper: float) -> tuple[Array, Array]:
    # Radius k0 + k1 y: 1 at y = -1 and `taper` at y = 1.
    k0, k1 = (1.0 + taper) / 2, (taper - 1.0) / 2
    radius = k0 + k1 * o[:, 1]
    a = d[0] ** 2 + d[2] ** 2 - (k1 * d[1]) ** 2
    a = a if abs(a) > 1e-6 else 1e-6
    b = o[:, 0] * d[0] + o[:, 2] * d[2] - k1 * d[1] * radius
    root = b * b - a * (o[:, 0] ** 2 + o[:, 2] ** 2 - radius**2)
    half = np.sqrt(np.maximum(root, 0))
    best = np.full(len(o), np.inf, np.float32)
    normal = np.zeros_like(o)
    for t in ((-b - half) / a, (-b + half) / a):
        y = o[:, 1] + t * d[1]
        better = (root > 0) & (np.abs(y) <= 1) & (k0 + k1 * y >= 0) & (t < best)
        point = o[better] + t[better, None] * d
        best[better] = t[better]
        normal[better] = np.stack(
            [point[:, 0], -k1 * (k0 + k1 * point[:, 1]), point[:, 2]], axis=-1
        )
    if abs(d[1]) > 1e-6:
        for cap, cap_radius in ((-1.0, 1.0), (1.0, taper)):
            t = (cap - o[:, 1]) / d[1]
            x, z = o[:, 0] + t * d[0], o[:, 2] + t * d[2]
            better = (x * x + z * z <= cap_radius**2) & (t < best)
            best[better] = t[better]
            normal[better] = (0.0, cap, 0.0)
    return best, normal


def _albedo(part: Part, local: Array) -> Array:
    paint = part.paint
    first = np.asarray(paint.color, np.float32)
    if paint.color2 is None or paint.pattern == "plain":
        return np.broadcast_to(first, local.shape)
    # Cells are measured in the subject's units so that a big part gets more of them.
    q = local * np.asarray(part.size, np.float32) / paint.width
    if paint.pattern == "striped":
        second = np.floor(q[:, 1] + 0.5) % 2 == 1
    elif paint.pattern == "banded":
        turns = np.arctan2(local[:, 0], local[:, 2]) / (2 * np.pi)
        second = np.floor(turns * 8 + 0.5) % 2 == 1
    elif paint.pattern == "checkered":
        second = np.floor(q + 0.5).sum(-1) % 2 == 1
    elif paint.pattern == "dotted":
        cell = q - np.floor(q + 0.5)
        second = (cell**2).sum(-1) < 0.14
    else:
        raise ValueError(f"unknown pattern {paint.pattern!r}")
    return np.where(second[:, None], np.asarray(paint.color2, np.float32), first)


def _hit(part: Part, origin: Array, direction: Array) -> tuple[Array, Array]:
    """Return where rays (n, 3) hit a part, infinity if nowhere, and its normals there."""
    if part.kind == "ellipsoid":
        return _hit_ellipsoid(origin, direction)
    if part.kind == "box":
        return _hit_box(origin, direction)
    return _hit_frustum(origin, direction, part.taper)


def draw(
    parts: list[Part],
    camera: Camera,
    *,
    size_px: int,
    scale_px: float,
    center_px: tuple[float, float],
    light: Light,
) -> Layer:
    """Renders parts on an empty layer.

    The origin lands on `center_px` (x, y), one unit is `scale_px` long. Colours are linear
    mixes in [0, 1], not clipped.
    """
    right, up, forward = camera.axes()
    axes = np.stack([right, up, -forward])
    to_light = np.asarray(light.direction, np.float32)
    to_light = (to_light / np.linalg.norm(to_light)) @ axes
    halfway = to_light - forward
    halfway /= np.linalg.norm(halfway)
    layer = Layer(
        np.zeros((size_px, size_px, 3), np.float32),
        np.full((size_px, size_px), np.inf, np.float32),
        np.full((size_px, size_px), -1, np.int16),
        [part.role for part in parts],
    )
    for index, part in enumerate(parts):
        center = np.asarray(part.center, np.float32)
        x = center_px[0] + scale_px * float(right @ center)
        y = center_px[1] - scale_px * float(up @ center)
        w, h = scale_px * part_extent(part, right) + 1, scale_px * part_extent(part, up) + 1
        x0, x1 = max(0, int(x - w)), min(size_px, int(x + w) + 1)
        y0, y1 = max(0, int(y - h)), min(size_px, int(y + h) + 1)
        if x0 >= x1 or y0 >= y1:
            continue
        u = (np.arange(x0, x1, dtype=np.float32) + 0.5 - center_px[0]) / scale_px
        v = (center_px[1] - np.arange(y0, y1, dtype=np.float32) - 0.5) / scale_px
        rotation = rotation_matrix(part.rotation)
        inverse = rotation.T / np.asarray(part.size, np.float32)[:, None]
        local_d = inverse @ forward
        local_o = (
            inverse @ (-8.0 * forward - center)
            + u[None, :, None] * (inverse @ right)
            + v[:, None, None] * (inverse @ up)
        ).reshape(-1, 3)
        t, normal = _hit(part, local_o, local_d)
        seen = np.flatnonzero(t < layer.depth[y0:y1, x0:x1].ravel())
        if not len(seen):
            continue
        normal = normal[seen] @ inverse
        normal /= np.linalg.norm(normal, axis=-1, keepdims=True) + 1e-9
        lit = light.ambient + light.diffuse * np.maximum(normal @ to_light, 0)
        shine = light.specular * np.maximum(normal @ halfway, 0) ** light.gloss
        color = _albedo(part, local_o[seen] + t[seen, None] * local_d)
        rows, columns = y0 + seen // (x1 - x0), x0 + seen % (x1 - x0)
        layer.color[rows, columns] = color * lit[:, None] + shine[:, None]
        layer.depth[rows, columns] = t[seen]
        layer.part[rows, columns] = index
    return layer
