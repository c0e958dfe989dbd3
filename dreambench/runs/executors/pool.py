"""An executor of several workers, wherever they are.

Each has a thread here that opens its place, waits for a unit, and sees it through. The unit of a
worker that is lost is done by whoever is free first.
"""

from __future__ import annotations

import logging
import queue
import threading
from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, Protocol

from dreambench.artifacts.failures import Stage, read_failures
from dreambench.artifacts.manifest import Session
from dreambench.machine.environment import describe_session
from dreambench.progress import Progress
from dreambench.runs.failures import FailureLog
from dreambench.runs.run_folder import Run
from dreambench.runs.units import Unit, UnitResult

logger = logging.getLogger(__name__)

N_TRIES = 3
"""A place that is lost may have been killed; a unit that loses so many is what kills them."""

CLOSING_SECONDS = 5.0
"""How long to wait for the end of a worker, at most."""


class PlaceLostError(Exception):
    """Whoever worked on a unit is there no more."""


class Place(Protocol):
    """Where a worker is, from this side."""

    def open(self) -> None:
        """Have a worker there; wait until it can be asked, unless the place is closed."""
        ...

    def do(self, unit: Unit, progress: Progress) -> UnitResult:
        """Have a unit done by it.

        Raises:
            PlaceLostError: the worker ended before it answered.
            UserError: as `Worker.do` does.
        """
        ...

    def close(self) -> None:
        """End the worker, whatever it does."""
        ...


class Job(ABC):
    """Work that one of the places does, and whoever waits for it."""

    def __init__(self, name: str, progress: Progress) -> None:
        self.name, self.progress = name, progress
        self.future: Future[Any] = Future()
        self.n_lost = 0

    @abstractmethod
    def do(self, place: Any) -> Any:
        """Have it done there; see `Place.do`."""

    def find_answer(self) -> Any | None:
        """Return what a worker that is lost left as its answer; None: it is to be done again."""
        return None

    @abstractmethod
    def give_up(self, why: PlaceLostError) -> None:
        """Answer whoever waits for work that kills whoever does it."""


class _UnitJob(Job):
    def __init__(self, unit: Unit, progress: Progress) -> None:
        super().__init__(f"{unit.run.name}, {unit.subject}", progress)
        self._unit = unit

    def do(self, place: Place) -> UnitResult:
        return place.do(self._unit, self.progress)

    def find_answer(self) -> UnitResult | None:
        # A worker that ends itself (see `methods.calls`) says why.
        unit = self._unit
        said = [one for one in read_failures(unit.run.folder) if one.subject == unit.subject]
        return UnitResult(failures=said) if said else None

    def give_up(self, why: PlaceLostError) -> None:
        unit = self._unit
        log = FailureLog(unit.run, unit.subject)
        stage: Stage = "generate" if unit.run.train_dir(unit.subject).is_dir() else "fit"
        log.record(stage, why, n_images=len(unit.run.missing_of(unit.subject)))
        self.future.set_result(UnitResult(failures=log.found))


class Pool:
    """Does units at several places; see `Executor`."""

    is_here = False
    is_remote = False

    def __init__(self, places: Sequence[Place]) -> None:
        self.n_workers = len(places)
        self._places = places
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._is_closed = False
        self._threads = [
            threading.Thread(target=self._serve, args=(place,), name=f"worker-{n}", daemon=True)
            for n, place in enumerate(places)
        ]
        for thread in self._threads:
            thread.start()

    def describe(self, run: Run) -> Session:
        """See `Executor`."""
        return describe_session(run.device, n_threads=run.protocol.n_threads)

    def submit(self, unit: Unit, progress: Progress) -> Future[UnitResult]:
        """See `Executor`."""
        return self.put(_UnitJob(unit, progress))

    def put(self, job: Job) -> Future[Any]:
        """Have a job done by whoever is free first; see `submit`."""
        self._jobs.put(job)
        return job.future

    def close(self) -> None:
        """End the workers, whatever they do."""
        self._is_closed = True
        for place in self._places:
            self._jobs.put(None)
            place.close()
        for thread in self._threads:
            thread.join(CLOSING_SECONDS)
        with suppress(queue.Empty):
            while True:
                if (job := self._jobs.get_nowait()) is not None:
                    job.future.set_exception(PlaceLostError("the command ends"))

    def _serve(self, place: Place) -> None:
        try:
            self._work(place)
        finally:
            place.close()  # It may have been opened since it was closed.

    def _work(self, place: Place) -> None:
        job = None
        while not self._is_closed:
            try:
                place.open()
                job = self._jobs.get()
                if job is None:
                    return
                job.future.set_result(job.do(place))
            except PlaceLostError as error:
                if job is not None:
                    self._lose(job, error)
            except BaseException as error:
                # Whoever waits for a unit hears of it, also where the place could not be opened.
                job = job or self._jobs.get()
                if job is not None:
                    job.future.set_exception(error)
            job = None

    def _lose(self, job: Job, error: PlaceLostError) -> None:
        """Have a job done again, unless it is its own fault that its worker is lost."""
        job.n_lost += 1
        if self._is_closed:
            job.future.set_exception(error)
        elif (answer := job.find_answer()) is not None:
            job.future.set_result(answer)
        elif job.n_lost < N_TRIES:
            logger.warning("%s: lost its worker: %s; another one takes over", job.name, error)
            self._jobs.put(job)
        else:
            job.give_up(PlaceLostError(f"lost {N_TRIES} workers; the last: {error}"))
