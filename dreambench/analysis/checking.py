"""Whether results agree with themselves: scores with their ranges and plan, a summary with both."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from dreambench.analysis.summary import mean_reference_bounds, summarise_metrics
from dreambench.artifacts.image_set import ImageSet
from dreambench.artifacts.manifest import flatten
from dreambench.artifacts.plan import ImageUnit
from dreambench.artifacts.results import (
    COLUMNS,
    ROUNDING,
    WHOLE_PROMPT,
    ScoreTable,
    Summary,
)
from dreambench.errors import name_some

SAME = 1e-9
"""How far sums of the same numbers lie apart between machines."""
PASSED, FLAGGED, FAILED, NOT_CHECKED = "passed", "flagged", "failed", "not checked"


@dataclass(frozen=True)
class Verified:
    """One thing that was looked at: its outcome (PASSED, ...), and why.

    FLAGGED is what someone has to know and decide; it is not a fault.
    """

    what: str
    outcome: str
    lines: Sequence[str]


def judge(what: str, faults: Sequence[str], passed: str = "", *, worst: str = FAILED) -> Verified:
    """Return that something passed, or where there are faults, that it has the `worst` outcome."""
    return Verified(what, worst, faults) if faults else Verified(what, PASSED, [passed])


def find_score_faults(images: ImageSet, table: ScoreTable) -> list[str]:
    """Return what is wrong with scores by themselves: a line a fault, none where all is right."""
    return [*find_value_faults(images.plan.images, table), *_find_image_faults(images, table)]


def find_value_faults(units: Sequence[ImageUnit], table: ScoreTable) -> list[str]:
    """Return where scores leave their metrics' ranges or a plan's units; a line a fault."""
    frame = table.frame
    if list(frame.columns) != COLUMNS:
        return [f"the columns are {', '.join(map(str, frame.columns))}"]
    if not np.issubdtype(frame["value"].dtype, np.floating) or frame.isna().any().any():
        return ["a value is not a number"]
    faults = []
    infos = {info.name: info for info in table.metrics}
    cells = {(unit.subject, unit.prompt_id) for unit in units}
    images_of = {(unit.subject, unit.prompt_id, unit.k) for unit in units}
    keys = ["subject", "prompt_id", "k", "metric"]
    if frame.duplicated(keys).any():
        faults.append(f"{int(frame.duplicated(keys).sum())} numbers are there twice")
    for name, rows in frame.groupby("metric", sort=False):
        info = infos.get(str(name))
        if info is None:
            faults.append(f"nothing says what the metric {name} is")
            continue
        low, high = info.bounds
        outside = rows[~rows["value"].between(low - ROUNDING, high + ROUNDING)]
        if len(outside):
            value = outside["value"].iloc[0]
            faults.append(f"{len(outside)} of {name} are not in {low:g} to {high:g}: {value:g}")
        n_scored = int(rows["n_pairs"].sum())
        if (rows["n_pairs"] < 0).any() or n_scored > info.n_expected:
            faults.append(f"{name} counts {n_scored} pairs of at most {info.n_expected}")
    known = [
        (row.subject, row.prompt_id) in cells
        if row.k == WHOLE_PROMPT
        else (row.subject, row.prompt_id, row.k) in images_of
        for row in frame.itertuples()
    ]
    if not all(known):
        faults.append(f"{known.count(False)} numbers are of images that are not in the plan")
    return faults


def _find_image_faults(images: ImageSet, table: ScoreTable) -> list[str]:
    """Return how the images that were scored differ from those that were made."""
    if images.files is not None:
        return []
    made = {
        name: known
        for name, known in images.read_image_sums().items()
        if (images.folder / name).is_file()
    }
    faults = []
    if others := [name for name in table.images if made.get(name) != table.images[name]]:
        faults.append(f"images were made anew since they were scored: {name_some(others)}")
    if left := [name for name in made if name not in table.images]:
        faults.append(f"{len(left)} images were made since the others were scored")
    return faults


def find_summary_faults(
    images: ImageSet, table: ScoreTable, bounds: pd.DataFrame, summary: Summary
) -> list[str]:
    """Return where a summary is not what the scores give: a line a fault."""
    expected: dict[str, Any] = {
        "method": images.name,
        "digests": images.manifest.digests.model_dump(mode="json"),
        "encoders": dict(table.identities),
        "metrics": {
            name: entry.model_dump(mode="json") for name, entry in summarise_metrics(table).items()
        },
        "reference_bounds": mean_reference_bounds(bounds),
    }
    stored = summary.model_dump(mode="json", include=set(expected))
    return list_differences(flatten(stored), flatten(expected))


def list_differences(stored: Mapping[str, Any], expected: Mapping[str, Any]) -> list[str]:
    """Return where flat mappings differ by more than rounding: a line a key."""
    return [
        f"{key} is {stored.get(key)!r} and should be {expected.get(key)!r}"
        for key in {**expected, **stored}
        if not _is_same(stored.get(key), expected.get(key))
    ]


def _is_same(one: Any, other: Any) -> bool:
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=SAME, abs_tol=SAME)
    return bool(one == other)
