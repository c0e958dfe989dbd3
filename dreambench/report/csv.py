"""Renders tables as CSV: unrounded, an interval as three columns."""

from __future__ import annotations

from dreambench.report.model import Cell, Interval, PValue, Table
from dreambench.storage.csv_files import format_csv


def render_csv(table: Table) -> str:
    """Return a table as CSV.

    A column of intervals "X" becomes "X", "X low" and "X high", and "X note" where there is any.
    """
    columns: list[str] = []
    rows = [_expand(row) for row in table.rows]
    for column in table.columns:
        parts = [column, *(f"{column} {part}" for part in ("low", "high", "note"))]
        columns += [part for part in parts if part == column or any(part in row for row in rows)]
    return format_csv(columns, rows)


def _expand(row: dict[str, Cell]) -> dict[str, object]:
    found: dict[str, object] = {}
    for column, cell in row.items():
        if isinstance(cell, Interval):
            found |= {column: cell.mean, f"{column} low": cell.low, f"{column} high": cell.high}
            if cell.note:
                found[f"{column} note"] = cell.note
        elif isinstance(cell, PValue):
            found[column] = cell.value
        else:
            found[column] = cell
    return found
