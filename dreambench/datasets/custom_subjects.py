"""Custom subjects: photos of your own, checked, turned upright, and pinned in index files."""

from __future__ import annotations

import hashlib
import io
import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import imagehash
from PIL import Image

from dreambench.datasets.index import (
    IMAGE_COLUMNS,
    IMAGES,
    OPTIONAL_COLUMNS,
    SUBJECT_COLUMNS,
    SUBJECTS,
    Dataset,
    Kind,
    find_noun_problem,
    read_index,
)
from dreambench.errors import UserError
from dreambench.storage.csv_files import read_csv, write_csv
from dreambench.storage.files import make_dir, write_bytes
from dreambench.storage.images import load_image
from dreambench.storage.locks import locked
from dreambench.storage.paths import find_name_fault
from dreambench.storage.shipped import shipped_path
from dreambench.text import make_printable

ADVISED_PHOTOS = (3, 6)
ADVISED_SIDE_PX = 512
# Re-encoded, resized and slightly edited copies lie within this distance (of 64 bits); the nearest
# pair among the paper's 158 photos is at 14.
NEAR_DUPLICATE_BITS = 10
MAX_PIXELS = 400_000_000
"""Of all photos of a subject together: six of the largest that are read, 1.6 GB of memory."""
# A photo of nothing has noise of the camera and of JPEG, but no more.
ONE_COLOUR_LEVELS = 8
MAX_NAME = 64


@dataclass(frozen=True)
class AddedSubject:
    """What `add_subject` did: files written, and what its user should know about the photos."""

    files: list[Path]
    notes: list[str]


def load_class_nouns() -> dict[str, Kind]:
    """Load the shipped vocabulary of class nouns, each with its kind."""
    rows = read_csv(shipped_path("dataset", "class-nouns.csv"), ("class_name", "kind"))
    return {row["class_name"]: cast(Kind, row["kind"]) for row in rows}


def find_kind(class_name: str) -> Kind:
    """Return the kind of a class noun; UserError (`unknown-name`) when the vocabulary lacks it."""
    nouns = load_class_nouns()
    if class_name not in nouns:
        raise UserError(
            f"'{class_name}' is not in the vocabulary of class nouns, so its kind is not known",
            hint="add --kind live or --kind object",
            code="unknown-name",
        )
    return nouns[class_name]


def load_photos(paths: Sequence[Path], *, min_side_px: int) -> list[Image.Image]:
    """Load photos upright and in RGB.

    Raises:
        UserError: `unusable-image`, which names every photo that cannot be read, whose short side
            is below `min_side_px`, or that has one colour; `too-large` beyond MAX_PIXELS together.
    """
    photos, faults, hints = [], [], []
    n_pixels = 0
    for path in paths:
        try:
            photo = load_image(path)
        except UserError as error:
            faults.append(error.problem)
            hints.append(error.hint)
            continue
        if min(photo.size) < min_side_px:
            faults.append(f"{path} has {photo.width} x {photo.height} pixels")
            hints.append(f"photos must be at least {min_side_px} px wide and high")
        elif _has_one_colour(photo):
            faults.append(f"{path} has one colour, {_name_colour(photo)}")
            hints.append("leave out photos that show nothing")
        n_pixels += photo.width * photo.height
        if n_pixels > MAX_PIXELS:
            raise UserError(
                f"the photos together have over {MAX_PIXELS // 1_000_000} megapixels",
                hint="use fewer or smaller photos",
                code="too-large",
            )
        photos.append(photo)
    if faults:
        hint = "; ".join(dict.fromkeys(hint for hint in hints if hint))
        raise UserError("; ".join(faults), hint=hint, code="unusable-image")
    return photos


def _has_one_colour(photo: Image.Image) -> bool:
    ranges = cast(tuple[tuple[int, int], ...], photo.getextrema())
    return max(high - low for low, high in ranges) <= ONE_COLOUR_LEVELS


def _name_colour(photo: Image.Image) -> str:
    """Return the colour in the middle of a photo; what is transparent is white."""
    colour = photo.getpixel((photo.width // 2, photo.height // 2))
    names = {(0, 0, 0): "black", (255, 255, 255): "white or transparent"}
    return names.get(cast(tuple[int, int, int], colour), f"RGB {colour}")


def review_photos(names: Sequence[str], photos: Sequence[Image.Image]) -> list[str]:
    """Return advice on a set of photos: their number, size and shape, and near-duplicates."""
    notes = []
    low, high = ADVISED_PHOTOS
    if not low <= len(photos) <= high:
        count = "1 photo" if len(photos) == 1 else f"{len(photos)} photos"
        notes.append(f"{count}; {low} to {high} are advised")
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


def check_subject_name(name: str) -> None:
    """Refuse a name that cannot be a folder's: UserError (`invalid-value`)."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", name) or len(name) > MAX_NAME:
        raise UserError(
            f"'{name[:MAX_NAME]}' ({len(name)} characters) is not a valid subject name",
            hint=f"use a-z, 0-9, - and _, at most {MAX_NAME}, e.g. my_dog",
            code="invalid-value",
        )
    if fault := find_name_fault(name):
        raise UserError(
            f"the subject name '{name}' {fault}", hint="choose another", code="invalid-value"
        )


def add_subject(
    folder: Path, name: str, *, photos: Sequence[Image.Image], names: Sequence[str],
    class_name: str, kind: Kind, credit: str = "",
) -> AddedSubject:  # fmt: skip
    """Write a subject as PNG files into a dataset folder, and its rows into the index files.

    `names` are the file names that the photos had. The folder becomes a dataset that
    `find_dataset` takes by its path; the subjects that it already holds stay.

    A credit that begins like a formula (=, +, -, @) is kept: `write_csv` has it stay text in a
    spreadsheet, and `read_csv` gives it back.

    Raises:
        UserError: `invalid-value` for a name that cannot be a folder's and a noun that no prompt
            can be filled with; `unprintable-text` for a class noun, credit or photo's file name
            that is not UTF-8 or of which something cannot be seen; `name-taken`; and what
            `read_index` raises for index files that are there and are not valid: what cannot be
            read is not written either.
    """
    check_subject_name(name)
    class_name = _check_noun(_check_text("the class noun", class_name))
    credit = _check_text("the credit", credit)
    names = [_check_text("the file name", source) for source in names]
    make_dir(folder)
    with locked(folder / ".lock"):
        subjects = _read_if_there(folder / SUBJECTS, SUBJECT_COLUMNS)
        images = _read_if_there(folder / IMAGES, IMAGE_COLUMNS[:3], OPTIONAL_COLUMNS)
        if subjects:
            read_index(Dataset(folder.name, folder, folder))
        if any(row["subject"] == name for row in subjects):
            raise UserError(
                f"{folder} already has a subject '{name}'",
                hint="choose another name or folder",
                code="name-taken",
            )
        # Rows of a subject that is not there are what a killed call left.
        images = [row for row in images if row["subject"] != name]
        written = []
        for index, (photo, source) in enumerate(zip(photos, names, strict=True)):
            file = f"{name}/{index:02d}.png"
            row = _write_photo(folder / file, photo, inside=folder)
            images.append(
                {"subject": name, "file": file, **row, "source": source, "credit": credit}
            )
            written.append(folder / file)
        n_images = str(len(photos))
        subjects.append(
            {"subject": name, "class_name": class_name, "kind": kind, "n_images": n_images}
        )
        # The subject's row last: before it is there, its photos belong to no subject.
        _write_rows(folder / IMAGES, IMAGE_COLUMNS, images)
        _write_rows(folder / SUBJECTS, SUBJECT_COLUMNS, subjects)
    return AddedSubject(written, review_photos(names, photos))


def _check_text(what: str, text: str) -> str:
    """Return text that all can read; UserError (`unprintable-text`) where there is more in it."""
    try:
        # Where the machine's encoding is another one, bytes of UTF-8 come as surrogates (PEP 383).
        text = text.encode("utf-8", "surrogateescape").decode()
        problem = "" if make_printable(text) == text else "holds characters that cannot be seen"
    except UnicodeError:
        problem = "is not UTF-8 text"
    if problem:
        raise UserError(
            f"{what} {make_printable(text)} {problem}",
            hint="rename the file" if "file" in what else "write it anew, in visible characters",
            code="unprintable-text",
        )
    return text


def _write_photo(path: Path, photo: Image.Image, *, inside: Path) -> dict[str, str]:
    """Write a photo as PNG and return what the index says about its content."""
    buffer = io.BytesIO()
    photo.save(buffer, "PNG")
    content = buffer.getvalue()
    write_bytes(path, content, inside=inside)
    return {
        "sha256": hashlib.sha256(content).hexdigest(),
        "bytes": str(len(content)),
        "width": str(photo.width),
        "height": str(photo.height),
    }


def _check_noun(text: str) -> str:
    """Return a class noun without blanks around it.

    Raises:
        UserError: prompts cannot be filled with it, or it has an article, which they have already.
    """
    noun = " ".join(text.split())
    if problem := find_noun_problem(noun):
        raise UserError(f"the class noun {problem}", hint="e.g. --class dog", code="invalid-value")
    article, _, rest = noun.partition(" ")
    if rest and article.lower() in ("a", "an", "the"):
        raise UserError(
            f"the class noun '{noun}' has an article, and prompts have one already: 'a {noun}'",
            hint=f"--class '{rest}'",
            code="invalid-value",
        )
    return noun


def _read_if_there(
    path: Path, columns: Sequence[str], optional: Sequence[str] = ()
) -> list[Mapping[str, str]]:
    return [*read_csv(path, columns, optional=optional)] if path.exists() else []


def _write_rows(path: Path, columns: Sequence[str], rows: Sequence[Mapping[str, str]]) -> None:
    # Columns that users added to their folder stay.
    extra = [key for row in rows for key in row if key not in columns]
    write_csv(path, [*columns, *dict.fromkeys(extra)], rows)
