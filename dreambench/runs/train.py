"""Stage: train the method on a subject."""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType

from dreambench.artifacts.plan import TrainUnit
from dreambench.artifacts.training_note import (
    TrainingNote,
    read_training_note,
    write_training_note,
)
from dreambench.machine.memory import measured_peak
from dreambench.methods import Method
from dreambench.methods.base import checkpoint_dir
from dreambench.methods.calls import Calls
from dreambench.runs.failures import FailureLog, raise_if_photo
from dreambench.runs.run_folder import Run
from dreambench.runs.weights import count_bytes, list_weights
from dreambench.storage.files import make_dir, move_dir
from dreambench.storage.paths import check_inside, check_tree, remove_tree
from dreambench.storage.sums import write_sums


def train_subject(
    run: Run,
    method: Method,
    name: str,
    *,
    failures: FailureLog,
    calls: Calls,
    checkpoints: Mapping[int, Run] = MappingProxyType({}),
) -> bool:
    """Train on a subject; return whether that worked. What a method raises is recorded.

    `checkpoints` are runs of the same recipe with fewer steps, by their number: each gets what the
    method left of the subject after so many, and trains for itself where that is nothing.
    """
    unit = next(unit for unit in run.plan.train if unit.subject == name)
    part = _open_part(run, unit)
    started = time.monotonic()
    subject = run.subject(name)
    fail = partial(failures.record, "fit", n_images=len(run.missing_of(name)))
    try:
        with measured_peak(run.device) as peak:
            fit = partial(method.fit, subject, part, seed=unit.seed)
            calls.run(fit, on_hang=fail, out_dir=part)
        check_tree(check_inside(part, run.folder))
    except Exception as error:
        remove_tree(part, inside=run.folder)
        raise_if_photo(error, subject)
        fail(error)
        return False
    note = TrainingNote(
        seed=unit.seed, train_seconds=round(time.monotonic() - started, 3),
        trained_parameters=_count_trained(run, method), peak_bytes=peak.n_bytes,
    )  # fmt: skip
    for step, other in checkpoints.items():
        _keep_checkpoint(other, unit, checkpoint_dir(part, step), note)
    _keep_part(run, unit, part, note)
    return True


def _count_trained(run: Run, method: Method) -> int | None:
    n_trained = method.count_work(method.settings, run.base_model).trained_parameters
    # A method of others may say anything.
    return n_trained if isinstance(n_trained, int) and n_trained > 0 else None


def _open_part(run: Run, unit: TrainUnit) -> Path:
    """Make the folder that a method fills, without what a killed run left there."""
    folder = run.train_dir(unit.subject)
    part = folder.with_name(f"{folder.name}.part")
    remove_tree(part, inside=run.folder)
    return make_dir(part, inside=run.folder)


def _keep_part(run: Run, unit: TrainUnit, part: Path, note: TrainingNote) -> None:
    """Give the folder its final name, now that all in it is written.

    So no kill leaves one that looks done.
    """
    weights_bytes = count_bytes(list_weights(part))
    write_training_note(part, note.model_copy(update={"weights_bytes": weights_bytes}))
    write_sums(part)
    move_dir(part, check_inside(run.train_dir(unit.subject), run.folder))


def _keep_checkpoint(run: Run, unit: TrainUnit, found: Path, note: TrainingNote) -> None:
    """Give a run with fewer steps what was left of a subject after them, where it has none yet.

    `note` is that of the whole training.
    """
    if not found.is_dir():
        return
    if run.train_dir(unit.subject).is_dir():
        remove_tree(found, inside=found.parent)
        return
    # The last file was written when the step was done.
    since = time.time() - max(path.stat().st_mtime for path in found.iterdir())
    make_dir(run.train_dir(unit.subject).parent, inside=run.folder)
    seconds = min(max(note.train_seconds - since, 0.0), note.train_seconds)
    note = note.model_copy(update={"train_seconds": round(seconds, 3)})
    _keep_part(run, unit, found, note)


def read_train_seconds(run: Run) -> list[float]:
    """Return how long training took on each subject that is done."""
    folders = [run.train_dir(unit.subject) for unit in run.plan.train]
    return [read_training_note(folder).train_seconds for folder in folders if folder.is_dir()]
