"""The tables of a report: scored image sets in, numbers out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pandas as pd

from dreambench.analysis.comparison import ALL_PROMPTS, Scored
from dreambench.analysis.costs import Cost
from dreambench.analysis.learning import FLOOR, judge_learning
from dreambench.analysis.pairing import estimate_paired
from dreambench.analysis.paper_tables import PaperTable, compare_directions
from dreambench.analysis.replicates import estimate_spread
from dreambench.analysis.stats import estimate_table, mean_by_subject
from dreambench.analysis.steps import estimate_steps
from dreambench.artifacts.results import MetricInfo, MetricSummary
from dreambench.config.protocol import PRIOR_PROMPT_ID, PROPERTY
from dreambench.report.formatting import format_number
from dreambench.report.model import Cell, Interval, PValue, Table

OTHER_PROMPTS, PROPERTY_PROMPTS = "other prompts", "property prompts"
BOUNDS = {
    "copy_bound": "copy bound: real photos, self-pairs in; what pasting a photo back earns",
    "faithful_bound": "faithful bound: real photos, self-pairs out; what a new photo earns",
}
PAIR_BOUNDS = {
    "copy_bound": "copy bound: a photo of each, side by side",
    "first_alone_bound": "the first subject alone: its photos, self-pairs in",
    "second_alone_bound": "the second subject alone: its photos, self-pairs in",
}


def make_long_table(runs: Sequence[Scored]) -> Table:
    """Return one row a method and listed metric with everything that a number must carry."""
    rows: list[dict[str, Cell]] = []
    for run in runs:
        summary = run.summary
        digests = summary.digests.model_dump()
        for entry in _listed(run):
            rows.append(
                {
                    "method": run.name,
                    "metric": entry.info.title,
                    "mean": entry.whole.mean,
                    "low": entry.whole.low,
                    "high": entry.whole.high,
                    "n_subjects": entry.whole.n_subjects,
                    "no_interval": entry.whole.no_interval,
                    "n_scored": entry.n_scored,
                    "n_expected": entry.n_expected,
                    "not_measured": entry.info.not_measured,
                    "partial": str(summary.partial),
                    "track": summary.track,
                    "n_failed": summary.n_failed,
                    "signature": entry.info.signature,
                    **{key: digests[key] for key in ("protocol", "recipe", "images", "data")},
                }
            )
    return Table.from_rows("table", rows)


def make_main_table(runs: Sequence[Scored]) -> Table:
    """Return one row a method, one column a listed metric; partial rows say so.

    Property prompts stand apart in a row of their own, since a right image loses likeness there.
    """
    rows: list[dict[str, Cell]] = []
    for run in runs:
        entries = _listed(run)
        head: dict[str, Cell] = {"method": run.label}
        rows.append(head | {_main_heading(entry): _main_cell(entry) for entry in entries})
        if any(entry.property for entry in entries):
            apart: dict[str, Cell] = {"method": f"{run.label}, property prompts"}
            for entry in entries:
                cell = Interval.of(entry.property) if entry.property else None
                apart[_main_heading(entry)] = cell
            rows.append(apart)
    return Table.from_rows("main", rows)


def _listed(run: Scored) -> list[MetricSummary]:
    return [entry for entry in run.summary.metrics.values() if entry.info.listed]


def _main_heading(entry: MetricSummary) -> str:
    """Return the heading of a column; it says where property prompts are left out."""
    left_out = "" if entry.info.prompts == "all" else ", property prompts left out"
    return entry.info.heading + left_out


def _main_cell(entry: MetricSummary) -> Cell:
    if entry.info.not_measured:
        return "not measured"
    return Interval.of(entry.whole, note=_count_note(entry))


def _count_note(entry: MetricSummary) -> str:
    is_whole = entry.n_scored >= entry.n_expected
    return "" if is_whole else f"({entry.n_scored} of {entry.n_expected})"


def _listed_scores(run: Scored) -> pd.DataFrame:
    listed = [name for name, info in run.infos.items() if info.listed]
    return run.scores.frame[run.scores.frame["metric"].isin(listed)]


def _split_prompts(run: Scored) -> Iterator[tuple[str, pd.DataFrame]]:
    """Yield listed scores of all prompts, and of property prompts where there are others.

    Metrics that leave property prompts out have none of them among all prompts.
    """
    scores = _listed_scores(run)
    apart = scores["family"] == PROPERTY
    narrow = [name for name, info in run.infos.items() if info.prompts == "not-property"]
    yield ALL_PROMPTS, scores[~(apart & scores["metric"].isin(narrow))]
    if apart.any() and not apart[scores["family"] != PRIOR_PROMPT_ID].all():
        yield PROPERTY, scores[apart]


def make_family_table(runs: Sequence[Scored]) -> Table:
    """Return means with intervals for each prompt category."""
    rows: list[dict[str, Cell]] = []
    for run in runs:
        scores = _listed_scores(run)
        scores = scores[scores["family"] != PRIOR_PROMPT_ID]
        rows += [{"method": run.label, **row} for row in _group_rows(run, scores, "family")]
    return Table.from_rows("families", rows)


def make_kind_table(runs: Sequence[Scored]) -> Table:
    """Return means over the live subjects, and over the objects; property prompts apart."""
    rows: list[dict[str, Cell]] = []
    for run in runs:
        for prompts, scores in _split_prompts(run):
            for row in _group_rows(run, scores, "kind"):
                head: dict[str, Cell] = {"method": run.label, "kind": row.pop("kind")}
                rows.append({**head, "prompts": prompts, **row})
    return Table.from_rows("kinds", rows)


def _group_rows(run: Scored, scores: pd.DataFrame, by: str) -> list[dict[str, Cell]]:
    bounds = {name: info.bounds for name, info in run.infos.items()}
    rows: list[dict[str, Cell]] = []
    for name, group in estimate_table(scores, by=[by], bounds=bounds).groupby(by, sort=False):
        row: dict[str, Cell] = {by: str(name), "subjects": int(group["n_subjects"].max())}
        for found in group.itertuples():
            row[run.infos[found.metric].heading] = _interval(found)
        rows.append(row)
    return rows


def _interval(row: object, *, note: str = "") -> Interval:
    """Return the interval of a row with mean, low and high, NaN where there is none."""
    mean, low, high = (getattr(row, key) for key in ("mean", "low", "high"))
    return Interval(mean, None if pd.isna(low) else low, None if pd.isna(high) else high, note)


def make_subject_table(runs: Sequence[Scored]) -> Table:
    """Return means for each subject; property prompts apart."""
    rows: list[dict[str, Cell]] = []
    for run in runs:
        for prompts, scores in _split_prompts(run):
            for subject, group in mean_by_subject(scores).groupby("subject", sort=False):
                row: dict[str, Cell] = {"method": run.label, "subject": str(subject)}
                row["prompts"] = prompts
                for found in group.itertuples():
                    row[run.infos[found.metric].heading] = float(found.value)
                rows.append(row)
    return Table.from_rows("subjects", rows)


def make_difference_table(runs: Sequence[Scored]) -> Table:
    """Return the first method minus each other one, paired by subject; property prompts apart."""
    rows: list[dict[str, Cell]] = []
    for other in runs[1:]:
        parts = [dict(_split_prompts(run)) for run in (runs[0], other)]
        for prompts in [key for key in parts[0] if key in parts[1]]:
            apart = ", property prompts" if prompts == PROPERTY else ""
            row: dict[str, Cell] = {"difference": f"{runs[0].label} - {other.label}{apart}"}
            for found in estimate_paired(parts[0][prompts], parts[1][prompts]).itertuples():
                note = f"({found.n_left_out} cells left out)" if found.n_left_out else ""
                row[runs[0].infos[found.metric].heading] = _interval(found, note=note)
            rows.append(row)
    return Table.from_rows("differences", rows)


def make_metric_table(runs: Sequence[Scored], prompts: str) -> Table:
    """Return the metrics that the protocol does not list: one row each, one column a method.

    `prompts` is OTHER_PROMPTS or PROPERTY_PROMPTS, which never share a number here.
    """
    infos: dict[str, MetricInfo] = {}
    for run in runs:
        infos |= {name: info for name, info in run.infos.items() if not info.listed}
    rows: list[dict[str, Cell]] = []
    for name, info in infos.items():
        row: dict[str, Cell] = {"metric": info.heading}
        for run in runs:
            entry = run.summary.metrics.get(name)
            part = entry and (entry.property if prompts == PROPERTY_PROMPTS else entry.whole)
            row[run.label] = None
            if entry and part and part.n_subjects:
                row[run.label] = Interval.of(part, note=_count_note(entry))
        rows.append(row)
    return Table.from_rows(f"metrics-{prompts.replace(' ', '-')}", rows)


def make_bounds_table(runs: Sequence[Scored]) -> Table:
    """Return what the real photos score, and the floor where class-only is among the runs."""
    found, infos = runs[0].summary.reference_bounds, runs[0].infos
    known = [name for name in found if name in infos]
    is_of_pairs = any("first_alone_bound" in values for values in found.values())
    rows: list[dict[str, Cell]] = [
        {"reference": text} | {infos[name].heading: found[name][key] for name in known}
        for key, text in (PAIR_BOUNDS if is_of_pairs else BOUNDS).items()
    ]
    for run in runs:
        if run.name == FLOOR:
            means = {n: run.summary.metrics[n].whole.mean for n in known if n in run.infos}
            head: dict[str, Cell] = {"reference": f"{run.label}: no personalization, the floor"}
            rows.append(head | {infos[name].heading: mean for name, mean in means.items()})
    return Table.from_rows("reference-bounds", rows)


def make_replicate_table(runs: Sequence[Scored]) -> Table:
    """Return how far replicates of each method lie apart, beside its interval over subjects."""
    titles = {
        "mean": "mean over replicates", "sd": "standard deviation between replicates",
        "half_interval": "half of the 95 % interval over subjects (first replicate)",
    }  # fmt: skip
    rows: list[dict[str, Cell]] = []
    for name, group in estimate_spread(runs).groupby("method", sort=False):
        for key, title in titles.items():
            row: dict[str, Cell] = {
                "method": str(name), "replicates": int(group["n_replicates"].iloc[0]),
                "number": title,
            }  # fmt: skip
            for found in group.to_dict("records"):
                row[runs[0].infos[str(found["metric"])].heading] = float(found[key])
            rows.append(row)
    return Table.from_rows("replicates", rows)


def make_step_table(runs: Sequence[Scored]) -> Table:
    """Return what each method scores after each number of steps (`analysis.steps`)."""
    rows: list[dict[str, Cell]] = []
    infos = {name: info for run in runs for name, info in run.infos.items()}
    for (name, steps), group in estimate_steps(runs).groupby(["method", "n_steps"], sort=False):
        row: dict[str, Cell] = {"method": str(name), "steps": int(steps)}
        for found in group.itertuples():
            row[infos[found.metric].heading] = _interval(found)
        rows.append(row)
    return Table.from_rows("steps", rows)


def make_learning_table(runs: Sequence[Scored]) -> Table:
    """Return which subjects each trained method learned (`analysis.learning`)."""
    rows: list[dict[str, Cell]] = [
        {
            "method": found.method,
            "learned": len(found.learned),
            "not learned": len(found.not_learned),
            "too few prompts to tell": len(found.unknown),
            "which were not": ", ".join(found.not_learned) or None,
        }
        for found in judge_learning(runs)
    ]
    return Table.from_rows("learning", rows)


def make_cost_table(costs: Sequence[Cost]) -> Table:
    """Return what each method costs (`analysis.costs`), in MB, GB and seconds."""
    rows: list[dict[str, Cell]] = [
        {
            "method": cost.method,
            "trained parameters": cost.trained_parameters,
            "weights, MB": _scale(cost.weights_bytes, 1e-6),
            "training, s": cost.training_seconds,
            "peak memory, GB": _scale(cost.peak_bytes, 1e-9),
            "an image, s": cost.seconds_per_image,
        }
        for cost in costs
    ]
    return Table.from_rows("costs", rows)


def _scale(value: float | None, factor: float) -> float | None:
    return None if value is None else value * factor


def make_comparison_table(table: pd.DataFrame, infos: dict[str, MetricInfo]) -> Table:
    """Return the rows of `compare_scored`: difference, metric, interval, p-values, verdict."""
    rows: list[dict[str, Cell]] = []
    for entry in table.itertuples():
        left_out = f" ({entry.n_left_out} left out)" if entry.n_left_out else ""
        marks = [" (partial)" if p else "" for p in (entry.partial_first, entry.partial_second)]
        prompts = "" if entry.prompts == ALL_PROMPTS else f", {entry.prompts} prompts"
        rows.append(
            {
                "difference": f"{entry.first}{marks[0]} - {entry.second}{marks[1]}",
                "metric": infos[entry.metric].heading + prompts,
                "mean and 95 % interval": _interval(entry),
                "p": PValue(entry.p),
                "p Holm": PValue(entry.p_holm),
                "subjects": str(entry.n_subjects),
                "cells": f"{entry.n_cells}{left_out}",
                "verdict": entry.verdict,
            }
        )
    return Table.from_rows("comparison", rows)


def make_value_table(table: PaperTable, metrics: Sequence[str]) -> Table:
    """Return one row a method with the paper's number behind each of its own."""
    rows: list[dict[str, Cell]] = []
    for run in table.runs:
        theirs = table.frame[table.frame["recipe"] == run.name].set_index("metric")
        row: dict[str, Cell] = {"method": run.label, "the paper's row": str(theirs["row"].iloc[0])}
        for metric in metrics:
            printed = f"; paper {format_number(theirs['value'].get(metric))}"
            part = run.summary.metrics[metric].whole
            row[run.infos[metric].heading] = Interval.of(part, note=printed)
        rows.append(row)
    return Table.from_rows("values", rows)


def make_direction_table(table: PaperTable) -> Table:
    """Return the paper's differences and those here, paired by subject, and how they agree."""
    infos = table.runs[0].infos
    rows: list[dict[str, Cell]] = [
        {
            "difference": f"{row.first} - {row.second}",
            "metric": infos[row.metric].heading,
            "paper": float(row.paper),
            "here": _interval(row),
            "direction": row.direction,
        }
        for row in compare_directions(table).itertuples()
    ]
    return Table.from_rows("directions", rows)
