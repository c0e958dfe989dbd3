"""A subject's part of a run folder as bytes, for workers that do not see the folder's disk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from dreambench.artifacts.device_time import FOLDER, time_path
from dreambench.artifacts.failures import failures_dir
from dreambench.artifacts.manifest import FILE_NAME
from dreambench.datasets.index import EMBEDDED
from dreambench.errors import UserError
from dreambench.runs.run_folder import Run
from dreambench.storage.files import make_dir, move_dir, write_bytes, write_together
from dreambench.storage.paths import check_inside, remove_tree

Files = Mapping[str, bytes]
"""Contents by their paths in a folder, with slashes."""


@dataclass(frozen=True)
class Dataset:
    """The photos of a run's subjects, and where the protocol will look for them.

    `folder` is the dataset's name where the protocol names it by a relative path, else None.
    """

    folder: str | None
    files: Files = field(repr=False)


def pack_subject(run: Run, subject: str) -> dict[str, bytes]:
    """Return what a run folder has of a subject, without what is not finished."""
    found = {
        name: content
        for part in ("images", "train")
        for name, content in _read_tree(run.folder, run.folder / part / subject)
    }
    failed = [
        path
        for path in sorted(failures_dir(run.folder).glob("*"))
        if path.stem.endswith(f"-{subject}") or path.stem == "constructor"
    ]
    for path in (*failed, time_path(run.folder, subject)):
        if path.is_file():
            found[path.relative_to(run.folder).as_posix()] = path.read_bytes()
    return found


def pack_manifest(run: Run) -> dict[str, bytes]:
    """Return the file that says which run a folder is."""
    return {FILE_NAME: (run.folder / FILE_NAME).read_bytes()}


def _read_tree(root: Path, folder: Path) -> list[tuple[str, bytes]]:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    names = [(path.relative_to(root), path) for path in files]
    return [
        (name.as_posix(), path.read_bytes())
        for name, path in names
        if not any(part.startswith(".") for part in name.parts)
    ]


def unpack(folder: Path, files: Files) -> None:
    """Write files into an empty folder.

    Raises:
        UserError: `unsafe-path` for one that would not be in it.
    """
    for name, content in files.items():
        write_bytes(folder / PurePosixPath(name), content, inside=folder, is_durable=False)


def take_subject(run: Run, subject: str, files: Files) -> None:
    """Put what a worker made of a subject into the run folder, whole or not at all.

    Only who has claimed the subject may do this.

    Raises:
        UserError: `unsafe-path` for a file that is not the subject's.
    """
    images, trained = f"images/{subject}/", f"train/{subject}/"
    others = ("failures/", f"{FOLDER}/")
    parts: dict[str, dict[str, bytes]] = {part: {} for part in (images, trained, *others)}
    for name, content in files.items():
        part = next((part for part in parts if name.startswith(part)), None)
        if part is None:
            raise UserError(f"a worker sent {name!r}", hint="", code="unsafe-path")
        parts[part][name.removeprefix(part)] = content
    if parts[trained]:
        _replace_tree(run, subject, parts[trained])
    if parts[images]:
        folder = make_dir(run.images_dir(subject), inside=run.folder)
        contents = {folder / name: content for name, content in parts[images].items()}
        write_together(run.staging_of(subject), "sent", contents)
        run.staging_of(subject).rmdir()
    for part in others:
        for name, content in parts[part].items():
            write_bytes(run.folder / part / name, content, inside=run.folder)


def _replace_tree(run: Run, subject: str, files: Files) -> None:
    target = check_inside(run.train_dir(subject), run.folder)
    part = target.with_name(f"{target.name}.part")
    remove_tree(part, inside=run.folder)
    make_dir(part, inside=run.folder)
    unpack(part, files)
    remove_tree(target, inside=run.folder)
    move_dir(part, target)


def pack_dataset(run: Run, data_dir: Path | None) -> Dataset:
    """Return the photos of a run's subjects with their index; empty for one of the package.

    Raises:
        UserError: the protocol names the dataset by a path that only this machine has.
    """
    named = run.protocol.dataset
    if named in EMBEDDED:
        return Dataset(None, {})
    found = run.protocol.find_dataset(photos_dir=data_dir)
    photos = [path for one in run.subjects for path in (*one.photos, *one.masks)]
    files = {path.relative_to(found.photos_dir).as_posix(): path.read_bytes() for path in photos}
    if named == found.name and found.index_dir != found.photos_dir:
        return Dataset(None, files)
    path = PurePosixPath(named)
    if path.is_absolute() or ".." in path.parts or named.startswith("~"):
        raise UserError(
            f"the dataset {named} is a path of this machine, and workers have disks of their own",
            hint="name it by a path relative to the protocol's file, or pass --storage shared",
            code="unsafe-path",
        )
    index = {path.name: path.read_bytes() for path in sorted(found.index_dir.glob("*.csv"))}
    return Dataset(named, {**files, **index})
