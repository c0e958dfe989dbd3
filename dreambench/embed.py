"""Stage: embeddings of image files, kept in a cache by (content, encoder) and shared by runs."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dreambench.encoders import Embeddings, Encoder
from dreambench.files import load_image, sha256_file, write_bytes, write_json
from dreambench.progress import Progress

BATCH_SIZE = 64


def embed_files(
    paths: Sequence[Path],
    encoder: Encoder,
    *,
    cache_dir: Path,
    progress: Progress,
    batch_size: int = BATCH_SIZE,
) -> Embeddings:
    """Embeddings of image files, one row a path.

    Files are taken in fixed groups of `batch_size`; a group with a member that is not in the
    cache is computed whole. So an interrupted run ends with the same bits as an unbroken one.
    """
    folder = cache_dir / "embeddings" / encoder.key
    if not (folder / "encoder.json").exists():
        write_json(folder / "encoder.json", {"identity": encoder.identity})
    rows: list[Embeddings] = []
    for start in range(0, len(paths), batch_size):
        group = paths[start : start + batch_size]
        progress(f"embeddings by {encoder.spec.name}", start, len(paths))
        hashes = [sha256_file(path) for path in group]
        files = [folder / name[:2] / f"{name}.npy" for name in hashes]
        cached = [_read(file) for file in files]
        if any(row is None for row in cached):
            images = [load_image(path) for path in group]
            fresh = encoder.embed_images(images, batch_size=batch_size)
            for index, file in enumerate(files):
                if cached[index] is None and not file.exists():
                    _write(file, fresh[index])
                cached[index] = fresh[index] if cached[index] is None else cached[index]
        rows += [row for row in cached if row is not None]
    progress(f"embeddings by {encoder.spec.name}", len(paths), len(paths))
    return np.stack(rows)


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
