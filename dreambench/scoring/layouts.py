"""Folders of external images: which layout they have, and what it says of each file.

Nothing in such a folder is written, nothing outside of it is read, and what does not fit is named
and counted. The layouts that are known are LAYOUTS. Three are what other repositories write:
DreamBench++ github.com/yuangpeng/dreambench_plus at 00afb24 (README, step 2), PatchDPO
github.com/hqhQAQ/PatchDPO at 558f0c2 (inference_dreambooth.py), and UNO's, which `uno` reads.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from dreambench.errors import UserError, unknown_name
from dreambench.scoring.problems import Problem
from dreambench.scoring.uno import has_pair, read_uno
from dreambench.scoring.walking import MAX_ENTRIES, SUFFIXES, File, Walk
from dreambench.storage.csv_files import Row, read_csv
from dreambench.storage.listed_paths import read_listed_path
from dreambench.storage.text_files import read_text
from dreambench.text import make_printable

Layout = Literal["run", "subject/prompt", "dreambench-plus", "uno", "patchdpo", "index"]
LAYOUTS: dict[Layout, str] = {
    "run": "images/<subject>/<prompt id>/<k>.png",
    "subject/prompt": "<subject>/<prompt id>/<k>.png",
    "dreambench-plus": "tgt_image/<subject>/<i>_<j>.jpg with text/<subject>/<i>_<j>.txt",
    "uno": "<i>_<j>.png with <i>_<j>.json",
    "patchdpo": "<subject>/<prompt text>.png",
    "index": "a CSV with the columns file, subject, prompt, index",
}
INDEX_COLUMNS = ("file", "subject", "prompt", "index")
MAX_TEXT_BYTES = 10_000


def find_layout(name: str) -> Layout:
    """Return the layout of a folder that has this name.

    Raises:
        UserError: there is none. An index is not a layout of a folder: whoever has one names it.
    """
    found: Layout | None = next((one for one in LAYOUTS if one == name), None)
    if found is None or found == "index":
        raise unknown_name("layout", name, [one for one in LAYOUTS if one != "index"])
    return found


def detect_layout(walk: Walk, known_subjects: Sequence[str]) -> Layout:
    """Return the layout that a folder has by the folders and files in it.

    Raises:
        UserError: it has two.
    """
    folder, found = walk.folder, list[Layout]()
    subjects = [folder / name for name in known_subjects if (folder / name).is_dir()]
    if subjects:
        found.append("patchdpo" if _hold_images_alone(walk, subjects) else "subject/prompt")
    elif (folder / "tgt_image").is_dir():
        found.append("dreambench-plus")
    elif (folder / "images").is_dir():
        found.append("run")
    if has_pair(walk):
        found.append("uno")
    if len(found) > 1:
        raise UserError(
            f"{folder} has two layouts: {' and '.join(LAYOUTS[one] for one in found)}",
            hint=f"say which is meant: {' or '.join(f'--layout {one}' for one in found)}",
            code="unclear-layout",
        )
    return found[0] if found else "subject/prompt"


def _hold_images_alone(walk: Walk, subjects: Sequence[Path]) -> bool:
    """Return whether folders of subjects have images in them, and none has a folder."""
    found = [item for subject in subjects for item in walk.peek(subject).items()]
    has_images = any(Path(name).suffix.lower() in SUFFIXES for name, _ in found)
    return has_images and not any(is_dir for _, is_dir in found)


def read_layout(walk: Walk, layout: Layout) -> None:
    """Read a folder that has this layout, and no index."""
    if layout == "dreambench-plus":
        _read_dreambench_plus(walk)
    elif layout == "uno":
        read_uno(walk)
    elif layout == "patchdpo":
        _read_patchdpo(walk)
    else:
        _read_tree(walk, walk.folder / "images" if layout == "run" else walk.folder)


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


def _read_patchdpo(walk: Walk) -> None:
    """Read images that are called as their prompts: one of each, with the number 0."""
    for subject in walk.folders(walk.folder):
        for path, is_dir in walk.entries(subject):
            if is_dir or path.suffix.lower() not in SUFFIXES:
                walk.n_ignored += 1
            else:
                walk.files.append(File(walk.name(path), path, subject.name, path.stem, "0"))


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
