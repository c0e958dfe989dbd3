"""Keeps somebody's own method from writing where it should not, by mistake.

It is no sandbox. Python says what it is about to open, move or delete (PEP 578), and what is not
allowed is refused before it happens; what compiled code and other processes write is seen
afterwards, and in the run folder alone. What the module does while it is imported is not watched.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import platformdirs

from dreambench.errors import name_some
from dreambench.runs.run_folder import Run

# Where libraries keep what they can make again.
CACHE_VARIABLES = (
    "HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_DATASETS_CACHE", "TRANSFORMERS_CACHE",
    "TORCH_HOME", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR", "CUDA_CACHE_PATH",
    "NUMBA_CACHE_DIR", "MPLCONFIGDIR", "XDG_CACHE_HOME",
)  # fmt: skip
CACHE_FOLDERS = ("~/.cache", "~/.config/matplotlib", "~/.triton", "~/.nv", "~/.keras")
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND

# Audit events by how many of their first arguments are paths; all of them are of the entry itself
# and not of what a link points to, except "open" and "os.truncate".
_EVENTS = {
    "open": 1, "os.truncate": 1, "os.mkdir": 1, "os.remove": 1, "os.rmdir": 1, "os.rename": 2,
    "os.chmod": 1, "os.chown": 1, "os.utime": 1, "shutil.rmtree": 1, "sqlite3.connect": 1,
}  # fmt: skip
# Of these the first argument is only read, or is no path.
_SECOND = ("os.link", "os.symlink")


class WriteOutsideError(PermissionError):
    """A method's code is about to write outside of the folder that it was given."""


@dataclass(frozen=True)
class _Rules:
    """Allowed and refused folders, the first that holds a path decides."""

    folders: tuple[tuple[Path, bool], ...]

    def allow(self, path: str) -> bool:
        if "__pycache__" in Path(path).parts:
            return True
        for folder, is_allowed in self.folders:
            if Path(path).is_relative_to(folder):
                return is_allowed
        return False


_active: list[_Rules] = []
_is_installed = False


def _check(event: str, arguments: tuple[Any, ...]) -> None:
    """The audit hook. It stays for the life of the process and does nothing between watches."""
    if not _active:
        return
    if event == "open" and not (isinstance(arguments[2], int) and arguments[2] & WRITING):
        return
    if event in _EVENTS:
        paths = arguments[: _EVENTS[event]]
    elif event in _SECOND:
        paths = arguments[1:2]
    else:
        return
    # What functions take that work relative to an open folder, as in shutil.rmtree's own calls.
    folders = arguments[len(paths) :] if event in ("os.rename", "os.remove", "os.rmdir") else ()
    for index, path in enumerate(paths):
        fd = folders[index] if index < len(folders) and isinstance(folders[index], int) else -1
        found = _resolve(path, fd, follow=event in ("open", "os.truncate", "sqlite3.connect"))
        if found is None or _changes_nothing(event, found):
            continue
        if not _active[-1].allow(found):
            raise WriteOutsideError(
                f"wanted to write {Path(found).name} outside of its folder ({event}): "
                "fit() writes into out_dir, nothing else is for the method"
            )


def _changes_nothing(event: str, path: str) -> bool:
    """What libraries do in passing: make a folder that is there, delete what is not."""
    if event == "os.mkdir":
        return Path(path).is_dir()
    return event in ("os.remove", "os.rmdir", "shutil.rmtree") and not os.path.lexists(path)


def _resolve(path: Any, folder: int, *, follow: bool) -> str | None:
    """The real path; None for what is no file: descriptors, databases in memory."""
    if isinstance(path, int) or path in ("", b"", ":memory:"):
        return None
    named = Path(os.fsdecode(path))
    if folder >= 0 and not named.is_absolute():
        try:
            named = Path(f"/proc/self/fd/{folder}").readlink() / named
        except OSError:
            return None
    return str(named.resolve() if follow else named.parent.resolve() / named.name)


class Guard:
    """Watches what the code of a run's method writes."""

    def __init__(self, run: Run, *, cache_dir: Path) -> None:
        self.run_dir = run.run_dir.resolve()
        photos = {path.resolve().parent for s in run.subjects for path in s.photos}
        shared = [cache_dir, Path(tempfile.gettempdir()), Path("/dev"), Path("/proc")]
        shared += [Path(os.environ[name]) for name in CACHE_VARIABLES if os.environ.get(name)]
        shared += [Path(name).expanduser() for name in CACHE_FOLDERS]
        shared.append(Path(platformdirs.user_cache_dir()))
        self._folders = (
            *((folder, False) for folder in sorted(photos)),
            (cache_dir.resolve(), True),
            # All runs of the protocol, also where they lie in the folder for temporary files.
            (self.run_dir.parent, False),
            *((folder.resolve(), True) for folder in shared),
        )

    @contextmanager
    def watch(self, out_dir: Path | None = None) -> Iterator[None]:
        """While this is open, only `out_dir` and caches may be written.

        Raises WriteOutsideError, inside where Python is asked to write, and at the end when files
        of the run folder were written in another way; these are taken away, so that they do not
        pass for finished ones.
        """
        global _is_installed  # noqa: PLW0603
        if not _is_installed:
            sys.addaudithook(_check)
            _is_installed = True
        own = None if out_dir is None else out_dir.resolve()
        before = self._list_files(own)
        _active.append(_Rules((*(((own, True),) if own else ()), *self._folders)))
        try:
            yield
        except Exception as error:
            _active.pop()
            changed = self._take_away_changed(before, own)
            if changed:
                error.add_note(f"It also wrote into the run folder: {name_some(changed)}")
            raise
        except BaseException:
            _active.pop()
            raise
        _active.pop()
        changed = self._take_away_changed(before, own)
        if changed:
            raise WriteOutsideError(
                f"wrote into the run folder outside of its own: {name_some(changed)}; "
                "fit() writes into out_dir, nothing else is for the method"
            )

    def _take_away_changed(
        self, before: Mapping[str, tuple[int, int]], own: Path | None
    ) -> list[str]:
        """What was written since: files, relative to the run folder."""
        after = self._list_files(own)
        changed = sorted(
            path for path in {**before, **after} if before.get(path) != after.get(path)
        )
        for path in changed:
            self._take_away(path, is_new=path not in before)
        return changed

    def _list_files(self, own: Path | None) -> dict[str, tuple[int, int]]:
        found = {}
        for root, folders, files in os.walk(self.run_dir):
            if own is not None:
                folders[:] = [name for name in folders if Path(root, name) != own]
            for name in files:
                file = Path(root, name)
                about = file.lstat()
                path = file.relative_to(self.run_dir).as_posix()
                found[path] = (about.st_size, about.st_mtime_ns)
        return found

    def _take_away(self, path: str, *, is_new: bool) -> None:
        """Images and tuned weights that were touched have to be made again."""
        parts = Path(path).parts
        if parts[0] == "train" and len(parts) > 2:
            shutil.rmtree(self.run_dir / "train" / parts[1], ignore_errors=True)
        elif parts[0] == "images" or is_new:
            (self.run_dir / path).unlink(missing_ok=True)
