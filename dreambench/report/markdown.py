"""Renders documents and tables as Markdown."""

from __future__ import annotations

from tabulate import tabulate

from dreambench.report.formatting import NO_INTERVAL, format_rows
from dreambench.report.model import Block, Bullets, Document, Figure, Heading, Table


def render_markdown(document: Document) -> str:
    """Return a document as Markdown, with a note on intervals that are not there."""
    parts = [_render_block(block) for block in document.blocks]
    if any(table.has_no_interval() for table in document.tables()):
        parts.append(NO_INTERVAL)
    return "\n\n".join(parts) + "\n"


def _render_block(block: Block) -> str:
    if isinstance(block, Heading):
        return f"{'#' * block.level} {block.text}"
    if isinstance(block, Bullets):
        items = [f"`{item}`" if block.is_code else item for item in block.items]
        return "\n".join(f"- {item}" for item in items)
    if isinstance(block, Figure):
        return f"![{block.caption}]({block.file})"
    if isinstance(block, Table):
        return render_markdown_table(block)
    return block.text


def render_markdown_table(table: Table) -> str:
    """Return a table as Markdown, rounded."""
    headers = list(table.columns)
    return str(
        tabulate(format_rows(table), headers=headers, tablefmt="pipe", disable_numparse=True)
    )
