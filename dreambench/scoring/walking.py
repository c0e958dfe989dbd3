"""Walking a folder of external images: what is in it, and the bounds that keep the walk inside."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from dreambench.errors import UserError
from dreambench.scoring.problems import Problem, reason_of
from dreambench.text import make_printable

# What people name as images. Those that `load_image` does not take are then said to be unreadable.
SUFFIXES = {
    ".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".heic", ".heif",
    ".jxl", ".jp2", ".ppm",
}  # fmt: skip
MAX_ENTRIES = 1_000_000


@dataclass(frozen=True)
class File:
    """A file with what its layout says about it; `label` is to become its number.

    With an `entry`, that of a list of prompts, `label` is the number itself, and two entries are
    never one prompt's.
    """

    name: str
    path: Path
    subject: str
    prompt: str
    label: str
    entry: str | None = None


@dataclass
class Walk:
    """What reading a folder gives, and the bounds that keep it inside."""

    folder: Path
    files: list[File] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    n_ignored: int = 0
    n_entries: int = 0

    def __post_init__(self) -> None:
        self.root = Path(os.path.realpath(self.folder))

    def name(self, path: Path) -> str:
        """The path inside the folder, as text that can be printed and written."""
        return make_printable(path.relative_to(self.folder).as_posix())

    def is_inside(self, path: Path) -> bool:
        """Whether a path, with all links followed, stays in the folder."""
        return Path(os.path.realpath(path)).is_relative_to(self.root)

    def is_outside(self, path: Path) -> bool:
        """Whether a path leads out of the folder; notes it if so."""
        if self.is_inside(path):
            return False
        self.problems.append(
            Problem("outside", self.name(path), detail="leads out of the folder; put a copy there")
        )
        return True

    def peek(self, folder: Path) -> dict[str, bool]:
        """Names in a folder, and whether each is a folder's.

        Empty where it leads outside or cannot be read: `entries` is what notes that.
        """
        if not self.is_inside(folder):
            return {}
        try:
            with os.scandir(folder) as found:
                entries = [entry for entry in islice(found, MAX_ENTRIES) if entry.name[0] != "."]
                return {entry.name: entry.is_dir() for entry in entries}
        except OSError:
            return {}

    def entries(self, folder: Path) -> Iterator[tuple[Path, bool]]:
        """Entries of a folder by name, and whether each is a folder; hidden ones are ignored."""
        try:
            with os.scandir(folder) as found:
                entries = sorted(found, key=lambda entry: entry.name)
        except OSError as error:
            self.problems.append(Problem("unreadable", self.name(folder), detail=reason_of(error)))
            return
        self.n_entries += len(entries)
        if self.n_entries > MAX_ENTRIES:
            raise UserError(
                f"{self.folder} holds over {MAX_ENTRIES:,} files",
                hint="name the images' own folder, or write an index",
                code="too-many-files",
            )
        for entry in entries:
            path = folder / entry.name
            if entry.name.startswith("."):
                continue
            if entry.is_symlink() and self.is_outside(path):
                continue
            try:
                is_dir, is_file = path.is_dir(), path.is_file()
            except OSError as error:
                self.problems.append(
                    Problem("unreadable", self.name(path), detail=reason_of(error))
                )
                continue
            if is_dir or is_file:
                yield path, is_dir
            else:
                self.n_ignored += 1

    def folders(self, root: Path) -> Iterator[Path]:
        """The folders in `root`, if that is inside; files there are ignored."""
        if root.is_symlink() and self.is_outside(root):
            return
        for path, is_dir in self.entries(root):
            if is_dir:
                yield path
            else:
                self.n_ignored += 1

    def add_images(self, folder: Path, *, subject: str, prompt: str) -> None:
        """The images of a folder that holds those of one prompt, and nothing below it."""
        for path, is_dir in self.entries(folder):
            if is_dir or path.suffix.lower() not in SUFFIXES:
                self.n_ignored += 1
            else:
                self.files.append(File(self.name(path), path, subject, prompt, path.stem))
