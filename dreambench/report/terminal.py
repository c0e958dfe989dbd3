"""Renders tables for a terminal, with rich; nothing of a cell is ever cut off."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from rich.cells import cell_len
from rich.console import Console  # noqa: TID251
from rich.table import Table as RichTable
from rich.text import Text

from dreambench.report.formatting import format_headings, format_rows
from dreambench.report.model import Table
from dreambench.text import make_lines_printable, make_printable

FOLDING = ("verdict",)
"""The columns that may be folded; all others keep their lines whole where that can be."""
FOLDED_WIDTH = 24
"""Columns of text that a folded column needs at least."""
_FRAME = 3
"""What stands around a cell: a line and two blanks."""


def print_table(title: str, table: Table) -> None:
    """Print a table, see `print_rows`."""
    print_rows(title, format_headings(table), format_rows(table))


def print_rows(
    title: str,
    headings: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    folding: Sequence[str] = FOLDING,
) -> None:
    """Print rows of text as a table that fits into the terminal; a pipe gets whole lines.

    Where a terminal is too narrow, interval, count and mark stand below what they belong to,
    columns in `folding` are folded, and what still does not fit comes as further tables with the
    first column again.
    """
    title = make_printable(title)
    lines = [[make_lines_printable(text) for text in line] for line in (headings, *rows)]
    if not sys.stdout.isatty():
        widths = _widths(lines)
        _print_part(title, lines, widths, width=_frame(widths))
        return
    width = Console().width
    if _frame(_fold(lines, folding)) > width:
        lines = [
            [text if name in folding else _stack(text)
             for name, text in zip(lines[0], line, strict=True)]
            for line in lines
        ]  # fmt: skip
    needed = _fold(lines, folding)
    # A name that takes half of the terminal leaves no room for what is said of it.
    needed[0] = min(needed[0], max(width // 2 - _FRAME, 1))
    for number, chosen in enumerate(_split_columns(needed, width)):
        part = [[line[index] for index in chosen] for line in lines]
        _print_part("" if number else title, part, [needed[n] for n in chosen], width=width)


def _print_part(
    title: str, lines: Sequence[Sequence[str]], needed: Sequence[int], *, width: int
) -> None:
    """Print lines, headings first, as one table; columns wider than `needed` are folded."""
    fits = _frame(needed) <= width
    shown = RichTable(title=Text(title) if title else None, title_justify="left")
    for heading, least, natural in zip(lines[0], needed, _widths(lines), strict=True):
        shown.add_column(Text(heading), overflow="fold", no_wrap=fits and least == natural)
    for line in lines[1:]:
        shown.add_row(*map(Text, line))
    Console(width=width).print(shown)


def _split_columns(needed: Sequence[int], width: int) -> list[list[int]]:
    """Return the columns of each table, the first one in all, so that each fits where it can."""
    parts = [[0]]
    for index in range(1, len(needed)):
        if len(parts[-1]) > 1 and _frame([needed[n] for n in (*parts[-1], index)]) > width:
            parts.append([0])
        parts[-1].append(index)
    return parts


def _frame(widths: Sequence[int]) -> int:
    return sum(widths) + _FRAME * len(widths) + 1


def _widths(lines: Sequence[Sequence[str]]) -> list[int]:
    """Return how wide the text of each column is."""
    columns = zip(*lines, strict=True)
    return [max(cell_len(part) for text in one for part in text.split("\n")) for one in columns]


def _fold(lines: Sequence[Sequence[str]], folding: Sequence[str]) -> list[int]:
    """Return how wide each column has to be, where those in `folding` are folded."""
    return [
        min(width, FOLDED_WIDTH) if name in folding else width
        for name, width in zip(lines[0], _widths(lines), strict=True)
    ]


def _stack(text: str) -> str:
    """Put on a line of its own what stands behind a mean or a name, and what is subtracted."""
    for part in ("[", "(", "- ", "property prompts"):
        text = text.replace(f" {part}", f"\n{part}")
    return text
