"""What was trained on a subject: kept, or dropped once its images are made.

A whole trained network takes gigabytes a subject, and nothing but the subject's images needs it.
What says how training went stays either way.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from dreambench.artifacts.training_note import read_training_note, write_training_note
from dreambench.errors import UserError
from dreambench.storage.paths import walk_folders
from dreambench.storage.sums import FILE_NAME, write_sums

MAX_KEPT_BYTES = 500_000_000
"""A subject's weights that are larger are dropped unless they are asked for: those of a LoRA take
under a tenth of it, those of a whole network over three times as much."""


def has_weights(folder: Path) -> bool:
    """Return whether what was trained is still in its folder."""
    try:
        return not read_training_note(folder).weights_dropped
    except UserError:
        return False  # It was changed, and so nothing in the folder is known to be what was made.


def list_weights(folder: Path) -> list[Path]:
    """Return the files of what was trained, but for what says how that went."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return [path for path in files if path.suffix != ".json" and path.name != FILE_NAME]


def count_bytes(files: Iterable[Path]) -> int:
    """Return the bytes of files."""
    return sum(path.stat().st_size for path in files)


def drop_weights(folder: Path) -> int:
    """Remove what was trained, but for what is JSON, and return its bytes.

    It is noted first, so that no kill leaves a folder that looks whole.
    """
    dropped = list_weights(folder)
    n_bytes = count_bytes(dropped)
    note = read_training_note(folder)
    write_training_note(folder, note.model_copy(update={"weights_dropped": True}))
    for path in dropped:
        path.unlink()
    for empty in sorted(walk_folders(folder), reverse=True):
        if not any(empty.iterdir()):
            empty.rmdir()
    write_sums(folder)
    return n_bytes


def is_kept(folder: Path, asked: bool | None) -> bool:
    """Return whether to keep what was trained: as asked, else where it is small."""
    if asked is not None:
        return asked
    return count_bytes(folder.rglob("*")) <= MAX_KEPT_BYTES
