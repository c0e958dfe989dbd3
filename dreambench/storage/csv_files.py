"""CSV tables as people write them: read with every row checked, written whole.

A spreadsheet takes a text for a formula that begins with = + - or @, whoever wrote it. Such a text
is written with an apostrophe before it, which keeps it text there, and which `read_csv` takes away
again; numbers stay as they are (OWASP, "CSV Injection").
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from dreambench.errors import UserError, name_some
from dreambench.storage.files import write_bytes
from dreambench.text import make_printable

# Spreadsheets skip white space, and take the wide letters of Japanese keyboards as well.
_FORMULA = re.compile(r"'*[=+\-@\t\r\n\uff1d\uff0b\uff0d\uff20].", re.DOTALL)
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")


def read_csv(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """Return the rows of a UTF-8 table that has at least `columns`; blank lines are skipped.

    Raises:
        UserError: `missing-file`; `unreadable-file` for what is not UTF-8 or cannot be opened;
            `invalid-table` for a lacking or repeated column and a row of another length, by line.
    """
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            return list(_parse_rows(path, stream, columns))
    except FileNotFoundError as error:
        raise UserError(
            f"{path} is missing", hint="restore the file", code="missing-file"
        ) from error
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} is not UTF-8 text", hint="save it as UTF-8", code="unreadable-file"
        ) from error
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror})",
            hint="restore the file",
            code="unreadable-file",
        ) from error


def _parse_rows(
    path: Path, lines: Iterable[str], columns: Sequence[str]
) -> Iterator[dict[str, str]]:
    reader = csv.reader(lines, strict=True)
    try:
        header = next(reader, [])
        lacking = sorted(set(columns) - set(header))
        if lacking:
            raise _invalid(path, f"lacks the column {', '.join(lacking)}")
        repeated = sorted({name for name in header if header.count(name) > 1})
        if repeated:
            raise _invalid(path, f"has the column {name_some(repeated)} more than once")
        for row in reader:
            if row and len(row) != len(header):
                counts = f"{len(row)} cells, but the header has {len(header)}"
                raise _invalid(path, f"line {reader.line_num} has {counts}")
            if row:
                yield dict(zip(header, map(_read_cell, row), strict=True))
    except csv.Error as error:
        raise _invalid(path, f"line {reader.line_num} is not valid CSV ({error})") from error


def _invalid(path: Path, problem: str) -> UserError:
    return UserError(f"{path}: {problem}", hint="fix or restore the file", code="invalid-table")


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
