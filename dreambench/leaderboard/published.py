"""Published rows: what papers print, kept apart from records, each with its source and convention.

`reports/published.csv` has them, and `reports/published-left-out.csv` what was read and left out,
with the reason. `reports/make_published.py` makes both. None of these numbers can be checked here.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from dreambench.errors import UserError, unknown_name
from dreambench.metrics.conventions import CONVENTIONS
from dreambench.report.formatting import format_number
from dreambench.report.model import Table
from dreambench.storage.csv_files import read_csv
from dreambench.storage.shipped import shipped_path

COLUMNS = (
    "method", "variant", "base_model", "track", "benchmark", "references", "convention",
    "n_images", "dino", "clip-i", "clip-t", "paper", "arxiv", "year", "table", "confidence",
    "source", "quoted_by", "note",
)  # fmt: skip
STATUS = "published"
UNKNOWN = "unknown"
BENCHMARK = "dreambench"
"""The paper's 30 subjects and 25 prompts, one subject an image."""

_Score = Annotated[float, Field(ge=0, le=1)]
_Count = Annotated[int | None, BeforeValidator(lambda text: text or None)]


class PublishedRow(BaseModel):
    """What a paper prints of one method.

    `benchmark` says what the images show (BENCHMARK, or another set of subjects and prompts),
    `convention` how they were scored (`metrics.conventions`), `references` against which photos:
    all of a subject or one; each of the last two may be "unknown". `quoted_by` are other papers
    that repeat the numbers, `note` what the reader of the paper wrote down.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    method: str = Field(min_length=1)
    variant: str
    base_model: str
    track: Literal["tuned", "tuning-free", "no photos", "unknown"]
    benchmark: str = Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")
    references: Literal["all", "one", "unknown"]
    convention: str
    n_images: _Count
    dino: _Score
    clip_i: _Score = Field(alias="clip-i")
    clip_t: _Score = Field(alias="clip-t")
    paper: str = Field(min_length=1)
    arxiv: str = Field(pattern=r"^(\d{4}\.\d{5})?$")
    year: _Count
    table: str
    confidence: str = Field(min_length=1)
    source: str = Field(min_length=1)
    quoted_by: str
    note: str

    @model_validator(mode="after")
    def _check_convention(self) -> PublishedRow:
        if self.convention == UNKNOWN:
            return self
        known = CONVENTIONS.get(self.convention)
        if known is None:
            raise ValueError(f"no convention named '{self.convention}'")
        if self.references != ("all" if known.references == "all" else "one"):
            raise ValueError(f"convention {self.convention} does not score against that")
        return self

    @property
    def name(self) -> str:
        """The method with its variant."""
        return f"{self.method} ({self.variant})" if self.variant else self.method


def load_published() -> list[PublishedRow]:
    """Load the shipped rows, in the order of the file.

    Raises:
        UserError: see `check_published`.
    """
    return check_published(shipped_path("reports", "published.csv"))


def check_published(path: Path) -> list[PublishedRow]:
    """Load rows from a file with the columns COLUMNS.

    Raises:
        UserError: `invalid-table` for a value outside of 0 to 1, an unknown convention or one that
            scores against other photos than the row says, and a row that is there twice; by line.
    """
    found: list[PublishedRow] = []
    seen: dict[tuple[object, ...], int] = {}
    for row in read_csv(path, COLUMNS):
        try:
            one = PublishedRow.model_validate(dict(row))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "convention"
            raise UserError(
                f"{path}: line {row.line}: {where}: {first['msg']}", hint="fix the row",
                code="invalid-table",
            ) from error  # fmt: skip
        key = (
            one.method, one.variant, one.base_model, one.benchmark, one.references, one.paper,
            one.table, one.track,
        )  # fmt: skip
        if key in seen:
            raise UserError(
                f"{path}: line {row.line}: {one.name} of {one.paper} stands in line {seen[key]} "
                "already",
                hint="leave one of the two out",
                code="invalid-table",
            )
        seen[key] = row.line
        found.append(one)
    return found


def choose_published(
    rows: Sequence[PublishedRow], *, method: str = "", **wanted: str | None
) -> list[PublishedRow]:
    """Return the rows with `method` in their name and `wanted` in their columns; None is any.

    Raises:
        UserError: `unknown-name` for what no row has in a column.
    """
    chosen = [row for row in rows if method.casefold() in row.name.casefold()]
    for column, value in wanted.items():
        if value is None:
            continue
        known = {str(getattr(row, column)) for row in rows}
        if value not in known:
            raise unknown_name(column, value, known)
        chosen = [row for row in chosen if getattr(row, column) == value]
    return chosen


def make_published_table(rows: Sequence[PublishedRow]) -> Table:
    """Return rows as a table for people."""
    return Table.from_rows(
        "published",
        [
            {
                "method": row.name, "base model": row.base_model or None, "track": row.track,
                "DINO (up)": row.dino, "CLIP-I (up)": row.clip_i, "CLIP-T (up)": row.clip_t,
                "references": row.references, "convention": row.convention,
                "images": row.n_images, "paper": row.paper, "arXiv": row.arxiv or None,
                "table": row.table or None, "read from": row.confidence,
            }
            for row in rows
        ],
    )  # fmt: skip


def find_reference_pairs(rows: Sequence[PublishedRow]) -> list[tuple[PublishedRow, PublishedRow]]:
    """Return each method that one paper scores in both ways: against all photos, against one."""

    def key(row: PublishedRow) -> tuple[str, ...]:
        return (row.method, row.variant, row.base_model, row.benchmark, row.paper)

    against_one = {key(row): row for row in rows if row.references == "one"}
    return [
        (row, against_one[key(row)])
        for row in rows
        if row.references == "all" and key(row) in against_one
    ]


def explain_references(rows: Sequence[PublishedRow]) -> str:
    """Return a sentence on what scoring against one photo does to a number; empty without a pair.

    Of several pairs it is the one with the largest difference in DINO.
    """
    pairs = find_reference_pairs(rows)
    if not pairs:
        return ""
    every, one = max(pairs, key=lambda pair: pair[1].dino - pair[0].dino)
    return (
        f"{every.name} has DINO {format_number(every.dino)} against all photos of a subject and "
        f"{format_number(one.dino)} against the one that it was given "
        f"({_cite(every)}), so numbers of the two kinds cannot share a table."
    )


def _cite(row: PublishedRow) -> str:
    return f"arXiv {row.arxiv}" if row.arxiv else row.paper
