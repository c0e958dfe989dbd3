"""Tables of a run beside others, as CSV, Markdown and text. The only place that rounds."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from dreambench.analysis.comparison import (
    ALL_PROMPTS,
    ALPHA,
    NO_PROPERTY,
    Scored,
    compare_paired,
)
from dreambench.analysis.stats import (
    MAX_EXACT_SUBJECTS,
    N_FLIPS,
    estimate_table,
    mean_by_subject,
    smallest_p,
)
from dreambench.artifacts.failures import describe_failures
from dreambench.config.protocol import PRIOR_PROMPT_ID, PROPERTY
from dreambench.errors import UserError, name_some
from dreambench.metrics.measures import MEASURES, QUANTITIES
from dreambench.metrics.metrics import METRICS
from dreambench.storage.files import write_bytes

DIGITS = 3
FLOOR = "class-only"
NO_INTERVAL = (
    "[-, -]: no interval, since one subject does not show how subjects differ, nor do subjects "
    "that all have the same value."
)


def format_number(value: float | None) -> str:
    """Three decimals as papers have them (".668"); a dash for nothing."""
    if value is None or math.isnan(value):
        return "-"
    return f"{value:.{DIGITS}f}".replace("0.", ".", 1) if abs(value) < 1 else f"{value:.{DIGITS}f}"


def format_interval(mean: float, low: float | None, high: float | None) -> str:
    """Mean with its interval, e.g. ".668 [.601, .735]"."""
    if low is None or high is None or math.isnan(low):
        return f"{format_number(mean)} [-, -]"
    return f"{format_number(mean)} [{format_number(low)}, {format_number(high)}]"


def make_long_table(runs: Sequence[Scored]) -> pd.DataFrame:
    """One row a method and metric with everything that a number must carry."""
    rows = []
    for run in runs:
        for name, entry in run.summary["metrics"].items():
            rows.append(
                {
                    "method": run.name,
                    "metric": METRICS[name].title,
                    "mean": entry["mean"],
                    "low": entry["low"],
                    "high": entry["high"],
                    "n_subjects": entry["n_subjects"],
                    "no_interval": entry["no_interval"],
                    "n_scored": entry["n_scored"],
                    "n_expected": entry["n_expected"],
                    "not_measured": entry.get("not_measured", ""),
                    "partial": run.summary["partial"],
                    "track": run.summary.get("track", ""),
                    "n_failed": run.summary.get("n_failed", 0),
                    "signature": entry["signature"],
                    **{
                        key: run.summary["digests"].get(key)
                        for key in ("protocol", "recipe", "images", "data")
                    },
                }
            )
    return pd.DataFrame(rows)


def metric_heading(name: str) -> str:
    """Title of a metric or measure with the direction in which it is better."""
    one = QUANTITIES[name]
    return f"{one.title} {'(up)' if one.higher_is_better else '(down)'}"


def _split_prompts(scores: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """All prompts, as the paper has them, and the property prompts alone where there are others."""
    yield "all", scores
    apart = scores["family"] == PROPERTY
    if apart.any() and not apart[scores["family"] != PRIOR_PROMPT_ID].all():
        yield PROPERTY, scores[apart]


def make_main_table(runs: Sequence[Scored]) -> pd.DataFrame:
    """One row a method, one column a metric, formatted with intervals; partial rows say so.

    Property prompts stand apart in a row of their own, since a right picture loses likeness there.
    """
    rows = []
    for run in runs:
        row = {"method": run.label}
        for name, entry in run.summary["metrics"].items():
            text = format_interval(entry["mean"], entry["low"], entry["high"])
            if "not_measured" in entry:
                text = "not measured"
            elif entry["n_scored"] < entry["n_expected"]:
                text += f" ({entry['n_scored']} of {entry['n_expected']})"
            row[metric_heading(name)] = text
        rows.append(row)
        for prompts, scores in _split_prompts(run.scores):
            if prompts == PROPERTY:
                apart = {"method": f"{run.label}, property prompts", **dict.fromkeys(row, "-")}
                apart["method"] = f"{run.label}, property prompts"
                for found in estimate_table(scores).itertuples():
                    text = format_interval(found.mean, found.low, found.high)
                    apart[metric_heading(found.metric)] = text
                rows.append(apart)
    return pd.DataFrame(rows)


def make_family_table(runs: Sequence[Scored]) -> pd.DataFrame:
    """Means with intervals for each prompt family."""
    return _make_group_table(runs, "family", leave_out=("pres",))


def make_kind_table(runs: Sequence[Scored]) -> pd.DataFrame:
    """Means with intervals over the live subjects, and over the objects; property prompts apart."""
    return _make_group_table(runs, "kind", apart=True)


def _make_group_table(
    runs: Sequence[Scored], by: str, *, leave_out: Sequence[str] = (), apart: bool = False
) -> pd.DataFrame:
    rows = []
    for run in runs:
        scores = run.scores[~run.scores["metric"].isin(leave_out)]
        for prompts, chosen in _split_prompts(scores) if apart else [("all", scores)]:
            for name, group in estimate_table(chosen, by=[by]).groupby(by, sort=False):
                row = {"method": run.label, by: name}
                if apart:
                    row["prompts"] = prompts
                row["subjects"] = group["n_subjects"].max()
                for entry in group.itertuples():
                    row[metric_heading(entry.metric)] = format_interval(
                        entry.mean, entry.low, entry.high
                    )
                rows.append(row)
    return pd.DataFrame(rows).fillna("-")


def make_subject_table(runs: Sequence[Scored]) -> pd.DataFrame:
    """Means for each subject; property prompts apart."""
    rows = []
    for run in runs:
        for prompts, scores in _split_prompts(run.scores):
            for subject, group in mean_by_subject(scores).groupby("subject", sort=False):
                row = {"method": run.label, "subject": subject, "prompts": prompts}
                for entry in group.itertuples():
                    row[metric_heading(entry.metric)] = format_number(entry.value)
                rows.append(row)
    return pd.DataFrame(rows).fillna("-")


def make_difference_table(runs: Sequence[Scored]) -> pd.DataFrame:
    """The first method minus each other one, paired by subject, with intervals.

    Property prompts stand apart in a row of their own.
    """
    rows = []
    for other in runs[1:]:
        parts = [dict(_split_prompts(run.scores)) for run in (runs[0], other)]
        for prompts in [key for key in parts[0] if key in parts[1]]:
            apart = ", property prompts" if prompts == PROPERTY else ""
            row = {"difference": f"{runs[0].label} - {other.label}{apart}"}
            for entry in compare_paired(parts[0][prompts], parts[1][prompts]).itertuples():
                text = format_interval(entry.mean, entry.low, entry.high)
                if entry.n_left_out:
                    text += f" ({entry.n_left_out} cells left out)"
                row[metric_heading(entry.metric)] = text
            rows.append(row)
    return pd.DataFrame(rows).fillna("-")


def make_measure_table(runs: Sequence[Scored], prompts: str) -> pd.DataFrame:
    """The measures beside the metrics: one row each, one column a method, with intervals.

    `prompts` is "other prompts" or "property prompts", which never share a number here.
    """
    rows = []
    for name in MEASURES:
        row = {"measure": metric_heading(name)}
        for run in runs:
            summary = run.summary.get("measures", {}).get(name, {})
            found = summary.get(prompts)
            row[run.label] = (
                format_interval(found["mean"], found["low"], found["high"]) if found else "-"
            )
            if found and summary["n_scored"] < summary["n_expected"]:
                row[run.label] += f" ({summary['n_scored']} of {summary['n_expected']})"
        rows.append(row)
    return pd.DataFrame(rows)


def format_p(value: float) -> str:
    """Three decimals, or that it is below them; a dash for none."""
    if math.isnan(value):
        return "-"
    return "<.001" if value < 0.001 else format_number(value)


def make_comparison_table(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of `compare_runs` as text: difference, metric, interval, p-values, verdict."""
    rows = []
    for entry in table.itertuples():
        left_out = f" ({entry.n_left_out} left out)" if entry.n_left_out else ""
        marks = [" (partial)" if p else "" for p in (entry.partial_first, entry.partial_second)]
        rows.append(
            {
                "difference": f"{entry.first}{marks[0]} - {entry.second}{marks[1]}",
                "metric": metric_heading(entry.metric) + _mark_prompts(entry.prompts),
                "mean and 95 % interval": format_interval(entry.mean, entry.low, entry.high),
                "p": format_p(entry.p),
                "p Holm": format_p(entry.p_holm),
                "subjects": str(entry.n_subjects),
                "cells": f"{entry.n_cells}{left_out}",
                "verdict": entry.verdict,
            }
        )
    return pd.DataFrame(rows)


def _mark_prompts(prompts: str) -> str:
    """Which prompts a comparison is of, where it is not of all."""
    return "" if prompts == ALL_PROMPTS else f", {prompts} prompts"


def make_comparison_notes(table: pd.DataFrame) -> list[str]:
    """What a reader of `compare_runs` has to know, and what this table cannot show."""
    n_tests, n_subjects = int(table["n_comparisons"].max()), int(table["n_subjects"].max())
    exact = n_subjects <= MAX_EXACT_SUBJECTS
    flips = f"all 2^{n_subjects} flips" if exact else f"{N_FLIPS} drawn flips"
    notes = [
        "Means over subjects of differences paired by subject and prompt; each 95 % interval "
        "(Student t over subjects) stands for itself.",
        f"p: two-sided sign-flip test over subjects ({flips}). p Holm: adjusted over all {n_tests} "
        "tests of this table, methods x metrics; the verdict goes by it, at "
        f"{100 * ALPHA:.0f} %.",
    ]
    least = smallest_p(n_subjects)
    if least * n_tests > ALPHA:
        notes.append(
            f"Too few subjects for so many tests: {n_subjects} subjects give no p below "
            f"{format_p(least)}, so over {n_tests} tests no p Holm below "
            f"{format_p(min(1.0, least * n_tests))}, however large a difference. Compare fewer "
            "runs or fewer metrics."
        )
    if (table["prompts"] == NO_PROPERTY).any():
        notes.append(
            "Measures are compared without property prompts, in which a right picture must lose "
            "likeness; --family property compares these alone."
        )
    if (table["low"].isna() & (table["n_subjects"] > 0)).any():
        notes.append(NO_INTERVAL)
    if table["n_left_out"].any():
        notes.append("Left out: cells (subject, prompt) that only one of the two runs has.")
    if table[["partial_first", "partial_second"]].any(axis=None):
        notes.append("Partial: a run that was narrowed or is not finished.")
    return notes


def describe_comparison(runs: Sequence[Scored], table: pd.DataFrame) -> dict[str, Any]:
    """A comparison with its recipe as JSON takes it."""
    every = table.drop(columns=["protocol", "base_model", "n_comparisons"])
    every = every[[name for name in every if not name.startswith(("partial", "recipe", "data"))]]
    rows = every.astype(object).where(every.notna(), None).to_dict("records")
    return {
        "protocol": runs[0].summary["protocol"],
        "n_tests": int(table["n_comparisons"].max()),
        "notes": make_comparison_notes(table),
        "comparisons": rows,
        "runs": [
            {"name": run.name}
            | {
                key: run.summary[key]
                for key in ("method", "partial", "n_images", "digests", "code")
            }
            for run in runs
        ],
    }


def write_comparison(runs: Sequence[Scored], table: pd.DataFrame, path: Path) -> None:
    """Writes a comparison as .csv (unrounded) or .md (as printed); UserError for another suffix."""
    if path.suffix == ".csv":
        text = table.to_csv(index=False)
    elif path.suffix == ".md":
        summary = runs[0].summary
        lines = [
            f"# {', '.join(run.label for run in runs)} on {summary['protocol']}",
            "",
            make_comparison_table(table).to_markdown(index=False, disable_numparse=True),
            "",
            *[f"- {note}" for note in make_comparison_notes(table)],
            "",
            "Signatures:",
            "",
            *[f"- `{signature}`" for signature in dict.fromkeys(table["signature"])],
            "",
            f"Protocol {summary['digests']['protocol']}, base model "
            f"`{summary['digests']['base_model']}`. Runs:",
            "",
            *[
                f"- {run.label}: recipe {run.summary['digests'].get('recipe')}, data "
                f"{run.summary['digests']['data']}, {name_code(run.summary['code'])}"
                for run in runs
            ],
            "",
        ]
        text = "\n".join(lines)
    else:
        raise UserError(f"{path} is neither .csv nor .md", hint="name a file that ends so")
    write_bytes(path, text.encode())


def name_code(code: Mapping[str, Any]) -> str:
    """Which code made something, in words; `code` is that of `run.describe_code`."""
    changed = ", changed" if code["dirty"] else ""
    return f"code {code['commit'] or 'release'} ({code['version']}{changed})"


def make_bounds_table(runs: Sequence[Scored]) -> pd.DataFrame:
    """What the real photos score, and the floor where the class-only baseline is among the runs."""
    oracles = runs[0].summary["oracles"]
    names = {
        "copy_bound": "real photos, self-pairs in: what pasting a photo back earns",
        "faithful_bound": "real photos, self-pairs out: what a faithful new photo earns",
    }
    rows = []
    for key, text in names.items():
        values = {metric_heading(m): format_number(oracles[m][key]) for m in oracles}
        rows.append({"oracle": text, **values})
    for run in runs:
        if run.name == FLOOR:
            values = {
                metric_heading(m): format_number(run.summary["metrics"][m]["mean"]) for m in oracles
            }
            rows.append({"oracle": f"{run.label}: no personalization, the floor", **values})
    return pd.DataFrame(rows)


def make_image_notes(runs: Sequence[Scored]) -> list[str]:
    """A line for each thing that a reader must know of failures and of images made elsewhere."""
    lines = []
    for run in runs:
        lines += [f"{run.label}: {line}" for line in describe_failures(run.summary)]
        for name, entry in run.summary["metrics"].items():
            if "not_measured" in entry:
                lines.append(
                    f"{run.label}: {METRICS[name].title} not measured: {entry['not_measured']}"
                )
        images = run.summary.get("images")
        if images is None:
            continue
        lossy = f", {images['n_lossy']} of them compressed with loss" if images["n_lossy"] else ""
        lines.append(
            f"{run.label}: {images['n_scored']} of {images['n_expected']} images, made elsewhere "
            f"({images['layout']}){lossy}"
        )
        lines += [f"{run.label}: {note}" for note in images["notes"]]
        for kind, group in images["problems"].items():
            names = name_some(group["names"], separator="; ")
            lines.append(f"{run.label}: {group['n_images']} {kind}: {names}")
    return lines


def make_signatures(run: Scored) -> list[str]:
    """The signature of each metric, in the order of the table."""
    return [entry["signature"] for entry in run.summary["metrics"].values()]


def make_measure_signatures(runs: Sequence[Scored]) -> list[str]:
    """The signature of each measure, one for all runs; and where it was not measured, why not."""
    lines: list[str] = []
    for name, measure in MEASURES.items():
        entries = {run.label: run.summary.get("measures", {}).get(name) for run in runs}
        lines += dict.fromkeys(e["signature"] for e in entries.values() if e and e["signature"])
        without: dict[str, list[str]] = {}
        for label, entry in entries.items():
            if entry and not entry["signature"]:
                without.setdefault(entry["not_measured"], []).append(label)
        for reason, labels in without.items():
            of = "" if len(labels) == len(entries) else f" of {name_some(labels)}"
            lines.append(f"{measure.title}: not measured{of}: {reason}")
    return lines


def _list_tracks(runs: Sequence[Scored]) -> list[str]:
    """What each row may use, as lines of Markdown."""
    tracks: dict[str, list[str]] = {}
    for run in runs:
        if "track" in run.summary:
            tracks.setdefault(run.summary["track"], []).append(run.name)
    text = "; ".join(f"{track}: {', '.join(names)}" for track, names in tracks.items())
    return [f"Tracks: {text}.", ""] if text else []


def _list_digests(digests: Mapping[str, str | None]) -> str:
    """What a row comes from, in words; images made elsewhere have no recipe and no base model."""
    parts = [f"Protocol {digests['protocol']}"]
    parts += [f"{key} {digests[key]}" for key in ("recipe", "images", "data") if digests.get(key)]
    if digests["base_model"]:
        parts.append(f"base model `{digests['base_model']}`")
    return ", ".join(parts)


def write_tables(runs: Sequence[Scored], out_dir: Path) -> list[Path]:
    """Writes tables as CSV and Markdown, and returns their paths; the first run is the subject."""
    long, main = make_long_table(runs), make_main_table(runs)
    differences, oracles = make_difference_table(runs), make_bounds_table(runs)
    families, kinds, subjects = (
        make(runs) for make in (make_family_table, make_kind_table, make_subject_table)
    )
    summary, notes = runs[0].summary, make_image_notes(runs)
    measures = {
        prompts: make_measure_table(runs, prompts)
        for prompts in ("other prompts", "property prompts")
    }
    lines = [
        f"# {runs[0].label} on {summary['protocol']}",
        "",
        "Means over subjects with 95 % intervals (Student t over subjects, cut at the ends of a "
        "measure's range).",
        "",
        main.to_markdown(index=False, disable_numparse=True),
        "",
        *_list_tracks(runs),
        *(["Notes:", "", *[f"- {note}" for note in notes], ""] if notes else []),
        "Signatures:",
        "",
        *[f"- `{signature}`" for signature in make_signatures(runs[0])],
        "",
        f"{_list_digests(summary['digests'])}, {name_code(summary['code'])}.",
        "",
        "## Measures that a copier cannot win",
        "",
        "Without property prompts, in which a right picture must lose likeness; what each measure "
        "is and cannot see: docs/measures.",
        "",
        measures["other prompts"].to_markdown(index=False, disable_numparse=True),
        "",
        "Property prompts alone:",
        "",
        measures["property prompts"].to_markdown(index=False, disable_numparse=True),
        "",
        *[f"- `{signature}`" for signature in make_measure_signatures(runs)],
        "",
        "## Oracles, recomputed from the photos",
        "",
        oracles.to_markdown(index=False, disable_numparse=True),
        "",
        "## Differences, paired by subject",
        "",
        differences.to_markdown(index=False, disable_numparse=True)
        if len(runs) > 1
        else "Nothing to compare with.",
        "",
        "Each interval stands for itself; `dreambench compare` tests them, and adjusts for how "
        "many there are.",
        "",
        "## By prompt family",
        "",
        "A property prompt asks for another colour, surface or shape: there a right picture loses "
        "similarity to the photos, which is why these prompts stand apart.",
        "",
        families.to_markdown(index=False, disable_numparse=True),
        "",
        "## By kind of subject",
        "",
        kinds.to_markdown(index=False, disable_numparse=True),
        "",
        "## By subject",
        "",
        subjects.to_markdown(index=False, disable_numparse=True),
        "",
    ]
    if any("[-, -]" in line for line in lines):
        lines += [NO_INTERVAL, ""]
    contents = {
        "table.csv": long.to_csv(index=False),
        "oracles.csv": oracles.to_csv(index=False),
        "differences.csv": differences.to_csv(index=False),
        "families.csv": families.to_csv(index=False),
        "kinds.csv": kinds.to_csv(index=False),
        "subjects.csv": subjects.to_csv(index=False),
        "measures.csv": pd.concat(
            [table.assign(prompts=prompts) for prompts, table in measures.items()]
        ).to_csv(index=False),
        "report.md": "\n".join(lines),
    }
    for name, text in contents.items():
        write_bytes(out_dir / name, text.encode())
    return [out_dir / name for name in contents]
