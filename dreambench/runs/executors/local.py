"""Units on this machine: in this process, or in one process a worker."""

from __future__ import annotations

import os
import sys
from concurrent.futures import Future
from typing import Any

from dreambench.artifacts.manifest import Session
from dreambench.machine.child_process import ChildEndedError, ChildProcess, Handler
from dreambench.machine.environment import describe_session
from dreambench.progress import Progress
from dreambench.runs.executors.pool import PlaceLostError
from dreambench.runs.run_folder import Run
from dreambench.runs.units import Unit, UnitReader, UnitResult
from dreambench.runs.worker import Worker


class Here:
    """Does units in this process, one after another."""

    n_workers = 1
    is_here = True
    is_remote = False

    def __init__(self) -> None:
        self._worker = Worker()

    def describe(self, run: Run) -> Session:
        """See `Executor`."""
        return describe_session(run.device, n_threads=run.protocol.n_threads)

    def submit(self, unit: Unit, progress: Progress) -> Future[UnitResult]:
        """See `Executor`."""
        future: Future[UnitResult] = Future()
        future.set_result(self._worker.do(unit, progress))
        return future

    def close(self) -> None:
        """Let go of the last method's networks."""
        self._worker.release()


class LocalPlace:
    """A process of this machine that works on units."""

    def __init__(self, device: str) -> None:
        self._device = device
        self._child: ChildProcess | None = None

    def open(self) -> None:
        """Start it, where it is not there."""
        if self._child is None or not self._child.is_there:
            self._child = ChildProcess(
                make_handler, device=self._device, environment=dict(os.environ),
                search_path=list(sys.path),
            )  # fmt: skip

    def do(self, unit: Unit, progress: Progress) -> UnitResult:
        """See `Place`."""
        assert self._child is not None
        try:
            packed = self._child.ask((self._device, unit.pack()), progress)
        except ChildEndedError as error:
            raise PlaceLostError(
                f"its process ended with exit code {error.exit_code} (-9 is what a system gives "
                "when memory runs out)"
            ) from error
        return UnitResult.unpack(packed)

    def close(self) -> None:
        """End it, whatever it does."""
        if self._child is not None:
            self._child.close()


def make_handler() -> Handler:
    """Return what works on the units that another process sends."""
    worker, readers = Worker(), dict[str, UnitReader]()

    def do(request: tuple[str, dict[str, Any]], progress: Progress) -> dict[str, Any]:
        device, packed = request
        reader = readers.setdefault(device, UnitReader(device=device))
        return worker.do(reader.unpack(packed), progress).pack()

    return do
