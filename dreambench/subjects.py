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
from pathlib import Path
from typing import Literal

from dreambench.errors import UserError, unknown_name
from dreambench.files import PACKAGE_DIR, cache_dir, digest, sha256_file, shipped_path

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


def find_dataset(name: str) -> Dataset:
    """A dataset by name (`mini`, `dreambooth`) or the path of a folder with the two index files."""
    if name == "mini":
        folder = PACKAGE_DIR / "mini" / "subjects"
        return Dataset("mini", folder, folder)
    if name == "dreambooth":
        named = os.environ.get("DREAMBENCH_DATA")
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


def load_subjects(dataset: Dataset, *, names: Sequence[str] | None = None) -> list[Subject]:
    """Reads the index and checks that each file is there with the pinned bytes.

    `names` picks subjects, in the order of the index. All missing or changed files are named in
    one UserError.
    """
    rows = _read_csv(
        dataset.index_dir / "subjects.csv", ("subject", "class_name", "kind", "n_images")
    )
    known = [row["subject"] for row in rows]
    for name in names or ():
        if name not in known:
            raise unknown_name("subject", name, known)
    images = _read_csv(dataset.index_dir / "images.csv", ("subject", "file", "sha256"))
    found, faults = [], []
    for row in rows:
        if names is not None and row["subject"] not in names:
            continue
        mine = [image for image in images if image["subject"] == row["subject"]]
        photos = tuple(dataset.photos_dir / image["file"] for image in mine)
        masks = tuple(dataset.photos_dir / image["mask"] for image in mine if image.get("mask"))
        pinned = [(image["file"], image["sha256"]) for image in mine]
        pinned += [(image["mask"], image["mask_sha256"]) for image in mine if image.get("mask")]
        for file, sha256 in pinned:
            if not (dataset.photos_dir / file).is_file():
                faults.append(f"{file} is missing")
            elif sha256_file(dataset.photos_dir / file) != sha256:
                faults.append(f"{file} is not the pinned file")
        if len(mine) != int(row["n_images"]) or row["kind"] not in ("live", "object"):
            faults.append(f"the index rows of {row['subject']} contradict each other")
        found.append(
            Subject(
                row["subject"],
                row["class_name"],
                row["kind"],  # type: ignore[arg-type]
                photos,
                tuple(image["sha256"] for image in mine),
                masks if len(masks) == len(photos) else (),
            )
        )
    if faults:
        more = f" and {len(faults) - 3} more" if len(faults) > 3 else ""
        raise UserError(
            f"dataset '{dataset.name}' in {dataset.photos_dir}: {', '.join(faults[:3])}{more}",
            hint="put the photos there, or point DREAMBENCH_DATA at the folder that has them",
        )
    return found


def digest_subjects(subjects: Sequence[Subject]) -> str:
    """Digest of names, class nouns and photo contents; no path goes into it."""
    return digest([[s.name, s.class_name, s.kind, list(s.sha256)] for s in subjects])
