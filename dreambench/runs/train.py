"""Stage: tune the method on each subject. One unit is one subject."""

from __future__ import annotations

import shutil
import time
from collections import Counter
from contextlib import nullcontext

from dreambench.artifacts.failures import Failures, raise_if_photo
from dreambench.errors import disk_errors
from dreambench.methods.base import Method
from dreambench.methods.guard import Guard
from dreambench.progress import Progress
from dreambench.runs.run_folder import Run
from dreambench.storage.files import make_dir, write_json


def train_subjects(
    run: Run, method: Method, progress: Progress, *, failures: Failures, guard: Guard | None = None
) -> None:
    """Tunes on every subject that is left; what raises is recorded, and the others go on.

    A subject's folder gets its final name only when all in it is written, so that a kill leaves
    none that looks done.
    """
    missing, n_all = run.missing_training(), len(run.plan.train)
    n_images = Counter(unit.subject for unit in run.missing_images())
    n_done = n_all - len(missing)
    for index, unit in enumerate(missing):
        progress(f"{run.name}: subjects", n_done, n_all)
        folder = run.train_dir(unit.subject)
        part = folder.with_name(f"{folder.name}.part")
        with disk_errors(part):
            shutil.rmtree(part, ignore_errors=True)
            make_dir(part)
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
        seconds = time.monotonic() - started
        write_json(part / "done.json", {"seed": unit.seed, "train_seconds": round(seconds, 3)})
        with disk_errors(part):
            part.replace(folder)
        n_done += 1
    progress(f"{run.name}: subjects", n_done, n_all)
