"""Figures: data frames and image paths in, files out."""

from __future__ import annotations

import io
import math
import textwrap
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import FixedFormatter
from PIL import Image

from dreambench.artifacts.results import MetricInfo
from dreambench.report.formatting import format_number
from dreambench.storage.files import write_bytes
from dreambench.storage.images import load_image
from dreambench.text import make_lines_printable

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
# With the colours these tell 28 methods apart.
MARKERS = ("o", "D", "^", "s")
STYLE = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 9,
    "legend.frameon": False,
    "svg.hashsalt": "dreambench",
    # Names are not mathematics: a lone $ or an unknown \command would end the plot.
    "text.parse_math": False,
}
DPI = 200
# Of a grid: its cells, what lies between two pictures, between photos and images, and a line of a
# title.
CELL_PX, GAP_PX, REFERENCE_GAP_PX, TITLE_LINE_PX = 184, 7, 46, 25
TITLE_WIDTH = 17
"""Characters of a title that fit above a picture."""


@contextmanager
def _style(changes: Mapping[str, object] = MappingProxyType({})) -> Iterator[None]:
    """Plots of one look; nothing is said of letters that the font lacks or names that are long."""
    with mpl.rc_context({**STYLE, **changes}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font|Tight layout not applied")
        yield


def _save(figure: Figure, path: Path, *, is_tight: bool = False) -> Path:
    for shown in figure.findobj(Text):
        shown.set_text(make_lines_printable(shown.get_text()))
    for axis in [axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)]:
        # Names of ticks come from here each time that they are drawn.
        if isinstance(formatter := axis.get_major_formatter(), FixedFormatter):
            formatter.seq = [make_lines_printable(str(name)) for name in formatter.seq]
    if is_tight:
        figure.tight_layout()
    buffer = io.BytesIO()
    # No date or version in the file, so that equal data gives an equal file.
    figure.savefig(buffer, format="png", dpi=DPI, bbox_inches="tight", metadata={"Software": None})
    write_bytes(path, buffer.getvalue())
    return path


def _mark(index: int) -> tuple[str, str]:
    """Colour and marker of the method in this place."""
    return COLORS[index % len(COLORS)], MARKERS[index // len(COLORS) % len(MARKERS)]


def plot_intervals(table: pd.DataFrame, path: Path, *, infos: Mapping[str, MetricInfo]) -> Path:
    """Draw one panel a metric, one dot with its interval a method.

    `table` has the columns method, metric (a name in `infos`), mean, low, high.
    """
    metrics = [name for name in infos if name in set(table["metric"])]
    methods = list(dict.fromkeys(table["method"]))
    with _style():
        figure = Figure(figsize=(1.9 * len(metrics) + 1.0, 0.42 * len(methods) + 0.9))
        axes = figure.subplots(1, len(metrics), sharey=True, squeeze=False)[0]
        for axis, name in zip(axes, metrics, strict=True):
            rows = table[table["metric"] == name].set_index("method")
            for y, method in enumerate(methods):
                if method not in rows.index:
                    continue
                row = rows.loc[method]
                color, marker = _mark(y)
                axis.plot([row["low"], row["high"]], [y, y], color=color, linewidth=2)
                axis.plot(row["mean"], y, marker, color=color, markersize=5)
            better = "higher" if infos[name].higher_is_better else "lower"
            axis.set_title(f"{infos[name].title}\n({better} is better)")
            axis.set_yticks(range(len(methods)), methods)
            axis.set_ylim(len(methods) - 0.5, -0.5)
            axis.margins(x=0.12)
            axis.grid(axis="x", alpha=0.3)
        return _save(figure, path, is_tight=True)


def plot_fidelity(by_subject: Mapping[str, pd.DataFrame], path: Path) -> Path:
    """Subject fidelity (DINO) against prompt fidelity (CLIP-T): a large mark a method.

    `by_subject` maps a method to a frame with the columns metric, subject, value. Small dots are
    its subjects, left out where there are more methods than colours.
    """
    crowded = len(by_subject) > len(COLORS)
    with _style():
        figure = Figure(figsize=(4.6, 3.6))
        axis = figure.subplots()
        for index, (method, frame) in enumerate(by_subject.items()):
            wide = frame.pivot(index="subject", columns="metric", values="value")
            color, marker = _mark(index)
            if not crowded:
                axis.scatter(
                    wide["clip-t"], wide["dino"], s=16, color=color, alpha=0.55, linewidths=0
                )
            axis.scatter(
                wide["clip-t"].mean(), wide["dino"].mean(), s=80, marker=marker, color=color,
                edgecolors="white", label=method, zorder=3,
            )  # fmt: skip
        axis.set_xlabel("CLIP-T (prompt fidelity)")
        axis.set_ylabel("DINO (subject fidelity)")
        axis.grid(alpha=0.3)
        axis.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
        return _save(figure, path)


def plot_steps(table: pd.DataFrame, path: Path, *, infos: Mapping[str, MetricInfo]) -> Path:
    """A panel a metric: its mean against the number of training steps, a line a method.

    `table` has the columns method, n_steps, metric, mean, low, high; bands are intervals.
    """
    metrics = list(dict.fromkeys(table["metric"]))
    with _style():
        figure = Figure(figsize=(2.6 * len(metrics), 2.6))
        axes = figure.subplots(1, len(metrics), squeeze=False)[0]
        for axis, name in zip(axes, metrics, strict=True):
            of_metric = table[table["metric"] == name]
            for index, (method, rows) in enumerate(of_metric.groupby("method", sort=False)):
                color, marker = _mark(index)
                steps = rows["n_steps"].to_numpy(float)
                low, high = rows["low"].to_numpy(float), rows["high"].to_numpy(float)
                axis.fill_between(steps, low, high, color=color, alpha=0.15, linewidth=0)
                axis.plot(steps, rows["mean"], marker, color=color, linestyle="-", label=method)
            better = "higher" if infos[name].higher_is_better else "lower"
            axis.set_title(f"{infos[name].title}\n({better} is better)")
            axis.set_xlabel("steps")
            # Roots, since steps are mostly chosen by doubling and 0 is among them.
            axis.set_xscale("function", functions=(np.sqrt, np.square))
            axis.set_xticks(sorted(set(of_metric["n_steps"])))
            axis.set_xlim(0)
            axis.grid(alpha=0.3)
        axes[0].legend(loc="best")
        return _save(figure, path, is_tight=True)


def plot_families(table: pd.DataFrame, path: Path, *, infos: Mapping[str, MetricInfo]) -> Path:
    """Draw DINO and CLIP-T for each prompt category.

    `table` has the columns method, family, metric, mean, low, high.
    """
    families = list(dict.fromkeys(table["family"]))
    methods = list(dict.fromkeys(table["method"]))
    spread = (0.1 if len(methods) > len(COLORS) else 0.16) * (len(methods) - 1)
    with _style():
        metrics = [name for name in ("dino", "clip-t") if name in set(table["metric"])]
        figure = Figure(figsize=(7.2, len(families) * (0.3 + spread) + 0.6))
        axes = figure.subplots(1, len(metrics), sharey=True, squeeze=False)[0]
        for axis, name in zip(axes, metrics, strict=True):
            for index, method in enumerate(methods):
                rows = table[(table["method"] == method) & (table["metric"] == name)]
                rows = rows.set_index("family").reindex(families)
                share = index / max(1, len(methods) - 1) - 0.5
                y = np.arange(len(families)) + share * spread / (0.3 + spread)
                errors = np.abs(rows[["low", "high"]].to_numpy().T - rows["mean"].to_numpy())
                color, marker = _mark(index)
                axis.errorbar(
                    rows["mean"], y, xerr=errors, fmt=marker, markersize=4, linewidth=1.5,
                    color=color, label=method,
                )  # fmt: skip
            for border in np.arange(len(families) - 1) + 0.5:
                axis.axhline(border, color="0.85", linewidth=0.6)
            axis.set_yticks(range(len(families)), families)
            axis.set_ylim(len(families) - 0.5, -0.5)
            axis.set_title(infos[name].title)
            axis.grid(axis="x", alpha=0.3)
        axes[-1].legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
        return _save(figure, path, is_tight=True)


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
    with _style():
        names = [name for block in blocks for name, _, _ in block.rows]
        margin = max(_measure_text(name, fontsize=8) for name in names) + 4 * GAP_PX
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


def _measure_text(text: str, **options: Any) -> int:
    """Return the width of a line in pixels."""
    figure = Figure(dpi=DPI)
    renderer = FigureCanvasAgg(figure).get_renderer()
    found = figure.text(0, 0, make_lines_printable(text), **options).get_window_extent(renderer)
    return math.ceil(float(found.width))


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
    with _style():
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
        return _save(figure, path, is_tight=True)


def plot_responses(
    values: pd.DataFrame,
    changes: pd.DataFrame,
    agreement: pd.Series,
    titles: Sequence[str],
    path: Path,
) -> Path:
    """A row a metric, a column a set of pictures: its mean, coloured by how it answers.

    `changes` (same shape as `values`) is the change from the first column in deviations of that
    column, positive where the metric calls the set better; `agreement` by metric goes beside it.
    """
    with _style({"font.size": 7}):
        n_rows, n_columns = values.shape
        figure = Figure(figsize=(0.46 * n_columns + 2.6, 0.27 * n_rows + 1.5))
        (left, right), (below, empty) = figure.subplots(
            2, 2,
            gridspec_kw={
                "width_ratios": [n_columns, 4], "height_ratios": [n_rows, 0.4], "wspace": 0.03,
                "hspace": 0.06,
            },
        )  # fmt: skip
        empty.axis("off")
        shown = left.imshow(changes.to_numpy(float), cmap="RdBu", vmin=-3, vmax=3, aspect="auto")
        for row in range(n_rows):
            for column in range(n_columns):
                value, change = values.iloc[row, column], changes.iloc[row, column]
                ink = "white" if abs(change) > 2 else "black"
                text = format_number(value)
                left.text(column, row, text, ha="center", va="center", color=ink, fontsize=5.5)
        left.set_yticks(range(n_rows), titles)
        left.set_xticks(range(n_columns), values.columns, rotation=55, ha="left")
        left.xaxis.tick_top()
        left.tick_params(length=0)
        right.barh(range(n_rows), agreement.reindex(values.index), color=COLORS[0], height=0.6)
        right.set_ylim(n_rows - 0.5, -0.5)
        right.set_yticks([])
        right.axvline(0, color="black", linewidth=0.6)
        right.set_xlim(min(-0.1, float(agreement.min())), 1)
        right.set_xticks([0, 0.5, 1])
        right.xaxis.tick_top()
        right.set_title("Agreement\nwith the truth", fontsize=7)
        for axis in (left, right):
            axis.spines[:].set_visible(False)
        bar = figure.colorbar(shown, cax=below, orientation="horizontal")
        bar.set_label("called worse than faithful  <  deviations of faithful  >  called better")
        return _save(figure, path)


def plot_rows(images: Mapping[str, Image.Image], path: Path, *, n_columns: int) -> Path:
    """Named pictures in rows of `n_columns`."""
    n_rows = -(-len(images) // n_columns)
    with _style():
        figure = Figure(figsize=(1.2 * n_columns, 1.38 * n_rows))
        axes = figure.subplots(n_rows, n_columns, squeeze=False).ravel()
        for axis in axes:
            axis.axis("off")
        for axis, (name, image) in zip(axes, images.items(), strict=False):
            axis.imshow(np.asarray(image), interpolation="nearest")
            axis.set_title(name, fontsize=6.5, pad=2)
        figure.subplots_adjust(wspace=0.05, hspace=0.25)
        return _save(figure, path)
