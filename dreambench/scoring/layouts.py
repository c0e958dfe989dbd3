"""Folders of external images: which layout they have, and what it says of each file.

Nothing in such a folder is written, nothing outside of it is read, and what does not fit is named
and counted. Four layouts are known, see LAYOUTS; that of DreamBench++ is
github.com/yuangpeng/dreambench_plus at 00afb24 (README, step 2).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from dreambench.errors import UserError
from dreambench.scoring.problems import Problem, reason_of
from dreambench.storage.csv_files import Row, read_csv
from dreambench.storage.listed_paths import read_listed_path
from dreambench.storage.text_files import read_text
from dreambench.text import make_printable

Layout = Literal["run", "subject/prompt", "dreambench-plus", "index"]
LAYOUTS: dict[Layout, str] = {
    "run": "images/<subject>/<prompt id>/<k>.png",
    "subject/prompt": "<subject>/<prompt id>/<k>.png",
    "dreambench-plus": "tgt_image/<subject>/<i>_<j>.jpg with text/<subject>/<i>_<j>.txt",
    "index": "a CSV with the columns file, subject, prompt, index",
}
# What people name as images. Those that `load_image` does not take are then said to be unreadable.
SUFFIXES = {
    ".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".heic", ".heif",
    ".jxl", ".jp2", ".ppm",
}  # fmt: skip
INDEX_COLUMNS = ("file", "subject", "prompt", "index")
MAX_ENTRIES = 1_000_000
MAX_TEXT_BYTES = 10_000


@dataclass(frozen=True)
class File:
    """A file with what its layout says about it; `label` is to become its number."""

    name: str
    path: Path
    subject: str
    prompt: str
    label: str


@dataclass
class Walk:
    """What reading a folder gives, and the bounds that keep it inside."""

    folder: Path
    files: list[File] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    n_ignored: int = 0
    n_entries: int = 0

    def __post_init__(self) -> None:
        self.root = Path(os.path.realpath(self.folder))

    def name(self, path: Path) -> str:
        """The path inside the folder, as text that can be printed and written."""
        return make_printable(path.relative_to(self.folder).as_posix())

    def is_outside(self, path: Path) -> bool:
        """Whether a path, with all links followed, leads out of the folder; notes it if so."""
        if Path(os.path.realpath(path)).is_relative_to(self.root):
            return False
        self.problems.append(
            Problem("outside", self.name(path), detail="leads out of the folder; put a copy there")
        )
        return True

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


def read_layout(walk: Walk, known_subjects: Sequence[str]) -> Layout:
    """Read a folder without an index, and return the layout that it has by its folders."""
    folder = walk.folder
    layout = _find_layout(folder, known_subjects)
    if layout == "dreambench-plus":
        _read_dreambench_plus(walk)
    else:
        _read_tree(walk, folder / "images" if layout == "run" else folder)
    return layout


def _find_layout(folder: Path, known_subjects: Sequence[str]) -> Layout:
    if any((folder / name).is_dir() for name in known_subjects):
        return "subject/prompt"
    if (folder / "tgt_image").is_dir():
        return "dreambench-plus"
    return "run" if (folder / "images").is_dir() else "subject/prompt"


def _read_tree(walk: Walk, root: Path) -> None:
    for subject in walk.folders(root):
        for prompt, is_prompt in walk.entries(subject):
            if is_prompt:
                walk.add_images(prompt, subject=subject.name, prompt=prompt.name)
            else:
                walk.n_ignored += 1


def _read_dreambench_plus(walk: Walk) -> None:
    """Read its images and texts.

    Its src_image, what a method was given, is not read, since all methods are compared with the
    protocol's photos. It has no class images; here they are tgt_image/<subject>/prior/<k>.jpg.
    """
    for subject in walk.folders(walk.folder / "tgt_image"):
        for path, is_prompt in walk.entries(subject):
            if is_prompt:
                walk.add_images(path, subject=subject.name, prompt=path.name)
            elif path.suffix.lower() in SUFFIXES:
                _add_with_text(walk, path, subject=subject.name)
            else:
                walk.n_ignored += 1


def _add_with_text(walk: Walk, path: Path, *, subject: str) -> None:
    text = walk.folder / "text" / subject / f"{path.stem}.txt"
    try:
        if walk.is_outside(text):
            return
        prompt = read_text(text, max_bytes=MAX_TEXT_BYTES, utf_16=True)
    except UserError as error:
        detail = f"its text: {error.problem.replace(str(text), walk.name(text))}"
        walk.problems.append(Problem("unknown", walk.name(path), detail=make_printable(detail)))
        return
    label = path.stem.rsplit("_", 1)[-1]
    walk.files.append(File(walk.name(path), path, subject, prompt, label))


def read_index(walk: Walk, index: Path) -> None:
    """Read an index, a CSV with INDEX_COLUMNS, whose files lie in its own folder.

    Raises:
        UserError: it cannot be read as one.
    """
    try:
        rows = read_csv(index, INDEX_COLUMNS)
    except UserError as error:
        raise UserError(
            error.problem,
            hint="fix the index (docs: how-to/score-a-folder) and score again",
            code=error.code,
        ) from error
    for row in rows:
        _add_row(walk, index, row)


def _add_row(walk: Walk, index: Path, row: Row) -> None:
    file, subject, prompt, label = (row[name] for name in INDEX_COLUMNS)
    name = f"line {row.line}, {make_printable(file)}"
    empty = [column for column in INDEX_COLUMNS[:3] if not row[column]]
    if empty:
        problem = Problem("unknown", name, detail=f"the column {', '.join(empty)} is empty")
        walk.problems.append(problem)
        return
    try:
        path = read_listed_path(file, index.parent)
    except ValueError as error:
        walk.problems.append(Problem("outside", name, detail=str(error)))
        return
    if not walk.is_outside(index.parent / path):
        walk.files.append(File(make_printable(path), index.parent / path, subject, prompt, label))


def count_unlisted(walk: Walk, folder: Path) -> int:
    """How many images of a folder and those below an index does not name."""
    listed = {os.path.realpath(file.path) for file in walk.files}
    n_unlisted = 0
    for path, _, names in os.walk(folder):
        walk.n_entries += len(names)
        if walk.n_entries > MAX_ENTRIES:
            break
        images = [name for name in names if Path(name).suffix.lower() in SUFFIXES]
        n_unlisted += sum(os.path.realpath(Path(path, name)) not in listed for name in images)
    return n_unlisted
