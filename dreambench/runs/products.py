"""What a run folder holds and nobody made: changed images and weights are made again."""

from __future__ import annotations

import logging
from pathlib import Path

from dreambench.errors import disk_errors, name_some
from dreambench.runs.run_folder import Run
from dreambench.storage.files import move_dir
from dreambench.storage.paths import remove_tree
from dreambench.storage.sums import find_changed, read_sums

logger = logging.getLogger(__name__)


def discard_changed(run: Run) -> None:
    """Remove images, and weights that images are still wanted of, that are not what was made.

    Reads them all. The same seeds make them again.
    """
    changed = run.find_changed_images()
    for unit in changed:
        with disk_errors(run.image_path(unit)):
            run.image_path(unit).unlink()
    if changed:
        _tell(run, f"{len(changed)} images", [unit.relative_path for unit in changed])
    wanted = {unit.subject for unit in run.missing_images()}
    for subject in [s.name for s in run.subjects if s.name in wanted]:
        folder = run.train_dir(subject)
        if not folder.is_dir():
            continue
        found = find_changed(folder) if read_sums(folder) else ["SHA256SUMS"]
        if found:
            _discard_training(folder)
            _tell(run, f"what was trained on {subject}", found)


def _discard_training(folder: Path) -> None:
    """Take a trained folder's name away first, so that no kill leaves half of one."""
    part = folder.with_name(f"{folder.name}.part")
    remove_tree(part, inside=folder.parent)
    move_dir(folder, part)
    remove_tree(part, inside=folder.parent)


def _tell(run: Run, what: str, names: list[str]) -> None:
    logger.warning(
        "%s: %s changed since it was made (%s); it is made again",
        run.folder,
        what,
        name_some(names),
    )
