"""The page that sets runs against a table of the DreamBooth paper."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from dreambench.analysis.comparison import Scored
from dreambench.analysis.paper_tables import (
    SOURCE,
    PaperTable,
    compare_directions,
    match_paper_table,
)
from dreambench.report.formatting import format_number
from dreambench.report.markdown import render_markdown
from dreambench.report.model import (
    Block,
    Bullets,
    Cell,
    Document,
    Heading,
    Interval,
    Paragraph,
    Table,
)
from dreambench.storage.files import write_bytes


def write_paper_table(runs: Sequence[Scored], number: int, out_dir: Path) -> Path:
    """Write `paper-table-N.md` and return its path.

    Raises:
        UserError: the runs do not belong to the table.
    """
    path = out_dir / f"paper-table-{number}.md"
    document = make_paper_document(match_paper_table(runs, number))
    write_bytes(path, render_markdown(document).encode())
    return path


def make_paper_document(table: PaperTable) -> Document:
    """Return the page of a table of the paper."""
    summary = table.runs[0].summary
    metrics = list(dict.fromkeys(table.frame["metric"]))
    recipes = ", ".join(f"{run.label} {run.summary.digests.recipe}" for run in table.runs)
    blocks: list[Block] = [
        Heading(f"The paper's table {table.number}, against {summary.protocol}", 1),
        Paragraph(
            f"Paper: {SOURCE}; its models and images are others, so only directions can be "
            "compared. Ours: means over subjects with 95 % intervals."
        ),
        _make_value_table(table, metrics),
        Heading("Directions, paired by subject"),
        _make_direction_table(table),
    ]
    if table.missing:
        blocks.append(Paragraph(f"Not run: {', '.join(table.missing)}."))
    blocks += [
        Paragraph("Signatures:"),
        Bullets([str(table.runs[0].signatures[name]) for name in metrics], is_code=True),
        Paragraph(
            f"Protocol {summary.digests.protocol}, data {summary.digests.data}, base model "
            f"`{summary.digests.base_model}`, {summary.code}; recipes: {recipes}."
        ),
    ]
    return Document(blocks)


def _make_value_table(table: PaperTable, metrics: Sequence[str]) -> Table:
    rows: list[dict[str, Cell]] = []
    for run in table.runs:
        theirs = table.frame[table.frame["recipe"] == run.name].set_index("metric")
        row: dict[str, Cell] = {"method": run.label, "the paper's row": str(theirs["row"].iloc[0])}
        for metric in metrics:
            printed = f"; paper {format_number(theirs['value'].get(metric))}"
            part = run.summary.metrics[metric].whole
            row[run.infos[metric].heading] = Interval.of(part, note=printed)
        rows.append(row)
    return Table.from_rows("values", rows)


def _make_direction_table(table: PaperTable) -> Table:
    infos = table.runs[0].infos
    rows: list[dict[str, Cell]] = [
        {
            "difference": f"{row.first} - {row.second}",
            "metric": infos[row.metric].heading,
            "paper": float(row.paper),
            "here": Interval(row.mean, _known(row.low), _known(row.high)),
            "direction": row.direction,
        }
        for row in compare_directions(table).itertuples()
    ]
    return Table.from_rows("directions", rows)


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value
