"""Stage: train the method on each subject. One unit is one subject."""

from __future__ import annotations

import shutil
import time
from collections import Counter
from contextlib import nullcontext
from pathlib import Path

from dreambench.artifacts.plan import TrainUnit
from dreambench.errors import disk_errors
from dreambench.methods import Method
from dreambench.methods.guard import Guard
from dreambench.progress import Progress
from dreambench.runs.failures import FailureLog, raise_if_photo
from dreambench.runs.run_folder import Run
from dreambench.storage.files import make_dir, read_json, write_json


def train_subjects(
    run: Run,
    method: Method,
    *,
    failures: FailureLog,
    guard: Guard | None = None,
    progress: Progress,
) -> None:
    """Train on every subject that is left; what raises is recorded, and the others go on."""
    missing, n_all = run.missing_training(), len(run.plan.train)
    n_images = Counter(unit.subject for unit in run.missing_images())
    n_done = n_all - len(missing)
    for index, unit in enumerate(missing):
        progress(f"{run.name}: subjects", n_done, n_all)
        part = _open_part(run, unit)
        started = time.monotonic()
        try:
            with guard.watch(part) if guard else nullcontext():
                method.fit(run.subject(unit.subject), part, seed=unit.seed)
        except Exception as error:
            shutil.rmtree(part, ignore_errors=True)
            raise_if_photo(error, run.subject(unit.subject))
            failures.record("fit", unit.subject, error, n_images=n_images[unit.subject])
            if failures.is_stuck and missing[index + 1 :]:
                rest = {u.subject: n_images[u.subject] for u in missing[index + 1 :]}
                failures.leave("fit", rest, str(failures.found[-1].message))
                break
            continue
        failures.went_well()
        _keep_part(run, unit, part, seconds=time.monotonic() - started)
        n_done += 1
    progress(f"{run.name}: subjects", n_done, n_all)


def _open_part(run: Run, unit: TrainUnit) -> Path:
    """Make the folder that a method fills, without what a killed run left there."""
    folder = run.train_dir(unit.subject)
    part = folder.with_name(f"{folder.name}.part")
    with disk_errors(part):
        shutil.rmtree(part, ignore_errors=True)
    return make_dir(part)


def _keep_part(run: Run, unit: TrainUnit, part: Path, *, seconds: float) -> None:
    """Give the folder its final name, now that all in it is written.

    So no kill leaves one that looks done.
    """
    write_json(part / "done.json", {"seed": unit.seed, "train_seconds": round(seconds, 3)})
    with disk_errors(part):
        part.replace(run.train_dir(unit.subject))


def read_train_seconds(run: Run) -> list[float]:
    """Return how long training took on each subject that is done."""
    folders = [run.train_dir(unit.subject) for unit in run.plan.train]
    notes = [folder / "done.json" for folder in folders if folder.is_dir()]
    return [read_json(note)["train_seconds"] for note in notes]
