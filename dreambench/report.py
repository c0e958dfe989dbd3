"""Tables of a run beside others, as CSV, Markdown and text. The only place that rounds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from dreambench.errors import name_some
from dreambench.files import write_bytes
from dreambench.metrics import METRICS
from dreambench.stats import compare_paired, estimate_table, mean_by_subject

DIGITS = 3
FLOOR = "class-only"


@dataclass(frozen=True)
class Scored:
    """A scored run as the report needs it: its row name, its scores and its summary."""

    name: str
    scores: pd.DataFrame
    summary: Mapping[str, Any]

    @property
    def label(self) -> str:
        """The row name, which says when the run is partial."""
        return self.name + (" (partial)" if self.summary["partial"] else "")


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
                    "n_scored": entry["n_scored"],
                    "n_expected": entry["n_expected"],
                    "not_measured": entry.get("not_measured", ""),
                    "partial": run.summary["partial"],
                    "signature": entry["signature"],
                    **{
                        key: run.summary["digests"].get(key)
                        for key in ("protocol", "recipe", "images", "data")
                    },
                }
            )
    return pd.DataFrame(rows)


def metric_heading(name: str) -> str:
    """Title with the direction in which it is better."""
    metric = METRICS[name]
    return f"{metric.title} {'(up)' if metric.higher_is_better else '(down)'}"


def make_main_table(runs: Sequence[Scored]) -> pd.DataFrame:
    """One row a method, one column a metric, formatted with intervals; partial rows say so."""
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
    return pd.DataFrame(rows)


def make_family_table(runs: Sequence[Scored]) -> pd.DataFrame:
    """Means with intervals for each prompt family."""
    rows = []
    for run in runs:
        table = estimate_table(run.scores[run.scores["metric"] != "pres"], by=["family"])
        for family, group in table.groupby("family", sort=False):
            row = {"method": run.label, "family": family}
            for entry in group.itertuples():
                row[metric_heading(entry.metric)] = format_interval(
                    entry.mean, entry.low, entry.high
                )
            rows.append(row)
    return pd.DataFrame(rows)


def make_subject_table(runs: Sequence[Scored]) -> pd.DataFrame:
    """Means for each subject."""
    rows = []
    for run in runs:
        table = mean_by_subject(run.scores)
        for subject, group in table.groupby("subject", sort=False):
            row = {"method": run.label, "subject": subject}
            for entry in group.itertuples():
                row[metric_heading(entry.metric)] = format_number(entry.value)
            rows.append(row)
    return pd.DataFrame(rows).fillna("-")


def make_difference_table(runs: Sequence[Scored]) -> pd.DataFrame:
    """The first method minus each other one, paired by subject, with intervals."""
    rows = []
    for other in runs[1:]:
        row = {"difference": f"{runs[0].label} - {other.label}"}
        for entry in compare_paired(runs[0].scores, other.scores).itertuples():
            row[metric_heading(entry.metric)] = format_interval(entry.mean, entry.low, entry.high)
        rows.append(row)
    return pd.DataFrame(rows).fillna("-")


def make_oracle_table(runs: Sequence[Scored]) -> pd.DataFrame:
    """What the real photos score, and the floor where the class-only baseline is among the runs."""
    oracles = runs[0].summary["oracles"]
    names = {
        "with_self": "real photos, self-pairs in: what pasting a photo back earns",
        "without_self": "real photos, self-pairs out: what a faithful new photo earns",
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
    """A line for each thing that a reader must know of images made elsewhere; none for runs."""
    lines = []
    for run in runs:
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
    differences, oracles = make_difference_table(runs), make_oracle_table(runs)
    families, subjects = make_family_table(runs), make_subject_table(runs)
    summary, notes = runs[0].summary, make_image_notes(runs)
    lines = [
        f"# {runs[0].label} on {summary['protocol']}",
        "",
        "Means over subjects with 95 % intervals (Student t over subjects).",
        "",
        main.to_markdown(index=False, disable_numparse=True),
        "",
        *(["Notes:", "", *[f"- {note}" for note in notes], ""] if notes else []),
        "Signatures:",
        "",
        *[f"- `{signature}`" for signature in make_signatures(runs[0])],
        "",
        f"{_list_digests(summary['digests'])}, "
        f"code {summary['code']['commit'] or 'release'} ({summary['code']['version']}"
        f"{', changed' if summary['code']['dirty'] else ''}).",
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
        "## By prompt family",
        "",
        "A property prompt asks for another colour, surface or shape: there a right picture loses "
        "similarity to the photos.",
        "",
        families.to_markdown(index=False, disable_numparse=True),
        "",
        "## By subject",
        "",
        subjects.to_markdown(index=False, disable_numparse=True),
        "",
    ]
    contents = {
        "table.csv": long.to_csv(index=False),
        "oracles.csv": oracles.to_csv(index=False),
        "differences.csv": differences.to_csv(index=False),
        "families.csv": families.to_csv(index=False),
        "subjects.csv": subjects.to_csv(index=False),
        "report.md": "\n".join(lines),
    }
    for name, text in contents.items():
        write_bytes(out_dir / name, text.encode())
    return [out_dir / name for name in contents]
