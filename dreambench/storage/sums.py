"""What files were when they were written: SHA256SUMS, which `sha256sum -c` reads as well.

A folder of products has one, written together with them, so that a product that was changed since
is told from one that was made.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from dreambench.errors import UserError, disk_errors
from dreambench.storage.files import (
    finish_together,
    sha256_bytes,
    sha256_file,
    write_bytes,
    write_together,
)

FILE_NAME = "SHA256SUMS"
_LINE = re.compile(r"([0-9a-f]{64})  ([^\\\n/]+(?:/[^\\\n/]+)*)")


def read_sums(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of each listed product by its path in `folder`; empty without a list.

    Raises:
        UserError: the list is damaged, or names a path that leads out of the folder.
    """
    path = folder / FILE_NAME
    if not path.is_file():
        return {}
    with disk_errors(path):
        lines = path.read_bytes().decode("utf-8", "replace").splitlines()
    sums: dict[str, str] = {}
    for number, line in enumerate(lines, start=1):
        found = _LINE.fullmatch(line)
        if found is None or {"..", "."} & set(found[2].split("/")):
            raise UserError(
                f"{path}:{number} is not a SHA-256 with the name of a file in its folder",
                hint="restore the file, or run or score again in another folder (--out)",
                code="damaged-file",
            )
        sums[found[2]] = found[1]
    return sums


def write_sums(folder: Path, files: Iterable[Path] | None = None) -> None:
    """List files of a folder as they are now; by default every one that is in it."""
    if files is None:
        files = [path for path in folder.rglob("*") if path.is_file() and path.name != FILE_NAME]
    sums = {path.relative_to(folder).as_posix(): sha256_file(path) for path in files}
    write_bytes(folder / FILE_NAME, _render(sums))


def write_products(
    staging_dir: Path,
    name: str,
    folder: Path,
    contents: Mapping[str, bytes],
    *,
    dropped: Iterable[str] = (),
) -> None:
    """Write products into `folder`, by their paths in it, and their sums, as one step.

    The list loses `dropped`. See `write_together` for the staging folder and the name in it.
    """
    finish_together(staging_dir)
    sums = {key: value for key, value in read_sums(folder).items() if key not in set(dropped)}
    sums |= {key: sha256_bytes(content) for key, content in contents.items()}
    files = {folder / key: content for key, content in contents.items()}
    write_together(staging_dir, name, {**files, folder / FILE_NAME: _render(sums)})
    with contextlib.suppress(OSError):
        staging_dir.rmdir()


def has_products(folder: Path, contents: Mapping[str, bytes]) -> bool:
    """Return whether products are there and listed, with just these contents."""
    sums = read_sums(folder)
    return all(
        sums.get(name) == sha256_bytes(content)
        and (folder / name).is_file()
        and sha256_file(folder / name) == sums[name]
        for name, content in contents.items()
    )


def find_changed(folder: Path) -> list[str]:
    """Return the listed products that are missing or no longer what was written, in order."""
    changed = []
    for name, known in read_sums(folder).items():
        path = folder / name
        with disk_errors(path):
            if not path.is_file() or sha256_file(path) != known:
                changed.append(name)
    return changed


def _render(sums: Mapping[str, str]) -> bytes:
    return "".join(f"{sums[name]}  {name}\n" for name in sorted(sums)).encode()
