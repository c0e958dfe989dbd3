"""Cells as text. The only place that rounds."""

from __future__ import annotations

import math

from dreambench.report.model import Cell, Interval, PValue, Table
from dreambench.text import make_printable

DIGITS = 3
COLUMN_IN, TEXT_IN = 3.25, 6.75
"""Widths of a column and of the text in a paper of two columns, in inches."""
NOTHING = "-"
NO_INTERVAL = (
    "[-, -]: no interval, since one subject does not show how subjects differ, nor do subjects "
    "that all have the same value."
)


def format_number(value: float | None) -> str:
    """Return three decimals as papers have them (".668"); a dash for nothing."""
    if value is None or math.isnan(value):
        return NOTHING
    text = f"{value:.{DIGITS}f}"
    return text.replace("0.", ".", 1) if abs(value) < 1 else text


def format_interval(mean: float | None, low: float | None, high: float | None) -> str:
    """Return a mean with its interval: ".668 [.601, .735]"."""
    if low is None or high is None or math.isnan(low):
        return f"{format_number(mean)} [-, -]"
    return f"{format_number(mean)} [{format_number(low)}, {format_number(high)}]"


def format_p(value: float | None) -> str:
    """Return three decimals, or that it is below them; a dash for none."""
    if value is None or math.isnan(value):
        return NOTHING
    return "<.001" if value < 0.001 else format_number(value)


def format_cell(cell: Cell) -> str:
    """Return a cell as text."""
    if cell is None:
        return NOTHING
    if isinstance(cell, Interval):
        text = format_interval(cell.mean, cell.low, cell.high)
        return f"{text}{cell.note if cell.note.startswith(';') else f' {cell.note}'}".rstrip()
    if isinstance(cell, PValue):
        return format_p(cell.value)
    if isinstance(cell, int):
        return f"{cell:,}"
    return format_number(cell) if isinstance(cell, float) else cell


def format_rows(table: Table) -> list[list[str]]:
    """Return all cells of a table as printable text, row by row, in the order of its columns."""
    return [
        [make_printable(format_cell(row.get(column))) for column in table.columns]
        for row in table.rows
    ]


def format_headings(table: Table) -> list[str]:
    """Return the headings of a table's columns as printable text."""
    return [make_printable(column) for column in table.columns]
