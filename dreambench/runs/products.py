"""What a run folder holds and nobody made: changed images and weights are made again."""

from __future__ import annotations

import logging
from pathlib import Path

from dreambench.errors import disk_errors, name_some
from dreambench.runs.run_folder import Run
from dreambench.runs.weights import has_weights
from dreambench.storage.files import finish_together, move_dir
from dreambench.storage.paths import remove_leftovers, remove_tree
from dreambench.storage.sums import find_changed, read_sums

logger = logging.getLogger(__name__)


def tidy_subject(run: Run, subject: str) -> None:
    """Finish what a kill interrupted in a subject's images, and discard what is not what was made.

    Only who has claimed the subject may do this. Weights are looked at where images are still
    wanted of them. The same seeds make all of it again.
    """
    finish_together(run.staging_of(subject))
    remove_leftovers(run.images_dir(subject))
    changed = run.find_changed_images(run.hash_images(subject))
    for unit in changed:
        with disk_errors(run.image_path(unit)):
            run.image_path(unit).unlink()
    if changed:
        _tell(run, f"{len(changed)} images", [unit.relative_path for unit in changed])
    folder = run.train_dir(subject)
    if not folder.is_dir() or not run.missing_of(subject):
        return
    found = find_changed(folder) if read_sums(folder) else ["SHA256SUMS"]
    if found:
        _tell(run, f"what was trained on {subject}", found)
    if found or not has_weights(folder):
        _discard_training(folder)


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
