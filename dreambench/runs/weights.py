"""What was trained on a subject: kept, or dropped once its images are made.

A whole tuned network takes gigabytes a subject, and nothing but the subject's images needs it. What
says how training went stays either way.
"""

from __future__ import annotations

from pathlib import Path

from dreambench.errors import UserError
from dreambench.storage.files import read_json, write_json
from dreambench.storage.paths import walk_folders
from dreambench.storage.sums import FILE_NAME, write_sums

DONE = "done.json"
MAX_KEPT_BYTES = 500_000_000
"""A subject's weights that are larger are dropped unless they are asked for: those of a LoRA take
under a tenth of it, those of a whole network over three times as much."""
_DROPPED = "weights_dropped"


def has_weights(folder: Path) -> bool:
    """Return whether what was trained is still in its folder."""
    try:
        done = read_json(folder / DONE)
    except UserError:
        return False  # It was changed, and so nothing in the folder is known to be what was made.
    return isinstance(done, dict) and not done.get(_DROPPED, False)


def drop_weights(folder: Path) -> int:
    """Remove what was trained, but for what is JSON, and return its bytes.

    It is noted first, so that no kill leaves a folder that looks whole.
    """
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    dropped = [path for path in files if path.suffix != ".json" and path.name != FILE_NAME]
    n_bytes = sum(path.stat().st_size for path in dropped)
    write_json(folder / DONE, {**read_json(folder / DONE), _DROPPED: True})
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
    return sum(path.stat().st_size for path in folder.rglob("*")) <= MAX_KEPT_BYTES
