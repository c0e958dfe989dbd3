"""Locks on folders and files that several processes may want at once.

They are the system's, which go with the process that holds them, even when it is killed. Some disks
have none (`flock` is not there); a file with the holder's process and machine stands for them then.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

from dreambench.errors import UserError

_NO_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP)
SOFT_SUFFIX = ".holder"
"""The file of a disk without locks; one without it is left by locks that ended, and means nothing.
"""


def acquire_lock(path: Path, timeout: float = -1) -> BaseFileLock:
    """Acquire the lock with the file `path`, whose folder exists, and return it.

    `timeout` is in seconds, -1 for no end.

    Raises:
        UserError: `folder-in-use` when another process still has it, `no-lock` when the disk
            refuses locks.
    """
    lock: BaseFileLock = FileLock(path, fallback_to_soft=False)
    try:
        try:
            lock.acquire(timeout=timeout)
        except OSError as error:
            if error.errno not in _NO_LOCKS or isinstance(error, Timeout):
                raise
            lock = SoftFileLock(path.with_name(path.name + SOFT_SUFFIX))
            lock.acquire(timeout=timeout)
    except Timeout as error:
        raise _refuse_busy(path, lock) from error
    except OSError as error:
        raise UserError(
            f"cannot lock {path}: {error.strerror or error}",
            hint="choose a folder that you can write to, on a disk with file locks",
            code="no-lock",
        ) from error
    return lock


def _refuse_busy(path: Path, lock: BaseFileLock) -> UserError:
    hint = "wait for it, or choose another folder with --out"
    if isinstance(lock, SoftFileLock):
        hint += f"; if it was killed on another machine, delete {lock.lock_file}"
    return UserError(
        f"another dreambench is working on {path.parent}", hint=hint, code="folder-in-use"
    )


def try_lock(path: Path) -> BaseFileLock | None:
    """Acquire a lock as `acquire_lock` does; return None where another process has it."""
    try:
        return acquire_lock(path, timeout=0)
    except UserError as error:
        if error.code == "folder-in-use":
            return None
        raise


@contextmanager
def locked(path: Path, *, timeout: float = -1) -> Iterator[None]:
    """Hold a lock while this is open; see `acquire_lock`."""
    lock = acquire_lock(path, timeout)
    try:
        yield
    finally:
        lock.release()
