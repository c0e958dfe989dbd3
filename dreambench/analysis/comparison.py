"""Methods on the same subjects and prompts: paired differences, tests, and what they show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from dreambench.analysis.checking import find_score_faults, find_summary_faults
from dreambench.analysis.pairing import compare_paired
from dreambench.analysis.stats import (
    CONFIDENCE,
    MIN_BOOTSTRAP_SUBJECTS,
    Way,
    adjust_holm,
    smallest_p,
    why_no_interval,
)
from dreambench.artifacts.image_set import ImageSet
from dreambench.artifacts.results import (
    MetricInfo,
    ScoreTable,
    Summary,
    read_reference_bounds,
    read_scores,
    read_summary,
)
from dreambench.config.protocol import PRIOR_PROMPT_ID, PROPERTY
from dreambench.config.track import ORACLE
from dreambench.datasets.subjects import digest_subjects
from dreambench.errors import UserError, name_some, unknown_name

ALPHA = 1 - CONFIDENCE
ALL_PROMPTS = "all"
NO_PROPERTY = "all but property"
TRIVIAL = ("class-only", "copy-reference")
"""Baselines that show the ends of the scale: no photo was seen, and a photo is given back."""
NOT_SHOWN = "no difference shown"
TOO_FEW = "too few subjects to tell"


def is_reference(method: str, track: str | None) -> bool:
    """Return whether a row is not a competing method: a trivial baseline, an oracle."""
    return method in TRIVIAL or track == ORACLE


@dataclass(frozen=True)
class Scored:
    """A scored image set as tables need it: the name of its row, its scores and its summary."""

    name: str
    scores: ScoreTable
    summary: Summary

    @property
    def signatures(self) -> dict[str, str | None]:
        """Of each metric; None for one that was not measured."""
        return {name: entry.info.signature for name, entry in self.summary.metrics.items()}

    @property
    def label(self) -> str:
        """The row name, marked when the image set is partial."""
        return self.name + (" (partial)" if self.summary.partial else "")

    @property
    def is_reference(self) -> bool:
        """Whether it shows an end of the scale and competes with nobody."""
        return is_reference(self.summary.method, self.summary.track)

    @property
    def infos(self) -> dict[str, MetricInfo]:
        """What its metrics are, by name, in the order of tables."""
        return {name: entry.info for name, entry in self.summary.metrics.items()}


def load_comparable(sets: Sequence[ImageSet]) -> list[Scored]:
    """Read scores and summaries of image sets to be set side by side, each with its own name.

    Raises:
        UserError: they are not of one protocol and dataset, or one has no summary.
    """
    check_comparable(sets)
    found: list[Scored] = []
    for images in sets:
        summary = read_summary(images)
        n_before = sum(other.name == images.name for other in sets[: len(found)])
        name = f"{images.name} #{n_before + 1}" if n_before else images.name
        table = read_scores(images)
        _refuse_faults(images, table, summary)
        found.append(Scored(name, table, summary))
        for metric, own in found[-1].signatures.items():
            # The same encoder does not do: a metric's own version may have changed in between.
            signature = found[0].signatures.get(metric)
            if None not in (own, signature) and own != signature:
                raise UserError(
                    f"{images.folder} has {own} where {sets[0].folder} has {signature}",
                    hint="score and summarise both again",
                    code="not-comparable",
                )
    return found


def _refuse_faults(images: ImageSet, table: ScoreTable, summary: Summary) -> None:
    """Raise UserError for results that do not agree with themselves."""
    what, command = images.scores_path.name, "score"
    faults = find_score_faults(images, table)
    if not faults:
        what, command = images.summary_path.name, "summarise"
        faults = find_summary_faults(images, table, read_reference_bounds(images), summary)
    if faults:
        raise UserError(
            f"{images.folder / what}: {name_some(faults, separator='; ')}",
            hint=f"see all with dreambench verify {images.folder}, and make it again with "
            f"dreambench {command} {images.folder}",
            code="wrong-results",
        )


def check_comparable(sets: Sequence[ImageSet]) -> None:
    """Refuse image sets that are not of the first one's protocol, base model, encoders and photos.

    One that was narrowed to some subjects has to have their photos in common with the others.
    Nobody knows which base model external images are of: they stand alongside any.

    Raises:
        UserError: two of them cannot be compared; the line says why.
    """
    photos_of: dict[str, tuple[str, ImageSet]] = {}
    for images in sets:
        faults = _find_faults(images, sets[0])
        for subject in images.subjects:
            own = digest_subjects([subject])
            photos, owner = photos_of.setdefault(subject.name, (own, images))
            if photos != own:
                faults.append(f"has different photos of {subject.name} from {owner.folder}")
        if faults:
            raise UserError(
                f"{images.folder} {faults[0]}",
                hint="compare runs of one protocol only, on the same subjects",
                code="not-comparable",
            )


def _find_faults(images: ImageSet, first: ImageSet) -> list[str]:
    own, its = images.manifest.digests, first.manifest.digests
    faults = []
    if own.protocol != its.protocol:
        faults.append(f"has a different protocol from {first.folder}")
    if None not in (own.base_model, its.base_model) and own.base_model != its.base_model:
        faults.append(f"has a different base model from {first.folder}")
    faults += [
        f"has a different {role} encoder from {first.folder}"
        for role, identity in images.encoders.items()
        if identity != first.encoders.get(role)
    ]
    if not {s.name for s in images.subjects} & {s.name for s in first.subjects}:
        faults.append(f"has no subject in common with {first.folder}")
    return faults


def compare_scored(
    runs: Sequence[Scored],
    *,
    all_pairs: bool = False,
    metrics: Sequence[str] | None = None,
    families: Sequence[str] = (),
    way: Way = "student-t",
) -> pd.DataFrame:
    """Return the first run minus each other one, or all pairs, in each metric: one row each.

    `metrics` are those that the protocol lists by default. Prompts are those of the categories in
    `families`; by default each metric's own (`MetricInfo.prompts`), as in the report.

    Columns: first, second (names of the runs), those of `compare_paired` with prompts (which),
    p_holm (adjusted over the n_comparisons rows that have a p-value), verdict and way (of interval
    and test), then what the numbers depend on: the signature and digests of what was compared.

    Raises:
        UserError: there are fewer than two runs, they lack a metric or a category, or they have too
            few subjects for the bootstrap-t.
    """
    if len(runs) < 2:
        raise UserError(
            f"a comparison needs two runs or more, not {len(runs)}",
            hint="name at least two run folders",
            code="missing-argument",
        )
    infos = runs[0].infos
    chosen = _choose_metrics(runs, metrics)
    _check_families(runs[0], families)
    tables = []
    for first, second in combinations(runs, 2) if all_pairs else [(runs[0], r) for r in runs[1:]]:
        frames = [choose_rows(run, chosen, families) for run in (first, second)]
        table = compare_paired(*frames, way=way)
        table.insert(0, "first", first.name)
        table.insert(1, "second", second.name)
        table.insert(3, "prompts", [_name_prompts(infos[m], families) for m in table["metric"]])
        tables.append(_add_recipe(table, first, second))
    every = pd.concat(tables, ignore_index=True)
    if every.empty:
        raise UserError(
            f"{', '.join(chosen)} has no row of these prompts",
            hint="name others with --family",
            code="no-rows",
        )
    if way == "bootstrap-t" and every["n_subjects"].min() < MIN_BOOTSTRAP_SUBJECTS:
        raise UserError(
            f"the bootstrap-t needs {MIN_BOOTSTRAP_SUBJECTS} subjects, and there are "
            f"{every['n_subjects'].min()}",
            hint="use --interval student-t",
            code="too-few-subjects",
        )
    every["way"] = way
    place = every.columns.get_loc("p") + 1
    every.insert(place, "p_holm", adjust_holm(every["p"].to_numpy()))
    every.insert(place + 1, "n_comparisons", int(every["p"].notna().sum()))
    verdicts = [judge_difference(row, infos[row.metric]) for row in every.itertuples()]
    every.insert(place + 2, "verdict", verdicts)
    return every


def find_best(runs: Sequence[Scored]) -> dict[str, str]:
    """Return by metric the name of the run that is shown to be better than every other one.

    Shown by paired sign-flip tests over subjects: the largest p-value of its differences from the
    others is at most 5 %, by Holm's adjustment over the listed metrics. (All of the others have to
    be beaten, so that no adjustment over them is due.) References are left out, and nothing is
    shown where a run is partial or there is one alone.
    """
    methods = [run for run in runs if not run.is_reference]
    if len(methods) < 2 or any(run.summary.partial for run in methods):
        return {}
    by_name = {run.name: run for run in methods}
    best: dict[str, str] = {}
    largest: dict[str, float] = {}
    for metric in _choose_metrics(methods, None):
        means = {run.name: run.summary.metrics[metric].whole.mean for run in methods}
        known = {name: mean for name, mean in means.items() if mean is not None}
        if len(known) < len(methods):
            continue
        is_higher = methods[0].infos[metric].higher_is_better
        # The nearest first: mostly it is the one that is not beaten, and no more tests are due.
        first, *others = sorted(known, key=known.__getitem__, reverse=is_higher)
        best[metric], largest[metric] = first, 0.0
        for other in others:
            frames = [choose_rows(by_name[name], [metric], ()) for name in (first, other)]
            p = float(compare_paired(*frames)["p"].iloc[0])
            largest[metric] = max(largest[metric], 1.0 if np.isnan(p) else p)
            if largest[metric] > ALPHA:
                break
    adjusted = adjust_holm(np.array(list(largest.values())))
    return {metric: best[metric] for metric, p in zip(largest, adjusted, strict=True) if p <= ALPHA}


def _choose_metrics(runs: Sequence[Scored], names: Sequence[str] | None) -> list[str]:
    infos = runs[0].infos
    known = [name for name, info in infos.items() if info.signature is not None]
    if names is None:
        common = set.intersection(*(set(run.infos) for run in runs))
        return [name for name, info in infos.items() if info.listed and name in common]
    for name in names:
        if name not in known:
            raise unknown_name("metric of these runs", name, known)
    return list(names)


def _check_families(run: Scored, families: Sequence[str]) -> None:
    known = set(run.scores.frame["family"]) - {PRIOR_PROMPT_ID}
    for family in families:
        if family not in known:
            raise unknown_name("prompt category of these runs", family, known)


def _add_recipe(table: pd.DataFrame, first: Scored, second: Scored) -> pd.DataFrame:
    """Add what the numbers of a comparison depend on."""
    table["signature"] = [first.signatures[metric] for metric in table["metric"]]
    table["protocol"] = first.summary.digests.protocol
    table["base_model"] = first.summary.digests.base_model
    for side, run in (("first", first), ("second", second)):
        table[f"partial_{side}"] = run.summary.partial
        table[f"recipe_{side}"] = run.summary.digests.recipe
        table[f"data_{side}"] = run.summary.digests.data
    return table


def choose_rows(run: Scored, names: Sequence[str], families: Sequence[str]) -> pd.DataFrame:
    """Return what a run scored in some metrics for the prompts of `_name_prompts`."""
    every = run.scores.frame
    every = every[every["metric"].isin(names)]
    if families:
        every = every[every["family"].isin(families)]
    else:
        narrow = [name for name, info in run.infos.items() if info.prompts == "not-property"]
        every = every[~(every["metric"].isin(narrow) & (every["family"] == PROPERTY))]
    order = {name: index for index, name in enumerate(names)}
    return every.sort_values("metric", key=lambda column: column.map(order), kind="stable")


def _name_prompts(info: MetricInfo, families: Sequence[str]) -> str:
    """Return which prompts a row is about."""
    if families:
        return ", ".join(families)
    return ALL_PROMPTS if info.prompts == "all" else NO_PROPERTY


def judge_difference(row: Any, info: MetricInfo) -> str:
    """Return what a row of `compare_scored` shows: which run is higher, or that none is.

    Where so few subjects could show nothing in so many tests, a difference that stands out by
    itself is not called absent.
    """
    if row.n_subjects < 2:
        return f"not tested: {why_no_interval(row.n_subjects, row.low)}"
    if row.p_holm > ALPHA:
        least = smallest_p(row.n_subjects, row.way)
        is_hopeless = least * row.n_comparisons > ALPHA
        return TOO_FEW if is_hopeless and row.p <= max(ALPHA, least) else NOT_SHOWN
    higher = row.first if row.mean > 0 else row.second
    return f"{higher} is higher ({'better' if info.higher_is_better else 'worse'})"
