"""From rows to numbers: means over pairs, then subjects; intervals that treat subjects as drawn."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats as scipy_stats

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """A mean over subjects with its interval; the bounds are NaN when one subject is all."""

    mean: float
    low: float
    high: float
    n_subjects: int


def mean_by_subject(scores: pd.DataFrame, *, by: list[str] | None = None) -> pd.DataFrame:
    """Mean over all pairs of a subject: columns metric, (by...), subject, value.

    Each row of scores is itself a mean over `n_pairs`, and is weighted with them.
    """
    keys = ["metric", *(by or []), "subject"]
    weighted = scores.assign(total=scores["value"] * scores["n_pairs"])
    sums = weighted.groupby(keys, sort=False)[["total", "n_pairs"]].sum().reset_index()
    sums["value"] = sums["total"] / sums["n_pairs"]
    return sums[[*keys, "value"]]


def estimate_mean(values: np.ndarray) -> Estimate:
    """Mean of one value a subject with a Student-t interval (subjects are the sample).

    A t interval, since a percentile bootstrap is too narrow with as few subjects as there are.
    """
    values = np.asarray(values, np.float64)
    n = len(values)
    if n == 0:
        return Estimate(float("nan"), float("nan"), float("nan"), 0)
    mean = float(values.mean())
    if n == 1:
        return Estimate(mean, float("nan"), float("nan"), 1)
    half = float(scipy_stats.t.ppf(0.5 + CONFIDENCE / 2, n - 1) * values.std(ddof=1) / np.sqrt(n))
    return Estimate(mean, mean - half, mean + half, n)


def estimate_table(scores: pd.DataFrame, *, by: list[str] | None = None) -> pd.DataFrame:
    """Estimates for each metric (and group): metric, (by...), mean, low, high, n_subjects."""
    subjects = mean_by_subject(scores, by=by)
    keys = ["metric", *(by or [])]
    rows = []
    for key, group in subjects.groupby(keys, sort=False):
        found = estimate_mean(group["value"].to_numpy())
        names = key if isinstance(key, tuple) else (key,)
        rows.append([*names, found.mean, found.low, found.high, found.n_subjects])
    return pd.DataFrame(rows, columns=[*keys, "mean", "low", "high", "n_subjects"])


def compare_paired(first: pd.DataFrame, second: pd.DataFrame) -> pd.DataFrame:
    """Differences first - second for each metric, paired by subject, with intervals.

    Only subjects that both have count. Columns: metric, mean, low, high, n_subjects.
    """
    both = mean_by_subject(first).merge(
        mean_by_subject(second), on=["metric", "subject"], suffixes=("_first", "_second")
    )
    rows = []
    for metric, group in both.groupby("metric", sort=False):
        found = estimate_mean((group["value_first"] - group["value_second"]).to_numpy())
        rows.append([metric, found.mean, found.low, found.high, found.n_subjects])
    return pd.DataFrame(rows, columns=["metric", "mean", "low", "high", "n_subjects"])
