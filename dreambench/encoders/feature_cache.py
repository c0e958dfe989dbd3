"""What encoders computed, by content and encoder, in one SQLite file that all runs share."""

from __future__ import annotations

import hashlib
import json
import math
import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from dreambench.encoders.cache_file import is_damage, open_file, open_in_memory
from dreambench.encoders.cache_sessions import Sessions
from dreambench.encoders.file_stat import Stat, read_stat
from dreambench.errors import UserError
from dreambench.storage.files import make_dir, sha256_file
from dreambench.storage.paths import check_inside, remove_tree
from dreambench.storage.shipped import cache_dir

Kind = Literal["image", "text", "distance", "look"]
Row = NDArray[Any]
T = TypeVar("T")

DEFAULT_MAX = "2 GB"
"""Bound on the file where DREAMBENCH_CACHE_MAX does not set another: half a million rows."""

# The name has the format: another format is another file; in 1, images that are not square were cut
# otherwise. Distances are float64; looks are what opening a file shows, as text.
FOLDER = "embeddings"
FILE_NAME = "rows-v2.sqlite"
DTYPES: Mapping[Kind, str] = {"image": "<f4", "text": "<f4", "distance": "<f8", "look": "u1"}
# What a row takes on disk besides its content, and what pruning by itself leaves of the bound.
ROW_BYTES = 300
KEPT_SHARE = 0.9


@dataclass(frozen=True)
class Holding:
    """What the cache has of one encoder and kind; `used` are seconds since 1970."""

    identity: str
    kind: str
    n_rows: int
    n_bytes: int
    used: float


def read_max_bytes(text: str | None = None) -> int:
    """Return a bound in bytes from words like "2 GB"; by default from DREAMBENCH_CACHE_MAX."""
    from pydantic import ByteSize, TypeAdapter, ValidationError  # noqa: PLC0415  (slow import)

    source = "--max-size" if text is not None else "DREAMBENCH_CACHE_MAX"
    text = os.environ.get("DREAMBENCH_CACHE_MAX") or DEFAULT_MAX if text is None else text
    try:
        return int(TypeAdapter(ByteSize).validate_python(text))
    except ValidationError as error:
        raise UserError(
            f"{source}: '{text}' is not a size",
            hint="write it like 500 MB or 20 GB",
            code="invalid-value",
        ) from error


def measure_file(root: Path) -> int:
    """Return the bytes that the cache in a folder takes, whether or not it can be opened."""
    path = root / FOLDER / FILE_NAME
    return path.stat().st_size if path.is_file() else 0


def key_of_text(text: str) -> str:
    """Return the key of a text: the SHA-256 of its UTF-8 bytes."""
    return hashlib.sha256(text.encode()).hexdigest()


def key_of_pair(first: str, second: str) -> str:
    """Return the key of a distance, which has no direction."""
    return ":".join(sorted((first, second)))


class FeatureCache:
    """The open cache; use it as a context.

    Any number of processes may read and write at once. A write is one transaction: a process that
    is killed leaves whole rows or none. Each row has a checksum, and one that is damaged counts as
    none; so does all of a damaged file. What an open cache has used is not pruned by others.

    SQLite keeps its rollback journal here and not a write-ahead log, since several hosts may share
    the folder.
    """

    def __init__(self, root: Path, *, clear: bool = False) -> None:
        """Open the cache in a folder; `clear` begins with none, unless another process has it open.

        Raises:
            UserError: `other-schema` for the file of another version, `unusable-cache`, `disk`.
        """
        self.folder = make_dir(root / FOLDER, inside=root)
        for name in (FILE_NAME, f"{FILE_NAME}-journal"):
            check_inside(self.folder / name, root)
        self.path = self.folder / FILE_NAME
        self._sessions = Sessions(self.folder, clear=clear)
        with self._alone():
            try:
                self._sessions.enter()
                if clear and not self._sessions.others():
                    self._remove_file()
                self._db = open_file(self.path)
            except UserError:
                self._sessions.leave()
                raise
            except (OSError, sqlite3.DatabaseError) as error:
                if not is_damage(error):
                    self._sessions.leave()
                    raise self._refuse(error) from error
                self._db = self._open_anew()

    def __enter__(self) -> FeatureCache:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; what was used may be pruned from now on."""
        self._db.close()
        self._sessions.leave()

    def read(self, identity: str, kind: Kind, keys: Sequence[str]) -> dict[str, Row]:
        """Return the rows that are there and whole, by key."""
        found = self._run(lambda: self._read(identity, kind, keys))
        return {key: np.frombuffer(content, DTYPES[kind]) for key, content in found.items()}

    def write(self, identity: str, kind: Kind, rows: Mapping[str, Row]) -> None:
        """Write rows by key, all or none of them; a row that is there already stays."""
        contents = {
            key: np.ascontiguousarray(row, DTYPES[kind]).tobytes() for key, row in rows.items()
        }
        self._run(lambda: self._write(identity, kind, contents))

    def hash_files(self, paths: Sequence[Path], *, n_threads: int) -> dict[Path, tuple[str, Stat]]:
        """Return the SHA-256 of each file, and the stat that it had just before.

        A file whose stat was seen before is not read again. As in git's index, that holds only for
        one that had not been touched for a while when it was hashed: a later change might not show
        in its times.
        """
        stats = {path: read_stat(path) for path in dict.fromkeys(paths)}
        absolute = {path: os.path.abspath(path) for path in stats}  # noqa: PTH100  (keeps links)
        known = self._run(lambda: self._read_files(list(absolute.values())))
        found = {
            path: (known[absolute[path]][1], stat)
            for path, stat in stats.items()
            if absolute[path] in known and known[absolute[path]][0] == stat
        }
        left = [path for path in stats if path not in found]
        now_ns = time.time_ns()
        if left:
            with ThreadPoolExecutor(n_threads) as pool:
                hashes = dict(zip(left, pool.map(sha256_file, left), strict=True))
            for path, name in hashes.items():
                found[path] = (name, stats[path])
            settled = {
                absolute[path]: found[path]
                for path in left
                if stats[path].is_settled(now_ns) and read_stat(path) == stats[path]
            }
            self._run(lambda: self._write_files(settled))
        return found

    def prune(self, max_bytes: int, *, share: float = 1.0) -> int:
        """Delete the least recently used rows until the file is within a bound; return bytes freed.

        A file above the bound is cut to `share` of it. What other processes use at the moment
        stays.
        """
        with self._alone():
            since = min((start for start, _ in self._sessions.others()), default=math.inf)
            before = self._run(self._size)
            if before > max_bytes:
                self._run(lambda: self._delete_oldest(int(max_bytes * share), since))
            return before - self._run(self._size)

    @property
    def session(self) -> Path:
        """An empty file that is there as long as the cache is open here."""
        return self._sessions.own

    def describe(self) -> list[Holding]:
        """Return what is there by encoder and kind, the largest first."""
        rows = self._run(
            lambda: self._db.execute(
                "SELECT identity, kind, COUNT(*), SUM(n_bytes), MAX(used) FROM entries "
                "JOIN encoders ON encoders.id = encoder GROUP BY encoder, kind ORDER BY 4 DESC"
            ).fetchall()
        )
        return [Holding(*row) for row in rows]

    @property
    def n_bytes(self) -> int:
        """What the file takes."""
        return self._run(self._size)

    def _run(self, work: Callable[[], T]) -> T:
        try:
            return work()
        except sqlite3.DatabaseError as error:
            if not is_damage(error):
                raise self._refuse(error) from error
        self._db.close()
        with self._alone():
            self._db = self._open_anew()
        return work()

    def _open_anew(self) -> sqlite3.Connection:
        """Return a new file in place of a damaged one.

        While others have the old one open it has to stay, for their journal would be taken for
        that of the new one: then this process keeps its rows to itself.
        """
        if self._sessions.others():
            return open_in_memory()
        self._remove_file()
        return open_file(self.path)

    def _remove_file(self) -> None:
        """Delete the file, whatever it is by now, and what SQLite may have put beside it."""
        for suffix in ("", "-journal", "-wal", "-shm"):
            path = self.path.with_name(FILE_NAME + suffix)
            if path.is_dir() and not path.is_symlink():
                remove_tree(path, inside=self.folder)
            else:
                path.unlink(missing_ok=True)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        try:
            lock = self._sessions.lock_gate()
        except UserError as error:
            raise self._refuse(error.problem) from error
        try:
            yield
        finally:
            lock.release()

    def _refuse(self, error: Exception | str) -> UserError:
        return UserError(
            f"the cache {self.path} cannot be used ({error})",
            hint="make room there, name another folder with --cache, or delete its features: "
            "dreambench cache clear",
            code="unusable-cache",
        )

    def _read(self, identity: str, kind: Kind, keys: Sequence[str]) -> dict[str, bytes]:
        rows = self._db.execute(
            "SELECT key, entries.id, checksum, content FROM entries "
            "JOIN encoders ON encoders.id = encoder "
            "LEFT JOIN contents ON contents.id = entries.id WHERE identity = ? AND kind = ? "
            "AND key IN (SELECT value FROM json_each(?))",
            (identity, kind, json.dumps(list(keys))),
        )
        whole: dict[str, bytes] = {}
        used: list[tuple[int]] = []
        damaged: list[tuple[int]] = []
        for key, number, checksum, content in rows.fetchall():
            if isinstance(content, bytes) and checksum == _check(identity, kind, key, content):
                whole[key] = content
                used.append((number,))
            else:
                damaged.append((number,))
        if used or damaged:
            now = time.time()
            with self._db:
                self._db.executemany(
                    "UPDATE entries SET used = ? WHERE id = ?", [(now, *number) for number in used]
                )
                self._db.executemany("DELETE FROM entries WHERE id = ?", damaged)
                self._db.executemany("DELETE FROM contents WHERE id = ?", damaged)
        return whole

    def _write(self, identity: str, kind: Kind, contents: Mapping[str, bytes]) -> None:
        now = time.time()
        with self._db:
            self._db.execute("INSERT OR IGNORE INTO encoders (identity) VALUES (?)", (identity,))
            for key, content in contents.items():
                checksum = _check(identity, kind, key, content)
                added = self._db.execute(
                    "INSERT OR IGNORE INTO entries (encoder, kind, key, n_bytes, checksum, used) "
                    "SELECT id, ?, ?, ?, ?, ? FROM encoders WHERE identity = ?",
                    (kind, key, len(content), checksum, now, identity),
                )
                if added.rowcount:
                    self._db.execute(
                        "INSERT OR REPLACE INTO contents (id, content) VALUES (?, ?)",
                        (added.lastrowid, content),
                    )

    def _read_files(self, paths: Sequence[str]) -> dict[str, tuple[Stat, str]]:
        rows = self._db.execute(
            "SELECT path, size, mtime_ns, ctime_ns, inode, sha256 FROM files "
            "WHERE path IN (SELECT value FROM json_each(?))",
            (json.dumps(list(paths)),),
        )
        return {row[0]: (Stat(*row[1:5]), row[5]) for row in rows}

    def _write_files(self, files: Mapping[str, tuple[str, Stat]]) -> None:
        now = time.time()
        rows = [
            (path, stat.size, stat.mtime_ns, stat.ctime_ns, stat.inode, name, now)
            for path, (name, stat) in files.items()
        ]
        with self._db:
            self._db.executemany("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?, ?, ?)", rows)

    def _size(self) -> int:
        n_pages, size = (
            self._db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "page_size")
        )
        return int(n_pages * size)

    def _delete_oldest(self, max_bytes: int, since: float) -> None:
        """Delete rows not used `since`, oldest first; their weight is estimated, hence the loop."""
        while (over := self._size() - max_bytes) > 0:
            rows = self._db.execute(
                "SELECT id FROM (SELECT id, n_bytes, SUM(n_bytes + ?) OVER (ORDER BY used, id) "
                "AS total FROM entries WHERE used < ?) WHERE total - n_bytes - ? < ?",
                (ROW_BYTES, since, ROW_BYTES, over),
            ).fetchall()
            with self._db:
                self._db.executemany("DELETE FROM contents WHERE id = ?", rows)
                self._db.executemany("DELETE FROM entries WHERE id = ?", rows)
                # Digests of files are small and quickly made: they go with the rows of their time.
                oldest = self._db.execute("SELECT MIN(used) FROM entries").fetchone()[0]
                limit = min(since, math.inf if oldest is None else oldest)
                n_files = self._db.execute("DELETE FROM files WHERE used < ?", (limit,)).rowcount
            # As a script, for it has a step for each page and no columns.
            self._db.executescript("PRAGMA incremental_vacuum")
            if not rows and not n_files:
                return


def hash_file(path: Path) -> str:
    """Return the SHA-256 of one large file, remembered in the cache where there can be one."""
    try:
        with FeatureCache(cache_dir()) as cache:
            return cache.hash_files([path], n_threads=1)[path][0]
    except UserError:
        return sha256_file(path)


def _check(identity: str, kind: str, key: str, content: bytes) -> bytes:
    """Return the checksum of a row and of what it belongs to."""
    head = f"{identity}\n{kind}\n{key}\n".encode()
    return hashlib.blake2b(head + content, digest_size=8).digest()
