"""Renders tables for a terminal, with rich."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from rich.console import Console  # noqa: TID251
from rich.table import Table as RichTable

from dreambench.report.formatting import format_headings, format_rows
from dreambench.report.model import Table
from dreambench.text import make_lines_printable, make_printable

PIPE_WIDTH = 1000
"""Columns that a table may take that is not printed on a terminal: pipes get whole lines."""
FOLDING = ("verdict",)
"""The columns that may be folded; all others keep their lines whole."""


def print_table(title: str, table: Table) -> None:
    """Print a table, on a terminal no wider than that.

    Interval, count and mark stand below what they belong to, so that a table fits.
    """
    rows = [[_stack(cell) for cell in row] for row in format_rows(table)]
    print_rows(title, format_headings(table), rows)


def print_rows(
    title: str, headings: Sequence[str], rows: Sequence[Sequence[str]], *, width: int = PIPE_WIDTH,
    folding: Sequence[str] = FOLDING,
) -> None:  # fmt: skip
    """Print rows of text as a table; `width` is for what is not a terminal.

    A line feed in a heading or cell starts a line of it; no text is markup. Columns in `folding`
    are folded where the table would not fit.
    """
    shown = RichTable(title=make_printable(title), title_justify="left")
    for heading in headings:
        text = make_lines_printable(heading.replace(" (", "\n("))
        shown.add_column(text, no_wrap=heading not in folding)
    for row in rows:
        shown.add_row(*map(make_lines_printable, row))
    console = Console(width=None if sys.stdout.isatty() else width, markup=False, emoji=False)
    console.print(shown)


def _stack(text: str) -> str:
    return text.replace(" [", "\n[").replace(" (", "\n(").replace(" - ", "\n- ")
