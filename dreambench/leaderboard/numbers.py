"""The numbers of a record, as they follow from its cells. No torch."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from dreambench.analysis.stats import mean_by_subject
from dreambench.analysis.summary import make_part, split_means, summarise_metrics
from dreambench.artifacts.record import RecordedMetric
from dreambench.artifacts.results import MetricInfo, Part, ScoreTable


def compute_metrics(scores: pd.DataFrame, infos: Sequence[MetricInfo]) -> dict[str, RecordedMetric]:
    """Return means, intervals and their parts of every metric of some scores, by its name."""
    table = ScoreTable(scores, tuple(infos), identities={})
    named = {info.name: info for info in infos}
    categories: dict[str, dict[str, Part]] = {name: {} for name in named}
    for (name, family), means in split_means(scores, by=["family"]).items():
        categories[name][family] = make_part(means, named[name])
    subjects: dict[str, dict[str, float]] = {name: {} for name in named}
    # A subject of which nothing was made or measured has no mean.
    for row in mean_by_subject(scores).dropna().itertuples():
        subjects[row.metric][row.subject] = float(row.value)
    return {
        name: RecordedMetric(**dict(entry), by_category=categories[name], by_subject=subjects[name])
        for name, entry in summarise_metrics(table).items()
    }
