"""The stages of runs that make images: train, generate. Each can be called alone."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from dreambench.artifacts.failures import (
    USER_ERROR,
    Failure,
    Stage,
    failures_dir,
    read_failures,
)
from dreambench.artifacts.image_set import is_claimed
from dreambench.errors import UserError
from dreambench.machine.devices import name_device
from dreambench.machine.throughput import Setting, Speed, note_speed, tidy_speeds
from dreambench.methods.plugins import check_recipe
from dreambench.progress import Progress
from dreambench.runs.executors.base import Executor
from dreambench.runs.failures import FailureLog, tell_of_left
from dreambench.runs.run_folder import Run
from dreambench.runs.tracking import Tracking
from dreambench.runs.train import read_train_seconds
from dreambench.runs.units import BOTH, IMAGES, TRAINED, Terms, Unit, UnitResult, UnitStage

N_SAME_SUBJECTS = 2
"""A UserError in the same words for so many subjects in a row is about none of them."""
BUSY_SECONDS = 0.5
"""How long to leave what another process works on, until it is asked for again."""


class Pipeline:
    """The stages of one run. Each does only what is left.

    What a method fails at is in `failures`, and the rest continues; a full disk, a stop by the user
    and what is wrong with the run itself are raised. `refusal` is the mistake of a user's for which
    the method could not be made at all. `checkpoints` are runs of the same recipe with fewer steps,
    by their number, which are trained on the way; `tracking` is called for each subject.
    """

    def __init__(
        self,
        run: Run,
        *,
        terms: Terms,
        progress: Progress,
        checkpoints: Mapping[int, Run] = MappingProxyType({}),
        tracking: Tracking | None = None,
    ) -> None:
        self.run = run
        self._tracking = tracking or Tracking()
        self.checkpoints = checkpoints
        self.terms = terms
        self.progress = progress
        self.refusal: UserError | None = None
        self._stages: Sequence[UnitStage] = BOTH
        self._waiting: deque[str] = deque()
        self._n_pending = 0
        self._last: list[tuple[Stage, str]] = []
        self._counts: dict[str, dict[str, int]] = {}
        self._n_made = self._n_class = 0
        self._seconds = 0.0

    @property
    def failures(self) -> list[Failure]:
        """What failed in the run, the last time that it was tried."""
        return read_failures(self.run.folder)

    @property
    def failures_dir(self) -> Path:
        """The folder of the failures, with their tracebacks."""
        return failures_dir(self.run.folder)

    def explain_failure(self) -> UserError:
        """Return the mistake for which no image was made."""
        reasons = [failure.reason for failure in self.failures]
        return self.refusal or UserError(
            f"{self.run.name} made no image: {reasons[0] if reasons else 'nothing was planned'}",
            hint=f"see {self.failures_dir}",
            code="no-images",
        )

    def train(self, executor: Executor) -> None:
        """Train on the subjects that are left."""
        self._plan(("train",), {unit.subject for unit in self.run.missing_training()})
        work_through([self], executor)

    def generate(self, executor: Executor) -> None:
        """Generate the images that are left, but of subjects whose training failed.

        Raises:
            UserError: subjects are not trained yet.
        """
        failed = {failure.subject for failure in self.failures if failure.stage == "fit"}
        self.run.refuse_untrained({subject.name for subject in self.run.subjects} - failed)
        self._plan(("generate",), set(self.run.list_left()) - failed)
        work_through([self], executor)

    def plan_images(self) -> None:
        """Lay out what is left of training and generating, for `work_through`."""
        self._plan(BOTH, set(self.run.list_left()))

    def _plan(self, stages: Sequence[UnitStage], left: set[str]) -> None:
        run = self.run
        tidy_speeds(self.terms.cache_dir)
        self._stages, self._last, self._counts = stages, [], {}
        self._waiting = deque(subject.name for subject in run.subjects if subject.name in left)
        if not left:
            return
        FailureLog(run, "").forget("constructor")
        untrained = {unit.subject for unit in run.missing_training()}
        if "train" in stages and untrained:
            self._counts[TRAINED] = {
                unit.subject: int(unit.subject not in untrained) for unit in run.plan.train
            }
        if "generate" in stages:
            n_made = Counter(unit.subject for unit in run.plan.images)
            n_made.subtract(unit.subject for unit in run.missing_images())
            self._counts[IMAGES] = dict(n_made)
        for what in self._counts:
            self._tell(what)

    @property
    def is_done(self) -> bool:
        """Whether nothing is left that can be done."""
        return not self._waiting and not self._n_pending

    def next_unit(self) -> Unit | None:
        """Return a unit that nobody else works on; None where there is none at the moment."""
        for _ in range(len(self._waiting)):
            subject = self._waiting.popleft()
            if not is_claimed(self.run.folder, subject):
                self._n_pending += 1
                return Unit(
                    run=self.run, subject=subject, stages=self._stages, terms=self.terms,
                    is_last=not self._waiting, checkpoints=self.checkpoints,
                )  # fmt: skip
            self._waiting.append(subject)
        return None

    def hear(self, subject: str) -> Progress:
        """Return what a unit's progress is told to."""

        def tell(what: str, done: int, total: int) -> None:
            if what not in (TRAINED, IMAGES):
                self.progress(what, done, total)
            elif what in self._counts and self._counts[what].get(subject) != done:
                self._counts[what][subject] = done
                self._tell(what)

        return tell

    def _tell(self, what: str) -> None:
        """Say how far the run is, whoever works on it."""
        name, units = {
            TRAINED: ("subjects", self.run.plan.train),
            IMAGES: ("images", self.run.plan.images),
        }[what]
        self.progress(f"{self.run.name}: {name}", sum(self._counts[what].values()), len(units))

    def take(self, unit: Unit, result: UnitResult) -> None:
        """Take what came of a unit."""
        self._n_pending -= 1
        if result.is_busy:
            self._waiting.append(unit.subject)
            return
        self._tracking.tell(self.run, unit.subject)
        self._n_made += result.n_made
        self._n_class += result.n_class
        self._seconds += result.generating_seconds
        if result.refusal is not None:
            problem, code = result.refusal
            self.refusal = UserError(problem, code=code)
        if any(failure.stage == "constructor" for failure in result.failures):
            self._waiting.clear()
        elif result.failures:
            self._leave_stuck(result.failures[-1])
        else:
            self._last = []

    def _leave_stuck(self, last: Failure) -> None:
        """Leave the rest when the last subjects failed with the same UserError: others will too."""
        if last.error != USER_ERROR:
            self._last = []
            return
        self._last.append((last.stage, last.message))
        same = self._last[-N_SAME_SUBJECTS:]
        if len(same) < N_SAME_SUBJECTS or len(set(same)) > 1 or not self._waiting:
            return
        stage: Stage = "fit" if last.stage == "fit" else "generate"
        for subject in self._waiting:
            n_images = len(self.run.missing_of(subject))
            log = FailureLog(self.run, subject)
            log.leave(stage, n_images=n_images, why=last.message)
        tell_of_left(self.run, stage, list(self._waiting), last.message)
        self._waiting.clear()

    def note_speeds(self) -> None:
        """Note how fast this machine was at what this object did.

        For training the median subject's, since the first of a class may make class images as well.
        """
        work = check_recipe(self.run.recipe, self.run.base_model)
        n_images = work.training_images
        seconds = read_train_seconds(self.run)
        if n_images and seconds and "train" in self._stages:
            self._note_speed("training_image", float(np.median(seconds)) / n_images)
        if self._n_made and work.samples:
            n_sampled = self._n_class + (self._n_made - self._n_class) * work.calls_per_image
            n_calls = n_sampled * self.run.base_model.count_calls(self.run.manifest.sampler)
            self._note_speed("network_call", self._seconds / n_calls)

    def _note_speed(self, what: Speed, seconds_per_unit: float) -> None:
        run = self.run
        setting = Setting(
            name_device(run.device),
            run.base_model.name,
            run.manifest.sampler.size_px,
            run.manifest.precision,
        )
        note_speed(self.terms.cache_dir, setting, what, seconds_per_unit=seconds_per_unit)


def work_through(
    pipelines: Sequence[Pipeline],
    executor: Executor,
    *,
    begin: Callable[[Pipeline], object] = lambda _: None,
    finish: Callable[[Pipeline], object] = lambda _: None,
) -> None:
    """Do the units of several runs, in order, on all workers.

    `begin` is called before the first unit of a run is handed out, `finish` when the last is done:
    in a thread where workers go on meanwhile, one run at a time.
    """
    pool = ThreadPoolExecutor(1, thread_name_prefix="finish")
    running: dict[Future[Any], tuple[Pipeline, Unit | None]] = {}
    opened: list[Pipeline] = []
    ahead = deque(pipelines)
    try:
        while ahead or opened or running:
            for pipeline in _close_done(opened, executor):
                if executor.is_here:
                    finish(pipeline)
                else:
                    running[pool.submit(finish, pipeline)] = (pipeline, None)
            n_busy = sum(unit is not None for _, unit in running.values())
            if n_busy < executor.n_workers:
                if found := _find_unit(opened):
                    pipeline, unit = found
                    running[executor.submit(unit, pipeline.hear(unit.subject))] = found
                    continue
                if ahead:
                    begin(ahead[0])
                    opened.append(ahead.popleft())
                    continue
            if not running:
                time.sleep(BUSY_SECONDS if opened else 0)  # Others work on all that is left.
                continue
            for future in wait(running, BUSY_SECONDS, FIRST_COMPLETED).done:
                pipeline, unit_or_none = running.pop(future)
                result = future.result()
                if unit_or_none is not None:
                    pipeline.take(unit_or_none, result)
    finally:
        # Whoever is called next ends what the thread waits for.
        pool.shutdown(wait=False, cancel_futures=True)


def _close_done(opened: list[Pipeline], executor: Executor) -> list[Pipeline]:
    """Take the runs of which nothing is left out of those that are open, and return them."""
    done = [pipeline for pipeline in opened if pipeline.is_done]
    for pipeline in done:
        opened.remove(pipeline)
        if not executor.is_remote:
            pipeline.note_speeds()
    return done


def _find_unit(opened: Sequence[Pipeline]) -> tuple[Pipeline, Unit] | None:
    """Return the next unit that can be handed out; what is not handed out yet can still be left."""
    for pipeline in opened:
        if (unit := pipeline.next_unit()) is not None:
            return pipeline, unit
    return None
