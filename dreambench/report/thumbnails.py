"""Thumbnails beside a page: made once, and known by the SHA-256 of what they show."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from dreambench.errors import UserError, disk_errors
from dreambench.storage.files import make_dir, sha256_file, write_bytes
from dreambench.storage.images import ImageError, PixelBudget, load_image
from dreambench.storage.sums import read_sums

FOLDER = "thumbnails"
SIDE_PX = 192
QUALITY, EFFORT = 85, 2
"""Of WebP: a photo of 192 px takes about 6 KB and 3 ms."""
N_LETTERS = 20
"""Of a SHA-256, in the name of a thumbnail."""
N_THREADS = 4
_NAME = re.compile(rf"[0-9a-f]{{{N_LETTERS}}}\.webp")
_DESCRIPTION = 270  # TIFF's tag for what an image shows.
GENERATED = "Generated image; not a photograph"


@dataclass(frozen=True)
class Thumbnail:
    """A picture's thumbnail: its name without suffix, None for a file that is not an image."""

    name: str | None
    sha256: str


class Thumbnails:
    """The thumbnails of a report's folder."""

    def __init__(self, report_dir: Path, *, others: Sequence[Path] = ()) -> None:
        """`others` are folders of reports whose thumbnails are taken over."""
        self.report_dir = report_dir
        self.folder = make_dir(report_dir / FOLDER, inside=report_dir)
        self._known = {folder: _read_sums(folder) for folder in (report_dir, *others)}
        self._kept: set[str] = set()

    def make(self, photos: Iterable[Path], images: Iterable[Path]) -> Mapping[Path, Thumbnail]:
        """Return the thumbnail of each picture, made where there is none of the same bytes."""
        is_generated = dict.fromkeys(photos, False) | dict.fromkeys(images, True)
        paths, budget = list(is_generated), PixelBudget()

        def work(path: Path, sha256: str) -> str | None:
            return self._make_one(path, sha256, budget, is_generated=is_generated[path])

        with ThreadPoolExecutor(min(N_THREADS, os.cpu_count() or 1)) as pool:
            sums = dict(zip(paths, pool.map(sha256_file, paths), strict=True))
            first = {sha256: path for path, sha256 in reversed(sums.items())}
            names = dict(zip(first, pool.map(work, first.values(), first), strict=True))
        return {path: Thumbnail(names[sha256], sha256) for path, sha256 in sums.items()}

    def find(self, sha256: str) -> str | None:
        """Return the name of the thumbnail of a picture that is not here, where there is one."""
        name = f"{sha256[:N_LETTERS]}.webp"
        if not _NAME.fullmatch(name):
            return None
        if name in self._kept:
            return name.removesuffix(".webp")
        for folder, sums in self._known.items():
            path = folder / FOLDER / name
            known = sums.get(f"{FOLDER}/{name}")
            if known is None or not path.is_file() or sha256_file(path) != known:
                continue
            if folder != self.report_dir:
                with disk_errors(path, reads=True):
                    content = path.read_bytes()
                self._write(name, content)
            self._kept.add(name)
            return name.removesuffix(".webp")
        return None

    def list_paths(self) -> list[Path]:
        """Return the files of all that were made or found; remove those of earlier reports."""
        with disk_errors(self.folder):
            for path in self.folder.iterdir():
                if _NAME.fullmatch(path.name) and path.name not in self._kept:
                    path.unlink()
        return [self.folder / name for name in sorted(self._kept)]

    def _make_one(
        self, path: Path, sha256: str, budget: PixelBudget, *, is_generated: bool
    ) -> str | None:
        found = self.find(sha256)
        if found is None:
            try:
                with budget.hold(path):
                    content = _encode(load_image(path), is_generated=is_generated)
            except ImageError as error:
                if getattr(error.__cause__, "errno", None) is not None:
                    raise  # A disk that fails says nothing of the image.
                return None
            found = sha256[:N_LETTERS]
            self._write(f"{found}.webp", content)
        return found

    def _write(self, name: str, content: bytes) -> None:
        write_bytes(self.folder / name, content, inside=self.report_dir, is_durable=False)
        self._kept.add(name)


def _read_sums(report_dir: Path) -> dict[str, str]:
    """Return what a report's files were; of a list that is damaged nothing is known."""
    try:
        return read_sums(report_dir)
    except UserError:
        return {}


def _encode(image: Image.Image, *, is_generated: bool) -> bytes:
    image.thumbnail((SIDE_PX, SIDE_PX), Image.Resampling.LANCZOS, reducing_gap=3.0)
    exif = Image.Exif()
    if is_generated:
        exif[_DESCRIPTION] = GENERATED
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=QUALITY, method=EFFORT, exif=exif)
    return buffer.getvalue()
