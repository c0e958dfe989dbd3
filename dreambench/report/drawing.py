"""How figures look: the sizes of a page, type, marks that survive greyscale, and their files."""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import FixedFormatter
from matplotlib.transforms import Bbox

from dreambench.storage.files import write_bytes
from dreambench.text import make_lines_printable, make_printable

SMALL_PT = 7
# Okabe and Ito's colours, which the colour-blind tell apart, without those too light for a line.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
# Ten shapes, filled and then hollow: the shape alone tells 20 methods apart, where there is no
# colour, and with the colour 70.
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p")
LINES = ("-", "--", "-.", ":")
REFERENCE_MARKERS = ("x", "+", "*", "1")
REFERENCE_COLOR = "0.4"
STYLE = {
    "figure.dpi": 72,  # A pixel is a point while a figure is laid out.
    "font.size": 8,
    "axes.labelsize": 8,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 8,
    "axes.axisbelow": True,
    "grid.color": "0.88",
    "grid.linewidth": 0.5,
    "hatch.linewidth": 0.4,
    "legend.fontsize": SMALL_PT,
    "legend.frameon": False,
    "lines.linewidth": 1.2,
    "lines.markersize": 4.5,
    "xtick.labelsize": SMALL_PT,
    "xtick.major.size": 2.5,
    "xtick.major.width": 0.6,
    "ytick.labelsize": SMALL_PT,
    "ytick.major.size": 2.5,
    "ytick.major.width": 0.6,
    # Letters as letters (TrueType), which publishers ask for; in SVG as outlines, since a browser
    # may lack the font.
    "pdf.fonttype": 42,
    "svg.hashsalt": "dreambench",
    # Names are not mathematics: a lone $ or an unknown \command would end the plot.
    "text.parse_math": False,
}
DPI = 200
# No date or version in a file, so that equal data gives an equal file.
METADATA: Mapping[str, dict[str, Any]] = {
    "png": {"Software": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
    "svg": {"Date": None, "Creator": None},
}
# Of labels in a plot, in points: from a mark to its label, tried in turn; half of a mark; and from
# where on a line leads from one to the other.
DISTANCES_PT, MARK_PT, LEADER_PT = (5.0, 8.0, 12.0, 17.0, 23.0, 30.0, 38.0, 48.0), 3.5, 12.0
DIRECTIONS = [math.radians(d) for d in (45, 315, 135, 225, 0, 180, 20, 340, 160, 200, 90, 270)]


@contextmanager
def styled(changes: Mapping[str, object] = MappingProxyType({})) -> Iterator[None]:
    """Plots of one look; nothing is said of letters that the font lacks."""
    with mpl.rc_context({**STYLE, **changes}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        yield


@dataclass(frozen=True)
class Mark:
    """How a method is drawn, the same in all figures of a report."""

    color: str
    marker: str
    is_filled: bool
    line: str

    def style(self) -> dict[str, Any]:
        """Return its marker as matplotlib takes it."""
        face = self.color if self.is_filled else "white"
        return {
            "marker": self.marker, "color": self.color, "markerfacecolor": face,
            "markeredgecolor": self.color, "markeredgewidth": 0.9, "linestyle": "",
        }  # fmt: skip


def assign_marks(methods: Sequence[str], references: Collection[str] = ()) -> dict[str, Mark]:
    """Return the mark of each method: colour and shape, or grey lines for what is a reference."""
    marks: dict[str, Mark] = {}
    counts = [0, 0]
    for name in methods:
        is_reference = name in references
        index = counts[is_reference]
        counts[is_reference] += 1
        line = LINES[index % len(LINES)]
        if is_reference:
            marker = REFERENCE_MARKERS[index % len(REFERENCE_MARKERS)]
            marks[name] = Mark(REFERENCE_COLOR, marker, True, line)
        else:
            is_filled = index // len(MARKERS) % 2 == 0
            color, marker = COLORS[index % len(COLORS)], MARKERS[index % len(MARKERS)]
            marks[name] = Mark(color, marker, is_filled, line)
    return marks


def save_figure(figure: Figure, stem: Path) -> list[Path]:
    """Write a figure as stem.png, stem.pdf and stem.svg, in the size that it was made in."""
    _make_printable(figure)
    paths = [stem.with_name(f"{stem.name}.{file_type}") for file_type in METADATA]
    for path, (file_type, metadata) in zip(paths, METADATA.items(), strict=True):
        buffer = io.BytesIO()
        figure.savefig(buffer, format=file_type, dpi=DPI, metadata=metadata)
        write_bytes(path, buffer.getvalue())
    return paths


def save_picture(figure: Figure, path: Path) -> Path:
    """Write a figure that is a page of pictures, without its margins, as PNG."""
    _make_printable(figure)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, bbox_inches="tight", metadata=METADATA["png"])
    write_bytes(path, buffer.getvalue())
    return path


def _make_printable(figure: Figure) -> None:
    for shown in figure.findobj(Text):
        shown.set_text(make_lines_printable(shown.get_text()))
    for axis in [axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)]:
        # Names of ticks come from here each time that they are drawn.
        if isinstance(formatter := axis.get_major_formatter(), FixedFormatter):
            formatter.seq = [make_lines_printable(str(name)) for name in formatter.seq]


def wrap_name(name: str, width: int, *, max_lines: int = 4) -> str:
    """Return a name in lines of at most `width` characters, cut after `max_lines` of them.

    It is broken behind blanks and - _ , and before +, and inside a word only where one is longer.
    """
    lines = [""]
    for part in re.split(r"(?<=[\s\-_,/])|(?=\+)", make_printable(name)):
        for start in range(0, len(part), width):
            piece = part[start : start + width]
            if len((lines[-1] + piece).rstrip()) > width:
                lines.append("")
            lines[-1] += piece
    if len(lines) > max_lines:
        lines = [*lines[: max_lines - 1], f"{lines[max_lines - 1][: width - 1]}…"]
    return "\n".join(line.rstrip() for line in lines)


def measure_text(figure: Figure, text: str, **options: Any) -> tuple[float, float]:
    """Return width and height of a text in a figure, in pixels of its resolution."""
    renderer = FigureCanvasAgg(figure).get_renderer()
    shown = figure.text(0, 0, make_lines_printable(text), **options)
    box = shown.get_window_extent(renderer)
    shown.remove()
    # A file of more pixels has letters that are a little wider than those fitted to few.
    return 1.03 * float(box.width), float(box.height)


def label_points(
    axis: Axes,
    points: Mapping[str, tuple[float, float]],
    *,
    taken: Sequence[Bbox],
    crossed: Sequence[Bbox],
) -> bool:
    """Write names beside their points such that none lies on another, on a point or on `taken`.

    Boxes of `crossed` (error bars) are avoided where there is room. All boxes are in points of the
    figure, whose axes have their final place and limits. Returns False, and writes nothing, where
    there is no room for a name.
    """
    figure = axis.figure
    assert isinstance(figure, Figure)
    names = {name: wrap_name(name, 22) for name in points}
    sizes = {n: measure_text(figure, text, fontsize=SMALL_PT) for n, text in names.items()}
    places = {n: axis.transData.transform(point) for n, point in points.items()}
    every = np.array(list(places.values()))
    marks = _to_array(
        [Bbox.from_bounds(x - MARK_PT, y - MARK_PT, 2 * MARK_PT, 2 * MARK_PT) for x, y in every]
    )
    hard = np.vstack([marks, _to_array(taken)])
    soft = _to_array(crossed)
    inside = axis.get_window_extent()
    crowd = {n: int((np.abs(every - places[n]).max(axis=1) < 45).sum()) for n in names}
    found: dict[str, tuple[float, float, float]] = {}
    for name in sorted(names, key=lambda n: -crowd[n]):
        width, height = sizes[name]
        best: tuple[float, float, float, float] | None = None
        for distance in DISTANCES_PT:
            for turn, angle in enumerate(DIRECTIONS):
                dx = math.cos(angle) * (distance + width / 2)
                dy = math.sin(angle) * (distance + height / 2)
                x, y = places[name][0] + dx, places[name][1] + dy
                box = np.array([x - width / 2, y - height / 2, x + width / 2, y + height / 2])
                if not (
                    inside.x0 <= box[0] and box[2] <= inside.x1
                    and inside.y0 <= box[1] and box[3] <= inside.y1
                ) or _overlaps(box, hard).any():  # fmt: skip
                    continue
                cost = distance + 14 * _overlaps(box, soft).sum() + 0.4 * turn
                if best is None or cost < best[0]:
                    best = (float(cost), dx, dy, float(distance))
        if best is None:
            return False
        _, dx, dy, distance = best
        found[name] = (dx, dy, distance)
        x, y = places[name][0] + dx, places[name][1] + dy
        box = np.array([x - width / 2, y - height / 2, x + width / 2, y + height / 2])
        hard = np.vstack([hard, box])
    for name, (dx, dy, distance) in found.items():
        leader = {"arrowstyle": "-", "color": "0.5", "linewidth": 0.4, "shrinkA": 1, "shrinkB": 2}
        axis.annotate(
            names[name], points[name], (dx, dy), textcoords="offset points", ha="center",
            va="center", fontsize=SMALL_PT, multialignment="center",
            arrowprops=leader if distance >= LEADER_PT else None,
        )  # fmt: skip
    return True


def _to_array(boxes: Sequence[Bbox]) -> np.ndarray:
    """Return boxes as rows x0, y0, x1, y1."""
    return np.array([box.extents for box in boxes], np.float64).reshape(-1, 4)


def _overlaps(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return of each row whether it shares an area with the box."""
    found: np.ndarray = (
        (others[:, 0] < box[2]) & (others[:, 2] > box[0])
        & (others[:, 1] < box[3]) & (others[:, 3] > box[1])
    )  # fmt: skip
    return found
