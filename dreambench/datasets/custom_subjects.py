"""Somebody's own photos as a subject: checked, turned upright, and pinned in index files."""

from __future__ import annotations

import csv
import hashlib
import io
import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import imagehash
from filelock import FileLock
from PIL import Image

from dreambench.datasets.subjects import Kind
from dreambench.errors import UserError
from dreambench.storage.files import make_dir, write_bytes
from dreambench.storage.images import load_image
from dreambench.storage.shipped import shipped_path

ADVISED_PHOTOS = (3, 6)
ADVISED_SIDE_PX = 512
# Re-encoded, resized and slightly edited copies lie within this distance (of 64 bits); the nearest
# pair among the paper's 158 photos is at 14.
NEAR_DUPLICATE_BITS = 10
SUBJECT_COLUMNS = ("subject", "class_name", "kind", "n_images")
IMAGE_COLUMNS = ("subject", "file", "sha256", "bytes", "width", "height", "source", "credit")


@dataclass(frozen=True)
class Added:
    """What `add_subject` did: files written, and what its user should know about the photos."""

    files: list[Path]
    notes: list[str]


def load_class_nouns() -> dict[str, Kind]:
    """The shipped vocabulary of class nouns, each live or object."""
    with shipped_path("dataset", "class-nouns.csv").open(newline="", encoding="utf-8") as stream:
        return {row["class_name"]: row["kind"] for row in csv.DictReader(stream)}  # type: ignore[misc]


def find_kind(class_name: str) -> Kind:
    """Live or object, by the vocabulary; UserError for a noun that is not in it."""
    nouns = load_class_nouns()
    if class_name not in nouns:
        raise UserError(
            f"'{class_name}' is not in the vocabulary of class nouns, so its kind is not known",
            hint="say --kind live or --kind object",
        )
    return nouns[class_name]


def read_photos(paths: Sequence[Path], *, min_side_px: int) -> list[Image.Image]:
    """The photos upright and in RGB.

    Raises one UserError that names every photo that cannot be read or is below `min_side_px`.
    """
    photos, faults = [], []
    for path in paths:
        try:
            photo = load_image(path)
        except UserError as error:
            faults.append(error.problem)
            continue
        if min(photo.size) < min_side_px:
            faults.append(f"{path} has {photo.width} x {photo.height} pixels")
        photos.append(photo)
    if faults:
        raise UserError(
            "; ".join(faults), hint=f"photos are to be readable and at least {min_side_px} px wide"
        )
    return photos


def review_photos(names: Sequence[str], photos: Sequence[Image.Image]) -> list[str]:
    """Advice on a set of photos: how many, how large, how square, near-duplicates by name."""
    notes = []
    low, high = ADVISED_PHOTOS
    if not low <= len(photos) <= high:
        notes.append(f"{len(photos)} photos; {low} to {high} are advised")
    for name, photo in zip(names, photos, strict=True):
        if min(photo.size) < ADVISED_SIDE_PX:
            notes.append(f"{name} is below {ADVISED_SIDE_PX} px: it will be enlarged")
        if photo.width != photo.height:
            notes.append(f"{name} is not square: methods and encoders see its centre")
    hashes = [imagehash.phash(photo) for photo in photos]
    for (first, a), (second, b) in itertools.combinations(zip(names, hashes, strict=True), 2):
        if a - b <= NEAR_DUPLICATE_BITS:
            notes.append(f"{first} and {second} are nearly the same picture")
    return notes


def add_subject(
    folder: Path, name: str, *, photos: Sequence[Image.Image], names: Sequence[str],
    class_name: str, kind: Kind, credit: str = "",
) -> Added:  # fmt: skip
    """Writes a subject as PNG files into a dataset folder, and its rows into the index files.

    The folder becomes a dataset that `find_dataset` takes by its path; others that it holds stay.
    Raises UserError for a name that is taken or cannot be a folder.
    """
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", name):
        raise UserError(
            f"'{name}' cannot be a subject's name", hint="use a-z, 0-9, - and _, e.g. my_dog"
        )
    make_dir(folder)
    with FileLock(folder / ".lock"):
        subjects = _read_rows(folder / "subjects.csv")
        # Rows of a subject that is not there are what a killed call left.
        images = [row for row in _read_rows(folder / "images.csv") if row["subject"] != name]
        if any(row["subject"] == name for row in subjects):
            raise UserError(
                f"{folder} already has a subject '{name}'", hint="take another name or folder"
            )
        written = []
        for index, (photo, source) in enumerate(zip(photos, names, strict=True)):
            file = f"{name}/{index:02d}.png"
            buffer = io.BytesIO()
            photo.save(buffer, "PNG")
            content = buffer.getvalue()
            write_bytes(folder / file, content)
            images.append(
                {
                    "subject": name,
                    "file": file,
                    "sha256": hashlib.sha256(content).hexdigest(),
                    "bytes": str(len(content)),
                    "width": str(photo.width),
                    "height": str(photo.height),
                    "source": source,
                    "credit": credit,
                }
            )
            written.append(folder / file)
        row = {
            "subject": name,
            "class_name": class_name,
            "kind": kind,
            "n_images": str(len(photos)),
        }
        # The subject's row last: before it is there, its photos belong to no subject.
        _write_rows(folder / "images.csv", IMAGE_COLUMNS, images)
        _write_rows(folder / "subjects.csv", SUBJECT_COLUMNS, [*subjects, row])
    return Added(written, review_photos(names, photos))


def _read_rows(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def _write_rows(path: Path, columns: Sequence[str], rows: Sequence[dict[str, str]]) -> None:
    stream = io.StringIO()
    # Columns that somebody added to a folder of theirs stay.
    extra = [key for row in rows for key in row if key not in columns]
    writer = csv.DictWriter(stream, [*columns, *dict.fromkeys(extra)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_bytes(path, stream.getvalue().encode())
