"""Ranks of methods in one metric: how many others are shown to be better.

Each two methods are compared by a paired t-test over their subjects, and Holm's adjustment runs
over all pairs. A rank is one more than the number of methods that are shown to be better, directly
or by way of a third, as Chatbot Arena has it with intervals; so two that share a rank are never
shown to differ.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd

from dreambench.analysis.comparison import ALPHA
from dreambench.analysis.stats import adjust_holm, compute_t_p, estimate_mean, mean_by_subject
from dreambench.artifacts.results import MetricInfo
from dreambench.config.protocol import PROPERTY


@dataclass(frozen=True)
class Pair:
    """Two methods in one metric: the mean difference first - second with its 95 % interval.

    NaN where there is none; `p_holm` is adjusted over all pairs of the ranking. `better` is the
    name of the one that is shown to be better; "" where neither is.
    """

    first: str
    second: str
    mean: float
    low: float
    high: float
    n_subjects: int
    p: float
    p_holm: float
    better: str


@dataclass(frozen=True)
class Ranking:
    """The ranks of methods in one metric by name, and the pairs that they follow from."""

    ranks: Mapping[str, int]
    pairs: tuple[Pair, ...]

    @property
    def n_shown(self) -> int:
        """How many pairs are shown to differ."""
        return sum(bool(pair.better) for pair in self.pairs)


def rank_methods(scores: Mapping[str, pd.DataFrame], info: MetricInfo) -> Ranking:
    """Rank methods in one metric; see `rank_in_all`."""
    return rank_in_all(scores, [info])[info.name]


def rank_in_all(
    scores: Mapping[str, pd.DataFrame], infos: Sequence[MetricInfo]
) -> dict[str, Ranking]:
    """Rank methods in metrics, by their names; `scores` by method, as scores.parquet has them.

    Only a metric's own prompts count. Of each pair, only cells (subject, prompt) that both have: a
    subject's difference is the mean over its cells. A method without a number has no rank.
    """
    found: dict[str, Ranking] = {}
    for prompts in {info.prompts for info in infos}:
        cells = {name: _average_cells(frame, prompts) for name, frame in scores.items()}
        for info in infos:
            if info.prompts == prompts:
                own = {name: of[info.name] for name, of in cells.items() if info.name in of}
                found[info.name] = _rank(own, info)
    return {info.name: found[info.name] for info in infos}


def _rank(cells: Mapping[str, pd.Series[float]], info: MetricInfo) -> Ranking:
    # One order of subjects and prompts for all, so that no order in a file reaches a sum.
    places = sorted({place for values in cells.values() for place in values.index})
    columns = {name: values.reindex(places).to_numpy() for name, values in cells.items()}
    subjects = np.array([subject for subject, _ in places])
    found = [
        (first, second, _average_subjects(columns[first] - columns[second], subjects))
        for first, second in combinations(columns, 2)
    ]
    p_values = np.array([compute_t_p(differences) for _, _, differences in found])
    pairs = []
    for (first, second, differences), p, p_holm in zip(
        found, p_values, adjust_holm(p_values), strict=True
    ):
        estimate = estimate_mean(differences)
        better = ""
        if p_holm <= ALPHA:
            better = first if (estimate.mean > 0) == info.higher_is_better else second
        pairs.append(
            Pair(
                first, second, estimate.mean, estimate.low, estimate.high, estimate.n_subjects,
                float(p), float(p_holm), better,
            )
        )  # fmt: skip
    return Ranking(_count_better(list(columns), pairs), tuple(pairs))


def _average_cells(scores: pd.DataFrame, prompts: str) -> dict[str, pd.Series[float]]:
    """Return the mean over the pairs of each cell (subject, prompt) that has a number, by metric.

    `prompts` says which of them count, as `MetricInfo` has it.
    """
    rows = scores[scores["value"].notna()]
    if prompts == "not-property":
        rows = rows[rows["family"] != PROPERTY]
    means = mean_by_subject(rows, by=["prompt_id"])
    means = means[means["value"].notna()].set_index(["subject", "prompt_id"])
    return dict(iter(means.groupby("metric", sort=False)["value"]))


def _average_subjects(differences: np.ndarray, subjects: np.ndarray) -> np.ndarray:
    """Return the mean of each subject's differences; of those that have any."""
    known = ~np.isnan(differences)
    _, owner = np.unique(subjects[known], return_inverse=True)
    sums = np.bincount(owner, weights=differences[known])
    found: np.ndarray = sums / np.bincount(owner)
    return found


def _count_better(names: list[str], pairs: list[Pair]) -> dict[str, int]:
    better: dict[str, set[str]] = {name: set() for name in names}
    for pair in pairs:
        if pair.better:
            worse = pair.second if pair.better == pair.first else pair.first
            better[worse].add(pair.better)
    grows = True
    while grows:
        further = {
            name: known.union(*(better[other] for other in known)) - {name}
            for name, known in better.items()
        }
        grows, better = further != better, further
    return {name: 1 + len(known) for name, known in better.items()}
