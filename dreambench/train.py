"""Stage: tune the method on each subject. One unit is one subject."""

from __future__ import annotations

import shutil
import time

from dreambench.errors import disk_errors
from dreambench.files import make_dir, write_json
from dreambench.methods import Method
from dreambench.run import Run


def train_subjects(run: Run, method: Method) -> None:
    """Tunes on every subject that is left.

    A subject's folder gets its final name only when all in it is written, so that a kill leaves
    none that looks done.
    """
    for unit in run.missing_training():
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
