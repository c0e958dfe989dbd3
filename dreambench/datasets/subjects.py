"""Subjects: a few photos of one individual, its class noun, and the index files that pin them.

A dataset is a folder with `subjects.csv` (subject, class_name, kind, n_images) and `images.csv`
(subject, file, sha256, bytes, width, height, source, credit; `mask`, `mask_sha256` where masks
exist), and the photos, in the same folder or elsewhere.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from dreambench.errors import UserError, name_some, unknown_name
from dreambench.storage.files import digest, sha256_file
from dreambench.storage.shipped import PACKAGE_DIR, cache_dir, shipped_path

Kind = Literal["live", "object"]


@dataclass(frozen=True)
class Subject:
    """One individual. `masks` is empty or holds one mask file a photo, in the same order."""

    name: str
    class_name: str
    kind: Kind
    photos: tuple[Path, ...]
    sha256: tuple[str, ...]
    masks: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Dataset:
    """Where a dataset's index lies, and where its photos do."""

    name: str
    index_dir: Path
    photos_dir: Path


@dataclass(frozen=True)
class PinnedFile:
    """One photo or mask as the index pins it; `n_bytes` is None where the index does not say."""

    subject: str
    file: str
    sha256: str
    n_bytes: int | None


@dataclass(frozen=True)
class Index:
    """What the two index files say: rows of subjects, rows of images, and the files they pin."""

    subjects: list[dict[str, str]]
    images: list[dict[str, str]]
    files: list[PinnedFile]


def find_dataset(name: str, *, photos_dir: Path | None = None) -> Dataset:
    """A dataset by name (`mini`, `dreambooth`) or the path of a folder with the two index files.

    The photos of `dreambooth` are looked for in `photos_dir`, else in `DREAMBENCH_DATA`, else in
    the user's cache folder.
    """
    if name == "mini":
        folder = PACKAGE_DIR / "mini" / "subjects"
        return Dataset("mini", folder, folder)
    if name == "dreambooth":
        named = photos_dir or os.environ.get("DREAMBENCH_DATA")
        photos = Path(named) if named else cache_dir() / "data" / "dreambooth"
        return Dataset("dreambooth", shipped_path("dataset"), photos)
    folder = Path(name)
    if (folder / "subjects.csv").is_file():
        return Dataset(folder.resolve().name, folder, folder)
    raise unknown_name("dataset", name, ["mini", "dreambooth"])


def _read_csv(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            reader = csv.DictReader(stream)
            missing = set(columns) - set(reader.fieldnames or ())
            if missing:
                raise UserError(
                    f"{path} lacks the column {', '.join(sorted(missing))}", hint="restore the file"
                )
            return list(reader)
    except FileNotFoundError as error:
        raise UserError(f"{path} is not there", hint="restore it from the release") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text", hint="restore the file") from error


def read_index(dataset: Dataset, *, names: Sequence[str] | None = None) -> Index:
    """The index files of a dataset, all subjects or those in `names`, in the order of the index.

    Raises UserError for an unknown subject, a path out of the folder, and rows that contradict
    each other.
    """
    columns = ("subject", "class_name", "kind", "n_images")
    subjects = _read_csv(dataset.index_dir / "subjects.csv", columns)
    known = [row["subject"] for row in subjects]
    for name in names or ():
        if name not in known:
            raise unknown_name("subject", name, known)
    chosen = known if names is None else list(names)
    subjects = [row for row in subjects if row["subject"] in chosen]
    images = _read_csv(dataset.index_dir / "images.csv", ("subject", "file", "sha256"))
    images = [row for row in images if row["subject"] in chosen]
    files = []
    for row in images:
        size = row.get("bytes") or ""
        n_bytes = int(size) if size.isdigit() else None
        files.append(PinnedFile(row["subject"], row["file"], row["sha256"], n_bytes))
        if row.get("mask"):
            files.append(PinnedFile(row["subject"], row["mask"], row["mask_sha256"], None))
    faults = [f"{f.file!r} leads out of the folder" for f in files if not _stays_inside(f.file)]
    for row in subjects:
        n_images = sum(image["subject"] == row["subject"] for image in images)
        if str(n_images) != row["n_images"] or row["kind"] not in ("live", "object"):
            faults.append(f"the index rows of {row['subject']} contradict each other")
    if faults:
        raise UserError(f"{dataset.index_dir}: {name_some(faults)}", hint="restore the index files")
    return Index(subjects, images, files)


def _stays_inside(file: str) -> bool:
    path = PurePosixPath(file)
    return not path.is_absolute() and ".." not in path.parts and "\\" not in file


def check_file(dataset: Dataset, pinned: PinnedFile) -> str | None:
    """What is wrong with a pinned file on this machine; None when its bytes are the pinned ones."""
    path = dataset.photos_dir / pinned.file
    try:
        n_bytes = path.stat().st_size
        if pinned.n_bytes is not None and n_bytes != pinned.n_bytes:
            return f"{pinned.file} has {n_bytes} bytes, not {pinned.n_bytes}"
        if sha256_file(path) != pinned.sha256:
            return f"{pinned.file} has other bytes than the pinned file"
    except FileNotFoundError:
        return f"{pinned.file} is missing"
    except OSError as error:
        return f"{pinned.file} cannot be read ({error.strerror})"
    return None


def check_files(dataset: Dataset, files: Sequence[PinnedFile]) -> list[str]:
    """All that is wrong with pinned files on this machine."""
    return [fault for fault in (check_file(dataset, file) for file in files) if fault]


def load_subjects(dataset: Dataset, *, names: Sequence[str] | None = None) -> list[Subject]:
    """Reads the index and checks that each file is there with the pinned bytes.

    `names` picks subjects, in the order of the index. All missing or changed files are named in
    one UserError.
    """
    index = read_index(dataset, names=names)
    faults = check_files(dataset, index.files)
    if faults:
        hint = "restore them"
        if dataset.name == "dreambooth":
            hint = (
                "get them with: dreambench data fetch, or point DREAMBENCH_DATA at the folder that "
                "has them"
            )
        raise UserError(f"{dataset.photos_dir}: {name_some(faults)}", hint=hint)
    return _make_subjects(dataset, index)


def list_subjects(dataset: Dataset, *, names: Sequence[str] | None = None) -> list[Subject]:
    """The subjects of the index, whether or not their photos are on this machine."""
    return _make_subjects(dataset, read_index(dataset, names=names))


def _make_subjects(dataset: Dataset, index: Index) -> list[Subject]:
    found = []
    for row in index.subjects:
        mine = [image for image in index.images if image["subject"] == row["subject"]]
        masks = [dataset.photos_dir / image["mask"] for image in mine if image.get("mask")]
        found.append(
            Subject(
                row["subject"],
                row["class_name"],
                row["kind"],  # type: ignore[arg-type]
                tuple(dataset.photos_dir / image["file"] for image in mine),
                tuple(image["sha256"] for image in mine),
                tuple(masks) if len(masks) == len(mine) else (),
            )
        )
    return found


def digest_subjects(subjects: Sequence[Subject]) -> str:
    """Digest of names, class nouns and photo contents; no path goes into it."""
    return digest([[s.name, s.class_name, s.kind, list(s.sha256)] for s in subjects])
