"""Files: writes that are complete or not there at all, hashes, JSON."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dreambench.errors import UserError, disk_errors


def make_dir(path: Path) -> Path:
    """Create a folder with its parents and return it; DiskError if that is not possible."""
    with disk_errors(path):
        path.mkdir(parents=True, exist_ok=True)
    return path


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file so that a reader sees the old one or all of the new one, even after a kill."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    with disk_errors(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with part.open("wb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
            part.replace(path)
        except OSError:
            part.unlink(missing_ok=True)
            raise


def render_json(content: Any) -> bytes:
    """Return indented JSON; ValueError for NaN, since JSON has none."""
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
    return _encode(text) + b"\n"


def write_json(path: Path, content: Any) -> None:
    """Write indented JSON as `write_bytes` does."""
    write_bytes(path, render_json(content))


def _encode(text: str) -> bytes:
    # A lone surrogate, which UTF-8 does not have, comes to be written as JSON escapes it.
    return text.encode(errors="backslashreplace")


def read_json(path: Path) -> Any:
    """Return parsed JSON; UserError (`missing-file`, `unreadable-file`) when there is none."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(
            f"{path} is not there", hint="is this a run folder?", code="missing-file"
        ) from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(
            f"{path} is not valid JSON ({error})",
            hint="restore or delete it",
            code="unreadable-file",
        ) from error


def write_together(staging_dir: Path, name: str, files: Mapping[Path, bytes]) -> None:
    """Write several files of one disk as one step: after a kill there are all or none of them.

    They are written to `staging_dir/name.part`, which becomes `name.ready` when complete; then each
    is moved to its place. `finish_together` completes what a kill interrupted.
    """
    with disk_errors(staging_dir):
        staging_dir.mkdir(parents=True, exist_ok=True)
        part, ready = staging_dir / f"{name}.part", staging_dir / f"{name}.ready"
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir()
        try:
            targets = {}
            for index, (target, content) in enumerate(files.items()):
                write_bytes(part / str(index), content)
                targets[str(index)] = os.path.relpath(target, staging_dir)
            write_json(part / "targets.json", targets)
        except (OSError, UserError):
            shutil.rmtree(part, ignore_errors=True)
            raise
        part.replace(ready)
        _move_ready(staging_dir, ready)


def _move_ready(staging_dir: Path, ready: Path) -> None:
    for index, relative in read_json(ready / "targets.json").items():
        target = Path(os.path.normpath(staging_dir / relative))
        if (ready / index).exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            (ready / index).replace(target)
    shutil.rmtree(ready)


def finish_together(staging_dir: Path) -> None:
    """Move what `write_together` had ready before a kill, and remove what it had not."""
    if not staging_dir.is_dir():
        return
    with disk_errors(staging_dir):
        for folder in sorted(staging_dir.iterdir()):
            if folder.suffix == ".ready":
                if (folder / "targets.json").exists():
                    _move_ready(staging_dir, folder)
                else:  # All files were moved and the removal itself was interrupted.
                    shutil.rmtree(folder)
            elif folder.suffix == ".part":
                shutil.rmtree(folder)


def sha256_bytes(content: bytes) -> str:
    """Return the hex SHA-256 of bytes."""
    return hashlib.sha256(content).hexdigest()


def sha256_file(path: Path) -> str:
    """Return the hex SHA-256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def digest(content: Any) -> str:
    """Return the first 16 hex digits of the SHA-256 of canonical JSON (sorted keys, no spaces)."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(_encode(text)).hexdigest()[:16]


def digest_folder(folder: Path, *, suffixes: Sequence[str]) -> str:
    """Return a digest of relative names and contents of a folder's files with these suffixes."""
    files = sorted(path for path in folder.rglob("*") if path.suffix in suffixes)
    return digest({path.relative_to(folder).as_posix(): sha256_file(path) for path in files})
