"""The report as numbers and words, before any form: what CSV, Markdown and others are made from.

Nothing here is rounded. A Table has typed cells, a Document is a list of blocks; a renderer turns
either into text, and a new form (LaTeX, HTML) is a new renderer and touches no table.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from dreambench.artifacts.results import Part


@dataclass(frozen=True)
class Interval:
    """A mean with its 95 % interval, None where there is none; `note` stands behind it."""

    mean: float | None
    low: float | None
    high: float | None
    note: str = ""

    @classmethod
    def of(cls, part: Part, *, note: str = "") -> Interval:
        """Return the interval of a summary's part."""
        return cls(part.mean, part.low, part.high, note)


@dataclass(frozen=True)
class PValue:
    """A p-value; None for no test."""

    value: float | None


Cell = Interval | PValue | float | int | str | None
"""None is nothing, and shown as a dash."""


@dataclass(frozen=True)
class Table:
    """Rows of cells by the heading of their column; a missing cell is nothing.

    `name` is that of its file.
    """

    name: str
    columns: Sequence[str]
    rows: Sequence[dict[str, Cell]]

    @classmethod
    def from_rows(cls, name: str, rows: Sequence[dict[str, Cell]]) -> Table:
        """Make a table whose columns are those of its rows, in order of appearance."""
        return cls(name, list(dict.fromkeys(key for row in rows for key in row)), rows)

    def has_no_interval(self) -> bool:
        """Return whether a mean in it has no interval."""
        return any(
            isinstance(cell, Interval) and cell.low is None and cell.mean is not None
            for row in self.rows
            for cell in row.values()
        )


@dataclass(frozen=True)
class Heading:
    """A heading; level 1 is the document's."""

    text: str
    level: int = 2


@dataclass(frozen=True)
class Paragraph:
    """A paragraph of plain words; what stands in `backticks` is code."""

    text: str


@dataclass(frozen=True)
class Bullets:
    """A list of plain words, as a paragraph has them; `is_code` for names shown as they are."""

    items: Sequence[str]
    is_code: bool = False


@dataclass(frozen=True)
class Figure:
    """A picture next to the document."""

    file: str
    caption: str


@dataclass(frozen=True)
class Links:
    """Lists of links under a few words each: (text, file beside the document or address)."""

    items: Sequence[tuple[str, Sequence[tuple[str, str]]]]


Block = Heading | Paragraph | Bullets | Links | Figure | Table


@dataclass(frozen=True)
class Document:
    """A page: blocks in order."""

    blocks: Sequence[Block] = field(default_factory=tuple)

    def tables(self) -> list[Table]:
        """Return its tables."""
        return [block for block in self.blocks if isinstance(block, Table)]
