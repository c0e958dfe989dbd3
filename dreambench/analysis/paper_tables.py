"""Runs against the DreamBooth paper's tables: its numbers, ours, and whether directions hold.

The numbers (`reports/paper.csv`) are of other models on other images: they are not to be met, but
what is larger than what may be looked at.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import pandas as pd

from dreambench.analysis.comparison import Scored
from dreambench.analysis.pairing import estimate_paired
from dreambench.errors import UserError
from dreambench.storage.shipped import shipped_path

SOURCE = "Ruiz et al., CVPR 2023, arXiv 2208.12242"
Direction = Literal["holds", "reversed", "not shown"]


@dataclass(frozen=True)
class PaperTable:
    """One table of the paper, and the runs that belong to it.

    `frame` has the columns row, recipe, metric, value. `missing` are recipes that were not run.
    """

    number: int
    frame: pd.DataFrame
    runs: Sequence[Scored]
    missing: Sequence[str]


def load_paper_table(number: int) -> pd.DataFrame:
    """Load a table of the paper: row, recipe, metric, value.

    Raises:
        UserError: that table is not kept here.
    """
    every = pd.read_csv(shipped_path("reports", "paper.csv"))
    if number not in set(every["table"]):
        known = ", ".join(str(n) for n in sorted(set(every["table"])))
        raise UserError(
            f"the paper's table {number} is not kept here", hint=f"known: {known}",
            code="unknown-name",
        )  # fmt: skip
    return every[every["table"] == number].drop(columns="table")


def match_paper_table(runs: Sequence[Scored], number: int) -> PaperTable:
    """Return a table of the paper with the runs that belong to it.

    The first run is the one that the others are compared with.

    Raises:
        UserError: fewer than two runs belong to the table, or the first is not its first.
    """
    frame = load_paper_table(number)
    wanted = list(dict.fromkeys(frame["recipe"]))
    present = [run for run in runs if run.name in wanted]
    if len(present) < 2 or runs[0].name != wanted[0]:
        raise UserError(
            f"the paper's table {number} compares {', '.join(wanted)}",
            hint=f"give the run folder of {wanted[0]} first, then those of others of these",
            code="not-comparable",
        )
    names = {run.name for run in present}
    return PaperTable(number, frame, present, [name for name in wanted if name not in names])


def compare_directions(table: PaperTable) -> pd.DataFrame:
    """Return the first run against each other one: the paper's difference, ours, and a verdict.

    Columns: first, second (labels), metric, paper, mean, low, high, direction.
    """
    values = table.frame.set_index(["recipe", "metric"])["value"]
    first, rows = table.runs[0], []
    for other in table.runs[1:]:
        compared = estimate_paired(first.scores.frame, other.scores.frame)
        for entry in compared.itertuples():
            keys = [(run.name, entry.metric) for run in (first, other)]
            if not all(key in values.index for key in keys):
                continue
            gap = float(values[keys[0]] - values[keys[1]])
            rows.append(
                [
                    first.label, other.label, entry.metric, gap, entry.mean, entry.low, entry.high,
                    judge_direction(gap, entry.low, entry.high),
                ]
            )  # fmt: skip
    columns = ["first", "second", "metric", "paper", "mean", "low", "high", "direction"]
    return pd.DataFrame(rows, columns=columns)


def judge_direction(paper: float, low: float, high: float) -> Direction:
    """Return whether ours has the paper's sign with an interval that leaves zero out ("holds")."""
    if low > 0 or high < 0:
        return "holds" if (low > 0) == (paper > 0) else "reversed"
    return "not shown"
