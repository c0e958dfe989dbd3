"""CSV tables as people write them: read with every row checked, written whole.

What a spreadsheet makes of a table is read where it can mean one thing only: a byte-order mark,
UTF-16, semicolons, tabs or bars instead of commas, a first line `sep=;`, capitals in the names of
columns, blanks around cells, empty rows and columns at the end, and every kind of line end.

A spreadsheet takes a text for a formula that begins with = + - or @, whoever wrote it. Such a text
is written with an apostrophe before it, which keeps it text there, and which `read_csv` takes away
again; numbers stay as they are (OWASP, "CSV Injection").
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dreambench.errors import UserError, name_some
from dreambench.storage.files import write_bytes
from dreambench.storage.text_files import read_text
from dreambench.text import make_printable

# Spreadsheets skip white space, and take the wide letters of Japanese keyboards as well.
_FORMULA = re.compile(r"'*[=+\-@\t\r\n\uff1d\uff0b\uff0d\uff20].", re.DOTALL)
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")

DELIMITERS = {",": "a comma", ";": "a semicolon", "\t": "a tab", "|": "a vertical bar"}


class Row(dict[str, str]):
    """The cells of a row by column, without blanks around them; `line` is where it starts."""

    def __init__(self, cells: Mapping[str, str], line: int) -> None:
        super().__init__(cells)
        self.line = line


@dataclass(frozen=True)
class _Header:
    """The names of the columns, and what separates them; `line` is where they stand."""

    names: list[str]
    delimiter: str
    line: int


def read_csv(path: Path, columns: Sequence[str], *, optional: Sequence[str] = ()) -> list[Row]:
    """Return the rows of a table that has at least `columns`; rows without any text are skipped.

    Capitals do not count in the names of `columns` and of the `optional` ones; other columns keep
    the names that they have.

    Raises:
        UserError: `missing-file`; `unreadable-file` for what is not text or cannot be opened;
            `invalid-table` for a missing or repeated column and a row of another length, by line.
    """
    text = read_text(path, utf_16=True)
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        raise _invalid(path, f"line {line} holds a NUL character, which no text has")
    header = _find_header(path, text, columns, optional)
    repeated = sorted({name for name in header.names if header.names.count(name) > 1})
    if "" in repeated:
        raise _invalid(path, "has more than one column without a name")
    if repeated:
        raise _invalid(path, f"has the column {name_some(repeated)} more than once")
    return list(_read_rows(path, text, header))


def _parse(path: Path, text: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Yield each row that holds any text, with the number of its first line."""
    lines = io.StringIO(text, newline="")
    reader = csv.reader(lines, delimiter=delimiter, skipinitialspace=True, strict=True)
    start = 1
    while True:
        start = reader.line_num + 1
        try:
            row = [_read_cell(cell).strip() for cell in next(reader)]
        except StopIteration:
            return
        except csv.Error as error:
            raise _invalid(path, f"line {start} {_explain(error)}") from error
        if any(row):
            yield start, row


def _explain(error: csv.Error) -> str:
    if "field limit" in str(error):
        return f"has a cell of over {csv.field_size_limit():,} characters"
    return f"is not valid CSV ({error}): double each quote that stands inside a quoted cell"


def _find_header(path: Path, text: str, columns: Sequence[str], optional: Sequence[str]) -> _Header:
    """Return the header by the one delimiter with which it has all `columns`.

    Raises:
        UserError: there is none; it says which columns are missing.
    """
    known = {name.casefold(): name for name in (*columns, *optional)}
    named = re.match(r"\"?sep=([^\w\s\"]|\t)\"?[ \t;,]*(\r\n|\r|\n)", text, re.IGNORECASE)
    found, faults = [], []
    for delimiter in [named[1]] if named else DELIMITERS:
        rows = _parse(path, text, delimiter)
        try:
            if named:
                next(rows, None)
            line, names = next(rows, (1, [""]))
        except UserError as error:
            faults.append(error)
            continue
        while len(names) > 1 and not names[-1]:
            names.pop()
        header = _Header([known.get(n.casefold(), n) for n in names], delimiter, line)
        if set(columns) <= set(header.names):
            return header
        found.append(header)
    raise _invalid(path, _describe_lack(found, columns)) if found else faults[0]


def _describe_lack(found: Sequence[_Header], columns: Sequence[str]) -> str:
    # What separates a line into most of the columns, or else into most cells, is what was meant.
    best = max(found, key=lambda one: (len(set(columns) & set(one.names)), len(one.names)))
    missing = [name for name in columns if name not in best.names]
    if len(missing) < len(columns):
        return f"lacks the column {', '.join(missing)}; it has {', '.join(best.names)[:200]}"
    if best.names == [""]:
        return f"is empty: its first line has to name the columns {', '.join(columns)}"
    line = ", ".join(best.names)[:80]
    return (
        f"line {best.line} has to name the columns {', '.join(columns)}, separated by commas; it "
        f"is {line!r}"
    )


def _read_rows(path: Path, text: str, header: _Header) -> Iterator[Row]:
    n_columns = len(header.names)
    for line, row in _parse(path, text, header.delimiter):
        if line <= header.line:
            continue
        cells = row
        while len(cells) > n_columns and not cells[-1]:
            cells = cells[:-1]
        if len(cells) != n_columns:
            raise _invalid(path, _describe_length(line, cells, header))
        yield Row(dict(zip(header.names, cells, strict=True)), line)


def _describe_length(line: int, cells: Sequence[str], header: _Header) -> str:
    word = DELIMITERS.get(header.delimiter, repr(header.delimiter))
    n_cells = "1 cell" if len(cells) == 1 else f"{len(cells)} cells"
    problem = f"line {line} has {n_cells}, but the header has {len(header.names)}"
    if len(cells) > len(header.names):
        return f"{problem}: put a cell that holds {word} in quotes"
    for other, name in DELIMITERS.items():
        if other != header.delimiter and cells[0].count(other) + 1 == len(header.names):
            return f"{problem}: it is separated by {name}, the header by {word}"
    return f"{problem}: write empty cells too, with {word} between each two"


def _invalid(path: Path, problem: str) -> UserError:
    where = f"{path}: {problem}" if problem.startswith("line ") else f"{path} {problem}"
    return UserError(where, hint="fix or restore the file", code="invalid-table")


def read_whole_number(text: str) -> int | None:
    """Return what a cell says as a whole number from 0; 5.0, as spreadsheets write it, is 5.

    None for anything else, digits of other scripts and numbers of more than 15 digits among it.
    """
    found = re.fullmatch(r"([0-9]{1,15})(\.0{1,9})?", text)
    return int(found[1]) if found else None


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, str]]) -> None:
    """Write a table that `read_csv` gives back as it was: UTF-8, one line a row, atomically."""
    lines = [[_guard(row.get(name, "")) for name in columns] for row in rows]
    write_bytes(path, "".join(map(_format_row, [list(map(_guard, columns)), *lines])).encode())


def format_csv(columns: Sequence[str], rows: Iterable[Mapping[str, object]]) -> str:
    """Return a table for people as CSV, each cell as `show_cell` has it; None is empty."""
    lines = [[show_cell(row.get(name)) for name in columns] for row in rows]
    return "".join(map(_format_row, [list(map(show_cell, columns)), *lines]))


def show_cell(cell: object) -> object:
    """Return a cell of a table for people: text printable and no formula, all else as it is."""
    return _guard(make_printable(cell)) if isinstance(cell, str) else cell


def _guard(text: str) -> str:
    is_formula = _FORMULA.match(text) and not _NUMBER.fullmatch(text)
    return f"'{text}" if is_formula else text


def _read_cell(text: str) -> str:
    return text[1:] if text.startswith("'") and _FORMULA.match(text) else text


def _format_row(cells: Sequence[object]) -> str:
    stream = io.StringIO()
    # Quotes what has a character of the line's end: Python before 3.13 leaves a lone \r bare when
    # that end is \n, and no reader takes it for a part of the cell.
    csv.writer(stream, lineterminator="\r\n").writerow(cells)  # noqa: TID251
    return stream.getvalue().removesuffix("\r\n") + "\n"
