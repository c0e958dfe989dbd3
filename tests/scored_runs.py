"""Scored runs with known values, for tests of comparisons, summaries and reports."""

from dataclasses import replace

import numpy as np
import pandas as pd

from dreambench.analysis.comparison import Scored
from dreambench.analysis.summary import make_part, split_means
from dreambench.artifacts.manifest import CodeState, Digests
from dreambench.artifacts.results import COLUMNS, MetricInfo, MetricSummary, ScoreTable, Summary
from dreambench.metrics.registry import load_own_metrics


def frame(*rows):
    """Scores of rows (subject, prompt category, prompt, metric, value)."""
    return pd.DataFrame(
        [[s, "dog", "live", f, p, 0, m, v, 1] for s, f, p, m, v in rows], columns=COLUMNS
    )


def info_of(name, *, listed=None, **changes):
    """What results say of one of the package's metrics, with a short signature.

    Those of the paper are listed unless `listed` says otherwise.
    """
    metric = load_own_metrics()[name]
    identities = dict.fromkeys(metric.inputs, "E")
    info = metric.describe(identities, code={})
    is_listed = "paper" in metric.tags if listed is None else listed
    return info.model_copy(update={"signature": f"S|{name}", "listed": is_listed, **changes})


def make_scored(name, scores, *, infos=None, **changes):
    """A run with these scores; `changes` are fields of its summary."""
    infos = infos or [info_of(metric) for metric in dict.fromkeys(scores["metric"])]
    summary = Summary(
        method=name, protocol="p v1", partial=False, n_images=9, n_images_expected=9, interval="",
        metrics={info.name: summarise_metric(info, scores) for info in infos},
        reference_bounds={},
        digests=Digests(
            protocol="p0", recipe=f"recipe of {name}", data="d0", base_model="b0", plan="l0"
        ),
        encoders={}, device="cpu", precision="fp32", packages={}, python="3",
        code=CodeState(version="0", commit="c0", dirty=False),
    )  # fmt: skip
    return Scored(
        name, ScoreTable(scores, tuple(infos), {"dino": "E"}), summary.model_copy(update=changes)
    )


def summarise_metric(info, scores):
    """The means of one metric as `analysis.summary` has them, by a shorter way."""
    rows = scores[scores["metric"] == info.name]
    apart = rows["family"] == "property"
    whole = rows if info.prompts == "all" else rows[~apart]
    return MetricSummary(
        info=info, whole=make_part_of(whole, info),
        property=make_part_of(rows[apart], info) if apart.any() and not apart.all() else None,
        n_scored=len(rows), n_expected=info.n_expected or len(rows),
    )  # fmt: skip


def make_part_of(rows, info):
    """The mean over subjects of some rows of one metric."""
    means = split_means(rows)
    return make_part(means[(info.name,)] if means else np.empty(0), info)


def by_subject(name, *, partial=False, **values):
    """A run with one prompt; `values` has by metric (with _ for -) the value of each subject."""
    rows = [
        (f"s{index:02}", "art", "red", metric.replace("_", "-"), value)
        for metric, subjects in values.items()
        for index, value in enumerate(subjects)
    ]
    return make_scored(name, frame(*rows), partial=partial)


def with_metric(run, *rows, **changes):
    """The run with further rows (subject, category, prompt, metric, value) and their metrics."""
    added = frame(*rows)
    names = dict.fromkeys(added["metric"])
    infos = [*run.scores.metrics, *(info_of(name, **changes) for name in names)]
    scores = pd.concat([run.scores.frame, added], ignore_index=True)
    made = make_scored(run.name, scores, infos=infos)
    return replace(
        run, scores=made.scores,
        summary=run.summary.model_copy(update={"metrics": made.summary.metrics}),
    )  # fmt: skip


def without_metric(run, name, *, why):
    """The run with a metric that was not measured."""
    info = info_of(name, signature=None, not_measured=why)
    assert isinstance(info, MetricInfo)
    scores = run.scores.frame[run.scores.frame["metric"] != name]
    others = [one for one in run.scores.metrics if one.name != name]
    return make_scored(run.name, scores, infos=[*others, info], partial=run.summary.partial)
