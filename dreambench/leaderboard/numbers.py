"""The numbers of a record, as they follow from its cells. No torch."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from dreambench.analysis.stats import mean_by_subject
from dreambench.analysis.summary import make_part, summarise_metrics
from dreambench.artifacts.record import RecordedMetric
from dreambench.artifacts.results import MetricInfo, ScoreTable


def compute_metrics(scores: pd.DataFrame, infos: Sequence[MetricInfo]) -> dict[str, RecordedMetric]:
    """Return means, intervals and their parts of every metric of some scores, by its name."""
    table = ScoreTable(scores, tuple(infos), identities={})
    found = {}
    for name, entry in summarise_metrics(table).items():
        rows = scores[scores["metric"] == name]
        means = mean_by_subject(rows)
        found[name] = RecordedMetric(
            info=entry.info,
            whole=entry.whole,
            property=entry.property,
            n_scored=entry.n_scored,
            n_expected=entry.n_expected,
            by_category={
                str(family): make_part(part, entry.info)
                for family, part in rows.groupby("family", sort=False)
            },
            by_subject=dict(zip(means["subject"], means["value"].astype(float), strict=True)),
        )
    return found
