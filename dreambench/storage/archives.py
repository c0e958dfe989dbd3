"""Archives of unknown origin: the bytes of their files, which go where we say and nowhere else.

`zipfile` and `tarfile` read the formats; the checks here are ours, since they extract bombs, links
and encrypted members as they come.
"""

from __future__ import annotations

import bz2
import errno
import gzip
import lzma
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast

from dreambench.errors import UserError, disk_errors, explain_os_error
from dreambench.storage.formats import HEAD_BYTES, advise, read_head, recognise
from dreambench.storage.paths import find_name_fault

MAX_UNPACKED_BYTES = 2_000_000_000
MAX_MEMBERS = 20_000
MAX_MEMBER_BYTES = 100_000_000
"""How large one file of a tar archive may be, and what it says of itself."""
# Found by damaging archives. Names that are not UTF-8 are a ValueError; a seek before the start is
# an OSError with EINVAL.
_FAULTS = (
    zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError,
    NotImplementedError, RuntimeError, OSError, ValueError, OverflowError, struct.error,
    LookupError,
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
            _check_members(path, archive.infolist(), max_bytes=MAX_UNPACKED_BYTES)
            for member in archive.infolist():
                if member.is_dir():
                    continue
                if wanted(member.file_size):
                    yield member.filename, _read_member(path, archive, member)
                else:
                    skipped(_read_head(archive, member))


def _not_a_zip(path: Path) -> UserError:
    """Return the error for a file that is not a zip archive, or only the first part of one."""
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


def unpack(path: Path, folder: Path, *, max_bytes: int) -> None:
    """Write the files of a zip or tar archive below an empty folder of ours.

    All members are checked before the first is written; `max_bytes` is what they may unpack to.

    Raises:
        UserError: as `read_members` does.
    """
    read = _read_tar if _is_tar(path) else _read_zip
    for name, content in read(path, max_bytes):
        target = folder / PurePosixPath(name.replace("\\", "/"))
        with disk_errors(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)


def _read_zip(path: Path, max_bytes: int) -> Iterator[tuple[str, bytes]]:
    with _damage_errors(path):
        if not zipfile.is_zipfile(path):
            raise _not_a_zip(path)
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            _check_members(path, members, max_bytes=max_bytes)
            _check_names(path, [member.filename for member in members if not member.is_dir()])
            for member in members:
                if not member.is_dir():
                    yield member.filename, _read_member(path, archive, member)


class _Bounded:
    """A file that nobody reads much of at once: what a tar says of itself is read as a whole."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream

    def read(self, n_bytes: int = -1) -> bytes:
        if not 0 <= n_bytes <= MAX_MEMBER_BYTES:
            raise ValueError(f"a part of {n_bytes} bytes")
        return self._stream.read(n_bytes)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _open_tar(path: Path) -> IO[bytes]:
    head = read_head(path)
    for magic, opened in ((b"\x1f\x8b", gzip.open), (b"BZh", bz2.open), (b"\xfd7zXZ", lzma.open)):
        if head.startswith(magic):
            return cast(IO[bytes], opened(path))
    return path.open("rb")


def _is_tar(path: Path) -> bool:
    """Return whether a file starts as a tar archive does, packed or not."""
    with disk_errors(path, reads=True):
        try:
            with _open_tar(path) as stream:
                return stream.read(512)[257:262] == b"ustar"
        except (zlib.error, lzma.LZMAError, EOFError, gzip.BadGzipFile, ValueError):
            return False


def _read_tar(path: Path, max_bytes: int) -> Iterator[tuple[str, bytes]]:
    with (
        _damage_errors(path),
        _open_tar(path) as stream,
        # Mode "r:" since the stream is unpacked already.
        tarfile.open(fileobj=cast(IO[bytes], _Bounded(stream)), mode="r:") as archive,
    ):
        members: list[tarfile.TarInfo] = []
        n_bytes = 0
        for member in archive:
            members.append(member)
            n_bytes += member.size
            # At once, since to look for the next one unpacks what lies before it.
            _check_tar_member(path, member)
            _check_amount(path, len(members), n_bytes, max_bytes)
        files = [member for member in members if member.isreg()]
        _check_names(path, [member.name for member in files])
        for member in files:
            content = archive.extractfile(member)
            if content is None:
                raise _refuse(path, f"holds {member.name!r}, which is not a file")
            yield member.name, content.read(member.size)


def _check_tar_member(path: Path, member: tarfile.TarInfo) -> None:
    if not (member.isreg() or member.isdir()) or member.issparse():
        raise _refuse(path, f"holds {member.name!r}, which is neither a plain file nor a folder")
    if member.size > MAX_MEMBER_BYTES:
        raise _refuse(path, f"holds {member.name!r} of over {MAX_MEMBER_BYTES / 1e6:g} MB")
    if _leads_out(member.name):
        raise _refuse(path, f"holds the path {member.name!r}, which leads out of it")


def _check_names(path: Path, names: list[str]) -> None:
    """Refuse names that cannot be those of files, or are there twice."""
    parts = [PurePosixPath(name.replace("\\", "/")).parts for name in names]
    for name, one in zip(names, parts, strict=True):
        if not one or any(find_name_fault(part) for part in one if part != "."):
            raise _refuse(path, f"holds {name!r}, which cannot be the name of a file")
    if len({tuple(part.casefold() for part in one) for one in parts}) < len(parts):
        raise _refuse(path, "holds a file twice")


def _check_amount(path: Path, n_members: int, n_bytes: int, max_bytes: int) -> None:
    if n_members > MAX_MEMBERS:
        raise _refuse(path, f"holds over {MAX_MEMBERS} files")
    if n_bytes > max_bytes:
        raise _refuse(path, f"unpacks to over {max_bytes / 1e9:g} GB")


def _check_members(path: Path, members: list[zipfile.ZipInfo], *, max_bytes: int) -> None:
    _check_amount(path, len(members), sum(member.file_size for member in members), max_bytes)
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
        f"{path} {what}; none of it was used",
        hint="download it from its original source",
        code="unsafe-archive",
    )
