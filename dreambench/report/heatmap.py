"""The figure of how metrics answer to changes that are known: a heatmap with numbers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from dreambench.report.drawing import COLORS, SMALL_PT, measure_text, save_figure, styled
from dreambench.report.formatting import TEXT_IN, format_number

ROW_IN = 0.152
MOST = 3
"""Deviations of faithful pictures at which the colours end."""
MARKED = 1
"""From so many deviations on, what is called better is hatched, which greyscale keeps."""


def plot_responses(
    values: pd.DataFrame,
    changes: pd.DataFrame,
    agreement: pd.Series,
    titles: Sequence[str],
    stem: Path,
) -> list[Path]:
    """A column a metric, a row a set of pictures: its mean, coloured by how the metric answers.

    `values` has a row a metric and a column a set. `changes` (same shape) is the change from the
    first column in deviations of that column, positive where the metric calls the set better;
    `agreement` by metric goes beneath it. `titles` are the metrics' names.
    """
    n_metrics, n_sets = values.shape
    with styled({"font.size": SMALL_PT}):
        width, height = TEXT_IN, ROW_IN * n_sets + 2.1
        figure = Figure(figsize=(width, height))
        names = [str(name) for name in values.columns]
        left = max(measure_text(figure, name, fontsize=SMALL_PT)[0] for name in names) / 72 + 0.08
        head = max(measure_text(figure, t, fontsize=SMALL_PT)[0] for t in titles) / 72 * 0.87 + 0.2
        inner = (width - left - 0.28) / width
        body = ROW_IN * n_sets
        axis = figure.add_axes(
            (left / width, (height - head - body) / height, inner, body / height)
        )
        norm = Normalize(-MOST, MOST)
        shown = axis.imshow(changes.to_numpy(float).T, cmap="RdBu", norm=norm, aspect="auto")
        _write_values(axis, values, changes)
        axis.set_xticks(range(n_metrics), titles, rotation=60, ha="left", rotation_mode="anchor")
        axis.set_yticks(range(n_sets), names)
        axis.xaxis.tick_top()
        axis.tick_params(length=0, pad=2)
        axis.spines[:].set_visible(False)
        beneath = height - head - body - 0.62
        bars = figure.add_axes((left / width, beneath / height, inner, 0.55 / height))
        bars.bar(range(n_metrics), agreement.reindex(values.index), color=COLORS[0], width=0.6)
        bars.set_xlim(-0.5, n_metrics - 0.5)
        bars.axhline(0, color="black", linewidth=0.6)
        bars.set_ylim(min(-0.1, float(agreement.min())), 1)
        bars.set_yticks([0, 0.5, 1], ["0", ".5", "1"])
        bars.set_xticks([])
        bars.set_ylabel("agreement\nwith the truth", fontsize=SMALL_PT, rotation=0, ha="right")
        bars.yaxis.set_label_coords(-0.045, 0.25)
        bars.spines["bottom"].set_visible(False)
        place = figure.add_axes((left / width, 0.42 / height, inner, 0.09 / height))
        bar = figure.colorbar(shown, cax=place, orientation="horizontal")
        bar.outline.set_linewidth(0.4)
        bar.set_label(
            "called worse than faithful  <  deviations of faithful  >  called better (hatched)",
            labelpad=2,
        )
        return save_figure(figure, stem)


def _write_values(axis: Axes, values: pd.DataFrame, changes: pd.DataFrame) -> None:
    """Write the numbers into the cells, and hatch those that are called better."""
    for column, row in np.ndindex(*values.shape):
        change = changes.iloc[column, row]
        axis.text(
            column, row, format_number(values.iloc[column, row]), ha="center",
            va="center_baseline", color="white" if abs(change) > 2 else "black",
            fontsize=SMALL_PT - 0.5,
        )  # fmt: skip
        if change > MARKED:
            place = (column - 0.5, row - 0.5)
            axis.add_patch(
                Rectangle(place, 1, 1, fill=False, hatch="////", linewidth=0, edgecolor="0.6")
            )
