"""The places of the small world, each a procedural picture that differs with its seed."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw

from dreambench.mini.world.shapes import Array, Vec3


def smooth_noise(rng: np.random.Generator, size: int, cells: tuple[int, int]) -> Array:
    """Values in [0, 1], (size, size), that change over size / cells pixels (rows, columns)."""
    grid = rng.uniform(size=(cells[0] + 1, cells[1] + 1)).astype(np.float32)
    picture = Image.fromarray(grid).resize((size, size), Image.Resampling.BICUBIC)
    return np.clip(np.asarray(picture, np.float32), 0, 1)


def _mix(low: Vec3, high: Vec3, share: Array) -> Array:
    share = share[..., None]
    return np.asarray(low, np.float32) * (1 - share) + np.asarray(high, np.float32) * share


def _rows(size: int) -> Array:
    return np.broadcast_to(np.linspace(0, 1, size, dtype=np.float32)[:, None], (size, size))


def _columns(size: int) -> Array:
    return _rows(size).T


def _sky(size: int) -> Array:
    return _mix(
        (0.42, 0.66, 0.95),
        (0.80, 0.90, 0.99),
        _rows(size) * 1.6 % 1.0 * 0 + np.minimum(_rows(size) * 1.8, 1),
    )


class _Canvas:
    """A float picture that can be painted with PIL polygons in relative coordinates."""

    def __init__(self, pixels: Array) -> None:
        self.image = Image.fromarray((np.clip(pixels, 0, 1) * 255).astype(np.uint8))
        self.brush = ImageDraw.Draw(self.image)
        self.size = pixels.shape[0]

    def _scaled(self, points: list[tuple[float, float]]) -> list[tuple[float, float]]:
        return [(x * self.size, y * self.size) for x, y in points]

    @staticmethod
    def _ink(color: Vec3) -> tuple[int, int, int]:
        r, g, b = (int(255 * min(max(v, 0.0), 1.0)) for v in color)
        return r, g, b

    def polygon(self, points: list[tuple[float, float]], color: Vec3) -> None:
        self.brush.polygon(self._scaled(points), fill=self._ink(color))

    def box(self, x0: float, y0: float, x1: float, y1: float, color: Vec3) -> None:
        self.polygon([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], color)

    def ellipse(self, x: float, y: float, rx: float, ry: float, color: Vec3) -> None:
        corners = self._scaled([(x - rx, y - ry), (x + rx, y + ry)])
        self.brush.ellipse([corners[0], corners[1]], fill=self._ink(color))

    def pixels(self) -> Array:
        return np.asarray(self.image, np.float32) / 255


def _ground(picture: Array, horizon: float, ground: Array) -> Array:
    cut = int(picture.shape[0] * horizon)
    out = picture.copy()
    out[cut:] = ground[cut:]
    return out


def _jungle(rng: np.random.Generator, size: int) -> Array:
    canvas = _Canvas(_mix((0.05, 0.26, 0.08), (0.13, 0.44, 0.13), smooth_noise(rng, size, (5, 5))))
    for x in rng.uniform(0, 1, 3):
        w = rng.uniform(0.025, 0.05)
        canvas.polygon(
            [(x - w, 0), (x + w, 0), (x + w * 1.5, 1), (x - w * 1.5, 1)], (0.27, 0.16, 0.07)
        )
    for _ in range(16):
        x, y = rng.uniform(0, 1), rng.choice([rng.uniform(-0.05, 0.4), rng.uniform(0.75, 1.05)])
        lean, long = rng.uniform(-0.15, 0.15), rng.uniform(0.12, 0.24)
        green = (rng.uniform(0.1, 0.3), rng.uniform(0.5, 0.72), rng.uniform(0.1, 0.25))
        canvas.polygon(
            [
                (x, y - long / 2),
                (x + 0.05 + lean, y),
                (x + lean, y + long / 2),
                (x - 0.05 + lean, y),
            ],
            green,
        )
    return canvas.pixels()


def _snow(rng: np.random.Generator, size: int) -> Array:
    sky = _mix((0.66, 0.74, 0.86), (0.84, 0.89, 0.95), _rows(size))
    horizon = rng.uniform(0.38, 0.5)
    drift = _mix((0.84, 0.89, 0.97), (0.99, 0.99, 1.0), smooth_noise(rng, size, (6, 3)))
    canvas = _Canvas(_ground(sky, horizon, drift))
    for x in rng.uniform(0, 1, 4):
        tall = rng.uniform(0.14, 0.26)
        canvas.polygon(
            [(x, horizon - tall), (x + 0.07, horizon + 0.01), (x - 0.07, horizon + 0.01)],
            (0.30, 0.44, 0.42),
        )
        canvas.polygon(
            [
                (x, horizon - tall),
                (x + 0.03, horizon - tall * 0.55),
                (x - 0.03, horizon - tall * 0.55),
            ],
            (0.97, 0.98, 1.0),
        )
    return canvas.pixels()


def _beach(rng: np.random.Generator, size: int) -> Array:
    horizon, shore = rng.uniform(0.3, 0.42), rng.uniform(0.5, 0.6)
    sea = _mix((0.08, 0.36, 0.66), (0.14, 0.50, 0.76), smooth_noise(rng, size, (14, 3)))
    sand = _mix((0.87, 0.74, 0.47), (0.95, 0.86, 0.62), smooth_noise(rng, size, (6, 6)))
    picture = _ground(_ground(_sky(size), horizon, sea), shore, sand)
    cut = int(size * shore)
    picture[cut - 2 : cut + 2] = (0.95, 0.97, 0.98)
    return picture


def _cobblestone(rng: np.random.Generator, size: int) -> Array:
    # Staggered rows of stones that grow towards the viewer, with a dark joint between them.
    canvas = _Canvas(np.broadcast_to(np.asarray((0.20, 0.19, 0.19), np.float32), (size, size, 3)))
    y, row, height = -0.02, 0, 0.12
    while y < 1.05:
        width = height * 1.25
        x = -width * (0.5 if row % 2 else 0.0) - rng.uniform(0, 0.05)
        while x < 1.05:
            tone = rng.uniform(0.46, 0.68)
            canvas.ellipse(
                x + width / 2,
                y + height / 2,
                width * 0.47,
                height * 0.46,
                (tone, tone * 0.98, tone * 0.95),
            )
            x += width
        y, row, height = y + height, row + 1, height * 1.06
    return canvas.pixels()


def _pink_fabric(rng: np.random.Generator, size: int) -> Array:
    warp = smooth_noise(rng, size, (3, 3))
    turn = rng.uniform(0.4, 1.2)
    folds = 0.5 + 0.5 * np.sin(14 * (_columns(size) * turn + _rows(size) * (1.4 - turn)) + 7 * warp)
    return _mix((0.86, 0.38, 0.60), (1.0, 0.70, 0.83), folds.astype(np.float32))


def _wooden_floor(rng: np.random.Generator, size: int) -> Array:
    grain = smooth_noise(rng, size, (40, 4))
    picture = _mix((0.52, 0.31, 0.13), (0.68, 0.44, 0.21), grain)
    n_planks = 7
    offset = rng.uniform(0, 1)
    plank = np.floor(_rows(size) * n_planks + offset).astype(int)
    picture = picture * (0.85 + 0.3 * rng.uniform(size=n_planks + 2)[plank][..., None])
    joint = (_rows(size) * n_planks + offset) % 1.0 < 0.12
    picture[joint] = (0.26, 0.14, 0.05)
    return picture.astype(np.float32)


def _city(rng: np.random.Generator, size: int) -> Array:
    horizon = rng.uniform(0.58, 0.66)
    road = _mix((0.36, 0.36, 0.38), (0.44, 0.44, 0.46), smooth_noise(rng, size, (6, 6)))
    canvas = _Canvas(_ground(_sky(size), horizon, road))
    x = -rng.uniform(0, 0.1)
    while x < 1:
        width, tall = rng.uniform(0.14, 0.22), rng.uniform(0.3, 0.55)
        tone = rng.uniform(0.38, 0.62)
        canvas.box(x, horizon - tall, x + width - 0.015, horizon, (tone, tone * 0.97, tone * 1.05))
        for wx in np.arange(x + 0.025, x + width - 0.05, 0.062):
            for wy in np.arange(horizon - tall + 0.035, horizon - 0.05, 0.085):
                canvas.box(wx, wy, wx + 0.035, wy + 0.045, (0.98, 0.91, 0.60))
        x += width
    return canvas.pixels()


def _mountain(rng: np.random.Generator, size: int) -> Array:
    horizon = rng.uniform(0.55, 0.66)
    meadow = _mix((0.24, 0.52, 0.20), (0.36, 0.64, 0.28), smooth_noise(rng, size, (5, 5)))
    canvas = _Canvas(_sky(size))
    for x in (rng.uniform(0.05, 0.3), rng.uniform(0.7, 0.95), rng.uniform(0.35, 0.65)):
        tall, wide = rng.uniform(0.34, 0.52), rng.uniform(0.32, 0.45)
        top = horizon - tall
        tone = rng.uniform(0.38, 0.5)
        canvas.polygon(
            [(x, top), (x + wide, horizon + 0.02), (x - wide, horizon + 0.02)],
            (tone, tone, tone * 1.12),
        )
        cap = 0.32
        canvas.polygon(
            [
                (x, top),
                (x + wide * cap, top + tall * cap),
                (x, top + tall * cap * 0.75),
                (x - wide * cap, top + tall * cap),
            ],
            (0.96, 0.97, 1.0),
        )
    return _ground(canvas.pixels(), horizon, meadow)


def _blue_house(rng: np.random.Generator, size: int) -> Array:
    horizon = rng.uniform(0.56, 0.64)
    lawn = _mix((0.26, 0.56, 0.18), (0.40, 0.68, 0.28), smooth_noise(rng, size, (5, 5)))
    canvas = _Canvas(_ground(_sky(size), horizon, lawn))
    x, half, top = rng.uniform(0.3, 0.7), rng.uniform(0.28, 0.36), rng.uniform(0.22, 0.3)
    base = horizon + 0.06
    canvas.box(x - half, top, x + half, base, (0.12, 0.32, 0.78))
    canvas.polygon(
        [(x - half - 0.07, top), (x + half + 0.07, top), (x, top - 0.22)], (0.58, 0.18, 0.14)
    )
    for side in (-1, 1):
        wx = x + side * half * 0.62
        canvas.box(wx - 0.07, top + 0.06, wx + 0.07, top + 0.2, (0.97, 0.97, 0.9))
    canvas.box(x - 0.06, base - 0.2, x + 0.06, base, (0.36, 0.20, 0.10))
    return canvas.pixels()


def _purple_rug(rng: np.random.Generator, size: int) -> Array:
    horizon = rng.uniform(0.4, 0.5)
    wood = _mix((0.10, 0.26, 0.12), (0.20, 0.40, 0.18), smooth_noise(rng, size, (6, 6)))
    floor = _mix((0.28, 0.24, 0.12), (0.36, 0.32, 0.16), smooth_noise(rng, size, (6, 6)))
    canvas = _Canvas(_ground(wood, horizon, floor))
    for start in np.arange(rng.uniform(0, 0.12), 1, 0.2):
        x = start + rng.uniform(-0.04, 0.04)
        w = rng.uniform(0.02, 0.035)
        canvas.box(x - w, 0, x + w, horizon + 0.03, (0.34, 0.21, 0.11))
    shift = rng.uniform(-0.05, 0.05)
    y = rng.uniform(0.78, 0.84)
    for grow, color in (
        (1.0, (0.36, 0.08, 0.50)),
        (0.82, (0.52, 0.16, 0.68)),
        (0.5, (0.60, 0.26, 0.76)),
    ):
        canvas.ellipse(0.5 + shift, y, 0.5 * grow, 0.2 * grow, color)
    return canvas.pixels()


def _wheat_field(rng: np.random.Generator, size: int) -> Array:
    horizon = rng.uniform(0.3, 0.45)
    sway = smooth_noise(rng, size, (4, 4)) * 6
    stalks = 0.5 + 0.5 * np.sin(_columns(size) * 2 * np.pi * 15 + sway)
    gold = _mix((0.74, 0.53, 0.13), (0.97, 0.82, 0.36), stalks.astype(np.float32))
    return _ground(_sky(size), horizon, gold)


def _water(rng: np.random.Generator, size: int) -> Array:
    warp = smooth_noise(rng, size, (3, 4)) * 5
    waves = 0.5 + 0.5 * np.sin(_rows(size) * 2 * np.pi * 9 + warp)
    return _mix((0.06, 0.30, 0.58), (0.30, 0.62, 0.86), waves.astype(np.float32) ** 1.5)


def _studio(rng: np.random.Generator, size: int) -> Array:
    tone = rng.uniform(0.62, 0.9, 3) * 0.5 + rng.uniform(0.62, 0.9) * 0.5
    fall = 1.0 - 0.25 * np.abs(_rows(size) - rng.uniform(0.5, 0.7))
    return (tone.astype(np.float32) * fall[..., None]).astype(np.float32)


SCENES: dict[str, Callable[[np.random.Generator, int], Array]] = {
    "in the jungle": _jungle,
    "in the snow": _snow,
    "on the beach": _beach,
    "on a cobblestone street": _cobblestone,
    "on top of pink fabric": _pink_fabric,
    "on top of a wooden floor": _wooden_floor,
    "with a city in the background": _city,
    "with a mountain in the background": _mountain,
    "with a blue house in the background": _blue_house,
    "on top of a purple rug in a forest": _purple_rug,
    "with a wheat field in the background": _wheat_field,
    "floating on top of water": _water,
}

# Where the benchmark's photos are taken, so that no prompt asks for their places.
PHOTO_PLACES = (
    "on top of a wooden floor",
    "on top of pink fabric",
    "with a wheat field in the background",
    "on a cobblestone street",
    "on top of a purple rug in a forest",
)


def draw_scene(rng: np.random.Generator, name: str | None, *, size_px: int) -> Array:
    """A place by its prompt phrase, or a plain studio wall for None; (size, size, 3) in [0, 1]."""
    picture = (_studio if name is None else SCENES[name])(rng, size_px)
    # One light for the whole place, so that no single colour value gives it away.
    return np.clip(picture * rng.uniform(0.93, 1.07, 3).astype(np.float32), 0, 1)
