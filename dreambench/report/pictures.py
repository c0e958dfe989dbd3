"""Pages of pictures: grids of photos and generated images, contact sheets and named pictures."""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from dreambench.report.drawing import DPI, measure_text, save_picture, styled
from dreambench.storage.files import write_bytes
from dreambench.storage.images import load_image
from dreambench.text import make_lines_printable

# Of a grid: its cells, what lies between two pictures, between photos and images, and a line of a
# title.
CELL_PX, GAP_PX, REFERENCE_GAP_PX, TITLE_LINE_PX = 184, 7, 46, 25
TITLE_WIDTH = 17
"""Characters of a title that fit above a picture."""


@dataclass(frozen=True)
class GridBlock:
    """Rows of a grid under titles of their own.

    `rows` holds (name, reference photos, generated images); `titles` names the columns of generated
    images. A path that is not there leaves its cell empty.
    """

    titles: Sequence[str]
    rows: Sequence[tuple[str, Sequence[Path], Sequence[Path]]]


def plot_grid(blocks: Sequence[GridBlock], path: Path, *, n_references: int) -> Path:
    """Reference photos on the left, where there are any, generated images on the right."""
    # In pixels throughout: matplotlib sets the text, and pictures are put between it as they are.
    with styled():
        names = [name for block in blocks for name, _, _ in block.rows]
        ruler = Figure(dpi=DPI)
        widths = [measure_text(ruler, name, fontsize=8)[0] for name in names]
        margin = math.ceil(max(widths)) + 4 * GAP_PX
        first = margin + (n_references * CELL_PX + REFERENCE_GAP_PX if n_references else 0)
        width = first + max(len(block.titles) for block in blocks) * CELL_PX + 2 * GAP_PX
        texts: list[tuple[float, float, str, dict[str, Any]]] = []
        pictures: list[tuple[Path, int, int]] = []
        y = 0
        for block in blocks:
            titles = [_wrap_title(title) for title in block.titles]
            y += TITLE_LINE_PX * max((t.count("\n") + 1 for t in titles), default=1) + 4 * GAP_PX
            above: dict[str, Any] = {"ha": "center", "va": "bottom", "fontsize": 7}
            if n_references:
                centre = margin + n_references * CELL_PX / 2
                texts.append((centre, y, "reference photos", {**above, "fontweight": "bold"}))
            texts += [
                (first + (number + 0.5) * CELL_PX, y, title, above)
                for number, title in enumerate(titles)
            ]
            for name, references, generated in block.rows:
                beside = {"ha": "right", "va": "center", "fontsize": 8}
                texts.append((margin - 2 * GAP_PX, y + CELL_PX / 2, name, beside))
                photos = references[:n_references]
                pictures += [(file, margin + n * CELL_PX, y) for n, file in enumerate(photos)]
                pictures += [(file, first + n * CELL_PX, y) for n, file in enumerate(generated)]
                y += CELL_PX
        page = _set_texts(texts, width, y + 2 * GAP_PX)
    for file, left, top in pictures:
        _paste(page, file, left, top)
    buffer = io.BytesIO()
    page.save(buffer, "png", dpi=(DPI, DPI))
    write_bytes(path, buffer.getvalue())
    return path


def _set_texts(
    texts: Sequence[tuple[float, float, str, Mapping[str, Any]]], width: int, height: int
) -> Image.Image:
    """Return a white page with texts: places in pixels from the left and the top."""
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI)
    canvas = FigureCanvasAgg(figure)
    for x, y, text, options in texts:
        figure.text(x / width, 1 - y / height, make_lines_printable(text), **options)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")


def _paste(page: Image.Image, file: Path, left: int, top: int) -> None:
    """Put a picture into a cell of a grid, as large as fits; nothing where it is not there."""
    if not file.is_file():
        return
    image = load_image(file)
    # Larger ones are smoothed; of smaller ones each pixel is shown.
    scale = (CELL_PX - GAP_PX) / max(image.size)
    how = Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.LANCZOS
    image = image.resize((round(image.width * scale) or 1, round(image.height * scale) or 1), how)
    page.paste(image, (left + (CELL_PX - image.width) // 2, top + (CELL_PX - image.height) // 2))


def _wrap_title(text: str) -> str:
    return "\n".join(textwrap.wrap(text, TITLE_WIDTH, max_lines=6, placeholder=" ..."))


def plot_sheet(title: str, cells: Sequence[tuple[str, Path]], path: Path) -> Path:
    """A contact sheet: images with a line of text under each, six in a row."""
    n_columns = min(6, len(cells))
    n_rows = -(-len(cells) // n_columns)
    with styled():
        figure = Figure(figsize=(1.9 * n_columns, 2.2 * n_rows + 0.3))
        axes = figure.subplots(n_rows, n_columns, squeeze=False)
        for axis in axes.flat:
            axis.axis("off")
        for axis, (label, file) in zip(axes.flat, cells, strict=False):
            image = load_image(file)
            # No more pixels than are printed: photos of many megapixels stay light.
            image.thumbnail((600, 600))
            axis.imshow(np.asarray(image), interpolation="antialiased")
            axis.text(
                0.5, -0.03, label, transform=axis.transAxes, ha="center", va="top", fontsize=7
            )
        figure.suptitle(title, fontsize=10)
        figure.tight_layout()
        return save_picture(figure, path)


def plot_rows(images: Mapping[str, Image.Image], path: Path, *, n_columns: int) -> Path:
    """Named pictures in rows of `n_columns`."""
    n_rows = -(-len(images) // n_columns)
    with styled():
        figure = Figure(figsize=(1.2 * n_columns, 1.38 * n_rows))
        axes = figure.subplots(n_rows, n_columns, squeeze=False).ravel()
        for axis in axes:
            axis.axis("off")
        for axis, (name, image) in zip(axes, images.items(), strict=False):
            axis.imshow(np.asarray(image), interpolation="nearest")
            axis.set_title(name, fontsize=6.5, pad=2)
        figure.subplots_adjust(wspace=0.05, hspace=0.25)
        return save_picture(figure, path)
