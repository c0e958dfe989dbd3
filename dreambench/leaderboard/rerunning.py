"""`dreambench rerun`: the recipe of a record run again, and how far its numbers lie apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dreambench.artifacts.cells import list_images
from dreambench.artifacts.image_set import hold_folder
from dreambench.artifacts.record import Record, Remeasurement
from dreambench.artifacts.results import read_summary
from dreambench.base_models.registry import find_base_model
from dreambench.benchmark.execution import complete_runs
from dreambench.benchmark.planning import RunOptions
from dreambench.config.protocol import Protocol
from dreambench.errors import UserError
from dreambench.leaderboard.records import Opened
from dreambench.leaderboard.rescoring import require_protocol
from dreambench.machine.devices import pick_device
from dreambench.methods.plugins import attach_code, check_recipe
from dreambench.progress import Progress, no_progress
from dreambench.runs.pipeline import Pipeline
from dreambench.runs.run_folder import Request, Run, check_folder, plan_run, read_recipe
from dreambench.scoring.tools import prepare_encoders


@dataclass(frozen=True)
class Difference:
    """One listed metric of a record, and of its recipe run again.

    `sd` is the spread of the record's replicates, None where there is but one; an image of the same
    bits as the record's has the same number.
    """

    metric: str
    title: str
    recorded: float | None
    again: float | None
    sd: float | None

    @property
    def size(self) -> float:
        """How far they lie apart; 0 where one has no number."""
        if self.recorded is None or self.again is None:
            return 0.0
        return abs(self.again - self.recorded)


@dataclass(frozen=True)
class Rerun:
    """What running a record's recipe again gave; `measured` is None where images are missing."""

    pipeline: Pipeline
    n_images: int
    n_same: int
    n_replicates: int
    differences: Sequence[Difference]
    measured: Remeasurement | None


def plan_rerun(
    opened: Opened, options: RunOptions, *, code: str | None = None,
    protocol: Protocol | None = None, progress: Progress = no_progress,
) -> Run:  # fmt: skip
    """Lay out a record's recipe as a run; nothing is written, and no code comes from the record.

    `code` says where the code of a method from outside is (FILE.py:Class); what it is, is compared
    before it is executed. `protocol` is the user's own where it is not a shipped one.

    Raises:
        UserError: the record is of external images; or its protocol, recipe, photos, base model or
            code are not those that are here.
    """
    record = opened.record
    base = record.method.base_model
    if record.recipe is None or record.batch_size is None or base is None:
        raise UserError(
            f"{opened.folder} is a record of external images, which has no recipe",
            hint="score its images again: dreambench leaderboard check RECORD --images FOLDER",
            code="not-a-run",
        )
    known = require_protocol(record, protocol)
    name = options.base_model or base.name
    recipe = attach_code(read_recipe(record.recipe, find_base_model(name)), code)
    device = pick_device(options.device)
    encoders = prepare_encoders(
        known, metrics=options.metrics, overrides=options.encoders, progress=progress
    )
    run = plan_run(
        options.out / known.name / recipe.name,
        Request(
            protocol=known,
            recipe=recipe,
            subjects=tuple(record.subjects),
            prompts=tuple(record.prompts),
            base_model=name,
            device=device,
            precision=record.precision,
            batch_size=record.batch_size,
            encoders=encoders,
            data_dir=options.data_dir,
        ),
    )
    _refuse_others(record, run)
    check_recipe(run.recipe, run.base_model)
    check_folder(run)
    return run


def _refuse_others(record: Record, run: Run) -> None:
    """Raise UserError where a run would not be that of the record; says what differs."""
    said, found = record.digests.model_dump(), run.manifest.digests.model_dump()
    if said["weights"] is None:  # Older records do not say.
        del said["weights"]
    for key in said:
        if said[key] != found[key]:
            raise UserError(
                f"the record says {key.replace('_', ' ')} {said[key]}, and here it is {found[key]}",
                hint="see what is wrong with it: dreambench leaderboard check RECORD",
                code="changed-data",
            )


def rerun(
    opened: Opened, run: Run, options: RunOptions, *, progress: Progress = no_progress
) -> Rerun:
    """Run what `plan_rerun` laid out, or resume it, and compare it with the record.

    Raises:
        UserError: as a run does.
    """
    (pipeline,) = complete_runs([run], options, progress=progress)
    run = pipeline.run
    with hold_folder(run.folder, joins=True):
        made = run.hash_images()
        known = list_images(opened.cells)
        n_same = sum(known.get(name) == sha256 for name, sha256 in made.items())
        if not made:
            return Rerun(pipeline, 0, 0, 0, (), None)
        summary = read_summary(run)
    record = opened.record
    means = {name: entry.whole.mean for name, entry in summary.metrics.items()
             if name in record.metrics}  # fmt: skip
    differences = [
        Difference(
            name, entry.info.title, entry.whole.mean, means.get(name), _find_spread(record, name)
        )
        for name, entry in record.metrics.items()
        if entry.info.listed
    ]
    measured = None
    if not run.missing_images():
        measured = Remeasurement(
            session=run.manifest.session, n_images=len(made), means=means,
            largest_difference=max((one.size for one in differences), default=0.0),
        )  # fmt: skip
    n_replicates = 1 + len(record.replicates)
    return Rerun(pipeline, len(made), n_same, n_replicates, differences, measured)


def _find_spread(record: Record, metric: str) -> float | None:
    """Return the standard deviation of the replicates' means; None for a single one."""
    means = [record.metrics[metric].whole.mean]
    means += [part.means.get(metric) for part in record.replicates]
    known = np.array([mean for mean in means if mean is not None], np.float64)
    return float(known.std(ddof=1)) if len(known) > 1 else None
