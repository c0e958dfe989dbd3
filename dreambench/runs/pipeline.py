"""The stages of one run that make images: train, generate. Each can be called alone."""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import cached_property, partial
from pathlib import Path
from types import MappingProxyType

import numpy as np

from dreambench.artifacts.image_set import is_class_image
from dreambench.artifacts.plan import ImageUnit
from dreambench.config.recipe import PluginRecipe
from dreambench.errors import UserError, read_message
from dreambench.machine.devices import fixed_threads, free_memory, name_device
from dreambench.machine.throughput import Setting, Speed, note_speed, tidy_speeds
from dreambench.methods.base import Context, Method
from dreambench.methods.calls import Calls
from dreambench.methods.guard import Guard
from dreambench.methods.plugins import check_recipe
from dreambench.methods.registry import find_class, make_method
from dreambench.progress import Progress
from dreambench.runs.failures import FailureLog
from dreambench.runs.generate import generate_images
from dreambench.runs.products import discard_changed
from dreambench.runs.run_folder import Run
from dreambench.runs.train import read_train_seconds, train_subjects
from dreambench.storage.files import make_dir


class Pipeline:
    """The stages of one run. Each does only what is left.

    What a method fails at is in `failures`, and the rest goes on; a full disk, a stop by the user
    and what is wrong with the run itself are raised. `refusal` is the mistake of a user's for which
    the method could not be made at all. `checkpoints` are runs of the same recipe with fewer steps,
    by their number, which are trained on the way. `unit_timeout` is how many seconds a subject's
    training, its loading or a batch may take (see `methods.calls`).
    """

    def __init__(
        self,
        run: Run,
        *,
        cache_dir: Path,
        progress: Progress,
        checkpoints: Mapping[int, Run] = MappingProxyType({}),
        unit_timeout: float | None = None,
    ) -> None:
        self.run = run
        self.checkpoints = checkpoints
        self.cache_dir = make_dir(cache_dir).absolute()
        tidy_speeds(self.cache_dir)
        self.progress = progress
        self.failures = FailureLog(run.folder, run.name)
        self.refusal: UserError | None = None
        is_outside = isinstance(run.recipe, PluginRecipe)
        photos = [path for subject in run.subjects for path in subject.photos]
        self._calls = Calls(
            files=Guard(run.folder, photos) if is_outside else None, limit_seconds=unit_timeout
        )
        # A method may change the working directory while it works.
        self._absolute = run.make_absolute()
        self._is_checked = False

    @cached_property
    def _method(self) -> Method | None:
        """The method; None, and a failure, when it cannot be had: then no subject can."""
        run = self.run
        context = Context(
            base_model=self._absolute.base_model,
            sampler=run.manifest.sampler,
            device=run.device,
            precision=run.manifest.precision,  # type: ignore[arg-type]
            batch_size=run.manifest.batch_size,
            cache_dir=self.cache_dir,
            progress=self.progress,
            checkpoints=tuple(self.checkpoints),
        )
        self.failures.forget("constructor")
        find_class(run.recipe)  # Not to have its code is no failure of the method's.
        try:
            return self._calls.make(partial(make_method, run.recipe, context))
        except Exception as error:
            n_images = len(run.missing_images())
            self.failures.record("constructor", "", error, n_images=n_images)
            if isinstance(error, UserError):
                self.refusal = UserError(read_message(error), code=error.code)
            return None

    def _check_products(self) -> None:
        """Discard what was changed since it was made; once, since all images are read for it."""
        if not self._is_checked:
            discard_changed(self.run)
            self._is_checked = True

    def explain_failure(self) -> UserError:
        """Return the mistake for which no image was made."""
        reasons = [failure.reason for failure in self.failures.found]
        return self.refusal or UserError(
            f"{self.run.name} made no image: {reasons[0] if reasons else 'nothing was planned'}",
            hint=f"see {self.failures.folder}",
            code="no-images",
        )

    def make_images(self) -> None:
        """Train and generate, and let go of the method's networks: the next one has its own."""
        try:
            self.train()
            self.generate()
        finally:
            vars(self).pop("_method", None)
            free_memory(self.run.device)

    def train(self) -> None:
        """Train on the subjects that are left."""
        self._check_products()
        self.failures.forget("fit")
        if self.run.missing_training() and (method := self._method) is not None:
            with fixed_threads(self.run.protocol.n_threads):
                train_subjects(
                    self._absolute, method, failures=self.failures, calls=self._calls,
                    checkpoints=self.checkpoints, progress=self.progress,
                )  # fmt: skip
            self._note_training_speed()

    def generate(self) -> None:
        """Generate the images that are left, but of subjects whose training failed.

        Raises:
            UserError: subjects are not trained yet.
        """
        self._check_products()
        self.failures.forget("load", "generate")
        untrained = {unit.subject for unit in self.run.missing_training()}
        untrained -= self.failures.of("fit")
        # What cannot be made was said when training wanted it.
        is_refused = "_method" in vars(self) and self._method is None
        if untrained and not is_refused:
            raise UserError(
                f"{len(untrained)} subjects of {self.run.folder} are not trained",
                hint=f"first: dreambench train {self.run.folder}",
                code="not-trained",
            )
        if self.run.missing_images() and (method := self._method) is not None:
            started = time.monotonic()
            with fixed_threads(self.run.protocol.n_threads):
                made = generate_images(
                    self._absolute, method, failures=self.failures, calls=self._calls,
                    progress=self.progress,
                )  # fmt: skip
            self._note_generating_speed(made, time.monotonic() - started)

    def _note_training_speed(self) -> None:
        """Note the median subject's, since the first of a class may make class images as well."""
        work = check_recipe(self.run.recipe, self.run.base_model)
        n_images = work.optimizer_steps * work.images_per_step
        seconds = read_train_seconds(self.run)
        if n_images and seconds:
            self._note_speed("training_image", float(np.median(seconds)) / n_images)

    def _note_generating_speed(self, made: list[ImageUnit], seconds: float) -> None:
        work = check_recipe(self.run.recipe, self.run.base_model)
        if made and work.samples:
            n_class = sum(is_class_image(unit) for unit in made)
            n_sampled = n_class + (len(made) - n_class) * work.calls_per_image
            n_calls = n_sampled * self.run.manifest.sampler.n_calls
            self._note_speed("network_call", seconds / n_calls)

    def _note_speed(self, what: Speed, seconds_per_unit: float) -> None:
        run = self.run
        setting = Setting(
            name_device(run.device),
            run.base_model.name,
            run.manifest.sampler.size_px,
            run.manifest.precision,
        )
        note_speed(self.cache_dir, setting, what, seconds_per_unit=seconds_per_unit)
