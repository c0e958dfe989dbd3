"""Renders documents and tables as Markdown, in which all text from elsewhere is plain text."""

from __future__ import annotations

import re
from urllib.parse import quote

from tabulate import tabulate

from dreambench.report.formatting import NO_INTERVAL, format_headings, format_rows
from dreambench.report.model import Block, Bullets, Document, Figure, Heading, Links, Table
from dreambench.text import make_printable

_CODE = re.compile("`([^`]+)`")
_BACKSLASH = r"\\\g<0>"
# Only what would be markup where it stands. An entity where a backslash does not help with every
# reader (CommonMark, GitHub, Python-Markdown).
_MARKUP = [
    (re.compile(r"&(?=#?\w+;)"), "&amp;"),
    (re.compile(r"<(?=[A-Za-z/!?])"), "&lt;"),
    (re.compile(r"\\(?=[!-/:-@[-`{-~]|$)"), _BACKSLASH),
    (re.compile(r"[`*{]|(?<![^\W_])_|_(?![^\W_])|\](?=[(\[])"), _BACKSLASH),
    (re.compile(r"~(?=~)|(?<=~)~"), "&#126;"),
    (re.compile(r":(?=//)"), "&#58;"),
    (re.compile(r"(?<=\bwww)\."), "&#46;"),
]
_BLOCK_START = re.compile(r"^(\d+(?=[.)])|(?=[#>+[-]))")


def render_markdown(document: Document) -> str:
    """Return a document as Markdown, with a note on intervals that are not there."""
    parts = [_render_block(block) for block in document.blocks]
    if any(table.has_no_interval() for table in document.tables()):
        parts.append(NO_INTERVAL)
    return "\n\n".join(parts) + "\n"


def _render_block(block: Block) -> str:
    if isinstance(block, Heading):
        return f"{'#' * block.level} {_escape(block.text)}"
    if isinstance(block, Bullets):
        render = _render_code if block.is_code else _render_words
        return "\n".join(f"- {render(item)}" for item in block.items)
    if isinstance(block, Figure):
        return f"!{_render_link(block.caption, block.file)}"
    if isinstance(block, Links):
        return "\n".join(
            f"- {_render_words(words)}: {', '.join(_render_link(*link) for link in links)}"
            for words, links in block.items
        )
    if isinstance(block, Table):
        return render_markdown_table(block)
    return _render_words(block.text)


def render_markdown_table(table: Table) -> str:
    """Return a table as Markdown, rounded."""
    rows = [[_render_cell(cell) for cell in row] for row in format_rows(table)]
    headers = [_render_cell(heading) for heading in format_headings(table)]
    return str(tabulate(rows, headers=headers, tablefmt="pipe", disable_numparse=True))


def _escape(text: str) -> str:
    """Return text that is shown as it is: no markup, link, picture or HTML comes of it."""
    text = make_printable(text)
    for pattern, replacement in _MARKUP:
        text = pattern.sub(replacement, text)
    return text


def _render_link(text: str, target: str) -> str:
    parts = [_escape(part) for part in re.split(r"(?=[\[\]])", text)]
    shown = "".join(rf"\{part}" if part[:1] in "[]" else part for part in parts if part)
    return f"[{shown}]({quote(target, safe=':/#')})"


def _render_words(text: str) -> str:
    """Return words of a block of their own, in which `code` stands between backticks."""
    parts = _CODE.split(make_printable(text).strip())
    shown = [_render_code(p) if n % 2 else _escape(p) for n, p in enumerate(parts)]
    return _BLOCK_START.sub(r"\1\\", "".join(shown))


def _render_code(text: str) -> str:
    """Return names as code, between more backticks than they hold in a row."""
    text = make_printable(text)
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    blank = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{fence}{blank}{text}{blank}{fence}" if text.strip() else text


def _render_cell(text: str) -> str:
    return _escape(text).replace("|", r"\|")
