"""The page that sets runs against a table of the DreamBooth paper."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dreambench.analysis.comparison import Scored
from dreambench.analysis.paper_tables import SOURCE, PaperTable, match_paper_table
from dreambench.report.latex_pages import make_paper_latex
from dreambench.report.markdown import render_markdown
from dreambench.report.model import Block, Bullets, Document, Heading, Paragraph
from dreambench.report.tables import make_direction_table, make_value_table
from dreambench.storage.files import write_bytes


def write_paper_table(runs: Sequence[Scored], number: int, out_dir: Path) -> list[Path]:
    """Write `paper-table-N.md` and `paper-table-N.tex` and return their paths.

    Raises:
        UserError: the runs do not belong to the table.
    """
    table = match_paper_table(runs, number)
    contents = {
        out_dir / f"paper-table-{number}.md": render_markdown(make_paper_document(table)),
        out_dir / f"paper-table-{number}.tex": make_paper_latex(table),
    }
    for path, text in contents.items():
        write_bytes(path, text.encode())
    return list(contents)


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
        make_value_table(table, metrics),
        Heading("Directions, paired by subject"),
        make_direction_table(table),
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
