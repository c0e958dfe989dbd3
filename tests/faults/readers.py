"""Readers of the fuzzer's own, which say how an input should have been read."""

from __future__ import annotations

import csv
import io
import re
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from faults.mutations import PNG_SIGNATURE
from faults.server import Done


def is_whole_png(content: bytes) -> bool:
    """Return whether all checksums of a PNG are right and its pixels are all there."""
    if not content.startswith(PNG_SIGNATURE):
        return False
    at, packed, header, ended = len(PNG_SIGNATURE), b"", b"", False
    while at + 12 <= len(content) and not ended:
        end = at + 8 + int.from_bytes(content[at : at + 4], "big")
        kind, data = content[at + 4 : at + 8], content[at + 8 : end]
        if content[end : end + 4] != zlib.crc32(kind + data).to_bytes(4, "big"):
            return False
        packed += data if kind == b"IDAT" else b""
        header = data if kind == b"IHDR" and not header else header
        ended, at = kind == b"IEND", end + 4
    if not ended or len(header) != 13:
        return False
    width, height = (int.from_bytes(header[i : i + 4], "big") for i in (0, 4))
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}.get(header[9], 0)
    n_bytes = height * (1 + (width * channels * header[8] + 7) // 8)
    try:
        stream = zlib.decompressobj()
        pixels = stream.decompress(packed, n_bytes + 100)
    except zlib.error:
        return False
    return header[12] != 0 or len(pixels) >= n_bytes


def has_flat_end(image: Image.Image) -> bool:
    """Return whether the last rows have one colour, and the first have not: so decoders fill up."""
    pixels = np.asarray(image.convert("RGB"))
    n_rows = max(min(8, len(pixels) // 4), 1)

    def is_flat(rows: np.ndarray) -> bool:
        return bool((rows == rows[0, 0]).all())

    return is_flat(pixels[-n_rows:]) and not is_flat(pixels[:n_rows])


def read_table(content: bytes, columns: tuple[str, ...]) -> list[list[str]] | None:
    """Return the cells of these columns as any careful reader finds them; None if it is unclear."""
    is_wide = content.startswith((b"\xff\xfe", b"\xfe\xff"))
    encoding = "utf-16" if is_wide else "utf-8-sig"
    try:
        text = content.decode(encoding).removeprefix("sep=;").lstrip()
    except ValueError:
        return None
    for delimiter in ",;\t|":
        lines = io.StringIO(text, newline="")
        try:
            rows = list(csv.reader(lines, delimiter=delimiter, strict=True))
        except csv.Error:  # Quotes that another delimiter stands behind.
            continue
        header = [cell.strip().strip('"').lower() for cell in rows[0]] if rows else []
        if all(header.count(name) == 1 for name in columns):
            break
    else:
        return None
    rows = [row for row in rows[1:] if any(cell.strip() for cell in row)]
    if any(len(row) != len(header) for row in rows):
        return None
    return [[row[header.index(name)].strip() for name in columns] for row in rows]


def find_differences(written: object, read: object, where: str = "") -> list[str]:
    """Return where a parsed file and what was made of it differ, as far as both say it."""
    if isinstance(written, dict) and isinstance(read, dict):
        found = [find_differences(v, read.get(k, v), f"{where}.{k}") for k, v in written.items()]
        return [name for names in found for name in names]
    if isinstance(written, list) and isinstance(read, list) and len(written) == len(read):
        found = [find_differences(a, b, where) for a, b in zip(written, read, strict=True)]
        return [name for names in found for name in names]
    is_same = written == read and isinstance(written, bool) == isinstance(read, bool)
    return [] if is_same else [where]


def read_numbers(done: Done, report_dir: Path) -> list[str]:
    """Return all numbers with a point that a command printed, and those of a report's tables."""
    texts = [done.stdout, *(path.read_text() for path in sorted(report_dir.glob("*.csv")))]
    return re.findall(r"-?\d*\.\d+(?:e-?\d+)?", "\n".join(texts))
