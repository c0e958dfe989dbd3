"""Works on units one after another, with the networks of one method in memory."""

from __future__ import annotations

import logging
import time
from contextlib import ExitStack
from functools import partial

from dreambench.artifacts.device_time import DeviceTime, add_device_time
from dreambench.artifacts.failures import Stage
from dreambench.artifacts.image_set import claim_subject, is_claimed, is_class_image
from dreambench.artifacts.plan import ImageUnit
from dreambench.config.recipe import PluginRecipe
from dreambench.errors import UserError, read_message
from dreambench.machine.devices import fixed_sums, free_memory
from dreambench.methods.base import Context, Method
from dreambench.methods.calls import Calls
from dreambench.methods.guard import Guard
from dreambench.methods.registry import find_class, make_method
from dreambench.progress import Progress, no_progress
from dreambench.runs.failures import FailureLog
from dreambench.runs.generate import generate_subject
from dreambench.runs.products import tidy_subject
from dreambench.runs.run_folder import Run
from dreambench.runs.train import train_subject
from dreambench.runs.units import IMAGES, TRAINED, Unit, UnitResult, UnitStage
from dreambench.runs.weights import drop_weights, is_kept
from dreambench.storage.files import make_dir

FAILING: dict[UnitStage, tuple[Stage, ...]] = {"train": ("fit",), "generate": ("load", "generate")}
"""What may fail in each stage of a unit."""

logger = logging.getLogger(__name__)


class _RefusedError(Exception):
    """The method could not be made; the failure is recorded."""

    def __init__(self, result: UnitResult) -> None:
        super().__init__()
        self.result = result


class Worker:
    """Works on units one after another.

    A method is made for the first unit of a run, and let go of after its last or when a unit of
    another run comes: the next one has networks of its own.
    """

    def __init__(self) -> None:
        self._run: Run | None = None
        self._method: Method | None = None
        self._calls = Calls()
        self._progress: Progress = no_progress
        self._subject = ""

    def do(self, unit: Unit, progress: Progress) -> UnitResult:
        """Do what is left of a unit, unless another process works on it.

        What a method fails at is in the result, and in the run's folder.

        Raises:
            DiskError: a disk is full.
            KeyboardInterrupt: the user asked for a stop.
            UserError: something is wrong with the run itself.
        """
        self._progress = progress
        if self._run is not unit.run:
            self.release()
            self._run = unit.run
            self._calls = self._make_calls(unit)
        self._subject = unit.subject
        with ExitStack() as claims:
            for run in (unit.run, *unit.checkpoints.values()):
                if not claims.enter_context(claim_subject(run.folder, unit.subject)):
                    return UnitResult(is_busy=True)
            try:
                return self._do(unit)
            except _RefusedError as refused:
                return refused.result
            finally:
                if unit.is_last:
                    self.release()

    def release(self) -> None:
        """Let go of the networks of the run that was worked on, if there was one."""
        run, self._run, self._method = self._run, None, None
        if run is not None:
            free_memory(run.device)

    def _do(self, unit: Unit) -> UnitResult:
        # A method may change the working directory while it works.
        run, subject = unit.run.make_absolute(), unit.subject
        tidy_subject(run, subject)
        if "train" not in unit.stages:
            unit.run.refuse_untrained([subject])
        failures = FailureLog(unit.run, subject)
        for stage in unit.stages:
            failures.forget(*FAILING[stage])
        is_left = bool(run.missing_of(subject)) or not run.is_trained(subject)
        started = time.monotonic()
        made: list[ImageUnit] = []
        with fixed_sums(run.device, run.protocol.n_threads):
            if "train" in unit.stages:
                self._train(unit, run, failures)
            trained = time.monotonic()
            if "generate" in unit.stages and not failures.found:
                made = self._generate(unit, run, failures)
        ended = time.monotonic()
        if is_left:
            spent = DeviceTime(
                training_seconds=trained - started, generating_seconds=ended - trained
            )
            add_device_time(run.folder, subject, spent)
        if "generate" in unit.stages:
            self._drop_weights(unit)
        return UnitResult(
            failures=failures.found, n_made=len(made),
            n_class=sum(is_class_image(one) for one in made), generating_seconds=ended - trained,
        )  # fmt: skip

    def _train(self, unit: Unit, run: Run, failures: FailureLog) -> None:
        if not run.is_trained(unit.subject):
            checkpoints = {step: one.make_absolute() for step, one in unit.checkpoints.items()}
            train_subject(
                run, self._get_method(unit), unit.subject, failures=failures, calls=self._calls,
                checkpoints=checkpoints,
            )  # fmt: skip
        if not failures.found:
            self._progress(TRAINED, 1, 1)

    def _generate(self, unit: Unit, run: Run, failures: FailureLog) -> list[ImageUnit]:
        missing = run.missing_of(unit.subject)
        if not missing:
            return []
        n_all = sum(one.subject == unit.subject for one in run.plan.images)
        n_done = n_all - len(missing)

        def tell(n_made: int) -> None:
            nonlocal n_done
            n_done += n_made
            self._progress(IMAGES, n_done, n_all)

        return generate_subject(
            run, self._get_method(unit), unit.subject, failures=failures, calls=self._calls,
            progress=tell,
        )  # fmt: skip

    def _drop_weights(self, unit: Unit) -> None:
        """Drop what was trained where it is large and all its images are made; say so."""
        run, folder = unit.run, unit.run.train_dir(unit.subject)
        if run.missing_of(unit.subject) or is_kept(folder, unit.terms.keep_weights):
            return
        if n_bytes := drop_weights(folder):
            logger.warning(
                "%s, %s: dropped %.1f GB of weights, now that the images are made (--keep-weights "
                "keeps them)", run.name, unit.subject, n_bytes / 1e9,
            )  # fmt: skip

    def _get_method(self, unit: Unit) -> Method:
        """Return the run's method; raise _RefusedError, and record why, where it cannot be had."""
        if self._method is not None:
            return self._method
        run = unit.run.make_absolute()
        context = Context(
            base_model=run.base_model,
            sampler=run.manifest.sampler,
            device=run.device,
            precision=run.manifest.precision,  # type: ignore[arg-type]
            batch_size=run.manifest.batch_size,
            cache_dir=make_dir(unit.terms.cache_dir).absolute(),
            progress=self._tell,
            checkpoints=tuple(unit.checkpoints),
        )
        find_class(run.recipe)  # Missing code is not a failure of the method.
        failures = FailureLog(unit.run, "")
        try:
            self._method = self._calls.make(partial(make_method, run.recipe, context))
        except Exception as error:
            failures.record("constructor", error, n_images=len(run.missing_images()))
            refusal = (read_message(error), error.code) if isinstance(error, UserError) else None
            raise _RefusedError(UnitResult(failures=failures.found, refusal=refusal)) from error
        return self._method

    def _tell(self, what: str, done: int, total: int) -> None:
        """Pass on what a method says of its work to whoever wants to know it now."""
        self._progress(what, done, total)

    def _make_calls(self, unit: Unit) -> Calls:
        run = unit.run
        photos = [path for subject in run.subjects for path in subject.photos]

        def list_others() -> set[str]:
            names = {subject.name for subject in run.subjects} - {self._subject}
            return {name for name in names if is_claimed(run.folder, name)}

        is_outside = isinstance(run.recipe, PluginRecipe)
        return Calls(
            files=Guard(run.folder, photos, list_others=list_others) if is_outside else None,
            limit_seconds=unit.terms.unit_timeout,
        )
