"""Stage: embeddings of image files, kept in a cache by (content, encoder) and shared by runs."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image

from dreambench.encoders import Embeddings
from dreambench.files import digest, load_image, sha256_file, write_bytes, write_json
from dreambench.progress import Progress

BATCH_SIZE = 64


class Reader(Protocol):
    """What turns images into rows: an `encoders.Encoder`, or `BlackFinder`."""

    identity: str

    @property
    def key(self) -> str:
        """Short digest of the identity, for folder names."""
        ...

    def embed_images(self, images: Sequence[Image.Image], *, batch_size: int = 64) -> Embeddings:
        """One row an image."""
        ...


class BlackFinder:
    """Says of an image whether every pixel of it is black: (n, 1), 1 for black.

    Diffusers' safety checker hands out such images in place of what it censors.
    """

    identity = "black|v1"
    key = digest(identity)

    def embed_images(self, images: Sequence[Image.Image], *, batch_size: int = 64) -> Embeddings:
        """See `Reader`."""
        return np.array([[image.getbbox() is None] for image in images], np.float32)


def embed_files(
    paths: Sequence[Path],
    readers: Sequence[Reader],
    *,
    cache_dir: Path,
    progress: Progress,
    batch_size: int = BATCH_SIZE,
) -> list[Embeddings]:
    """Embeddings of image files: for each reader an array with one row a path.

    Each file is hashed once and decoded at most once, for all readers. Files are taken in fixed
    groups of `batch_size`; a group with a member that is not in a reader's cache is computed whole.
    So an interrupted run ends with the same bits as an unbroken one.
    """
    folders = [cache_dir / "embeddings" / reader.key for reader in readers]
    for reader, folder in zip(readers, folders, strict=True):
        if not (folder / "encoder.json").exists():
            write_json(folder / "encoder.json", {"identity": reader.identity})
    rows: list[list[Embeddings]] = [[] for _ in readers]
    for start in range(0, len(paths), batch_size):
        group = paths[start : start + batch_size]
        progress("embeddings: files", start, len(paths))
        hashes = [sha256_file(path) for path in group]
        images: list[Image.Image] = []
        for reader, folder, found in zip(readers, folders, rows, strict=True):
            files = [folder / name[:2] / f"{name}.npy" for name in hashes]
            cached = [_read(file) for file in files]
            if any(row is None for row in cached):
                images = images or [load_image(path) for path in group]
                fresh = reader.embed_images(images, batch_size=batch_size)
                for index, file in enumerate(files):
                    if cached[index] is None and not file.exists():
                        _write(file, fresh[index])
                    cached[index] = fresh[index] if cached[index] is None else cached[index]
            found += [row for row in cached if row is not None]
    progress("embeddings: files", len(paths), len(paths))
    return [np.stack(found) for found in rows]


def _read(file: Path) -> Embeddings | None:
    try:
        return np.load(file, allow_pickle=False)
    except (FileNotFoundError, ValueError, EOFError):
        # A damaged entry counts as none and is made again.
        file.unlink(missing_ok=True)
        return None


def _write(file: Path, row: Embeddings) -> None:
    buffer = io.BytesIO()
    np.save(buffer, row, allow_pickle=False)
    write_bytes(file, buffer.getvalue())
