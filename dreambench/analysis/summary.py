"""From scores to means: the summary of an image set with all that its numbers depend on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

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
NO_MEANS = np.empty(0)


def summarise(images: ImageSet, *, allow_incomplete: bool = True) -> Summary:
    """Write the summary of an image set.

    Raises:
        UserError: it has no scores; images are missing and `allow_incomplete` is not set; or it is
            of external images and was read back, so that nobody knows which of them are there.
    """
    if images.files is not None and not images.files:
        raise UserError(
            f"{images.folder} holds scores of external images, but not where the images are",
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
    scores = table.frame
    is_property = scores["family"] == PROPERTY
    every, others, apart = (
        split_means(rows) for rows in (scores, scores[~is_property], scores[is_property])
    )
    n_scored = scores.groupby("metric", sort=False)["n_pairs"].sum()
    found = {}
    for info in table.metrics:
        key = (info.name,)
        is_over_all = info.prompts == "all"
        # Where all prompts are property prompts, their part would be the whole again.
        has_part = key in apart and not (is_over_all and key not in others)
        found[info.name] = MetricSummary(
            info=info,
            whole=make_part((every if is_over_all else others).get(key, NO_MEANS), info),
            property=make_part(apart[key], info) if has_part else None,
            n_scored=int(n_scored.get(info.name, 0)),
            n_expected=info.n_expected,
        )
    return found


def split_means(
    scores: pd.DataFrame, *, by: Sequence[str] = ()
) -> dict[tuple[str, ...], NDArray[np.float64]]:
    """Return the means of all subjects, (n,), of each (metric, by...).

    One grouping of all rows takes a fraction of the time of one for each metric.
    """
    means = mean_by_subject(scores, by=by).groupby(["metric", *by], sort=False)["value"]
    return {tuple(map(str, key)): values.to_numpy(np.float64) for key, values in means}


def make_part(means: NDArray[np.float64], info: MetricInfo) -> Part:
    """Return the mean of the means of subjects, (n,), in one metric, with its interval."""
    found = estimate_mean(means, bounds=info.bounds)
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
    """Return plain means over subjects by metric: copy bound, faithful bound, those of pairs."""
    return {
        str(metric): {
            name: _number(float(group[name].mean())) for name in group if name.endswith("_bound")
        }
        for metric, group in bounds.groupby("metric", sort=False)
    }
