"""Replicates: the same recipe with other training seeds, and how far its results lie apart.

An interval over subjects says how a mean would move with other subjects. It says nothing of how it
moves when the same subjects are trained again, which replicates show.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import pandas as pd

from dreambench.analysis.comparison import Scored, choose_rows, load_comparable
from dreambench.analysis.pairing import estimate_paired
from dreambench.artifacts.image_set import ImageSet, list_replicates

COLUMNS = ["method", "n_replicates", "metric", "mean", "sd", "half_interval"]


def load_with_replicates(sets: Sequence[ImageSet]) -> tuple[list[Scored], list[Scored]]:
    """Read image sets to be set side by side, and the replicates that lie beside them.

    Raises:
        UserError: as `load_comparable` does.
    """
    every = load_comparable([*sets, *list_replicates(sets)])
    return every[: len(sets)], every[len(sets) :]


def group_replicates(runs: Sequence[Scored]) -> dict[str, list[Scored]]:
    """Return the replicates of each recipe that has several, by the name of the first of `runs`."""
    groups: dict[str, dict[int, Scored]] = {}
    for run in runs:
        if run.summary.digests.recipe is not None:
            # The same replicate may be there twice, when a run is compared with itself.
            groups.setdefault(run.summary.digests.recipe, {}).setdefault(run.summary.replicate, run)
    lists = [list(group.values()) for group in groups.values()]
    return {group[0].name: group for group in lists if len(group) > 1}


def estimate_spread(runs: Sequence[Scored]) -> pd.DataFrame:
    """Return one row (COLUMNS) for each listed metric of each method that has replicates.

    `mean` and `sd` are over the replicates' means over subjects, with n - 1; `half_interval` is
    half of the first replicate's interval over subjects.
    """
    rows: list[list[object]] = []
    for name, group in group_replicates(runs).items():
        for metric, entry in group[0].summary.metrics.items():
            found = [run.summary.metrics[metric].whole.mean for run in group]
            if not entry.info.listed or None in found:
                continue
            means = np.array(found, np.float64)
            low, high = entry.whole.low, entry.whole.high
            half = np.nan if low is None or high is None else (high - low) / 2
            rows.append([name, len(group), metric, means.mean(), means.std(ddof=1), half])
    return pd.DataFrame(rows, columns=COLUMNS)


def add_replicates(
    table: pd.DataFrame,
    runs: Sequence[Scored],
    replicates: Sequence[Scored],
    *,
    families: Sequence[str] = (),
) -> pd.DataFrame:
    """Return a comparison of runs (`compare_scored`) with what their replicates differ by.

    The new column `between_replicates` is the largest difference, in size, between two replicates
    of the first or of the second run, on the same prompts; NaN where neither has any.
    """
    metrics = list(dict.fromkeys(table["metric"]))
    largest: dict[tuple[str, str], float] = {}
    for name, group in group_replicates([*runs, *replicates]).items():
        for first, second in combinations(group, 2):
            frames = [choose_rows(run, metrics, families) for run in (first, second)]
            for row in estimate_paired(*frames).itertuples():
                key = (name, row.metric)
                largest[key] = max(largest.get(key, 0.0), abs(row.mean))
    found = [
        max(largest.get((name, row.metric), -1.0) for name in (row.first, row.second))
        for row in table.itertuples()
    ]
    return table.assign(between_replicates=[np.nan if value < 0 else value for value in found])
