"""Names and paths from strangers: what may become a path, and whether a path stays in a folder.

Names in files and links in folders are anybody's. So nothing is written or deleted outside of the
folder that the user named, and no link inside it is followed. Links to the folder itself are the
user's own, and are.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator

from dreambench.errors import UserError, disk_errors

MAX_NAME_BYTES = 200
"""File systems take 255; the rest is for what is put before and behind a name."""
_WINDOWS_DEVICE = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE)
_PART = re.compile(r"\..+\.[0-9]+\.part", re.DOTALL)
"""What `write_bytes` calls a file until it is complete."""
_RESERVED = frozenset('/\\:<>"|?*')
_UNPRINTABLE = frozenset(("Cc", "Cs", "Zl", "Zp"))
"""Categories of Unicode: control characters, halves of characters, ends of lines."""
_TURNS_TEXT = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_UNFINISHED = (".part", ".ready")


def find_name_fault(name: str) -> str | None:
    """Return why a name cannot be that of a file or folder on every system; None where it can."""
    faults = {
        "is empty": not name,
        "starts with a dot": name.startswith("."),
        'has one of the characters / \\ : < > " | ? *': bool(_RESERVED & set(name)),
        "has a character that cannot be printed": bool(_UNPRINTABLE & _categories(name)),
        "has a character that changes text direction": bool(_TURNS_TEXT & set(name)),
        "starts or ends with a blank": name != name.strip(),
        "ends with a dot": name.endswith("."),
        f"is longer than {MAX_NAME_BYTES} bytes": _count_bytes(name) > MAX_NAME_BYTES,
        "is the name of a device on Windows": bool(_WINDOWS_DEVICE.fullmatch(name)),
        "ends like an unfinished file": name.lower().endswith(_UNFINISHED),
    }
    return next((words for words, is_so in faults.items() if is_so), None)


def _check_name(name: str) -> str:
    if fault := find_name_fault(name):
        raise ValueError(f"the name {name!r} {fault}")
    return name


FileName = Annotated[str, AfterValidator(_check_name)]
"""For models of pydantic: a name that files or folders will have."""


def _categories(text: str) -> set[str]:
    return {unicodedata.category(mark) for mark in text}


def _count_bytes(text: str) -> int:
    return len(text.encode(errors="replace"))


def check_inside(path: Path, folder: Path) -> Path:
    """Return a path that is in a folder, and to which no link in that folder leads.

    Nothing of it needs to exist. The folder itself counts as inside.

    Raises:
        UserError: `unsafe-path`, otherwise.
    """
    # `resolve` would follow links.
    whole, root = (Path(os.path.abspath(one)) for one in (path, folder))  # noqa: PTH100
    written = path.relative_to(folder).parts if path.is_relative_to(folder) else ()
    if ".." in written or "\0" in str(path) or not whole.is_relative_to(root):
        raise UserError(
            f"{str(path)!r} is not inside of {folder}, and nothing was written or deleted there",
            hint="look where that name comes from: a name must not lead out of its folder",
            code="unsafe-path",
        )
    current = folder
    for part in whole.relative_to(root).parts:
        current /= part
        try:
            os.fsencode(current)
            is_link = current.is_symlink()
        except (OSError, ValueError) as error:
            raise UserError(
                f"{str(current)!r} cannot be a path ({getattr(error, 'strerror', error)})",
                hint="look where that name comes from",
                code="unsafe-path",
            ) from error
        if is_link:
            raise _refuse_link(current)
    return current


def _refuse_link(path: Path) -> UserError:
    return UserError(
        f"{path} is a link, and links inside of this folder are not followed",
        hint="put a copy of what it points to in its place, or remove it",
        code="unsafe-path",
    )


def check_tree(folder: Path) -> None:
    """Refuse a folder in which anything is a link, or is neither a file nor a folder.

    Raises:
        UserError: `unsafe-path`, with the first such entry.
    """
    for entry in _walk(folder):
        if entry.is_symlink():
            raise _refuse_link(Path(entry.path))
        if not (entry.is_file(follow_symlinks=False) or entry.is_dir(follow_symlinks=False)):
            raise UserError(
                f"{entry.path} is neither a file nor a folder",
                hint="remove it",
                code="unsafe-path",
            )


def _walk(folder: Path) -> Iterator[os.DirEntry[str]]:
    """Yield all that lies in a folder and below it, in order; no link is followed."""
    if not folder.is_dir():
        return
    waiting = [str(folder)]
    while waiting:
        with disk_errors(folder), os.scandir(waiting.pop()) as found:
            entries = sorted(found, key=lambda entry: entry.name)
        for entry in entries:
            yield entry
            if entry.is_dir(follow_symlinks=False):
                waiting.append(entry.path)


def walk_folders(folder: Path) -> Iterator[Path]:
    """Yield the folders below a folder, in order; no link is followed."""
    for entry in _walk(folder):
        if entry.is_dir(follow_symlinks=False):
            yield Path(entry.path)


def remove_leftovers(folder: Path, *, of: str | None = None) -> None:
    """Remove files that `write_bytes` had not finished when it was killed, here and below.

    With `of` only those of the file of that name. Only who holds the folder may do this: another
    process may be writing one.
    """
    for entry in list(_walk(folder)):
        if of is not None and not entry.name.startswith(f".{of}."):
            continue
        if is_part(entry.name) and entry.is_file(follow_symlinks=False):
            with disk_errors(folder):
                Path(entry.path).unlink(missing_ok=True)


def name_part(path: Path) -> Path:
    """Return where the content of a file is written until it is complete."""
    return path.with_name(f".{path.name}.{os.getpid()}.part")


def is_part(name: str) -> bool:
    """Return whether a name is one of `name_part`."""
    return _PART.fullmatch(name) is not None


def remove_tree(path: Path, *, inside: Path) -> None:
    """Remove a folder with all that it holds, if it is there.

    Links, also one in its place, are removed themselves; what they point to stays.

    Raises:
        DiskError: it cannot be removed.
        UserError: `unsafe-path` where it is not below `inside`, or only through a link.
    """
    parent = check_inside(path.parent, inside)
    with disk_errors(path):
        if path.name and path.is_symlink():
            (parent / path.name).unlink()
        elif (checked := check_inside(path, parent)).is_dir():
            shutil.rmtree(checked)


def remove_listed(folder: Path, pattern: re.Pattern[str], *, inside: Path) -> None:
    """Remove a folder and the files in it whose whole names match; UserError for any other.

    Raises:
        DiskError: it cannot be removed.
        UserError: `unsafe-path` where it is not inside, or holds something else, which stays.
    """
    check_inside(folder, inside)
    if not folder.is_dir():
        return
    with disk_errors(folder):
        entries = sorted(folder.iterdir())
        for entry in entries:
            is_file = stat.S_ISREG(entry.lstat().st_mode)
            if not (is_file and (pattern.fullmatch(entry.name) or is_part(entry.name))):
                raise UserError(
                    f"{entry} was not put there by dreambench, so {folder} is not removed",
                    hint="move it away, or remove the folder",
                    code="unsafe-path",
                )
        for entry in entries:
            entry.unlink(missing_ok=True)
        folder.rmdir()
