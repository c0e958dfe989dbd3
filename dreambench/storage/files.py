"""Files: writes that are complete or not there at all, hashes, JSON."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dreambench.errors import UserError, disk_errors
from dreambench.storage.paths import check_inside, name_part, remove_listed

_TARGETS = "targets.json"
_STAGED = re.compile(r"[0-9]{1,9}|targets\.json", re.ASCII)
"""Names of files in a staged group."""


def make_dir(path: Path, *, inside: Path | None = None) -> Path:
    """Create a folder with its parents and return it.

    Raises:
        DiskError: that is not possible.
        UserError: `unsafe-path` where it is not in the folder `inside`, or only through a link.
    """
    if inside is not None:
        check_inside(path, inside)
    with disk_errors(path):
        path.mkdir(parents=True, exist_ok=True)
    return path


def write_bytes(
    path: Path, content: bytes, *, inside: Path | None = None, is_durable: bool = True
) -> None:
    """Write a file so that a reader sees the old one or all of the new one, even after a kill.

    `inside` is the folder that the user named, where the path has names of others below it. A link
    in the place of the file is replaced, and what it points to stays. Not `is_durable` saves the
    wait for the disk, for many small files that are known by their sums: a loss of power may tear
    them.

    Raises:
        DiskError: it cannot be written.
        UserError: `unsafe-path` where it is not in the folder `inside`, or only through a link.
    """
    if inside is not None:
        check_inside(path, inside)
    part = name_part(path)
    with disk_errors(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            part.unlink(missing_ok=True)
            with part.open("xb") as stream:
                stream.write(content)
                stream.flush()
                if is_durable:
                    os.fsync(stream.fileno())
            part.replace(path)
            if is_durable:
                sync_dir(path.parent)
        except OSError:
            part.unlink(missing_ok=True)
            raise


def sync_dir(path: Path) -> None:
    """Wait until the names in a folder are on the disk, as far as its file system can tell."""
    if os.name == "nt":
        return  # Folders cannot be opened there.
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
            raise
    finally:
        os.close(descriptor)


def move_dir(source: Path, target: Path) -> None:
    """Give a folder that is complete its final name, also after a loss of power.

    Raises:
        DiskError: that is not possible.
    """
    with disk_errors(source):
        source.replace(target)
        sync_dir(target.parent)


def render_json(content: Any) -> bytes:
    """Return indented JSON; ValueError for NaN, since JSON has none."""
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
    return _encode(text) + b"\n"


def write_json(path: Path, content: Any, *, inside: Path | None = None) -> None:
    """Write indented JSON as `write_bytes` does."""
    write_bytes(path, render_json(content), inside=inside)


def _encode(text: str) -> bytes:
    # A lone surrogate, which UTF-8 does not have, comes to be written as JSON escapes it.
    return text.encode(errors="backslashreplace")


def _parse_number(text: str) -> float:
    """Return a number; ValueError for what Python takes for one, and JSON has not: NaN, 1e999."""
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:20]} is not a number in JSON")
    return number


def read_json(path: Path) -> Any:
    """Return parsed JSON; UserError (`missing-file`, `unreadable-file`) when there is none."""
    try:
        with disk_errors(path, reads=True):
            text = path.read_text(encoding="utf-8")
            return json.loads(text, parse_constant=_parse_number, parse_float=_parse_number)
    # Numbers of thousands of digits are a ValueError too, and nesting as deep a RecursionError.
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{path} is not valid JSON ({str(error)[:200]})",
            hint="restore or delete it",
            code="unreadable-file",
        ) from error


def write_together(staging_dir: Path, name: str, files: Mapping[Path, bytes]) -> None:
    """Write several files of one disk as one step: after a kill there are all or none of them.

    They are written to `staging_dir/name.part`, which becomes `name.ready` when complete; then each
    is moved to its place. `finish_together` completes what a kill interrupted. All places are in
    the folder that `staging_dir` is in.

    Raises:
        DiskError: they cannot be written.
        UserError: `unsafe-path` where one would not be there, or only through a link.
    """
    part, ready = staging_dir / f"{name}.part", staging_dir / f"{name}.ready"
    for path in (*files, ready):
        check_inside(path, staging_dir.parent)
    remove_listed(part, _STAGED, inside=staging_dir.parent)
    with disk_errors(staging_dir):
        part.mkdir(parents=True)
        try:
            targets = {}
            for index, (target, content) in enumerate(files.items()):
                write_bytes(part / str(index), content)
                targets[str(index)] = os.path.relpath(target, staging_dir)
            write_json(part / _TARGETS, targets)
        except (OSError, UserError):
            remove_listed(part, _STAGED, inside=staging_dir)
            raise
        move_dir(part, ready)
        _move_ready(ready)


def _move_ready(ready: Path) -> None:
    """Move each file of a complete group to its place, once all these places are known inside."""
    moves = {path: target for path, target in _read_targets(ready).items() if path.exists()}
    for source, target in moves.items():
        target.parent.mkdir(parents=True, exist_ok=True)
        source.replace(target)
    for folder in {target.parent for target in moves.values()}:
        sync_dir(folder)
    remove_listed(ready, _STAGED, inside=ready.parent)


def _read_targets(ready: Path) -> dict[Path, Path]:
    """Return where each file of a complete group is to go; UserError for what is not inside."""
    path, hint = ready / _TARGETS, f"delete {ready}"
    found = read_json(path)
    if not isinstance(found, dict) or not all(
        _STAGED.fullmatch(index) and isinstance(target, str) for index, target in found.items()
    ):
        raise UserError(f"{path} is damaged", hint=hint, code="damaged-file")
    moves = {}
    for index, relative in found.items():
        target = Path(os.path.normpath(ready.parent / relative))
        try:
            target = check_inside(target, ready.parent.parent)
        except UserError as error:
            raise UserError(f"{path}: {error.problem}", hint=hint, code="unsafe-path") from error
        if target.is_dir():
            raise UserError(f"{path}: {target} is a folder", hint=hint, code="damaged-file")
        moves[ready / index] = target
    return moves


def finish_together(staging_dir: Path) -> None:
    """Move what `write_together` had ready before a kill, and remove what it had not.

    Raises:
        DiskError: that is not possible.
        UserError: `unsafe-path` where something would be moved out of the folder that
            `staging_dir` is in, or through a link, or is not of `write_together`.
    """
    check_inside(staging_dir, staging_dir.parent)
    if not staging_dir.is_dir():
        return
    with disk_errors(staging_dir):
        for folder in sorted(staging_dir.iterdir()):
            check_inside(folder, staging_dir)
            if folder.suffix == ".ready" and (folder / _TARGETS).exists():
                _move_ready(folder)
            elif folder.suffix in (".ready", ".part"):
                # Of one that was ready all files were moved, and the removal was interrupted.
                remove_listed(folder, _STAGED, inside=staging_dir)


def sha256_bytes(content: bytes) -> str:
    """Return the hex SHA-256 of bytes."""
    return hashlib.sha256(content).hexdigest()


def sha256_file(path: Path) -> str:
    """Return the hex SHA-256 of a file's bytes; DiskError where it cannot be read."""
    with disk_errors(path, reads=True), path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def digest(content: Any) -> str:
    """Return the first 16 hex digits of the SHA-256 of canonical JSON (sorted keys, no spaces)."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(_encode(text)).hexdigest()[:16]


def digest_folder(folder: Path, *, suffixes: Sequence[str]) -> str:
    """Return a digest of relative names and contents of a folder's files with these suffixes."""
    files = sorted(path for path in folder.rglob("*") if path.suffix in suffixes)
    return digest({path.relative_to(folder).as_posix(): sha256_file(path) for path in files})
