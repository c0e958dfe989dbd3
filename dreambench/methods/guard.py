"""Finds what the code of a method from outside wrote where it should not, and takes it away.

It is a guard against mistakes and no sandbox: it looks at the run folder and the photos before and
after each call, and nowhere else.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from dreambench.artifacts.device_time import FOLDER
from dreambench.artifacts.image_set import CLAIMS, LOCK, list_claims
from dreambench.artifacts.manifest import FILE_NAME
from dreambench.errors import name_some
from dreambench.storage.files import write_bytes
from dreambench.storage.paths import remove_tree

Seen = dict[Path, tuple[int, int]]
"""Files, with their sizes and times of change."""


class WriteOutsideError(PermissionError):
    """A method's code wrote outside of the folder that it was given."""


class Guard:
    """Watches a run folder and the photos of its subjects while a method's code works.

    `list_others` names the subjects that other processes work on, whose files are theirs to write.
    """

    def __init__(
        self,
        run_dir: Path,
        photos: Iterable[Path],
        *,
        list_others: Callable[[], Collection[str]] = tuple,
    ) -> None:
        self.run_dir = run_dir.resolve()
        self._list_others = list_others
        # A photo may be the user's only copy, so it can be put back.
        self._photos = {path.resolve(): path.read_bytes() for path in photos}

    @contextmanager
    def watch(self, out_dir: Path | None = None) -> Iterator[None]:
        """While this is open, nothing but `out_dir` may change.

        Raises:
            WriteOutsideError: something else has changed. Photos are as they were; what is new in
                the run folder, and images and weights that were touched, are taken away, so that
                they do not pass for finished ones.
        """
        own = None if out_dir is None else out_dir.resolve()
        others = set(self._list_others())
        claims = list_claims(self.run_dir)
        before = self._look(own)
        try:
            yield
        except Exception as error:
            changed = self._undo(before, own, others, claims)
            if changed:
                error.add_note(f"It also wrote outside of its folder: {name_some(changed)}")
            raise
        changed = self._undo(before, own, others, claims)
        if changed:
            raise WriteOutsideError(
                f"wrote outside of its folder: {name_some(changed)}; fit() writes into out_dir, "
                "and load() and generate() write nothing into a run or among photos"
            )

    def _look(self, own: Path | None) -> Seen:
        found: Seen = {}
        for root, folders, files in os.walk(self.run_dir):
            if own is not None:
                folders[:] = [name for name in folders if Path(root, name) != own]
            # A link to a folder is not walked into.
            links = [name for name in folders if Path(root, name).is_symlink()]
            for name in (*files, *links):
                # Other workers' unfinished files come and go meanwhile.
                with suppress(FileNotFoundError):
                    about = (path := Path(root, name)).lstat()
                    found[path] = (about.st_size, about.st_mtime_ns)
        for path in self._photos:
            if path.is_file():
                about = path.stat()
                found[path] = (about.st_size, about.st_mtime_ns)
        return found

    def _undo(
        self, before: Seen, own: Path | None, others: set[str], claims: Mapping[str, int]
    ) -> list[str]:
        """Take back what changed since; return names, in the run folder relative to it.

        What belongs to `others` is left: those at work before, since (by their `claims`), or now.
        """
        after = self._look(own)
        now = list_claims(self.run_dir)
        others = others | {name for name in now if now[name] != claims.get(name)}
        paths = sorted({*before, *after})
        changed = [
            path
            for path in paths
            if before.get(path) != after.get(path) and not self._is_of(others, path)
        ]
        names = []
        for path in changed:
            if path in self._photos:
                write_bytes(path, self._photos[path])
                names.append(path.name)
            else:
                name = path.relative_to(self.run_dir)
                self._take_away(name, is_new=path not in before)
                names.append(name.as_posix())
        return names

    def _is_of(self, others: set[str], path: Path) -> bool:
        if path in self._photos:
            return False
        top, *rest = path.relative_to(self.run_dir).parts
        if top in (CLAIMS, LOCK):
            return True
        if top in ("failures", FOLDER) and rest:
            return any(f"{name}." in rest[0] for name in others)
        if top in ("images", "train") and rest:
            return rest[0].removesuffix(".part") in others
        # Who joins in notes a session.
        return bool(others) and FILE_NAME in path.name

    def _take_away(self, name: Path, *, is_new: bool) -> None:
        """Remove images and trained weights that were touched: they have to be made again."""
        if name.parts[0] == "train" and len(name.parts) > 2:
            remove_tree(self.run_dir / "train" / name.parts[1], inside=self.run_dir)
        elif name.parts[0] == "images" or is_new:
            (self.run_dir / name).unlink(missing_ok=True)
