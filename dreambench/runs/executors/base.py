"""The interface of an executor."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Protocol

from dreambench.artifacts.manifest import Session
from dreambench.progress import Progress
from dreambench.runs.run_folder import Run
from dreambench.runs.units import Unit, UnitResult


class Executor(Protocol):
    """Does units, as many at once as it has workers.

    `is_here` says that `submit` does the unit before it returns, `is_remote` that it is done on
    another machine.
    """

    n_workers: int
    is_here: bool
    is_remote: bool

    def describe(self, run: Run) -> Session:
        """Return what a run's images will be made with."""
        ...

    def submit(self, unit: Unit, progress: Progress) -> Future[UnitResult]:
        """Do a unit; the future raises what `Worker.do` does.

        A worker that is lost is replaced, and its unit done again.
        """
        ...

    def close(self) -> None:
        """End the workers, whatever they do."""
        ...
