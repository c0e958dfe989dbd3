"""Methods on the same subjects and prompts: paired differences, tests, and what they show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from dreambench.analysis.stats import (
    CONFIDENCE,
    adjust_holm,
    compute_sign_flip_p,
    estimate_mean,
    mean_by_subject,
    smallest_p,
    why_no_interval,
)
from dreambench.artifacts.image_set import ImageSet
from dreambench.config.protocol import PRIOR_PROMPT_ID, PROPERTY
from dreambench.datasets.subjects import digest_subjects
from dreambench.errors import UserError, unknown_name
from dreambench.metrics.measures import MEASURES, QUANTITIES

ALPHA = 1 - CONFIDENCE
ALL_PROMPTS = "all"
NO_PROPERTY = "all but property"
NOT_SHOWN = "no difference shown"
TOO_FEW = "too few subjects to tell"


@dataclass(frozen=True)
class Scored:
    """A scored run as tables need it: its row name, scores, summary, and measures of its images.

    `scores` and `measures` have the columns of `scoring.COLUMNS`.
    """

    name: str
    scores: pd.DataFrame
    summary: Mapping[str, Any]
    measures: pd.DataFrame

    @property
    def signatures(self) -> dict[str, str | None]:
        """Of each metric and measure; None for a measure that was not measured."""
        every = {**self.summary["metrics"], **self.summary.get("measures", {})}
        return {name: entry["signature"] for name, entry in every.items()}

    @property
    def label(self) -> str:
        """The row name, marked when the run is partial."""
        return self.name + (" (partial)" if self.summary["partial"] else "")


def check_comparable(runs: Sequence[ImageSet]) -> None:
    """UserError unless all runs have the first one's protocol, base model, encoders and photos.

    A run that was narrowed to some subjects has to have their photos in common with the others.
    Nobody knows which base model images made elsewhere are of: they stand beside any.
    """
    first = runs[0]
    known: dict[str, tuple[str, ImageSet]] = {}
    for run in runs:
        faults = [
            f"has another {key} than {first.run_dir}"
            for key in ("protocol", "base_model")
            if None not in (pair := [one.manifest["digests"].get(key) for one in (run, first)])
            and pair[0] != pair[1]
        ]
        faults += [
            f"has another {role} encoder than {first.run_dir}"
            for role, identity in run.manifest["encoders"].items()
            if identity != first.manifest["encoders"].get(role)
        ]
        for subject in run.subjects:
            photos, owner = known.setdefault(subject.name, (digest_subjects([subject]), run))
            if photos != digest_subjects([subject]):
                faults.append(f"has other photos of {subject.name} than {owner.run_dir}")
        if not {s.name for s in run.subjects} & {s.name for s in first.subjects}:
            faults.append(f"has no subject in common with {first.run_dir}")
        if faults:
            raise UserError(
                f"{run.run_dir} {faults[0]}",
                hint="compare runs of one protocol only, on the same subjects",
            )


def compare_paired(first: pd.DataFrame, second: pd.DataFrame) -> pd.DataFrame:
    """Differences first - second for each metric, paired by subject and prompt.

    Only cells (subject, prompt) that both have count; a subject's difference is the mean over its
    cells, each the mean over its pairs. Columns: metric, mean, low, high (`estimate_mean` over
    subjects), p (`compute_sign_flip_p`), n_subjects, n_cells, n_left_out (cells that one of the two
    lacks).
    """
    keys = ["metric", "subject", "prompt_id"]
    values = [
        mean_by_subject(scores, by=["prompt_id"]).set_index(keys)["value"]
        for scores in (first, second)
    ]
    cells = pd.concat(values, axis=1, join="outer", keys=["first", "second"])
    cells["difference"] = cells["first"] - cells["second"]
    paired = cells["difference"].dropna()
    n_cells = paired.groupby("metric").size()
    n_left_out = cells["difference"].isna().groupby("metric").sum()
    # In the order of names, so that the order of rows in a file does not reach the drawn flips.
    subjects = paired.groupby(["metric", "subject"], sort=True).mean()
    by_metric = {metric: group.to_numpy() for metric, group in subjects.groupby("metric")}
    rows = []
    for metric in dict.fromkeys([*first["metric"], *second["metric"]]):
        differences = by_metric.get(metric, np.array([]))
        found = estimate_mean(differences)
        rows.append(
            [
                metric, found.mean, found.low, found.high, compute_sign_flip_p(differences),
                found.n_subjects, int(n_cells.get(metric, 0)), int(n_left_out[metric]),
            ]
        )  # fmt: skip
    columns = ["metric", "mean", "low", "high", "p", "n_subjects", "n_cells", "n_left_out"]
    return pd.DataFrame(rows, columns=columns)


def compare_runs(
    runs: Sequence[Scored],
    *,
    all_pairs: bool = False,
    metrics: Sequence[str] | None = None,
    families: Sequence[str] = (),
) -> pd.DataFrame:
    """The first run minus each other one, or all pairs, in each metric: one row a comparison.

    `metrics` may name measures as well, and are the paper's by default. Prompts are those of
    `families`; by default all, but for measures all without property prompts, as in the report.

    Columns: first, second (names of the runs), those of `compare_paired` with prompts (which),
    p_holm (adjusted over the n_comparisons rows that have a p-value) and verdict, then what the
    numbers depend on: the signature and digests of what was compared. Raises UserError for a metric
    or a family that the runs lack.
    """
    known = [name for name, signature in runs[0].signatures.items() if signature is not None]
    for name in metrics or ():
        if name not in known:
            raise unknown_name("metric of these runs", name, known)
    chosen = list(runs[0].summary["metrics"]) if metrics is None else list(metrics)
    there = {*runs[0].scores["family"], *runs[0].measures["family"]} - {PRIOR_PROMPT_ID}
    for family in families:
        if family not in there:
            raise unknown_name("family of these runs", family, there)
    tables = []
    for first, second in combinations(runs, 2) if all_pairs else [(runs[0], r) for r in runs[1:]]:
        table = compare_paired(*(_choose_rows(run, chosen, families) for run in (first, second)))
        table.insert(0, "first", first.name)
        table.insert(1, "second", second.name)
        table.insert(3, "prompts", [_name_prompts(m, families) for m in table["metric"]])
        table["signature"] = [first.signatures[metric] for metric in table["metric"]]
        for key in ("protocol", "base_model"):
            table[key] = first.summary["digests"][key]
        for side, run in (("first", first), ("second", second)):
            table[f"partial_{side}"] = run.summary["partial"]
            for key in ("recipe", "data"):
                table[f"{key}_{side}"] = run.summary["digests"].get(key)
        tables.append(table)
    every = pd.concat(tables, ignore_index=True)
    if every.empty:
        raise UserError(
            f"{', '.join(chosen)} has no row of these prompts", hint="name others with --family"
        )
    place = every.columns.get_loc("p") + 1
    every.insert(place, "p_holm", adjust_holm(every["p"].to_numpy()))
    every.insert(place + 1, "n_comparisons", int(every["p"].notna().sum()))
    every.insert(place + 2, "verdict", [judge_difference(row) for row in every.itertuples()])
    return every


def _choose_rows(run: Scored, names: Sequence[str], families: Sequence[str]) -> pd.DataFrame:
    """What a run scored by some metrics and measures for the prompts of `_name_prompts`."""
    measures = run.measures[run.measures["value"].notna()]
    if families:
        rows = [part[part["family"].isin(families)] for part in (run.scores, measures)]
    else:
        rows = [run.scores, measures[measures["family"] != PROPERTY]]
    every = pd.concat([part for part in rows if len(part)] or rows, ignore_index=True)
    every = every[every["metric"].isin(names)]
    order = {name: index for index, name in enumerate(names)}
    return every.sort_values("metric", key=lambda column: column.map(order), kind="stable")


def _name_prompts(metric: str, families: Sequence[str]) -> str:
    """Which prompts a row speaks of."""
    if families:
        return ", ".join(families)
    return NO_PROPERTY if metric in MEASURES else ALL_PROMPTS


def judge_difference(row: Any) -> str:
    """What a row of `compare_runs` shows: which run is higher, or that none is shown to be.

    Where so few subjects could show nothing in so many tests, a difference that stands out by
    itself is not called absent.
    """
    if row.n_subjects < 2:
        return f"not tested: {why_no_interval(row.n_subjects, row.low)}"
    if row.p_holm > ALPHA:
        least = smallest_p(row.n_subjects)
        is_hopeless = least * row.n_comparisons > ALPHA
        return TOO_FEW if is_hopeless and row.p <= max(ALPHA, least) else NOT_SHOWN
    higher = row.first if row.mean > 0 else row.second
    return (
        f"{higher} is higher ({'better' if QUANTITIES[row.metric].higher_is_better else 'worse'})"
    )
