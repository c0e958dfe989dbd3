"""Fetch the pinned photos of a dataset from an address, an archive, a folder or the hub.

A file is identified by its content: whatever a source calls it, bytes with a pinned SHA-256 are the
photo, and no others are. So any layout of archive or folder is accepted, and no name that a source
gives ever becomes a path.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from dreambench.datasets.index import Dataset, PinnedFile, check_file, read_index
from dreambench.errors import UserError, disk_errors, explain_os_error, name_some, raise_if_disk
from dreambench.progress import Progress
from dreambench.storage.archives import read_members
from dreambench.storage.downloads import download, forget_download, hide_secrets
from dreambench.storage.files import digest, make_dir, write_bytes
from dreambench.storage.formats import explain_absence, read_head, recognise
from dreambench.storage.locks import locked
from dreambench.storage.paths import remove_listed
from dreambench.storage.shipped import cache_dir

COMMIT = "4f887af7970a06fc0cd3adaa1d0b368547d6a1d0"
GITHUB_ARCHIVE = f"https://github.com/google/dreambooth/archive/{COMMIT}.zip"
HUB_DATASET = "google/dreambooth"
HUB = "hub"
MAX_ARCHIVE_BYTES = 2_000_000_000


class Wanted:
    """Says whether a file of so many bytes may be a photo that is missing, and what others are."""

    def __init__(self, missing: Sequence[PinnedFile]) -> None:
        self._sizes = {file.n_bytes for file in missing}
        self._heads: Counter[str] = Counter()

    def __call__(self, n_bytes: int) -> bool:
        """Return whether to read the file."""
        return None in self._sizes or n_bytes in self._sizes

    def skip(self, head: bytes) -> None:
        """Take note of the first bytes of a file that was not wanted."""
        found = recognise(head)
        if found is not None:
            self._heads[found.name] += 1

    @property
    def others(self) -> str:
        """What the files that were not wanted are, the most first; "" where that is not known."""
        names = [f"{n} x {name}" for name, n in self._heads.most_common(3)]
        return f" (among its other files: {', '.join(names)})" if names else ""


_STAGED = re.compile(r"[0-9a-f]{64}")
"""Names of photos that are collected."""
_BY_HAND = "download the photos yourself and name their folder or zip archive with --from"


def fetch_photos(dataset: Dataset, *, source: str | None, progress: Progress) -> int:
    """Fetch the missing and changed photos of `dataset` and return how many files these were.

    `source` is an address, a zip archive, a folder, or HUB; None tries the pinned commit's archive
    on GitHub, then the hub dataset. Files that are in place with the right bytes stay. The others
    are collected and checked in a folder next to it first; the photos change only when all that
    was missing has been found.

    Raises:
        UserError: `incomplete-source` when the source lacks photos, and what reading it raises
            (see `storage.downloads`, `storage.archives`).
    """
    files = read_index(dataset).files
    missing = [file for file in files if check_file(dataset, file) is not None]
    if not missing:
        return 0
    locks = make_dir(cache_dir() / "locks", inside=cache_dir())
    photos = dataset.photos_dir.resolve()
    with locked(locks / f"{digest(str(photos))}.lock"):
        staging = photos.parent / f".{photos.name}.incoming"
        try:
            if source:
                _collect(missing, source, staging, progress)
            else:
                _collect_from_first(missing, (GITHUB_ARCHIVE, HUB), staging, progress)
        except UserError:
            remove_listed(staging, _STAGED, inside=photos.parent)
            raise
        _move_in(missing, staging, photos)
    return len(missing)


def _collect_from_first(
    missing: Sequence[PinnedFile], sources: Sequence[str], staging: Path, progress: Progress
) -> None:
    """Collect from the first source that has everything; else raise what each one lacked."""
    problems = []
    for source in sources:
        try:
            return _collect(missing, source, staging, progress)
        except UserError as error:
            problems.append(error.problem)
    raise UserError("; ".join(problems), hint=_BY_HAND, code="download-failed")


def _collect(missing: Sequence[PinnedFile], source: str, staging: Path, progress: Progress) -> None:
    """Put the missing files into `staging`, each under its SHA-256; UserError if any is lacking."""
    names = {file.sha256: file.file for file in missing}
    wanted = Wanted(missing)
    found = {sha256 for sha256 in names if _is_whole(staging / sha256, sha256)}
    for _, content in _read_source(source, wanted, progress):
        sha256 = hashlib.sha256(content).hexdigest()
        if sha256 in names and sha256 not in found:
            write_bytes(staging / sha256, content, inside=staging.parent)
            found.add(sha256)
            progress("photos checked", len(found), len(names))
    lacking = [name for sha256, name in names.items() if sha256 not in found]
    if lacking:
        raise UserError(
            f"{hide_secrets(source)} lacks {len(lacking)} of {len(names)} photos with the pinned "
            f"bytes{wanted.others}: {name_some(lacking)}",
            hint="nothing was changed; name another source with --from",
            code="incomplete-source",
        )


def _is_whole(path: Path, sha256: str) -> bool:
    """Return whether an earlier, killed call has left this file complete."""
    return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == sha256


def _move_in(missing: Sequence[PinnedFile], staging: Path, photos: Path) -> None:
    with disk_errors(photos):
        for file in missing:
            content = (staging / file.sha256).read_bytes()
            write_bytes(photos / file.file, content, inside=photos)
        remove_listed(staging, _STAGED, inside=photos.parent)


def _read_source(source: str, wanted: Wanted, progress: Progress) -> Iterator[tuple[str, bytes]]:
    if source.startswith(("http://", "https://")):
        return _read_url(source, wanted, progress)
    if source == HUB:
        return _read_folder(_download_from_hub(), wanted)
    path = Path(source)
    if path.is_dir():
        return _read_folder(path, wanted)
    if path.is_file():
        return read_members(path, wanted, skipped=wanted.skip)
    reason = explain_absence(path)[0] if "://" not in source else "is not an http(s) address"
    raise UserError(
        f"{hide_secrets(source)} {reason}",
        hint="name a folder, a zip archive or an http(s) address with --from",
        code="invalid-value",
    )


def _read_url(url: str, wanted: Wanted, progress: Progress) -> Iterator[tuple[str, bytes]]:
    folder = make_dir(cache_dir() / "downloads", inside=cache_dir())
    path = download(url, folder, progress=progress, max_bytes=MAX_ARCHIVE_BYTES)
    try:
        yield from read_members(path, wanted, skipped=wanted.skip)
    except UserError as error:
        # What was downloaded completely and is of no use would be of no use again.
        forget_download(url, folder)
        raise UserError(
            error.problem.replace(str(path), hide_secrets(url)),
            hint="name another source with --from",
            code=error.code,
        ) from error
    forget_download(url, folder)


def _download_from_hub() -> Path:
    from huggingface_hub import snapshot_download  # noqa: PLC0415  (slow import)
    from huggingface_hub.errors import HfHubHTTPError  # noqa: PLC0415

    patterns = ["*.jpg", "*.jpeg", "*.png", "*.parquet"]
    try:
        return Path(snapshot_download(HUB_DATASET, repo_type="dataset", allow_patterns=patterns))
    except (OSError, HfHubHTTPError, ValueError) as error:
        raise_if_disk(error)
        raise UserError(
            f"the hub dataset {HUB_DATASET} cannot be downloaded",
            hint=_BY_HAND,
            code="hub-unreachable",
        ) from error


def _read_folder(folder: Path, wanted: Wanted) -> Iterator[tuple[str, bytes]]:
    for where, _, names in os.walk(folder):
        for name in sorted(names):
            path = Path(where, name)
            try:
                if not path.is_file():
                    continue
                if path.suffix == ".parquet":
                    yield from _read_parquet(path, wanted)
                elif wanted(path.stat().st_size):
                    yield path.relative_to(folder).as_posix(), path.read_bytes()
                else:
                    wanted.skip(read_head(path))
            except OSError as error:
                raise explain_os_error(error, path, reads=True) from error


def _read_parquet(path: Path, wanted: Wanted) -> Iterator[tuple[str, bytes]]:
    """Yield images in a parquet file as `datasets` writes it: structs with bytes and path."""
    try:
        with pq.ParquetFile(path) as table:
            for batch in table.iter_batches(batch_size=16):
                for column in batch.columns:
                    if not pa.types.is_struct(column.type):
                        continue
                    for row in column.to_pylist():
                        content = (row or {}).get("bytes")
                        if isinstance(content, bytes) and wanted(len(content)):
                            yield str(row.get("path")), content
    except pa.ArrowException as error:
        raise UserError(
            f"{path} cannot be read as parquet", hint="fix or remove it", code="unreadable-file"
        ) from error
