"""Which processes have the cache open: each holds a lock on an empty file of its own."""

from __future__ import annotations

import re
import time
import uuid
from contextlib import suppress
from pathlib import Path

from filelock import BaseFileLock, FileLock

from dreambench.errors import disk_errors
from dreambench.storage.files import make_dir
from dreambench.storage.locks import acquire_lock
from dreambench.storage.paths import check_inside, remove_tree

LOCK_SECONDS = 60.0
GATE = "lock"
SESSIONS_DIR = "sessions"
_SESSION = re.compile(r"[0-9]+\.[0-9]{3}-[0-9a-f]{32}")


class Sessions:
    """One process's session among those of others, in the cache's `folder`.

    Raises:
        UserError: a path leads out of the cache, or its disk refuses it.
    """

    def __init__(self, folder: Path, *, clear: bool) -> None:
        self._folder = folder
        self._gate = check_inside(folder / GATE, folder)
        if clear:
            self._remove_strays()
        self._sessions = make_dir(folder / SESSIONS_DIR, inside=folder)
        # The start is in the name: opening a lock file may change its times.
        self._lock = FileLock(self._sessions / f"{time.time():.3f}-{uuid.uuid4().hex}")

    @property
    def own(self) -> Path:
        """An empty file that is there from `enter` to `leave`."""
        return Path(self._lock.lock_file)

    def enter(self) -> None:
        """Say that the cache is open here."""
        self._lock.acquire(timeout=0)

    def leave(self) -> None:
        """Say that it is not any more."""
        self._lock.release()
        self.own.unlink(missing_ok=True)

    def lock_gate(self) -> BaseFileLock:
        """Let no other process open the cache, prune it, or replace its file until it is released.

        Raises:
            UserError: another process does so, and does not come to an end.
        """
        return acquire_lock(self._gate, LOCK_SECONDS)

    def others(self) -> list[tuple[float, Path]]:
        """Return start and lock of others with the cache open; drop those of dead processes."""
        found = []
        for path in self._sessions.iterdir():
            if path == self.own or not _SESSION.fullmatch(path.name) or path.is_symlink():
                continue
            lock = FileLock(path)
            try:
                lock.acquire(timeout=0)
            except OSError:  # Held, or not ours to tell.
                found.append((float(path.name.partition("-")[0]), path))
            else:
                lock.release()
                with suppress(OSError):
                    path.unlink()
        return found

    def _remove_strays(self) -> None:
        """Delete what is in the place of the locks and cannot be one."""
        sessions = self._folder / SESSIONS_DIR
        with disk_errors(self._folder):
            if sessions.is_symlink() or sessions.is_file():
                sessions.unlink()
            for path in (self._gate, *(sessions.iterdir() if sessions.is_dir() else ())):
                is_ours = path == self._gate or _SESSION.fullmatch(path.name)
                if is_ours and path.is_dir() and not path.is_symlink():
                    remove_tree(path, inside=self._folder)
