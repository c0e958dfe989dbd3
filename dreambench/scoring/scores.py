"""From features to scores: one row for each number that a metric gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dreambench.artifacts.image_set import ImageSet, is_class_image
from dreambench.artifacts.plan import ImageUnit
from dreambench.artifacts.results import COLUMNS, ROUNDING, WHOLE_PROMPT, ScoreTable
from dreambench.datasets.subjects import Subject
from dreambench.errors import UserError
from dreambench.metrics.base import (
    Metric,
    SubjectCounts,
    SubjectFeatures,
    compute_cosines,
    count_subject,
)
from dreambench.metrics.registry import ChosenMetric
from dreambench.plugins import plugin_error
from dreambench.scoring.features import Extracted, arrange_features, subject_images
from dreambench.scoring.problems import Problem, group_problems
from dreambench.scoring.tools import Tools
from dreambench.types import Features, Values


def compute_scores(images: ImageSet, found: Extracted, tools: Tools) -> ScoreTable:
    """Compute all metrics of an image set.

    Numbers that are not defined (NaN) have no row; `n_expected` says how many there should be.
    """
    seen = arrange_features(images, found, tools)
    rows: list[list[object]] = []
    infos = []
    measured = {one.metric.name for one in tools.measured()}
    for chosen in tools.metrics:
        reason = images.manifest.not_measured.get(chosen.metric.name, "")
        infos.append(
            tools.describe(
                chosen,
                listed=chosen.is_extra or chosen.metric.name in images.protocol.metrics,
                n_expected=count_expected(images, chosen),
                reason=reason,
            )
        )
        if chosen.metric.name in measured:
            for subject in images.subjects:
                if subject.name in seen:
                    rows += _score_subject(images, subject, chosen, seen[subject.name])
    used = {name for one in tools.measured() for name in one.metric.inputs}
    identities = {name: one for name, one in tools.identities.items() if name in used}
    frame = pd.DataFrame(rows, columns=COLUMNS)
    return ScoreTable(
        frame, tuple(infos), identities,
        cut_texts=tools.find_cut_texts(images.plan.images),
        problems=group_problems(_find_degenerate(images, found)),
        nearest=_find_nearest_photos(images, found.rows.get("dino", {})),
    )  # fmt: skip


def _find_nearest_photos(images: ImageSet, rows: Mapping[Path, Features]) -> dict[str, str]:
    """Return the name of the photo that each image is most like, by the image's path in a run."""
    found = {}
    for subject in images.subjects:
        shown = [one for one in subject_images(images, subject) if one[1] in rows]
        photos = [photo for photo in subject.photos if photo in rows]
        if shown and photos:
            own = np.stack([rows[path] for _, path in shown])
            cosines = compute_cosines(own, np.stack([rows[photo] for photo in photos]))
            for (unit, _), nearest in zip(shown, cosines.argmax(1), strict=True):
                found[unit.relative_path] = photos[int(nearest)].name
    return found


def _find_degenerate(images: ImageSet, found: Extracted) -> list[Problem]:
    """Return which images of a run show nothing, or are the same as an earlier one."""
    problems: list[Problem] = []
    first: dict[bytes, str] = {}
    for subject in images.subjects:
        for unit, path in images.made_images(subject.name):
            if path not in found.looks:
                continue
            is_black, is_plain, *content = found.looks[path]
            name = unit.relative_path
            if is_plain:
                problems.append(Problem("black" if is_black else "of one colour", name))
            same = first.setdefault(np.asarray(content).tobytes(), name)
            if same != name:
                problems.append(Problem("duplicated", name, detail=f"the pixels of {same}"))
    return problems


def count_expected(images: ImageSet, chosen: ChosenMetric) -> int:
    """Return how many pairs a metric has when no image is missing.

    Raises:
        UserError: a metric from outside fails, or gives no number.
    """
    total = 0
    for subject in images.subjects:
        units = [unit for unit in images.plan.images if unit.subject == subject.name]
        counts = count_subject(units, n_photos=len(subject.photos))
        total += int(_count(chosen, "n_expected", counts))
    return total


def _score_subject(
    images: ImageSet, subject: Subject, chosen: ChosenMetric, seen: SubjectFeatures
) -> list[list[object]]:
    units = _list_units(chosen.metric, subject_images(images, subject), images, subject)
    if not units:
        return []
    values = _compute(chosen, seen, len(units))
    n_pairs = np.broadcast_to(_count(chosen, "count_pairs", seen, len(units)), len(units))
    is_whole = chosen.metric.unit == "prompt"
    return [
        [
            subject.name, subject.class_name, subject.kind, unit.family, unit.prompt_id,
            WHOLE_PROMPT if is_whole else unit.k, chosen.metric.name, float(value), int(n),
        ]
        for unit, value, n in zip(units, values, n_pairs, strict=True)
        if not np.isnan(value)
    ]  # fmt: skip


def _list_units(
    metric: Metric,
    shown: Sequence[tuple[ImageUnit, Path]],
    images: ImageSet,
    subject: Subject,
) -> list[ImageUnit]:
    """Return what a metric gives a number for; for a prompt its first image."""
    if metric.unit == "image":
        return [unit for unit, _ in shown]
    if metric.unit == "class-image":
        return [u for u, _ in images.made_images(subject.name) if is_class_image(u)]
    first: dict[str, ImageUnit] = {}
    for unit, _ in shown:
        first.setdefault(unit.prompt_id, unit)
    return list(first.values())


def _count(
    chosen: ChosenMetric, method: str, about: SubjectFeatures | SubjectCounts, n_units: int = 0
) -> NDArray[np.int64]:
    """Return one count, or one for each of `n_units`, of a metric's `method`.

    Raises:
        UserError: a metric from outside fails, or gives something else.
    """
    what = f"{method}() of the metric '{chosen.metric.name}'"
    try:
        counts = np.asarray(getattr(chosen.metric, method)(about))
    except Exception as error:
        if not chosen.code:
            raise
        raise plugin_error(what, error) from error
    is_shaped = counts.shape == () or (n_units > 0 and counts.shape == (n_units,))
    if not is_shaped or counts.dtype.kind not in "iu" or (counts < 0).any():
        raise UserError(
            f"{what} gives {counts.tolist()!r}",
            hint="return a whole number of at least 0" + (", or one a unit" if n_units else ""),
            code="invalid-plugin-output",
        )
    return counts.astype(np.int64)


def _compute(chosen: ChosenMetric, seen: SubjectFeatures, n_units: int) -> Values:
    """Return a metric's numbers.

    Raises:
        UserError: a metric from outside fails, or gives something else than one number a unit
            within its bounds.
    """
    metric = chosen.metric
    if not chosen.code:
        return metric.compute(seen)
    what = f"the metric '{metric.name}'"
    try:
        values = np.asarray(metric.compute(seen), np.float64)
    except Exception as error:
        raise plugin_error(f"compute() of {what}", error) from error
    if values.shape != (n_units,):
        raise UserError(
            f"{what} gives numbers of shape {values.shape} for {n_units} units",
            hint=f"return one number for each {metric.unit}",
            code="invalid-plugin-output",
        )
    low, high = metric.bounds
    outside = (values < low - ROUNDING) | (values > high + ROUNDING) | np.isinf(values)
    if outside.any():
        raise UserError(
            f"{what} gives {values[outside][0]:g}, outside of its bounds {low:g} to {high:g}",
            hint="fix compute() or the attribute `bounds`",
            code="invalid-plugin-output",
        )
    return values
