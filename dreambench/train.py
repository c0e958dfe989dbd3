"""Stage: tune the method on each subject. One unit is one subject."""

from __future__ import annotations

import shutil
import time

from dreambench.errors import disk_errors
from dreambench.files import make_dir, write_json
from dreambench.methods import Method
from dreambench.progress import Progress
from dreambench.run import Run


def train_subjects(run: Run, method: Method, progress: Progress) -> None:
    """Tunes on every subject that is left.

    A subject's folder gets its final name only when all in it is written, so that a kill leaves
    none that looks done.
    """
    missing, n_all = run.missing_training(), len(run.plan.train)
    for index, unit in enumerate(missing):
        progress(f"{run.name}: subjects", n_all - len(missing) + index, n_all)
        folder = run.train_dir(unit.subject)
        part = folder.with_name(f"{folder.name}.part")
        with disk_errors(part):
            shutil.rmtree(part, ignore_errors=True)
            make_dir(part)
            started = time.monotonic()
            method.fit(run.subject(unit.subject), part, seed=unit.seed)
            seconds = time.monotonic() - started
            write_json(part / "done.json", {"seed": unit.seed, "train_seconds": round(seconds, 3)})
            part.replace(folder)
    progress(f"{run.name}: subjects", n_all, n_all)
