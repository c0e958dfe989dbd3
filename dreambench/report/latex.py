r"""Renders tables as LaTeX for a paper: booktabs, an interval small behind or beneath its mean.

All text from elsewhere is plain text: no command, comment or special letter comes of it. A file
compiles with pdfLaTeX, XeLaTeX and LuaLaTeX, with `booktabs` and `\usepackage[T1]{fontenc}`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType

from dreambench.report.formatting import (
    COLUMN_IN,
    NO_INTERVAL,
    NOTHING,
    TEXT_IN,
    format_cell,
    format_number,
)
from dreambench.report.model import Cell, Interval, PValue, Table
from dreambench.text import make_printable

# About the width of a letter of a name, of a mean and of an interval, and between two columns.
LETTER_IN, MEAN_IN, SMALL_LETTER_IN, GAP_IN = 0.062, 0.3, 0.045, 0.085
LONG_TEXT, LONG_TEXT_IN = 34, 1.8
"""Text of more characters is broken into lines of this width."""
SMALL_TO_FOOTNOTE = 9 / 8
NO_GROUPS: Mapping[int, str] = MappingProxyType({})
_SPECIAL = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#",
    "%": r"\%", "_": r"\_", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", '"': r"\textquotedbl{}",
    "`": r"\textasciigrave{}", "'": r"\textquotesingle{}", "\xa0": "~", "\u2013": "--",
    # At the begin of a row these would be an option of the line end before it.
    "[": "{[}", "*": "{*}",
}  # fmt: skip
# Latin letters that the encoding T1 has not.
_UNKNOWN = "\u0126\u0127\u0138\u013f\u0140\u0149\u0166\u0167\u017f"
_ARROW = re.compile(r" \((up|down)\)")
_ARROWS = {"up": r" $\uparrow$", "down": r" $\downarrow$"}
_CODE = re.compile("`([^`]+)`")


def render_latex(
    table: Table,
    *,
    caption: str,
    label: str,
    comments: Sequence[str] = (),
    bold: Collection[tuple[int, str]] = (),
    groups: Mapping[int, str] = NO_GROUPS,
) -> str:
    """Return a table as a float with caption and label, rounded.

    `caption` is plain words with code between backticks; `comments` are lines for the reader of
    the source. `bold` has cells as (number of the row, column). `groups` has by the number of a row
    the heading of the group that begins with it, empty for a line alone.
    """
    kinds = {column: _kind_of(table, column) for column in table.columns}
    intervals = [column for column, kind in kinds.items() if kind == "interval"]
    is_beneath = _estimate_width(table, kinds, is_beneath=False) > TEXT_IN * SMALL_TO_FOOTNOTE
    n_columns = len(kinds) + (0 if is_beneath else len(intervals))
    width = _estimate_width(table, kinds, is_beneath=is_beneath)
    size = "small" if width <= TEXT_IN else "footnotesize"
    environment = "table" if width <= COLUMN_IN else "table*"
    body = []
    for number, row in enumerate(table.rows):
        if number in groups:
            body += [r"\midrule"] if number else []
            if groups[number]:
                heading = rf"\emph{{{escape_latex(groups[number])}}}"
                body.append(rf"\multicolumn{{{n_columns}}}{{@{{}}l}}{{{heading}}} \tabularnewline")
        marked = {column for index, column in bold if index == number}
        body += _render_row(row, kinds, marked, is_beneath=is_beneath)
    note = NO_INTERVAL.replace("[-, -]", "[\u2013, \u2013]") if table.has_no_interval() else ""
    words = f"{caption} {note}".strip()
    specification = "".join(_specify(kind, is_beneath=is_beneath) for kind in kinds.values())
    lines = [
        *(f"% {make_printable(comment)}" for comment in comments),
        rf"\begin{{{environment}}}[t]",
        r"\centering",
        r"\setlength{\belowcaptionskip}{4pt}",
        rf"\caption{{{_render_words(words)}}}",
        rf"\label{{{label}}}",
        rf"\{size}",
        r"\setlength{\tabcolsep}{3pt}",
        rf"\begin{{tabular}}{{@{{}}{specification}@{{}}}}",
        r"\toprule",
        " & ".join(_render_heading(column, kinds[column], is_beneath) for column in kinds)
        + r" \tabularnewline",
        r"\midrule",
        *body,
        r"\bottomrule",
        r"\end{tabular}",
        rf"\end{{{environment}}}",
    ]
    return "\n".join(lines) + "\n"


def escape_latex(text: str, *, can_break: bool = False) -> str:
    """Return text that LaTeX sets as it is; letters that are not Latin are spelled `[U+732B]`.

    With `can_break` a line may end behind a sign that joins words.
    """
    parts: list[str] = []
    before = ""
    for letter in make_printable(text):
        is_known = letter.isascii() or ("\xa0" <= letter <= "\u017f" and letter not in _UNKNOWN)
        shown = _SPECIAL.get(letter, letter if is_known else f"{{[}}U+{ord(letter):04X}]")
        # Two of these in a row would be another sign.
        parts.append(f"{{}}{shown}" if letter == before and letter in "-," else shown)
        if can_break and letter in "+_=/.,":
            parts.append(r"\allowbreak{}")
        before = letter
    return "".join(parts)


def _render_words(text: str) -> str:
    """Return words in which `code` stands between backticks."""
    parts = _CODE.split(text)
    return "".join(
        rf"\texttt{{{escape_latex(p, can_break=True)}}}" if n % 2 else escape_latex(p)
        for n, p in enumerate(parts)
    )


def _kind_of(table: Table, column: str) -> str:
    """Return what a column holds: interval, number, text or long text."""
    cells = [row.get(column) for row in table.rows]
    if any(isinstance(cell, Interval) for cell in cells):
        return "interval"
    if all(isinstance(cell, PValue | float | int | None) for cell in cells):
        return "number"
    is_long = max(len(format_cell(cell)) for cell in cells) > LONG_TEXT
    return "long text" if is_long else "text"


def _specify(kind: str, *, is_beneath: bool) -> str:
    if kind == "interval":
        return "c" if is_beneath else r"r@{\,}l"
    return {"number": "r", "text": "l", "long text": f"p{{{LONG_TEXT_IN}in}}"}[kind]


def _estimate_width(table: Table, kinds: Mapping[str, str], *, is_beneath: bool) -> float:
    """Return about how wide a table is in inches, in small type."""
    width = 0.0
    for column, kind in kinds.items():
        cells = [row.get(column) for row in table.rows]
        longest = max(len(format_cell(cell)) for cell in cells)
        heading = LETTER_IN * len(column)
        if kind == "long text":
            width += LONG_TEXT_IN
        elif kind == "interval":
            ends = SMALL_LETTER_IN * (longest - len(".000 "))
            width += max(heading, MEAN_IN, ends) if is_beneath else max(heading, MEAN_IN + ends)
        else:
            width += max(heading, LETTER_IN * longest)
        width += GAP_IN
    return width


def _render_heading(column: str, kind: str, is_beneath: bool) -> str:
    shown = _render_metric(column)
    return rf"\multicolumn{{2}}{{c}}{{{shown}}}" if kind == "interval" and not is_beneath else shown


def _render_metric(text: str) -> str:
    """Return the heading of a metric with an arrow for the direction in which it is better."""
    parts = _ARROW.split(text)
    return "".join(_ARROWS[p] if n % 2 else escape_latex(p) for n, p in enumerate(parts))


def _render_row(
    row: Mapping[str, Cell], kinds: Mapping[str, str], bold: Collection[str], *, is_beneath: bool
) -> list[str]:
    """Return the lines of a row: one, or two where intervals stand beneath their means."""
    first, second = [], []
    for column, kind in kinds.items():
        cell = row.get(column)
        if kind != "interval":
            first.append(_render_cell(cell, kind, is_metric=column == "metric"))
            second.append("")
            continue
        mean, rest = _render_interval(cell, is_bold=column in bold)
        if is_beneath:
            first.append(mean)
            second.append(rest)
        elif rest:
            first += [mean, rest]
        else:
            first.append(rf"\multicolumn{{2}}{{c}}{{{mean}}}")
    ending = r" \tabularnewline"
    lines = [" & ".join(first) + ending]
    return [*lines, " & ".join(second) + ending + "[2pt]"] if any(second) else lines


def _render_cell(cell: Cell, kind: str, *, is_metric: bool) -> str:
    if kind == "number" or cell is None:
        return _render_number(format_cell(cell))
    text = format_cell(cell)
    if kind == "long text":
        return rf"\raggedright {escape_latex(text, can_break=True)}"
    return _render_metric(text) if is_metric else escape_latex(text)


def _render_interval(cell: Cell, *, is_bold: bool) -> tuple[str, str]:
    """Return a mean and its interval with its note; of anything else it is all in the first."""
    if not isinstance(cell, Interval):
        text = format_cell(cell)
        return (escape_latex(text) if isinstance(cell, str) else _render_number(text)), ""
    mean = _render_number(format_number(cell.mean))
    ends = ", ".join(_render_number(format_number(end)) for end in (cell.low, cell.high))
    joint = "" if cell.note.startswith(";") or not cell.note else " "
    rest = rf"{{\scriptsize [{ends}]{joint}{escape_latex(cell.note)}}}"
    return (rf"\textbf{{{mean}}}" if is_bold else mean), rest


def _render_number(text: str) -> str:
    """Return a formatted number with a minus sign, and nothing as a dash."""
    if text == NOTHING:
        return "--"
    return text.replace("-", "$-$").replace("<", "$<$")
