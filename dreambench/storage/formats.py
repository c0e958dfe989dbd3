"""What a file is by its first bytes where it is not what was asked for, or why there is none.

No library is asked: python-magic needs a system library, and filetype and puremagic know neither
git-lfs pointers nor which of the formats are pictures that can be converted.
"""

from __future__ import annotations

import errno
import json
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dreambench.errors import explain_os_error

HEAD_BYTES = 512
MAX_HEADER_BYTES = 100_000_000

Kind = Literal["picture", "archive", "pointer", "page", "empty", "other"]


@dataclass(frozen=True)
class Format:
    """A format that is known by sight: its name with an article, and what kind of thing it is."""

    name: str
    kind: Kind


_BRANDS: dict[str, Format] = {
    **dict.fromkeys(("heic", "heix", "heim", "heis", "mif1", "msf1"), Format("HEIC", "picture")),
    **dict.fromkeys(("hevc", "hevx"), Format("HEIC", "picture")),
    **dict.fromkeys(("avif", "avis"), Format("AVIF", "picture")),
    "crx ": Format("a raw photo (CR3)", "picture"),
}
_MAGIC: tuple[tuple[int, bytes, Format], ...] = (
    (0, b"version https://git-lfs", Format("a git-lfs pointer", "pointer")),
    (0, b"II*\0", Format("TIFF or a raw photo", "picture")),
    (0, b"MM\0*", Format("TIFF or a raw photo", "picture")),
    (0, b"II+\0", Format("TIFF", "picture")),
    (0, b"MM\0+", Format("TIFF", "picture")),
    (0, b"GIF8", Format("GIF", "picture")),
    (0, b"BM", Format("BMP", "picture")),
    (0, b"8BPS", Format("a Photoshop file (PSD)", "picture")),
    (0, b"\xff\x0a", Format("JPEG XL", "picture")),
    (0, b"\0\0\0\x0cJXL ", Format("JPEG XL", "picture")),
    (0, b"\0\0\0\x0cjP  ", Format("JPEG 2000", "picture")),
    (0, b"\xff\x4f\xff\x51", Format("JPEG 2000", "picture")),
    (0, b"\0\0\x01\0", Format("an icon (ICO)", "picture")),
    (0, b"FUJIFILM", Format("a raw photo (RAF)", "picture")),
    (0, b"\x89PNG", Format("PNG", "picture")),
    (0, b"\xff\xd8\xff", Format("JPEG", "picture")),
    (8, b"WEBP", Format("WebP", "picture")),
    (0, b"PK\x03\x04", Format("a zip archive", "archive")),
    (0, b"PK\x05\x06", Format("an empty zip archive", "archive")),
    (0, b"Rar!\x1a\x07", Format("a rar archive", "archive")),
    (0, b"7z\xbc\xaf\x27\x1c", Format("a 7z archive", "archive")),
    (0, b"\x1f\x8b", Format("a gzip or tar.gz archive", "archive")),
    (0, b"BZh", Format("a bzip2 or tar.bz2 archive", "archive")),
    (0, b"\xfd7zXZ", Format("an xz or tar.xz archive", "archive")),
    (0, b"\x28\xb5\x2f\xfd", Format("a zstd or tar.zst archive", "archive")),
    (257, b"ustar", Format("a tar archive", "archive")),
    (0, b"PAR1", Format("a parquet table", "other")),
    (0, b"%PDF", Format("a PDF document", "other")),
    (4, b"ftyp", Format("a video", "other")),
)
_ADVICE: dict[Kind, str] = {
    "picture": "save it as PNG or JPEG with any photo program, and name that file",
    "archive": "unpack it and name what is in it",
    "pointer": "get the file itself, with git lfs pull in its folder",
    "page": "download the file itself: this is a page of the site, perhaps of its login",
    "empty": "copy or download it again",
    "other": "name another file",
}


def recognise(head: bytes) -> Format | None:
    """Return what a file is by its first HEAD_BYTES; None where that is not known here."""
    if not head.strip(b"\0"):
        return Format("nothing but zero bytes" if head else "empty", "empty")
    if head[4:8] == b"ftyp" and (found := _BRANDS.get(head[8:12].decode("latin-1"))) is not None:
        return found
    for start, magic, found in _MAGIC:
        if head[start : start + len(magic)] == magic:
            return found
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith((b"<svg", b"<?xml")) and b"<svg" in text:
        return Format("SVG", "picture")
    is_page = text.startswith((b"<!doctype", b"<html", b"<head", b"<body", b"<?xml", b"<script"))
    return Format("a web page (HTML)", "page") if is_page else None


def read_head(path: Path) -> bytes:
    """Return the first HEAD_BYTES of a file; OSError as `open` raises it."""
    with path.open("rb") as stream:
        return stream.read(HEAD_BYTES)


def advise(found: Format) -> str:
    """Return what to do with a file that is not what was asked for."""
    return _ADVICE[found.kind]


def explain_absence(path: Path) -> tuple[str, str]:
    """Return why a path is not a file that can be opened, and what to do about it."""
    try:
        mode = path.stat().st_mode
    except OSError as error:
        return _explain_no_stat(path, error)
    if stat.S_ISDIR(mode):
        return "is a folder", f"name the files in it, e.g. {path}/*"
    kinds = {stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
    return f"is {kinds.get(stat.S_IFMT(mode), 'a device')} and not a file", "name a file"


def _explain_no_stat(path: Path, error: OSError) -> tuple[str, str]:
    text = str(path)
    reason, hint = "is not there", "restore it or name another"
    if error.errno == errno.ELOOP:
        reason, hint = "is a link that leads back to itself", "remove it and name the file itself"
    elif error.errno not in (errno.ENOENT, errno.ENOTDIR):
        told = explain_os_error(error, path, reads=True)
        reason, hint = f"cannot be read ({error.strerror})", told.hint
    elif path.is_symlink():
        reason = "is a link to a file that is not there"
        hint = f"restore {path.readlink()}, or name another"
    elif any(letter in text for letter in "*?["):
        reason, hint = f"{reason}, and no file matches it as a pattern", "check the folder's name"
    elif text.startswith("~"):
        reason, hint = f"{reason}, since a shell keeps ~ in quotes as it is", "leave out the quotes"
    elif text != text.strip():
        reason, hint = f"{reason}, and its name begins or ends with a blank", "remove the blank"
    return reason, hint


def find_weights_damage(path: Path) -> tuple[str, str] | None:
    """Return what is wrong with a .safetensors file as far as its head shows, and what to do.

    None for one that is as long as its head says. The tensors are not read.

    Raises:
        OSError: it cannot be read.
    """
    if not path.is_file():
        return explain_absence(path)
    found = recognise(read_head(path))
    if found is not None and found.kind in ("pointer", "page", "empty"):
        return f"is {found.name}", advise(found)
    fault = _compare_with_head(path)
    return (fault, "download or copy it again") if fault else None


def _compare_with_head(path: Path) -> str:
    """Return what is wrong with the length of a .safetensors file; "" for nothing."""
    n_bytes = path.stat().st_size
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if stream.read(1) != b"{" or length > MAX_HEADER_BYTES:
            return "is not a safetensors file"
        stream.seek(8)
        text = stream.read(length)
    try:
        entries = json.loads(text) if len(text) == length else {}
        ends = [entry["data_offsets"][1] for key, entry in entries.items() if key[:2] != "__"]
        n_expected = 8 + length + max(ends, default=0)
    except (ValueError, RecursionError, AttributeError, TypeError, LookupError):
        return "has a damaged header"
    if n_bytes < n_expected:
        return f"is cut off: it has {n_bytes:,} of {n_expected:,} bytes"
    is_longer = n_bytes > n_expected
    return f"has {n_bytes:,} bytes where its header says {n_expected:,}" if is_longer else ""
