"""Figures of numbers: data frames in, each figure out as PNG, PDF and SVG in a paper's sizes."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import Bbox

from dreambench.artifacts.results import MetricInfo
from dreambench.report.drawing import (
    REFERENCE_COLOR,
    SMALL_PT,
    Mark,
    assign_marks,
    label_points,
    measure_text,
    save_figure,
    styled,
    wrap_name,
)
from dreambench.report.formatting import COLUMN_IN, TEXT_IN, format_number

PT_PER_IN = 72
MAX_PANELS = 5
"""Panels in a row of the width of a text."""
BOUND_LINES: Mapping[str, tuple[str, tuple[int, tuple[float, float]]]] = MappingProxyType(
    {
        "copy_bound": ("copy bound", (0, (5, 2))),
        "faithful_bound": ("faithful bound", (0, (1, 1.5))),
        "first_alone_bound": ("first alone", (0, (1, 1.5))),
        "second_alone_bound": ("second alone", (0, (1, 3))),
        "chance": ("a coin", (0, (3, 2))),
    }
)
BOUND_STYLE: Mapping[str, Any] = {"color": REFERENCE_COLOR, "linewidth": 0.8}
NO_BOUND: Mapping[str, float | None] = MappingProxyType({})
NO_BOUNDS: Mapping[str, Mapping[str, float | None]] = MappingProxyType({})


@dataclass(frozen=True)
class _Panel:
    """One panel of dots: `rows` has the columns method, mean, low, high; `bounds` are lines."""

    title: str
    rows: pd.DataFrame
    bounds: Mapping[str, float | None]


def _direction_of(info: MetricInfo) -> str:
    # In words: an arrow would put a second font into each PDF.
    return f"{'higher' if info.higher_is_better else 'lower'} is better"


def plot_intervals(
    table: pd.DataFrame,
    stem: Path,
    *,
    infos: Mapping[str, MetricInfo],
    references: Collection[str] = (),
    bounds: Mapping[str, Mapping[str, float | None]] = NO_BOUNDS,
) -> list[Path]:
    """Draw one panel a metric, one dot with its interval a method.

    `table` has the columns method, metric (a name in `infos`), mean, low, high. Methods among
    `references` are drawn in grey; `bounds` has by metric the reference bounds, drawn as lines.
    """
    panels = [
        _Panel(
            f"{wrap_name(infos[name].title, 18)}\n{_direction_of(infos[name])}",
            table[table["metric"] == name],
            bounds.get(name, {}),
        )
        for name in infos
        if name in set(table["metric"])
    ]
    methods = list(dict.fromkeys(table["method"]))
    return _plot_panels({"": panels}, methods, stem, references=references)


def plot_families(
    table: pd.DataFrame,
    stem: Path,
    *,
    infos: Mapping[str, MetricInfo],
    references: Collection[str] = (),
) -> list[Path]:
    """Draw one panel a prompt category, in rows of their own for DINO and CLIP-T.

    `table` has the columns method, family, metric, mean, low, high.
    """
    blocks = {
        f"{infos[name].title}, {_direction_of(infos[name])}": [
            _Panel(wrap_name(str(family), 20), rows, NO_BOUND)
            for family, rows in table[table["metric"] == name].groupby("family", sort=False)
        ]
        for name in ("dino", "clip-t")
        if name in set(table["metric"])
    }
    methods = list(dict.fromkeys(table["method"]))
    return _plot_panels(blocks, methods, stem, references=references)


def plot_following(table: pd.DataFrame, stem: Path, *, references: Collection[str]) -> list[Path]:
    """Draw one panel a question of a study, one dot with its interval a metric, and a coin's half.

    `table` has the columns method (a metric's title), metric (the question), mean, low, high.
    `references` are drawn in grey.
    """
    panels = [
        _Panel(str(question), rows, {"chance": 0.5})
        for question, rows in table.groupby("metric", sort=False)
    ]
    methods = list(dict.fromkeys(table["method"]))
    return _plot_panels({"": panels}, methods, stem, references=references)


def _plot_panels(
    blocks: Mapping[str, Sequence[_Panel]],
    methods: Sequence[str],
    stem: Path,
    *,
    references: Collection[str],
) -> list[Path]:
    """Draw panels with a line a method, as many beside each other as are readable.

    Each block begins a row, under its name, and has one scale where it has a name.
    """
    most = max(map(len, blocks.values()))
    n_columns = -(-most // -(-most // MAX_PANELS))
    rows = [
        (
            heading if start == 0 else "",
            block[start : start + n_columns],
            _limits(pd.concat([panel.rows for panel in block])) if heading else None,
        )
        for heading, block in blocks.items()
        for start in range(0, len(block), n_columns)
    ]
    with styled():
        names = [wrap_name(name, 24) for name in methods]
        n_lines = sum(name.count("\n") + 1 for name in names)
        n_title_lines = max(p.title.count("\n") + 1 for block in blocks.values() for p in block)
        bounds = {name for block in blocks.values() for panel in block for name in panel.bounds}
        width = COLUMN_IN if n_columns <= 2 and len(rows) <= 2 else TEXT_IN
        above, below, foot = 0.12 * n_title_lines + 0.07, 0.26, 0.17 if bounds else 0.0
        panel_in = 0.145 * n_lines + 0.08
        heading_in = 0.16 if any(blocks) else 0.0
        height = len(rows) * (above + panel_in + below) + len(blocks) * heading_in + foot
        figure = Figure(figsize=(width, height))
        margin = max(measure_text(figure, name, fontsize=SMALL_PT)[0] for name in names)
        left, gap, right = margin / PT_PER_IN + 0.09, 0.13, 0.08
        panel_width = (width - left - right - gap * (n_columns - 1)) / n_columns
        marks, top = assign_marks(methods, references), height
        for heading, panels, limits in rows:
            if heading:
                figure.text(left / width, (top - 0.03) / height, heading, va="top")
                top -= heading_in
            top -= above
            for column, panel in enumerate(panels):
                x = left + column * (panel_width + gap)
                axis = figure.add_axes(
                    (x / width, (top - panel_in) / height, panel_width / width, panel_in / height)
                )
                _draw_panel(axis, panel, dict(zip(methods, names, strict=True)), marks)
                axis.set_xlim(*(limits or _limits(panel.rows, panel.bounds)))
                axis.set_title(panel.title, pad=3, fontsize=SMALL_PT)
                axis.tick_params(axis="y", length=0, labelleft=column == 0)
            top -= panel_in + below
        if bounds:
            handles = [
                Line2D([], [], label=label, **BOUND_STYLE, linestyle=line)
                for name, (label, line) in BOUND_LINES.items()
                if name in bounds
            ]
            figure.legend(handles=handles, loc="lower right", ncols=2, borderaxespad=0.1)
        return save_figure(figure, stem)


def _draw_panel(
    axis: Axes, panel: _Panel, names: Mapping[str, str], marks: Mapping[str, Mark]
) -> None:
    """Draw a panel; `names` has by method its name in lines, each of which gets its room."""
    heights = np.array([name.count("\n") + 1 for name in names.values()], np.float64)
    places = dict(zip(names, np.cumsum(heights) - heights / 2, strict=True))
    for name, (_, line) in BOUND_LINES.items():
        if (value := panel.bounds.get(name)) is not None:
            axis.axvline(value, **BOUND_STYLE, linestyle=line)
    rows = panel.rows[["method", "mean", "low", "high"]].set_index("method").astype(float)
    axis.hlines(
        [places[method] for method in rows.index], rows["low"], rows["high"],
        colors=[marks[method].color for method in rows.index],
    )  # fmt: skip
    for method, mean in rows["mean"].items():
        axis.plot(mean, places[method], **marks[str(method)].style())
    axis.set_yticks(list(places.values()), list(names.values()))
    axis.set_ylim(heights.sum(), 0)
    axis.xaxis.set_major_locator(MaxNLocator(3, steps=[1, 2, 2.5, 5, 10]))
    axis.xaxis.set_major_formatter(_format_tick)
    axis.grid(axis="x")
    axis.spines[:].set_color("0.6")


def _limits(
    rows: pd.DataFrame, bounds: Mapping[str, float | None] = NO_BOUND
) -> tuple[float, float]:
    """Return the ends of an axis on which all means, intervals and bounds lie."""
    values = rows[["mean", "low", "high"]].to_numpy(float).ravel()
    values = np.array([*values, *(value for value in bounds.values() if value is not None)], float)
    values = values[~np.isnan(values)]
    if not len(values):
        return 0.0, 1.0
    margin = 0.08 * float(np.ptp(values)) or 0.05
    return float(values.min()) - margin, float(values.max()) + margin


def _format_tick(value: float, _position: int | None) -> str:
    """Return a number of an axis as the tables have it, without zeros at its end."""
    text = format_number(value)
    return (text.rstrip("0").rstrip(".") if "." in text else text) or "0"


def plot_fidelity(
    table: pd.DataFrame,
    stem: Path,
    *,
    references: Collection[str] = (),
    bounds: Mapping[str, float | None] = NO_BOUND,
) -> list[Path]:
    """Subject fidelity (DINO) against prompt fidelity (CLIP-T), with intervals in both.

    `table` has the columns method, metric, mean, low, high. Steps join the methods that no other
    one is better than in both; those among `references` are grey and apart from it. `bounds` are
    DINO's reference bounds, drawn as lines.
    """
    dino, clip = (
        table[table["metric"] == name].set_index("method")[["mean", "low", "high"]].astype(float)
        for name in ("dino", "clip-t")
    )
    methods = [name for name in dino.index if name in clip.index]
    with styled():
        is_narrow = len(methods) <= 6
        width, height = (COLUMN_IN, 2.7) if is_narrow else (TEXT_IN, 4.2)
        figure = Figure(figsize=(width, height))
        axis = figure.add_axes((0.46 / width, 0.4 / height, 1 - 0.54 / width, 1 - 0.48 / height))
        axis.set_xlabel("CLIP-T (prompt fidelity)", labelpad=2)
        axis.set_ylabel("DINO (subject fidelity)", labelpad=2)
        axis.set_xlim(*_limits(clip))
        axis.set_ylim(*_limits(dino, bounds))
        for ticks in (axis.xaxis, axis.yaxis):
            ticks.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
            ticks.set_major_formatter(_format_tick)
        axis.grid()
        taken = _draw_bounds(axis, bounds)
        _draw_front(axis, clip, dino, [name for name in methods if name not in references])
        marks = assign_marks(methods, references)
        for name in methods:
            x, y, mark = clip.loc[name], dino.loc[name], marks[name]
            light = {"color": mark.color, "linewidth": 0.8, "alpha": 0.55}
            axis.plot([x["low"], x["high"]], [y["mean"]] * 2, **light)
            axis.plot([x["mean"]] * 2, [y["low"], y["high"]], **light)
            axis.plot(x["mean"], y["mean"], zorder=3, label=wrap_name(name, 24), **mark.style())
        # Error bars, the front and bounds: names rather lie beside them.
        crossed = [
            Bbox([np.min(ends, axis=0), np.max(ends, axis=0)]).padded(0.5)
            for line in axis.lines
            for ends in pairwise(line.get_transform().transform(line.get_xydata()))
            if not np.isnan(ends).any()
        ]
        points = {name: (float(clip["mean"][name]), float(dino["mean"][name])) for name in methods}
        if not label_points(axis, points, taken=taken, crossed=crossed):
            _put_legend_below(figure, axis)
        return save_figure(figure, stem)


def _put_legend_below(figure: Figure, axis: Axes) -> None:
    """Name the marks under the plot, where there is no room for names in it."""
    width, height = figure.get_size_inches()
    legend = figure.legend(loc="lower center", ncols=2 if width == COLUMN_IN else 4)
    renderer = FigureCanvasAgg(figure).get_renderer()
    room = float(legend.get_window_extent(renderer).height) / PT_PER_IN + 0.1
    box, share = axis.get_position(), height / (height + room)
    figure.set_size_inches(width, height + room)
    axis.set_position((box.x0, 1 - share * (1 - box.y0), box.width, share * box.height))


def _draw_bounds(axis: Axes, bounds: Mapping[str, float | None]) -> list[Bbox]:
    """Draw reference bounds of the vertical axis with their names, and return the names' boxes."""
    figure = axis.figure
    assert isinstance(figure, Figure)
    taken = []
    known = {name: value for name, value in bounds.items() if value is not None}
    for name, value in known.items():
        label, line = BOUND_LINES[name]
        axis.axhline(value, **BOUND_STYLE, linestyle=line, zorder=1)
        # The copy bound is the higher one: each name lies on the outer side of its line.
        is_above = value == max(known.values()) and len(known) > 1
        width, height = measure_text(figure, label, fontsize=SMALL_PT)
        rise = 1.5 if is_above else -1.5
        axis.annotate(
            label, (1, value), (0, rise), xycoords=("axes fraction", "data"), ha="right",
            textcoords="offset points", fontsize=SMALL_PT, color=REFERENCE_COLOR,
            va="bottom" if is_above else "top",
        )  # fmt: skip
        right, y = axis.get_window_extent().x1, axis.transData.transform((0, value))[1] + rise
        taken.append(Bbox.from_bounds(right - width, y - (not is_above) * height, width, height))
    return taken


def _draw_front(axis: Axes, x: pd.DataFrame, y: pd.DataFrame, methods: Sequence[str]) -> None:
    """Draw steps along the methods that no other one is better than in both."""
    points = sorted(
        ((float(x["mean"][name]), float(y["mean"][name])) for name in methods), reverse=True
    )
    front: list[tuple[float, float]] = []
    for point in points:
        if not np.isnan(point).any() and (not front or point[1] > front[-1][1]):
            front.append(point)
    if len(front) < 2:
        return
    ends = (axis.get_xlim()[0], axis.get_ylim()[0])
    corners = [(front[0][0], ends[1])]
    for right, left in zip(front, [*front[1:], ends], strict=True):
        corners += [right, (left[0], right[1])]
    axis.plot(*zip(*corners, strict=True), color="0.75", linewidth=0.8, zorder=0.5)


def plot_steps(table: pd.DataFrame, stem: Path, *, infos: Mapping[str, MetricInfo]) -> list[Path]:
    """A panel a metric: its mean against the number of training steps, a line a method.

    `table` has the columns method, n_steps, metric, mean, low, high; bands are intervals.
    """
    metrics = list(dict.fromkeys(table["metric"]))
    methods = list(dict.fromkeys(table["method"]))
    n_columns = min(len(metrics), 4)
    n_rows = -(-len(metrics) // n_columns)
    with styled():
        width = COLUMN_IN if n_columns == 1 else TEXT_IN
        figure = Figure(
            figsize=(width, 1.75 * n_rows + 0.4 * (len(methods) > 1)), layout="constrained"
        )
        axes = figure.subplots(n_rows, n_columns, squeeze=False).ravel()
        marks = assign_marks(methods)
        for axis, name in zip(axes, metrics, strict=False):
            of_metric = table[table["metric"] == name]
            for method, rows in of_metric.groupby("method", sort=False):
                mark = marks[str(method)]
                steps = rows["n_steps"].to_numpy(float)
                low, high = rows["low"].to_numpy(float), rows["high"].to_numpy(float)
                axis.fill_between(
                    steps, low, high, facecolor=mark.color, alpha=0.12, linewidth=0
                )  # fmt: skip
                for end in (low, high):
                    axis.plot(steps, end, color=mark.color, linewidth=0.5, linestyle=mark.line)
                label = wrap_name(str(method), 24)
                axis.plot(
                    steps, rows["mean"], label=label, **{**mark.style(), "linestyle": mark.line}
                )
            axis.set_title(
                f"{wrap_name(infos[name].title, 24)}\n{_direction_of(infos[name])}",
                pad=3,
                fontsize=SMALL_PT,
            )
            axis.set_xlabel("training steps", labelpad=2)
            # Roots, since steps are mostly chosen by doubling and 0 is among them.
            axis.set_xscale("function", functions=(np.sqrt, np.square))
            axis.set_xticks(sorted(set(of_metric["n_steps"])))
            axis.set_xlim(0)
            axis.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))
            axis.yaxis.set_major_formatter(_format_tick)
            axis.grid()
        for axis in axes[len(metrics) :]:
            axis.axis("off")
        if len(methods) > 1:
            handles, labels = axes[0].get_legend_handles_labels()
            figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 4))
        return save_figure(figure, stem)
