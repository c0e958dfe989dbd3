"""What a reader must know of the numbers: notes, signatures, digests, in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import get_args

import pandas as pd

from dreambench.analysis.comparison import ALPHA, NO_PROPERTY, Scored
from dreambench.analysis.stats import (
    MAX_EXACT_SUBJECTS,
    N_FLIPS,
    N_RESAMPLES,
    Way,
    smallest_p,
)
from dreambench.artifacts.device_time import DeviceTime
from dreambench.artifacts.failures import describe_failures
from dreambench.artifacts.manifest import Digests, Manifest, ProblemGroup, RecipeRecord
from dreambench.artifacts.results import Summary
from dreambench.artifacts.steering import describe_steering
from dreambench.config.changes import describe_settings
from dreambench.datasets.subjects import AND, PairKind
from dreambench.errors import name_some
from dreambench.progress import format_seconds
from dreambench.report.formatting import NO_INTERVAL, format_number, format_p

INTERVALS: Mapping[Way, str] = {"student-t": "Student t", "bootstrap-t": "bootstrap-t"}
# The worst cases at 8 to 10 subjects of the section on skew in reports/benchmarks/coverage.md.
INTERVAL_SKEW = (
    "Where subjects are strongly skewed, a Student t interval over 8 to 10 of them may cover the "
    "true value in 84 % of cases, not in 95."
)
SKEW: Mapping[Way, str] = {
    "student-t": f"{INTERVAL_SKEW} The sign-flip test may have a type I error of 15 % "
    "there, not 5. --interval bootstrap-t does better.",
    "bootstrap-t": "Where subjects are strongly skewed, a bootstrap-t interval over 8 to 10 of "
    "them may cover the true value in 91 % of cases, not in 95.",
}


def make_image_notes(runs: Sequence[Scored]) -> list[str]:
    """Return a line for each thing to know of failures, steering, missing metrics and the like."""
    lines = _note_shared_nouns(runs[0].scores.frame) if runs else []
    for run in runs:
        summary = run.summary
        lines += [f"{run.label}: {line}" for line in describe_failures(summary.failures)]
        for entry in summary.metrics.values():
            if entry.info.listed and entry.info.not_measured:
                title, why = entry.info.title, entry.info.not_measured
                lines.append(f"{run.label}: {title} not measured: {why}")
        lines += [f"{run.label}: {line}" for line in describe_steering(summary.settings)]
        lines += [f"{run.label}: {cut}" for cut in summary.cut_texts]
        lines += _list_problems(run.label, summary.problems)
        images = summary.images
        if images is None:
            continue
        lossy = f", {images.n_lossy} of them with lossy compression" if images.n_lossy else ""
        lines.append(
            f"{run.label}: {images.n_scored} of {images.n_expected} external images "
            f"({images.layout}){lossy}"
        )
        lines += [f"{run.label}: {note}" for note in images.notes]
        lines += _list_problems(run.label, images.problems)
    return lines


def _note_shared_nouns(frame: pd.DataFrame) -> list[str]:
    """Return what cannot be told of pairs of two subjects of one class."""
    rows = frame.drop_duplicates("subject")
    pairs = rows[rows["kind"].isin(get_args(PairKind))]
    shared = [
        row.subject
        for row in pairs.itertuples()
        if len(set(str(row.class_name).split(f" {AND} "))) == 1
    ]
    if not shared:
        return []
    return [
        f"{len(shared)} of {len(pairs)} pairs share a class noun ({name_some(shared)}): no prompt "
        "says which is which, so that what is swapped cannot be told there, and the two are told "
        "apart by their looks alone"
    ]


def _list_problems(label: str, problems: Mapping[str, ProblemGroup]) -> list[str]:
    return [
        f"{label}: {group.n_images} {'image' if group.n_images == 1 else 'images'} {kind}, "
        f"the first: {group.names[0]}"
        for kind, group in problems.items()
    ]


def list_signatures(run: Scored) -> list[str]:
    """Return the signature of each listed metric, in the order of the table."""
    entries = run.summary.metrics.values()
    return [e.info.signature or e.info.title for e in entries if e.info.listed]


def list_other_signatures(runs: Sequence[Scored]) -> list[str]:
    """Return the signature of each other metric, one for all runs; or why it was not measured."""
    names = dict.fromkeys(n for run in runs for n, info in run.infos.items() if not info.listed)
    lines: list[str] = []
    for name in names:
        infos = {run.label: run.infos[name] for run in runs if name in run.infos}
        lines += dict.fromkeys(info.signature for info in infos.values() if info.signature)
        without: dict[str, list[str]] = {}
        for label, info in infos.items():
            if not info.signature:
                without.setdefault(info.not_measured, []).append(label)
        title = next(iter(infos.values())).title
        for reason, labels in without.items():
            of = "" if len(labels) == len(infos) else f" of {name_some(labels)}"
            lines.append(f"{title}: not measured{of}: {reason}")
    return lines


def describe_tracks(runs: Sequence[Scored]) -> str:
    """Return what each row may use; empty where nothing is known of any."""
    tracks: dict[str, list[str]] = {}
    for run in runs:
        if run.summary.track is not None:
            tracks.setdefault(run.summary.track, []).append(run.name)
    text = "; ".join(f"{track}: {', '.join(names)}" for track, names in tracks.items())
    return f"Tracks: {text}." if text else ""


def describe_digests(digests: Digests) -> str:
    """Return what a row comes from; external images have no recipe and no base model."""
    named = {"recipe": digests.recipe, "images": digests.images, "data": digests.data}
    parts = [f"Protocol {digests.protocol}", *(f"{k} {v}" for k, v in named.items() if v)]
    if digests.base_model:
        parts.append(f"base model `{digests.base_model}`, sampler {digests.sampler}")
    parts += [f"weights of {name} `{value}`" for name, value in (digests.weights or {}).items()]
    return ", ".join(parts)


def describe_recipe(recipe: RecipeRecord) -> str:
    """Return a row's method and all of its settings."""
    settings = describe_settings(recipe.settings) or "no settings"
    return f"Recipe {recipe.name}, method {recipe.method}: {settings}."


def describe_seeds(manifest: Manifest) -> str:
    """Return from what the seeds of images and trainings follow."""
    base = manifest.protocol.base_seed
    if manifest.images is not None:
        return "External images: with which seeds they were generated is not known here."
    again = f', "replicate", {manifest.replicate}' if manifest.replicate > 1 else ""
    return (
        f"Base seed {base}. The seed of an image is a hash of "
        f'("image", subject, prompt, number, {base}), that of a training one of ("train", subject, '
        f"{base}{again}): `derive_seed` in `dreambench.artifacts.plan`. So no order, batch, "
        f"machine or interruption changes one; plan {manifest.digests.plan}."
    )


def list_versions(
    manifest: Manifest, summary: Summary, device_time: DeviceTime | None = None
) -> list[str]:
    """Return with which code, packages, device and threads a folder's numbers were made.

    And in what time, where images were made here.
    """
    computes = dict.fromkeys(str(session.compute) for session in manifest.sessions)
    codes = dict.fromkeys(str(session.code) for session in manifest.sessions)
    codes.pop(str(summary.code), None)
    packages = ", ".join(f"{name} {version}" for name, version in summary.packages.items())
    lines = [f"Scored and summarised by {summary.code} on {summary.device} in {summary.precision}"]
    if codes:
        lines.append(f"Earlier sessions had {name_some(list(codes))}")
    lines += [f"Computed on {compute}" for compute in computes]
    if device_time is not None:
        lines.append(
            f"Device time (h:mm:ss): {format_seconds(device_time.training_seconds)} of training, "
            f"{format_seconds(device_time.generating_seconds)} of generating"
        )
    return [*lines, ", ".join(part for part in (f"Python {summary.python}", packages) if part)]


def make_comparison_notes(table: pd.DataFrame) -> list[str]:
    """Return what a reader of a comparison has to know, and what its table cannot show."""
    n_tests, n_subjects = int(table["n_comparisons"].max()), int(table["n_subjects"].max())
    way: Way = table["way"].iloc[0]
    notes = [
        "Means over subjects of differences paired by subject and prompt; each 95 % interval "
        f"({INTERVALS[way]} over subjects) stands for itself.",
        f"p: two-sided {_describe_test(n_subjects, way)}. p Holm: adjusted over all {n_tests} "
        "tests of this table, methods x metrics; the verdict goes by it, at "
        f"{100 * ALPHA:.0f} %.",
        SKEW[way],
    ]
    notes += _describe_replicates(table)
    least = smallest_p(n_subjects, way)
    if least * n_tests > ALPHA:
        notes.append(
            f"Too few subjects for so many tests: {n_subjects} subjects give no p below "
            f"{format_p(least)}, so over {n_tests} tests no p Holm below "
            f"{format_p(min(1.0, least * n_tests))}, however large a difference. Compare fewer "
            "runs or fewer metrics."
        )
    if (table["prompts"] == NO_PROPERTY).any():
        notes.append(
            "Metrics that the paper does not have are compared without property prompts, in which "
            "a right image must lose likeness; --family property compares these alone."
        )
    if (table["low"].isna() & (table["n_subjects"] > 0)).any():
        notes.append(NO_INTERVAL)
    if table["n_left_out"].any():
        notes.append("Left out: cells (subject, prompt) that only one of the two runs has.")
    if table[["partial_first", "partial_second"]].any(axis=None):
        notes.append("Partial: a run that was narrowed or is not finished.")
    return notes


def _describe_test(n_subjects: int, way: Way) -> str:
    if way == "bootstrap-t":
        return f"bootstrap-t test over subjects ({N_RESAMPLES} seeded draws)"
    exact = n_subjects <= MAX_EXACT_SUBJECTS
    flips = f"all 2^{n_subjects} flips" if exact else f"{N_FLIPS} sampled flips"
    return f"sign-flip test over subjects ({flips})"


def _describe_replicates(table: pd.DataFrame) -> list[str]:
    """Return which differences are smaller than those between replicates of one method."""
    if "between_replicates" not in table or table["between_replicates"].isna().all():
        return []
    known = table[table["between_replicates"].notna()]
    small = known[known["mean"].abs() < known["between_replicates"]]
    lines = [
        f"{row.first} - {row.second} in {row.metric} ({format_number(row.mean)}) is smaller than "
        f"the difference between two replicates of one of them "
        f"({format_number(row.between_replicates)}): trained again, it may reverse."
        for row in small.itertuples()
    ]
    n_larger = len(known) - len(small)
    if n_larger:
        lines.append(
            f"{n_larger} of {len(known)} differences are larger than those between replicates of "
            "the methods compared."
        )
    return lines
