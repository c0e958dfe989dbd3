"""How reports and comparisons are printed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dreambench.cli.shared import say

if TYPE_CHECKING:
    import pandas as pd

    from dreambench.analysis.checking import Verified
    from dreambench.analysis.comparison import Scored
    from dreambench.artifacts.study import StudyResults
    from dreambench.leaderboard.rerunning import Rerun

N_LINES = 20
"""How many faults of one kind are printed; --json has them all."""


def print_report(scored: Sequence[Scored], paths: Sequence[Path]) -> None:
    """Print the tables of a report, what to know of them, their signatures and its files."""
    from dreambench.report.formatting import NO_INTERVAL  # noqa: PLC0415  (imports pandas)
    from dreambench.report.notes import list_signatures, make_image_notes  # noqa: PLC0415
    from dreambench.report.tables import make_difference_table, make_main_table  # noqa: PLC0415
    from dreambench.report.terminal import print_table  # noqa: PLC0415

    tables = {"Means over subjects with 95 % intervals": make_main_table(scored)}
    if len(scored) > 1:
        tables["Differences, paired by subject and prompt"] = make_difference_table(scored)
    for title, table in tables.items():
        print_table(title, table)
    if any(table.has_no_interval() for table in tables.values()):
        say(NO_INTERVAL)
    for note in make_image_notes(scored):
        say(note)
    _print_list("Signatures", list_signatures(scored[0]))
    # Of a figure in three forms one line is enough.
    shown = [str(path) for path in paths if path.suffix not in (".pdf", ".svg")]
    _print_list("Report (figures as .pdf and .svg as well)", shown)


def print_study(results: StudyResults) -> None:
    """Print what a user study showed: preferences, agreement of metrics, and who failed checks."""
    from dreambench.report.study_page import (  # noqa: PLC0415  (imports pandas)
        describe_raters,
        make_following_table,
        make_preference_table,
    )
    from dreambench.report.terminal import print_table  # noqa: PLC0415

    found = results.everyone
    table = make_preference_table(results, found, "majority")
    print_table(f"Majority of {describe_raters(results)}, with 95 % intervals", table)
    if results.metrics:
        print_table("Agreement with the majority", make_following_table(results, found))
    n_failed = sum(not row.passed for row in results.raters)
    if n_failed:
        say(f"{n_failed} of {len(results.raters)} failed the checks; see raters.csv")


def print_comparison(scored: Sequence[Scored], table: pd.DataFrame) -> None:
    """Print a comparison, one table a difference, what to know of it, and its signatures."""
    from dreambench.report.model import Table  # noqa: PLC0415
    from dreambench.report.notes import make_comparison_notes  # noqa: PLC0415
    from dreambench.report.tables import make_comparison_table  # noqa: PLC0415
    from dreambench.report.terminal import print_table  # noqa: PLC0415

    shown = make_comparison_table(table, scored[0].infos)
    columns = [name for name in shown.columns if name != "difference"]
    for title in dict.fromkeys(str(row["difference"]) for row in shown.rows):
        rows = [row for row in shown.rows if row["difference"] == title]
        print_table(title, Table(shown.name, columns, rows))
    for note in make_comparison_notes(table):
        say(note)
    _print_list("Signatures", list(dict.fromkeys(table["signature"])))


def print_verified(found: Sequence[Verified]) -> None:
    """Print what was looked at, and its outcome: a line each, or a line a fault."""
    for one in found:
        for line in one.lines[:N_LINES]:
            say(f"{one.outcome:11}  {one.what}: {line}")
        if len(one.lines) > N_LINES:
            say(f"{one.outcome:11}  {one.what}: and {len(one.lines) - N_LINES} more")


def print_rerun(again: Rerun) -> None:
    """Print how far a recipe that was run again lies from its record, beside its replicates."""
    from dreambench.report.formatting import format_number  # noqa: PLC0415

    say(f"{again.n_same} of {again.n_images} images have the same bytes as the record's.")
    for one in again.differences:
        spread = "one run" if one.sd is None else f"{again.n_replicates} replicates"
        sd = "" if one.sd is None else f" of sd {one.sd:.4f}"
        say(
            f"{one.title:10} {format_number(one.recorded)} in the record, "
            f"{format_number(one.again)} again: {one.size:.4f} apart, beside {spread}{sd}"
        )


def print_conventions(table: pd.DataFrame) -> None:
    """Print the scores of images under other scorers' conventions."""
    for row in table.itertuples():
        marks = f" ({row.n_dropped} dropped)" if row.n_dropped else ""
        marks += " (partial)" if row.partial else ""
        say(
            f"{row.convention:18} {row.metric:7} {row.mean:8.3f} on {row.n_images} images"
            f"{marks}  {row.signature}"
        )


def _print_list(title: str, items: Sequence[str]) -> None:
    say(f"{title}:")
    for item in items:
        say(f"  {item}")
