"""Whether the numbers of a record can be: held against the photos, and against each other."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from dreambench.analysis.checking import FLAGGED, Verified, judge, list_differences
from dreambench.artifacts.record import BoundsPart, Record
from dreambench.config.protocol import PRIOR_PROMPT_ID, Protocol
from dreambench.errors import name_some
from dreambench.leaderboard.known import (
    find_bounds,
    find_metric,
    is_known_protocol,
    list_known_inputs,
)
from dreambench.leaderboard.records import PLACE, Opened
from dreambench.metrics.reference_bounds import METRIC_OF_ROLE, PAIR_METRIC_OF_ROLE
from dreambench.scoring.reference_values import GOLDEN_COLUMNS

TOLERANCE = 1e-5
"""How far metrics that follow from one another lie apart by the rounding of their features."""
SAME_FILE = 1e-3
"""How far numbers of one file may lie apart."""
COPY_MEANS = {"copy": 0.05, "copy-pixels": 0.1}
"""Means above which a method is said to copy: photos have no copy index against each other, and few
of them, or of images that saw none, have the hash of another."""


def check_bounds(opened: Opened, named: Protocol | None) -> Iterator[Verified]:
    """Hold what the photos score against what they are known to."""
    record = opened.record
    yield judge("reference-bounds", *_compare_bounds(record, named))
    flags = []
    for name, bounds in record.reference_bounds.items():
        entry = record.metrics.get(name)
        mean, most = (entry.whole.mean if entry else None), bounds.copy_bound
        # Two photos side by side are not a maximum: one of them alone may score more.
        is_most = name in METRIC_OF_ROLE.values()
        if is_most and mean is not None and most is not None and mean > most:
            flags.append(f"{name} is {mean:.3f}, and photos themselves score {most:.3f}")
    yield judge("copy-bound", flags, "no mean is above what the photos score", worst=FLAGGED)


def _compare_bounds(record: Record, named: Protocol | None) -> tuple[list[str], str]:
    """Return where bounds differ from their own parts and from what is known; and what passed."""
    is_known = is_known_protocol(record, named)
    inputs = list_known_inputs(record.protocol)
    faults, n_known = [], 0
    # What an image of two photos scores, nobody knows beforehand.
    is_known = is_known and not record.protocol.pairs
    metrics = PAIR_METRIC_OF_ROLE if record.protocol.pairs else METRIC_OF_ROLE
    for role, metric in metrics.items():
        bounds = record.reference_bounds.get(metric)
        if bounds is None:
            faults += [f"{metric} has none"] if role in record.encoders else []
            continue
        faults += _find_own_faults(record, metric, bounds)
        form = inputs[role].form if role in inputs else None
        if is_known and form is not None and form.fullmatch(record.encoders.get(role, "")):
            found = _find_unknown(record.protocol.dataset, metric, bounds)
            n_known += found is not None
            faults += found or []
    strange = set(record.reference_bounds) - set(metrics.values())
    faults += [f"{name} has none, and it says some" for name in sorted(strange)]
    passed = "those that are known of the photos" if n_known else "they follow from their parts"
    return faults, passed


def _pair_bounds(bounds: BoundsPart) -> dict[str, tuple[float | None, dict[str, float | None]]]:
    """Return each mean with the values of the subjects, by its name."""
    return {
        "copy_bound": (bounds.copy_bound, bounds.copy_by_subject),
        "faithful_bound": (bounds.faithful_bound, bounds.faithful_by_subject),
    }


def _find_own_faults(record: Record, metric: str, bounds: BoundsPart) -> list[str]:
    faults = []
    for key, (said, by_subject) in _pair_bounds(bounds).items():
        if set(by_subject) != set(record.subjects):
            faults.append(f"{metric}: the {key} is not of its subjects")
        values = [value for value in by_subject.values() if value is not None]
        mean = float(np.mean(values)) if values else None
        name = f"{metric}.{key}"
        faults += list_differences({name: said}, {name: mean})
    return faults


def _find_unknown(dataset: str, metric: str, bounds: BoundsPart) -> list[str] | None:
    """Return where bounds are not what the photos are known to score; None where nobody knows."""
    known = find_bounds(dataset)
    if known is None:
        return None
    table, most = known.table.set_index("subject"), known.tolerance[metric]
    faults = []
    for key, (_, by_subject) in _pair_bounds(bounds).items():
        right = table[GOLDEN_COLUMNS[metric, key]]
        off = [
            f"{subject} is {value:.4f}, known as {right[subject]:.4f}"
            for subject, value in by_subject.items()
            if subject in right.index
            and value is not None
            and not abs(value - right[subject]) <= most
        ]
        faults += [f"{metric}: the {key} of {name_some(off, separator='; ')}"] if off else []
    return faults


def check_agreement(opened: Opened, _: Protocol | None) -> Iterator[Verified]:
    """Hold metrics against each other where one follows from another, or bounds it."""
    record = opened.record
    own = {
        name
        for name, entry in record.metrics.items()
        if find_metric(name, entry.info.version, is_outside=bool(entry.info.code))
    }
    cells = opened.cells[opened.cells["sha256"].notna()]
    faults = []
    for name, left_out in (("dino", "dino-lro"), ("clip-i", "clip-i-lro")):
        if {name, left_out} <= own:
            faults += _find_nearest_faults(opened, cells, name, left_out, copies="copy" in own)
    if {"dino-lro", "dino-norm"} <= own:
        faults += _find_scale_faults(cells, "dino-lro", "dino-norm")
    for name in own & {"rank-1", "copy-pixels"}:
        odd = ~cells[name].dropna().isin([0.0, 1.0])
        faults += [f"{name} is 0 or 1, and {int(odd.sum())} are not"] if odd.any() else []
    plain = [name for name in own & _OF_PIXELS if name in cells]
    for (subject, _sum), rows in cells[cells["sha256"].duplicated(keep=False)].groupby(
        ["subject", "sha256"]
    ):
        values = rows.loc[rows["prompt"] != PRIOR_PROMPT_ID, plain]
        apart = list(values.columns[(values.max() - values.min()) > SAME_FILE])
        if apart:
            faults.append(f"one file of {subject} has several values of {name_some(sorted(apart))}")
    yield judge("agreement", faults, "metrics that follow from one another do")


_OF_PIXELS = frozenset((
    "dino", "clip-i", "dino-lro", "clip-i-lro", "dino-norm", "copy", "copy-pixels", "rank-1",
    "identity-map", "dino-fg", "clip-i-fg", "leak", "pixel-match",
))  # fmt: skip
"""Metrics that depend on an image and its subject, and on no prompt."""


def _find_nearest_faults(
    opened: Opened, cells: pd.DataFrame, name: str, left_out: str, *, copies: bool
) -> list[str]:
    """Compute the cosine with the nearest photo from the means with and without it.

    It is at least the mean and at most 1, and the copy index is above 0 only beyond half-way from
    the nearest two photos, which are nearer than two photos are on average, to 1.
    """
    rows = cells[cells[[name, left_out]].notna().all(axis=1)]
    n = rows[f"{name}:n_pairs"].to_numpy(np.float64)
    nearest = n * rows[name].to_numpy() - (n - 1) * rows[left_out].to_numpy()
    slack = TOLERANCE * n
    odd = (nearest > 1 + slack) | (nearest < rows[name].to_numpy() - slack)
    faults = _name_rows(f"{name} and {left_out} cannot both be of", rows, odd)
    bounds = opened.record.reference_bounds.get(name)
    if copies and name == "dino" and bounds is not None:
        faithful = rows["subject"].map(bounds.faithful_by_subject).astype(float).to_numpy()
        copy = rows["copy"].to_numpy()
        odd = ((copy > 0) & (nearest < (1 + faithful) / 2 - slack)) | (
            (copy == 0) & (nearest > 1 - 1e-6)
        )
        faults += _name_rows("copy and dino cannot both be of", rows, odd)
    return faults


def _find_scale_faults(cells: pd.DataFrame, first: str, second: str) -> list[str]:
    """Find images of a subject that leave the line on which one metric lies over another."""
    faults = []
    rows = cells[cells[[first, second]].notna().all(axis=1)]
    for subject, group in rows.groupby("subject"):
        x, y = group[first].to_numpy(), group[second].to_numpy()
        if len(x) < 3 or np.ptp(x) < TOLERANCE:
            continue
        # With medians of slopes, one wrong value does not pull the line to itself.
        middle = int(np.argsort(x)[len(x) // 2])
        far = np.abs(x - x[middle]) > np.ptp(x) / 10
        if not far.any():
            continue
        slope = float(np.median((y[far] - y[middle]) / (x[far] - x[middle])))
        rest = y - slope * x
        odd = np.abs(rest - np.median(rest)) > TOLERANCE * max(1.0, abs(slope))
        faults += _name_rows(f"{first} and {second} cannot both be of", group, odd)
        if not math.isfinite(slope) or slope <= 0:
            faults.append(f"{second} of {subject} does not rise with {first}")
    return faults


def _name_rows(words: str, rows: pd.DataFrame, odd: Any) -> list[str]:
    places = list(rows.loc[np.asarray(odd), PLACE].itertuples(index=False, name=None))
    names = [f"{subject}/{prompt}/{index}" for subject, prompt, index in places]
    return [f"{words} {name_some(names)}"] if names else []


def check_copying(opened: Opened, _: Protocol | None) -> Iterator[Verified]:
    """Flag methods that give photos back, and images that are there more than once."""
    record = opened.record
    flags = []
    for name, most in COPY_MEANS.items():
        entry = record.metrics.get(name)
        if entry is not None and entry.whole.mean is not None and entry.whole.mean > most:
            flags.append(f"{entry.info.title} is {entry.whole.mean:.3f}: it gives photos back")
    yield judge("copying", flags, "no more than real photos", worst=FLAGGED)
    cells = opened.cells[(opened.cells["replicate"] == 1) & opened.cells["sha256"].notna()]
    again = cells[cells["sha256"].duplicated()]
    flags = _name_rows("the bytes of another image:", again, np.ones(len(again), bool))
    problems = {**({} if record.images is None else record.images.problems), **record.problems}
    flags += [f"{one.n_images} {kind}: {name_some(one.names)}" for kind, one in problems.items()]
    yield judge("repeated", flags, "no image is there twice, black or of one colour", worst=FLAGGED)


Check = Callable[[Opened, Protocol | None], Iterator[Verified]]
CHECKS: Sequence[Check] = (check_bounds, check_agreement, check_copying)
