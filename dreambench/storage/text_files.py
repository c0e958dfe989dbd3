"""Text as people save it: UTF-8 with or without a byte-order mark, and by name what is not."""

from __future__ import annotations

import codecs
from pathlib import Path

from dreambench.errors import UserError, explain_os_error

MAX_BYTES = 20_000_000
"""Of any text that people write; the largest index of a benchmark has some megabytes."""


def read_text(path: Path, *, max_bytes: int = MAX_BYTES, utf_16: bool = False) -> str:
    """Return the text of a file; `utf_16` says whether that is read too, as spreadsheets save it.

    Raises:
        UserError: `missing-file`; `unreadable-file` for one that cannot be opened, is too large or
            is in another encoding, which is named.
    """
    try:
        if path.exists() and not path.is_file():
            what = "a folder" if path.is_dir() else "a pipe or a device"
            raise UserError(
                f"{path} is {what}, not a file", hint="name a file", code="unreadable-file"
            )
        with path.open("rb") as stream:
            content = stream.read(max_bytes + 1)
    except OSError as error:
        raise explain_os_error(error, path, reads=True) from error
    if len(content) > max_bytes:
        raise UserError(
            f"{path} is over {max_bytes:,} bytes",
            hint="that is more than such a file needs: check the path",
            code="unreadable-file",
        )
    try:
        return _decode(content, utf_16=utf_16)
    except ValueError as error:
        raise UserError(
            f"{path}{error}", hint="save it as UTF-8", code="unreadable-file"
        ) from error


def _decode(content: bytes, *, utf_16: bool) -> str:
    """Return text without its byte-order mark; ValueError says in which line it is not UTF-8."""
    if content.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        raise ValueError(" is UTF-32 text, not UTF-8")
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        if not utf_16:
            raise ValueError(" is UTF-16 text, not UTF-8")
        try:
            return content.decode("utf-16")
        except UnicodeDecodeError as error:
            raise ValueError(" starts as UTF-16 text and is not UTF-16 throughout") from error
    start = content[:64]
    if start.count(0) * 3 > len(start):
        raise ValueError(" looks like UTF-16 text without a byte-order mark, and is not UTF-8")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        wrong = content[error.start]
        raise ValueError(f": line {line} is not UTF-8 text (byte 0x{wrong:02X})") from error
