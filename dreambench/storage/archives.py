"""Archives of unknown origin: their files' bytes, and nothing of theirs written anywhere."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Any

from dreambench.errors import UserError

MAX_UNPACKED_BYTES = 2_000_000_000
MAX_MEMBERS = 20_000
_CHUNK_BYTES = 1 << 20


def _is_tar(path: Path) -> bool:
    # tarfile.is_tarfile reads the first header through the compression, and no more.
    try:
        return tarfile.is_tarfile(path)
    except (OSError, EOFError, zlib.error, lzma.LZMAError):
        return False


def read_members(path: Path, wanted: Callable[[int], bool]) -> Iterator[tuple[str, bytes]]:
    """Name and bytes of each regular file of a zip or tar whose size in bytes is `wanted`.

    All names are checked, also those of files that are not wanted. Raises UserError for an archive
    that is cut off or damaged, that holds a path out of its folder, a link or a device, that is
    encrypted, or that unpacks to more than MAX_UNPACKED_BYTES or MAX_MEMBERS.
    """
    with _damaged(path):
        if zipfile.is_zipfile(path):
            yield from _read_zip(path, wanted)
        elif _is_tar(path):
            yield from _read_tar(path, wanted)
        else:
            raise UserError(
                f"{path} is not a whole zip or tar archive", hint="fetch or copy it again"
            )


@contextmanager
def _damaged(path: Path) -> Iterator[None]:
    faults = (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError)
    try:
        yield
    except (*faults, NotImplementedError, RuntimeError, OSError) as error:
        raise UserError(
            f"{path} cannot be read as an archive ({error})", hint="fetch or copy it again"
        ) from error


def _refuse(path: Path, what: str) -> UserError:
    return UserError(f"{path} {what}; nothing of it was used", hint="take it from its source")


def _check_name(path: Path, name: str) -> None:
    parts = PurePosixPath(name.replace("\\", "/"))
    if parts.is_absolute() or ".." in parts.parts or ":" in name.split("/", maxsplit=1)[0]:
        raise _refuse(path, f"holds the path {name!r}, which leads out of its folder")


def _check_size(path: Path, n_members: int, n_bytes: int) -> None:
    if n_members > MAX_MEMBERS:
        raise _refuse(path, f"holds over {MAX_MEMBERS} files")
    if n_bytes > MAX_UNPACKED_BYTES:
        raise _refuse(path, f"unpacks to over {MAX_UNPACKED_BYTES / 1e9:g} GB")


def _read_zip(path: Path, wanted: Callable[[int], bool]) -> Iterator[tuple[str, bytes]]:
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        _check_size(path, len(members), sum(member.file_size for member in members))
        for member in members:
            _check_name(path, member.filename)
            if stat.S_ISLNK(member.external_attr >> 16):
                raise _refuse(path, f"holds the link {member.filename!r}")
            if member.flag_bits & 0x1:
                raise _refuse(path, "is encrypted")
        for member in members:
            if member.is_dir() or not wanted(member.file_size):
                continue
            with archive.open(member) as stream:
                content = stream.read(member.file_size + 1)
            if len(content) != member.file_size:
                raise _refuse(path, f"lies about the size of {member.filename!r}")
            yield member.filename, content


def _read_tar(path: Path, wanted: Callable[[int], bool]) -> Iterator[tuple[str, bytes]]:
    n_bytes = 0
    # Streamed from front to end, and through a counter: a header of gigabytes is refused as well.
    with (
        _open_plain(path) as plain,
        tarfile.open(fileobj=_Counted(plain, path), mode="r|") as archive,  # type: ignore[call-overload]
    ):
        for n_members, member in enumerate(archive, start=1):
            n_bytes += member.size
            _check_size(path, n_members, n_bytes)
            _check_name(path, member.name)
            if not (member.isreg() or member.isdir()):
                kind = "link" if member.issym() or member.islnk() else "device"
                raise _refuse(path, f"holds the {kind} {member.name!r}")
            if not member.isreg() or not wanted(member.size):
                continue
            stream = archive.extractfile(member)
            content = stream.read() if stream else b""
            if len(content) != member.size:
                raise EOFError(f"{member.name} is cut off")
            yield member.name, content


def _open_plain(path: Path) -> IO[bytes]:
    """The tar stream under its compression."""
    with path.open("rb") as stream:
        head = stream.read(6)
    if head.startswith(b"\x1f\x8b"):
        return gzip.open(path, "rb")  # type: ignore[return-value]
    if head.startswith(b"BZh"):
        return bz2.open(path, "rb")
    if head.startswith(b"\xfd7zXZ"):
        return lzma.open(path, "rb")
    return path.open("rb")


class _Counted(io.RawIOBase):
    """A stream that refuses to give more than MAX_UNPACKED_BYTES, in pieces of at most 1 MB."""

    def __init__(self, stream: IO[bytes], path: Path) -> None:
        self.stream = stream
        self.path = path
        self.n_bytes = 0

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:  # type: ignore[override]
        pieces: list[bytes] = []
        left = size
        while left:
            piece = self.stream.read(min(left, _CHUNK_BYTES) if left > 0 else _CHUNK_BYTES)
            if not piece:
                break
            self.n_bytes += len(piece)
            _check_size(self.path, 0, self.n_bytes)
            pieces.append(piece)
            left -= len(piece) if left > 0 else 0
        return b"".join(pieces)

    def readinto(self, buffer: Any) -> int:
        content = self.read(len(buffer))
        buffer[: len(content)] = content
        return len(content)
