"""What methods cost: what they train and keep of a subject, and the time and memory of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from dreambench.artifacts.device_time import read_device_time
from dreambench.artifacts.image_set import ImageSet
from dreambench.artifacts.manifest import RunManifest
from dreambench.artifacts.training_note import TrainingNote, read_training_note
from dreambench.config.track import is_tuned
from dreambench.errors import UserError


@dataclass(frozen=True)
class Cost:
    """Of a subject, but for `seconds_per_image`: means over subjects, and the highest peak.

    None is not known, or nothing: a method that trains nothing has neither parameters nor weights.
    """

    method: str
    trained_parameters: int | None
    weights_bytes: float | None
    training_seconds: float | None
    peak_bytes: int | None
    seconds_per_image: float | None


def measure_costs(sets: Iterable[tuple[str, ImageSet]]) -> list[Cost]:
    """Return what each run among image sets noted of its costs; `sets` have the names of rows.

    Training has the seconds of the try that worked, an image those of all tries, with loading.
    """
    found = []
    for name, images in sets:
        if not isinstance(images.manifest, RunManifest):
            continue
        notes = _read_notes(images) if is_tuned(images.manifest.recipe.track) else []
        time = read_device_time(images.folder)
        n_images = len(images.plan.images) - len(images.missing_images())
        seconds = time.generating_seconds / n_images if time and n_images else None
        found.append(
            Cost(
                name,
                max((note.trained_parameters or 0 for note in notes), default=0) or None,
                _mean([note.weights_bytes for note in notes]) or None,
                _mean([note.train_seconds for note in notes]),
                max((note.peak_bytes or 0 for note in notes), default=0) or None,
                seconds,
            )
        )
    return found


def _read_notes(images: ImageSet) -> list[TrainingNote]:
    found = []
    for unit in images.plan.train:
        try:
            found.append(read_training_note(images.train_dir(unit.subject)))
        except UserError:
            continue  # Not trained yet, or changed since, which `verify` tells of.
    return found


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
