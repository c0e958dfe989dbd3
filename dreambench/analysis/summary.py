"""From scores to means: the summary of an image set with all that its numbers depend on."""

from __future__ import annotations

import numpy as np
import pandas as pd

from dreambench.analysis.stats import estimate_mean, mean_by_subject, why_no_interval
from dreambench.artifacts.failures import group_failures, read_failures
from dreambench.artifacts.image_set import ImageSet
from dreambench.artifacts.manifest import RunManifest
from dreambench.artifacts.results import (
    MetricInfo,
    MetricSummary,
    Part,
    ScoreTable,
    Summary,
    read_reference_bounds,
    read_scores,
    write_summary,
)
from dreambench.config.protocol import PROPERTY
from dreambench.errors import UserError

INTERVAL = "95 %, Student t over subjects, within the range of the metric"


def summarise(images: ImageSet, *, allow_incomplete: bool = True) -> Summary:
    """Write the summary of an image set.

    Raises:
        UserError: it has no scores; images are missing and `allow_incomplete` is not set; or it is
            of external images and was read back, so that nobody knows which of them are there.
    """
    if images.files is not None and not images.files:
        raise UserError(
            f"{images.folder} holds scores of external images, and not where these lie",
            hint="score the folder of the images again: dreambench score FOLDER --protocol ...",
            code="not-a-run",
        )
    table = read_scores(images)  # A run without scores is told that first.
    missing = len(images.missing_images())
    if missing and not allow_incomplete:
        raise UserError(
            f"{images.folder}: {missing} of {len(images.plan.images)} images are missing",
            hint="run the same command again to make them, or pass --allow-incomplete",
            code="images-missing",
        )
    summary = make_summary(images, table, read_reference_bounds(images))
    write_summary(images, summary)
    return summary


def make_summary(images: ImageSet, table: ScoreTable, bounds: pd.DataFrame) -> Summary:
    """Return the numbers of an image set, with everything that they depend on."""
    manifest, session = images.manifest, images.manifest.session
    recipe = manifest.recipe if isinstance(manifest, RunManifest) else None
    failures = read_failures(images.folder)
    protocol = images.protocol
    return Summary(
        method=images.name,
        protocol=f"{protocol.name} v{protocol.version}",
        partial=images.is_partial(),
        n_images=len(images.plan.images) - len(images.missing_images()),
        n_images_expected=len(images.plan.images),
        interval=INTERVAL,
        metrics=summarise_metrics(table),
        reference_bounds=mean_reference_bounds(bounds),
        digests=manifest.digests,
        encoders=dict(table.identities),
        device=images.device,
        precision=manifest.precision,
        packages=session.packages,
        python=session.python,
        code=session.code,
        track=None if recipe is None else recipe.track,
        method_code=None if recipe is None else recipe.code,
        settings=None if recipe is None else recipe.settings,
        replicate=1 if not isinstance(manifest, RunManifest) else manifest.replicate,
        n_failed=sum(failure.n_images for failure in failures),
        failures=group_failures(failures),
        images=manifest.images,
        cut_texts=[*manifest.cut_texts, *table.cut_texts],
        problems=dict(table.problems),
    )


def summarise_metrics(table: ScoreTable) -> dict[str, MetricSummary]:
    """Return means, intervals and counts of every metric of some scores, by its name."""
    return {info.name: _summarise_metric(info, table.frame) for info in table.metrics}


def _summarise_metric(info: MetricInfo, scores: pd.DataFrame) -> MetricSummary:
    rows = scores[scores["metric"] == info.name]
    is_property = rows["family"] == PROPERTY
    if info.prompts == "all":
        whole, apart = rows, rows[is_property] if not is_property.all() else rows[:0]
    else:
        whole, apart = rows[~is_property], rows[is_property]
    return MetricSummary(
        info=info,
        whole=make_part(whole, info),
        property=make_part(apart, info) if len(apart) else None,
        n_scored=int(rows["n_pairs"].sum()),
        n_expected=info.n_expected,
    )


def make_part(rows: pd.DataFrame, info: MetricInfo) -> Part:
    """Return the mean over subjects of some rows of one metric, with its interval."""
    values = mean_by_subject(rows)["value"].to_numpy()
    found = estimate_mean(values, bounds=info.bounds)
    return Part(
        mean=_number(found.mean),
        low=_number(found.low),
        high=_number(found.high),
        n_subjects=found.n_subjects,
        no_interval=why_no_interval(found.n_subjects, found.low),
    )


def _number(value: float) -> float | None:
    """Return a float for JSON, which has no NaN."""
    return None if np.isnan(value) else float(value)


def mean_reference_bounds(bounds: pd.DataFrame) -> dict[str, dict[str, float | None]]:
    """Return plain means over subjects by metric: copy bound and faithful bound."""
    return {
        str(metric): {
            name: _number(float(group[name].mean())) for name in ("copy_bound", "faithful_bound")
        }
        for metric, group in bounds.groupby("metric", sort=False)
    }
