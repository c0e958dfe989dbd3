"""Tables and documents as templates take them: text, sort keys, and where an interval is drawn."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from dreambench.report.formatting import NO_INTERVAL, format_cell, format_number
from dreambench.report.model import (
    Block,
    Bullets,
    Cell,
    Document,
    Figure,
    Heading,
    Interval,
    Links,
    Paragraph,
    PValue,
    Table,
)

_DIRECTION = re.compile(r" \((up|down)\)(?=$|,)")
MAX_CAPTION = 80
"""Letters of a paragraph that can be the caption of the table under it."""


@dataclass(frozen=True)
class Drawn:
    """An interval as parts of its scale's width, in percent; `zero` is where 0 is, if within."""

    low: float
    mean: float
    high: float
    zero: float | None


@dataclass(frozen=True)
class ShownCell:
    """A cell: its number or text, the interval and the note behind it, and what it is sorted by."""

    text: str
    interval: str = ""
    note: str = ""
    key: float | str | None = None
    is_number: bool = False
    drawn: Drawn | None = None
    better: str = ""


@dataclass(frozen=True)
class ShownTable:
    """A table for a template. `better` of a heading is up, down or nothing."""

    name: str
    caption: str
    headings: Sequence[ShownCell]
    rows: Sequence[Sequence[ShownCell]]
    scale: str


@dataclass
class Section:
    """What stands under a heading of a page."""

    title: str
    level: int
    blocks: list[tuple[str, Block | ShownTable]] = field(default_factory=list)


def show_table(table: Table, caption: str) -> ShownTable:
    """Return a table for a template.

    Intervals of one column share a scale; those of one row where the rows are metrics.
    """
    by_row = table.columns[:1] == ["metric"]
    scales: dict[object, tuple[float, float]] = {}
    if by_row:
        rows = {index: list(row.values()) for index, row in enumerate(table.rows)}
        scales = {index: _find_scale(cells) for index, cells in rows.items()}
    else:
        scales = {
            column: _find_scale(row.get(column) for row in table.rows) for column in table.columns
        }
    shown = [
        [
            _show_cell(row.get(column), scales[index if by_row else column])
            for column in table.columns
        ]
        for index, row in enumerate(table.rows)
    ]
    shown = [[_split_direction(row[0]), *row[1:]] for row in shown if row]
    has_drawn = any(cell.drawn for row in shown for cell in row)
    return ShownTable(
        name=table.name,
        caption=caption,
        headings=[_split_direction(ShownCell(column)) for column in table.columns],
        rows=shown,
        scale=f"Lines: 95 % intervals on one scale a {'row' if by_row else 'column'}."
        if has_drawn
        else "",
    )


def _split_direction(cell: ShownCell) -> ShownCell:
    """Take the direction in which a metric is better out of its heading."""
    found = _DIRECTION.search(cell.text)
    if found is None:
        return cell
    text = _DIRECTION.sub("", cell.text)
    return ShownCell(text, key=cell.key, is_number=cell.is_number, better=found[1])


def _find_scale(cells: Iterable[Cell]) -> tuple[float, float]:
    """Return the ends of what intervals reach, a little wider."""
    ends = [
        value
        for cell in cells
        if isinstance(cell, Interval)
        for value in (cell.low, cell.mean, cell.high)
        if value is not None and math.isfinite(value)
    ]
    if not ends:
        return 0.0, 1.0
    margin = 0.04 * (max(ends) - min(ends)) or 0.5
    return min(ends) - margin, max(ends) + margin


def _show_cell(cell: Cell, scale: tuple[float, float]) -> ShownCell:
    if isinstance(cell, Interval):
        interval = ""
        if cell.mean is not None:
            has_ends = cell.low is not None and not math.isnan(cell.low)
            ends = (cell.low, cell.high) if has_ends else (None, None)
            interval = f"[{', '.join(map(format_number, ends))}]"
        return ShownCell(
            format_number(cell.mean), interval, cell.note.removeprefix("; "),
            key=_known(cell.mean), is_number=True, drawn=_draw(cell, scale),
        )  # fmt: skip
    text = format_cell(cell)
    if isinstance(cell, PValue):
        return ShownCell(text, key=_known(cell.value), is_number=True)
    is_number = isinstance(cell, int | float)
    key = _known(float(cell)) if isinstance(cell, int | float) else text if cell else None
    return ShownCell(text, key=key, is_number=is_number or cell is None)


def _known(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else value


def _draw(cell: Interval, scale: tuple[float, float]) -> Drawn | None:
    values = (cell.low, cell.mean, cell.high)
    if any(value is None or not math.isfinite(value) for value in values):
        return None
    start, end = scale

    def place(value: float | None) -> float:
        return round(100 * ((value or 0.0) - start) / (end - start), 2)

    low, mean, high = map(place, values)
    return Drawn(low, mean, high, place(0.0) if start < 0 < end else None)


def make_sections(document: Document) -> tuple[str, list[Section]]:
    """Return the title of a document, and what stands under each of its headings.

    The first section is what stands under the title itself. A table is called as its heading, and
    further ones under the same heading as the words before them.
    """
    title, sections, before = "", [Section("", 1)], ""
    for block in document.blocks:
        if isinstance(block, Heading):
            if block.level == 1:
                title = block.text
            else:
                sections.append(Section(block.text, block.level))
            before = ""
        elif isinstance(block, Table):
            caption = sections[-1].title or "Means with 95 % intervals"
            if before and any(kind == "table" for kind, _ in sections[-1].blocks):
                caption = f"{caption}: {before}"
            sections[-1].blocks.append(("table", show_table(block, caption)))
            if block.has_no_interval():
                sections[-1].blocks.append(("note", Paragraph(NO_INTERVAL)))
        else:
            sections[-1].blocks.append((_name_kind(block), block))
            if isinstance(block, Paragraph) and len(block.text) <= MAX_CAPTION:
                before = block.text.rstrip(":.")
    return title, sections


def _name_kind(block: Block) -> str:
    if isinstance(block, Bullets):
        return "signatures" if block.is_code else "bullets"
    kinds = {Figure: "figure", Links: "links"}
    return kinds.get(type(block), "paragraph")
