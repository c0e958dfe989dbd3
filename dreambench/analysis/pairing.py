"""Scores of two methods on the same subjects and prompts: their paired difference, and its test."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from dreambench.analysis.stats import (
    Way,
    compute_bootstrap_p,
    compute_sign_flip_p,
    estimate_by_bootstrap,
    estimate_mean,
    mean_by_subject,
)


def compare_paired(
    first: pd.DataFrame, second: pd.DataFrame, *, way: Way = "student-t"
) -> pd.DataFrame:
    """Return `estimate_paired` with p behind the interval.

    `way` makes both: Student's t and sign flips, or the bootstrap-t.
    """
    test = compute_sign_flip_p if way == "student-t" else compute_bootstrap_p
    paired = _pair(first, second)
    table = _estimate(paired, way)
    table.insert(4, "p", [test(one.differences) for one in paired])
    return table


def estimate_paired(first: pd.DataFrame, second: pd.DataFrame) -> pd.DataFrame:
    """Return differences first - second for each metric, paired by subject and prompt.

    Only cells (subject, prompt) that both have count; a subject's difference is the mean over its
    cells, each the mean over its pairs. Columns: metric, mean, low, high (over subjects, by
    Student's t), n_subjects, n_cells, n_left_out (cells that one of the two lacks).
    """
    return _estimate(_pair(first, second), "student-t")


@dataclass(frozen=True)
class _Paired:
    """Differences (n_subjects,) in a metric, and of how many cells."""

    metric: str
    differences: np.ndarray
    n_cells: int
    n_left_out: int


def _pair(first: pd.DataFrame, second: pd.DataFrame) -> list[_Paired]:
    keys = ["metric", "subject", "prompt_id"]
    values = [
        mean_by_subject(scores, by=["prompt_id"]).set_index(keys)["value"]
        for scores in (first, second)
    ]
    cells = pd.concat(values, axis=1, join="outer", keys=["first", "second"])
    cells["difference"] = cells["first"] - cells["second"]
    paired = cells["difference"].dropna()
    n_cells = paired.groupby("metric").size()
    n_left_out = cells["difference"].isna().groupby("metric").sum()
    # In the order of names, so that the order of rows in a file does not reach the drawn flips.
    subjects = paired.groupby(["metric", "subject"], sort=True).mean()
    by_metric = {metric: group.to_numpy() for metric, group in subjects.groupby("metric")}
    return [
        _Paired(
            metric, by_metric.get(metric, np.array([])), int(n_cells.get(metric, 0)),
            int(n_left_out[metric]),
        )
        for metric in dict.fromkeys([*first["metric"], *second["metric"]])
    ]  # fmt: skip


def _estimate(paired: Sequence[_Paired], way: Way) -> pd.DataFrame:
    estimate = estimate_mean if way == "student-t" else estimate_by_bootstrap
    rows = []
    for one in paired:
        found = estimate(one.differences)
        rows.append(
            [
                one.metric, found.mean, found.low, found.high, found.n_subjects, one.n_cells,
                one.n_left_out,
            ]
        )  # fmt: skip
    columns = ["metric", "mean", "low", "high", "n_subjects", "n_cells", "n_left_out"]
    return pd.DataFrame(rows, columns=columns)
