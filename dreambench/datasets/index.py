"""The index of a dataset: tables that say which photos a subject has, and pin their bytes.

A dataset is a folder with `subjects.csv` (subject, class_name, kind, n_images) and `images.csv`
(subject, file, sha256, bytes, width, height, source, credit; `mask`, `mask_sha256` where masks
exist), and the photos, in the same folder or elsewhere. `single-references.csv` (subject, file)
names the one photo of a subject where one alone is shown; without it that is the first.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dreambench.errors import DiskError, UserError, name_some, unknown_name
from dreambench.storage.csv_files import Row, read_csv, read_whole_number
from dreambench.storage.files import sha256_file
from dreambench.storage.listed_paths import read_listed_path
from dreambench.storage.paths import find_name_fault
from dreambench.storage.shipped import (
    PACKAGE_DIR,
    cache_dir,
    expand_home,
    named_folder,
    shipped_path,
)
from dreambench.text import make_printable

Kind = Literal["live", "object"]
SUBJECT_COLUMNS = ("subject", "class_name", "kind", "n_images")
IMAGE_COLUMNS = ("subject", "file", "sha256", "bytes", "width", "height", "source", "credit")
"""The columns that dreambench writes; of these a table must have the first three."""
OPTIONAL_COLUMNS = (*IMAGE_COLUMNS[3:], "mask", "mask_sha256")
SUBJECTS = "subjects.csv"
IMAGES = "images.csv"
MAX_NOUN_LENGTH = 100
SINGLE_REFERENCES = "single-references.csv"
EMBEDDED = {
    "mini": PACKAGE_DIR / "mini" / "subjects",
    "mini-full": PACKAGE_DIR / "mini" / "full",
}
"""The rendered datasets and where their indexes lie; the photos of both lie with mini's."""


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
    """What the index files say: rows of subjects, rows of images, and the files they pin.

    `singles` has by subject the file that `single-references.csv` names.
    """

    subjects: list[Row]
    images: list[Row]
    files: list[PinnedFile]
    singles: dict[str, str]


def find_dataset(
    name: str, *, photos_dir: Path | None = None, folders: Sequence[Path] = (Path(),)
) -> Dataset:
    """Return a dataset by name (`mini`, `mini-full`, `dreambooth`) or by the path of its folder.

    The folder holds the two index files; a relative one is looked for in each of `folders` until it
    is there. The photos of `dreambooth` are looked for in `photos_dir`, else in DREAMBENCH_DATA,
    else in the user's cache folder.

    Raises:
        UserError: `unknown-name` for anything else; it says where was looked.
    """
    if name in EMBEDDED:
        return Dataset(name, EMBEDDED[name], EMBEDDED["mini"])
    if name == "dreambooth":
        named = expand_home(photos_dir) if photos_dir else named_folder("DREAMBENCH_DATA")
        photos = named or cache_dir() / "data" / "dreambooth"
        return Dataset("dreambooth", shipped_path("dataset"), photos)
    path = expand_home(Path(name))
    tried = list(dict.fromkeys(folder / path for folder in folders))
    for folder in tried:
        if (folder / SUBJECTS).is_file():
            return Dataset(folder.resolve().name, folder, folder)
    error = unknown_name("dataset", name, [*EMBEDDED, "dreambooth"])
    looked = name_some([str(folder.absolute()) for folder in tried])
    raise UserError(
        f"{error.problem}, and no folder {looked} with {SUBJECTS}",
        hint=error.hint,
        code=error.code,
    )


def find_noun_problem(noun: str) -> str | None:
    """Return why a text cannot be a class noun, which prompts are filled with; None if it can."""
    if not noun.strip():
        return "is empty, and prompts need a noun such as 'dog'"
    if set("{}") & set(noun):
        return f"has a brace, which no prompt may have: {noun[:40]!r}"
    if make_printable(noun) != noun:
        return f"has a character that cannot be printed: {noun[:40]!r}"
    if len(noun) > MAX_NOUN_LENGTH:
        return f"has {len(noun)} letters, over {MAX_NOUN_LENGTH}"
    return None


def read_index(dataset: Dataset, *, names: Sequence[str] | None = None) -> Index:
    """Read the index files of a dataset: all subjects or those in `names`, in the index's order.

    Raises:
        UserError: `unknown-name` for a subject that is not there, `unsafe-path` for a file out of
            the folder and a subject whose name cannot be a folder's, `invalid-table` for rows that
            are not valid or contradict each other, and what `read_csv` raises.
    """
    subjects = read_csv(dataset.index_dir / SUBJECTS, SUBJECT_COLUMNS)
    known = [row["subject"] for row in subjects]
    _check_names(dataset.index_dir / SUBJECTS, subjects)
    for name in names or ():
        if name not in known:
            raise unknown_name("subject", name, known)
    chosen = known if names is None else list(names)
    subjects = [row for row in subjects if row["subject"] in chosen]
    images = _read_images(dataset.index_dir)
    images = [row for row in images if row["subject"] in chosen]
    singles: list[Row] = []
    if (dataset.index_dir / SINGLE_REFERENCES).is_file():
        singles = read_csv(dataset.index_dir / SINGLE_REFERENCES, ("subject", "file"))
        singles = [row for row in singles if row["subject"] in chosen]
    listed = [(IMAGES, row, column) for row in images for column in ("file", "mask")]
    listed += [(SINGLE_REFERENCES, row, "file") for row in singles]
    outside = [fault for one in listed if (fault := _unify_path(*one, dataset.photos_dir))]
    faults = _check_subject_rows(subjects, images) + _check_image_rows(images)
    own = {(row["subject"], row["file"]) for row in images}
    faults += [
        f"{SINGLE_REFERENCES}: line {row.line}: {row['file']!r} is not a photo of {row['subject']}"
        for row in singles
        if (row["subject"], row["file"]) not in own
    ]
    if outside or faults:
        raise UserError(
            f"{dataset.index_dir}: {name_some([*outside, *faults], separator='; ')}",
            hint="fix or restore the index files",
            code="unsafe-path" if outside else "invalid-table",
        )
    files = [file for row in images for file in _list_pinned(row)]
    return Index(subjects, images, files, {row["subject"]: row["file"] for row in singles})


def _check_names(table: Path, subjects: Sequence[Row]) -> None:
    """Refuse names of subjects that cannot be those of folders, or not of two."""
    faults = []
    first: dict[str, str] = {}
    for row in subjects:
        name = row["subject"]
        if fault := find_name_fault(name):
            faults.append(f"line {row.line}: the name {name!r} {fault}")
        other = first.setdefault(unicodedata.normalize("NFKC", name).casefold(), name)
        if other != name:
            faults.append(f"the name {name!r} is that of the folder {other!r} on some systems")
    if faults:
        raise UserError(
            f"{table}: {name_some(faults, separator='; ')}",
            hint="rename the subject, in images.csv too",
            code="unsafe-path",
        )


def _read_images(folder: Path) -> list[Row]:
    """Return the rows of images; SHA-256 in capitals are the same ones."""
    rows = read_csv(folder / IMAGES, IMAGE_COLUMNS[:3], optional=OPTIONAL_COLUMNS)
    for row in rows:
        for column in ("sha256", "mask_sha256"):
            if column in row:
                row[column] = row[column].lower()
    return rows


def _unify_path(table: str, row: Row, column: str, folder: Path) -> str | None:
    """Write the path in a cell as one relative to the photos' folder; return why it is none."""
    if not row.get(column) and column != "file":
        return None
    try:
        row[column] = read_listed_path(row[column], folder)
    except ValueError as error:
        return f"{table}: line {row.line}: {row[column]!r} {error}"
    return None


def _check_subject_rows(subjects: Sequence[Row], images: Sequence[Row]) -> list[str]:
    """Return what is wrong with the rows of subjects, given those of their images."""
    faults = []
    first: dict[str, int] = {}
    for row in subjects:
        name, where = row["subject"], f"{SUBJECTS}: line {row.line}"
        if name in first:
            faults.append(
                f"{where}: the subject {name} is listed more than once (line {first[name]})"
            )
        first.setdefault(name, row.line)
        if problem := find_noun_problem(row["class_name"]):
            faults.append(f"{where}: the class_name of {name} {problem}")
        if row["kind"] not in ("live", "object"):
            faults.append(f"{where}: the kind of {name} is live or object, not {row['kind']!r}")
        n_images = sum(image["subject"] == name for image in images)
        said = read_whole_number(row["n_images"])
        if said is None:
            faults.append(f"{where}: n_images is a whole number, not {row['n_images'][:40]!r}")
        elif said != n_images:
            count = "1 photo" if n_images == 1 else f"{n_images} photos"
            faults.append(f"{where}: n_images is {said}, but {name} has {count} in {IMAGES}")
    return faults


def _check_image_rows(images: Sequence[Row]) -> list[str]:
    """Return what is wrong with rows of images by themselves."""
    faults = []
    first: dict[tuple[str, str], int] = {}
    for row in images:
        where = f"{IMAGES}: line {row.line}"
        key = row["subject"], row["file"]
        if key in first:
            faults.append(f"{where}: {row['file']} is listed more than once (line {first[key]})")
        first.setdefault(key, row.line)
        n_bytes = row.get("bytes", "")
        if n_bytes and read_whole_number(n_bytes) is None:
            faults.append(f"{where}: bytes is a whole number, not {n_bytes[:40]!r}")
        if row.get("mask") and not row.get("mask_sha256"):
            faults.append(f"{where}: the mask of {row['file']} lacks its mask_sha256")
    return faults


def _list_pinned(row: Row) -> list[PinnedFile]:
    """Return the photo of an image row, and its mask where it has one."""
    n_bytes = read_whole_number(row.get("bytes", ""))
    photo = PinnedFile(row["subject"], row["file"], row["sha256"], n_bytes)
    if not row.get("mask"):
        return [photo]
    return [photo, PinnedFile(row["subject"], row["mask"], row["mask_sha256"], None)]


def check_file(dataset: Dataset, pinned: PinnedFile) -> str | None:
    """Return what is wrong with a pinned file on this machine; None when it has the right bytes."""
    path = dataset.photos_dir / pinned.file
    try:
        n_bytes = path.stat().st_size
        if pinned.n_bytes is not None and n_bytes != pinned.n_bytes:
            return f"{pinned.file} has {n_bytes} bytes, not {pinned.n_bytes}"
        if sha256_file(path) != pinned.sha256:
            return f"{pinned.file} has other bytes than the pinned file"
    except FileNotFoundError:
        return f"{pinned.file} is missing"
    except (OSError, DiskError) as error:
        cause = error.__cause__ if isinstance(error, DiskError) else error
        return f"{pinned.file} cannot be read ({getattr(cause, 'strerror', cause)})"
    return None


def check_files(dataset: Dataset, files: Sequence[PinnedFile]) -> list[str]:
    """Return all that is wrong with pinned files on this machine."""
    return [fault for fault in (check_file(dataset, file) for file in files) if fault]
