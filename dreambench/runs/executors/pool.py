"""An executor of several workers, wherever they are.

Each has a thread here that opens its place, waits for a unit, and sees it through. The unit of a
worker that is lost is done by whoever is free first.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Protocol

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


@dataclass
class _Job:
    unit: Unit
    progress: Progress
    future: Future[UnitResult]
    n_lost: int = 0


class Pool:
    """Does units at several places; see `Executor`."""

    is_here = False
    is_remote = False

    def __init__(self, places: Sequence[Place]) -> None:
        self.n_workers = len(places)
        self._places = places
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
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
        job = _Job(unit, progress, Future())
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
                job.future.set_result(place.do(job.unit, job.progress))
            except PlaceLostError as error:
                if job is not None and not self._is_closed:
                    self._lose(job, error)
            except BaseException as error:
                # Whoever waits for a unit hears of it, also where the place could not be opened.
                job = job or self._jobs.get()
                if job is not None:
                    job.future.set_exception(error)
            job = None

    def _lose(self, job: _Job, error: PlaceLostError) -> None:
        """Have a unit done again, unless it is its own fault that its worker is lost."""
        job.n_lost += 1
        unit = job.unit
        # A worker that ends itself (see `methods.calls`) says why.
        said = [one for one in read_failures(unit.run.folder) if one.subject == unit.subject]
        if said:
            job.future.set_result(UnitResult(failures=said))
        elif job.n_lost < N_TRIES:
            logger.warning(
                "%s, %s: lost its worker: %s; another one takes it over", unit.run.name,
                unit.subject, error,
            )  # fmt: skip
            self._jobs.put(job)
        else:
            log = FailureLog(unit.run, unit.subject)
            stage: Stage = "generate" if unit.run.train_dir(unit.subject).is_dir() else "fit"
            why = PlaceLostError(f"lost {N_TRIES} workers; the last: {error}")
            log.record(stage, why, n_images=len(unit.run.missing_of(unit.subject)))
            job.future.set_result(UnitResult(failures=log.found))
