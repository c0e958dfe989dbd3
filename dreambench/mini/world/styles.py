"""How an artist of the small world would paint a finished picture; images are float (n, n, 3)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw

from dreambench.mini.world.scenes import smooth_noise
from dreambench.mini.world.shapes import Array


def _to_image(pixels: Array) -> Image.Image:
    return Image.fromarray((np.clip(pixels, 0, 1) * 255).astype(np.uint8))


def _to_pixels(image: Image.Image) -> Array:
    return np.asarray(image, np.float32) / 255


def _pencil_sketch(pixels: Array, rng: np.random.Generator) -> Array:
    down = np.abs(np.diff(pixels, axis=0, append=pixels[-1:])).max(-1)
    across = np.abs(np.diff(pixels, axis=1, append=pixels[:, -1:])).max(-1)
    line = np.clip((np.maximum(down, across) - 0.06) * 5, 0, 1)
    thick = np.maximum.reduce([line, np.roll(line, 1, 0), np.roll(line, 1, 1)])
    paper = 0.95 + 0.04 * smooth_noise(rng, len(pixels), (12, 12))
    tone = paper - 0.16 * (1 - pixels.mean(-1)) - 0.8 * thick
    return np.clip(np.repeat(tone[..., None], 3, axis=-1), 0.08, 1).astype(np.float32)


def _pixel_art(pixels: Array, rng: np.random.Generator) -> Array:
    small = _to_image(pixels).resize((16, 16), Image.Resampling.BOX)
    levels = np.round(_to_pixels(small) * 6) / 6
    return _to_pixels(_to_image(levels).resize((len(pixels),) * 2, Image.Resampling.NEAREST))


def _pointillist(pixels: Array, rng: np.random.Generator) -> Array:
    n = len(pixels)
    under = _to_image(pixels).resize((13, 13), Image.Resampling.BOX)
    canvas = Image.blend(
        under.resize((n, n), Image.Resampling.BICUBIC),
        Image.new("RGB", (n, n), (238, 232, 214)),
        0.45,
    )
    brush = ImageDraw.Draw(canvas)
    step = n / 22
    for row in range(23):
        for column in range(23):
            x = (column + 0.5 * (row % 2)) * step + rng.uniform(-1, 1)
            y = row * step + rng.uniform(-1, 1)
            at = pixels[int(np.clip(y, 0, n - 1)), int(np.clip(x, 0, n - 1))]
            ink = np.clip(at * 1.05 + rng.uniform(-0.09, 0.09, 3), 0, 1) * 255
            r = step * 0.46
            brush.ellipse([x - r, y - r, x + r, y + r], fill=tuple(int(v) for v in ink))
    return _to_pixels(canvas)


def _oil_painting(pixels: Array, rng: np.random.Generator) -> Array:
    n = len(pixels)
    canvas = _to_image(pixels)
    brush = ImageDraw.Draw(canvas)
    angle = smooth_noise(rng, n, (3, 3)) * np.pi * 2
    for x, y in rng.uniform(0, n - 1, (620, 2)):
        row, column = int(y), int(x)
        ink = (
            np.clip((pixels[row, column] - 0.5) * 1.15 + 0.5 + rng.uniform(-0.07, 0.07), 0, 1) * 255
        )
        dx, dy = np.cos(angle[row, column]) * n / 22, np.sin(angle[row, column]) * n / 22
        brush.line([x - dx, y - dy, x + dx, y + dy], fill=tuple(int(v) for v in ink), width=n // 26)
    return _to_pixels(canvas)


STYLES: dict[str, tuple[str, Callable[[Array, np.random.Generator], Array]]] = {
    "pencil-sketch": ("a pencil sketch of", _pencil_sketch),
    "pixel-art": ("pixel art of", _pixel_art),
    "pointillist": ("a pointillist painting of", _pointillist),
    "oil-painting": ("an oil painting of", _oil_painting),
}
