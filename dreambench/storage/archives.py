"""Zip archives of unknown origin: the bytes of their files, and nothing of theirs written anywhere.

`zipfile` reads the format; the checks here are ours, since it extracts bombs, links and encrypted
members as they come.
"""

from __future__ import annotations

import errno
import lzma
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from dreambench.errors import UserError, explain_os_error
from dreambench.storage.formats import HEAD_BYTES, advise, read_head, recognise

MAX_UNPACKED_BYTES = 2_000_000_000
MAX_MEMBERS = 20_000
# Found by damaging archives. Names that are not UTF-8 are a ValueError; a seek before the start is
# an OSError with EINVAL.
_FAULTS = (
    zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, NotImplementedError, RuntimeError,
    OSError, ValueError, OverflowError, struct.error, LookupError,
)  # fmt: skip


def ignore(head: bytes) -> None:
    """Take note of nothing."""


def read_members(
    path: Path, wanted: Callable[[int], bool], *, skipped: Callable[[bytes], None] = ignore
) -> Iterator[tuple[str, bytes]]:
    """Yield name and bytes of each file of a zip archive whose size in bytes is `wanted`.

    All members are checked before the first is read, also those that are not wanted; of these
    `skipped` is shown the first HEAD_BYTES.

    Raises:
        UserError: `unreadable-archive` for one that is cut off or damaged, `unsafe-archive` for one
            that holds a path out of its folder or a link, that is encrypted, or that unpacks to
            more than MAX_UNPACKED_BYTES or MAX_MEMBERS.
    """
    with _damage_errors(path):
        if not zipfile.is_zipfile(path):
            raise _not_a_zip(path)
        with zipfile.ZipFile(path) as archive:
            _check_members(path, archive.infolist())
            for member in archive.infolist():
                if member.is_dir():
                    continue
                if wanted(member.file_size):
                    yield member.filename, _read_member(path, archive, member)
                else:
                    skipped(_read_head(archive, member))


def _not_a_zip(path: Path) -> UserError:
    """Return the error for a file that is no zip archive, or only the first part of one."""
    found = recognise(read_head(path))
    what, hint = "is not a complete zip archive", "download or copy it again"
    if found is None:
        hint += ", or unpack it and name its folder"
    elif found.name != "a zip archive":
        what, hint = f"is {found.name} and not a zip archive", advise(found)
        if found.kind == "archive":
            hint = "unpack it and name its folder"
        elif found.kind == "picture":
            hint = "name the folder of the photos"
    return UserError(f"{path} {what}", hint=hint, code="unreadable-archive")


@contextmanager
def _damage_errors(path: Path) -> Iterator[None]:
    """Turn what `zipfile` raises on damaged archives into a UserError."""
    try:
        yield
    except _FAULTS as error:
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise explain_os_error(error, path, reads=True) from error
        raise UserError(
            f"{path} cannot be read as an archive ({' '.join(str(error).split())[:100]})",
            hint="download or copy it again",
            code="unreadable-archive",
        ) from error


def _check_members(path: Path, members: list[zipfile.ZipInfo]) -> None:
    if len(members) > MAX_MEMBERS:
        raise _refuse(path, f"holds over {MAX_MEMBERS} files")
    if sum(member.file_size for member in members) > MAX_UNPACKED_BYTES:
        raise _refuse(path, f"unpacks to over {MAX_UNPACKED_BYTES / 1e9:g} GB")
    for member in members:
        if _leads_out(member.filename):
            raise _refuse(path, f"holds the path {member.filename!r}, which leads out of it")
        if stat.S_ISLNK(member.external_attr >> 16):
            raise _refuse(path, f"holds the link {member.filename!r}")
        if member.flag_bits & 0x1:
            raise _refuse(path, "is encrypted")


def _leads_out(name: str) -> bool:
    """Return whether a member's name, unpacked, would be a path outside of the target folder."""
    parts = PurePosixPath(name.replace("\\", "/"))
    return parts.is_absolute() or ".." in parts.parts or ":" in name.split("/", maxsplit=1)[0]


def _read_member(path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    with archive.open(member) as stream:
        content = stream.read(member.file_size + 1)
    if len(content) != member.file_size:
        raise _refuse(path, f"states a wrong size for {member.filename!r}")
    return content


def _read_head(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    """Return the first bytes of a member, which nobody needs: also where it cannot be read."""
    try:
        with archive.open(member) as stream:
            return stream.read(HEAD_BYTES)
    except _FAULTS:
        return b"?"


def _refuse(path: Path, what: str) -> UserError:
    return UserError(
        f"{path} {what}; nothing of it was used",
        hint="download it from its original source",
        code="unsafe-archive",
    )
