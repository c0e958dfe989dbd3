"""The interface of an executor."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from dreambench.artifacts.manifest import Session
from dreambench.machine.child_process import Handler
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


@dataclass(frozen=True, kw_only=True)
class Task:
    """Work for a process beside a worker's, which has run no method's code.

    It calls `make_handler` and hands `request` to what that returns. `name` is for people. `seen`
    are files that have to be where it works, with these contents.
    """

    name: str
    make_handler: Callable[[], Handler]
    request: Any
    seen: Mapping[Path, bytes] = field(default_factory=dict)
