"""Runs beside the DreamBooth paper's tables: its numbers, ours, and whether directions hold.

The numbers (`reports/paper.csv`) are of other models on other images: they are not to be met, but
what is larger than what may be looked at.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from dreambench.analysis.comparison import Scored, compare_paired
from dreambench.errors import UserError
from dreambench.report.tables import format_interval, format_number, metric_heading
from dreambench.storage.files import write_bytes
from dreambench.storage.shipped import shipped_path

SOURCE = "Ruiz et al., CVPR 2023, arXiv 2208.12242"


def load_paper_table(number: int) -> pd.DataFrame:
    """A table of the paper: row, recipe, metric, value; UserError for one that is not kept."""
    every = pd.read_csv(shipped_path("reports", "paper.csv"))
    if number not in set(every["table"]):
        known = ", ".join(str(n) for n in sorted(set(every["table"])))
        raise UserError(f"the paper's table {number} is not kept here", hint=f"known: {known}")
    return every[every["table"] == number].drop(columns="table")


def make_value_table(runs: Sequence[Scored], paper: pd.DataFrame) -> pd.DataFrame:
    """One row a run of the table, for each metric ours with its interval and the paper's."""
    rows = []
    for run in runs:
        theirs = paper[paper["recipe"] == run.name].set_index("metric")
        if theirs.empty:
            continue
        row = {"method": run.label, "the paper's row": theirs["row"].iloc[0]}
        for metric in dict.fromkeys(paper["metric"]):
            entry = run.summary["metrics"][metric]
            ours = format_interval(entry["mean"], entry["low"], entry["high"])
            printed = theirs["value"].get(metric)
            row[metric_heading(metric)] = f"{ours}; paper {format_number(printed)}"
        rows.append(row)
    return pd.DataFrame(rows)


def make_direction_table(runs: Sequence[Scored], paper: pd.DataFrame) -> pd.DataFrame:
    """The first run against each other one: the paper's difference, ours, and a verdict.

    A direction "holds" when ours has the paper's sign and its 95 % interval leaves zero out, is
    "reversed" when it has the other sign likewise, and else "not shown".
    """
    values = paper.set_index(["recipe", "metric"])["value"]
    first, rows = runs[0], []
    for other in runs[1:]:
        for entry in compare_paired(first.scores, other.scores).itertuples():
            keys = [(run.name, entry.metric) for run in (first, other)]
            if not all(key in values.index for key in keys):
                continue
            gap = float(values[keys[0]] - values[keys[1]])
            rows.append(
                {
                    "difference": f"{first.label} - {other.label}",
                    "metric": metric_heading(entry.metric),
                    "paper": format_number(gap),
                    "here": format_interval(entry.mean, entry.low, entry.high),
                    "direction": _judge(gap, entry.low, entry.high),
                }
            )
    return pd.DataFrame(rows)


def _judge(paper: float, low: float, high: float) -> str:
    if low > 0 or high < 0:
        return "holds" if (low > 0) == (paper > 0) else "reversed"
    return "not shown"


def write_paper_table(runs: Sequence[Scored], number: int, out_dir: Path) -> Path:
    """Writes `paper-table-N.md` and returns its path; UserError when no run belongs to the table.

    The first run is the one that the others are compared with.
    """
    paper = load_paper_table(number)
    wanted = list(dict.fromkeys(paper["recipe"]))
    present = [run for run in runs if run.name in wanted]
    if len(present) < 2 or runs[0].name != wanted[0]:
        raise UserError(
            f"the paper's table {number} compares {', '.join(wanted)}",
            hint=f"give run folders of {wanted[0]} first and of others of these behind it",
        )
    missing = [name for name in wanted if name not in {run.name for run in present}]
    summary = runs[0].summary
    lines = [
        f"# The paper's table {number}, beside {summary['protocol']}",
        "",
        f"Paper: {SOURCE}; its models and images are others, so only directions can be compared.",
        "Ours: means over subjects with 95 % intervals.",
        "",
        make_value_table(present, paper).to_markdown(index=False, disable_numparse=True),
        "",
        "## Directions, paired by subject",
        "",
        make_direction_table(present, paper).to_markdown(index=False, disable_numparse=True),
        "",
        *([f"Not run: {', '.join(missing)}.", ""] if missing else []),
        "Signatures:",
        "",
        *[
            f"- `{summary['metrics'][name]['signature']}`"
            for name in dict.fromkeys(paper["metric"])
        ],
        "",
        f"Protocol {summary['digests']['protocol']}, data {summary['digests']['data']}, base model "
        f"`{summary['digests']['base_model']}`, code {summary['code']['commit'] or 'release'}; "
        "recipes: "
        + ", ".join(f"{run.label} {run.summary['digests']['recipe']}" for run in present)
        + ".",
        "",
    ]
    path = out_dir / f"paper-table-{number}.md"
    write_bytes(path, "\n".join(lines).encode())
    return path
