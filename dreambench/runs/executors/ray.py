"""Units on the nodes of a Ray cluster (`pip install dreambench[ray]`)."""

from __future__ import annotations

import importlib
import itertools
import logging
import socket
import threading
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from dreambench.artifacts.image_set import claim_subject
from dreambench.artifacts.manifest import FILE_NAME, Session
from dreambench.errors import UserError
from dreambench.machine.child_process import make_error
from dreambench.progress import Progress
from dreambench.runs.executors.base import Task
from dreambench.runs.executors.pool import Job, PlaceLostError, Pool
from dreambench.runs.executors.ray_worker import Board, RemoteWorker
from dreambench.runs.executors.transfer import (
    pack_dataset,
    pack_manifest,
    pack_subject,
    take_subject,
)
from dreambench.runs.run_folder import Run
from dreambench.runs.units import Unit, UnitResult

Storage = Literal["shared", "driver"]
"""Whether all nodes see the run folder, or all that is made goes to the driver through Ray."""
BOARD_SECONDS = 0.5
CONNECT_SECONDS = 10.0

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What a worker takes of a node: cores, bytes of memory, and a share of a GPU."""

    n_cpus: float
    memory_bytes: int
    gpu_share: float = 0.0

    @property
    def options(self) -> dict[str, float]:
        """Return them by Ray's names."""
        return {
            "num_cpus": self.n_cpus, "memory": self.memory_bytes, "num_gpus": self.gpu_share,
        }  # fmt: skip

    def count(self, resources: Mapping[str, float]) -> int:
        """Return how many such workers a cluster's resources have room for."""
        found = [
            resources.get(name, 0.0) // need
            for name, need in (
                ("CPU", self.n_cpus), ("memory", self.memory_bytes), ("GPU", self.gpu_share),
            )
            if need
        ]  # fmt: skip
        return int(min(found, default=0))


def find_gpu_share(needed_bytes: int) -> float:
    """Return the share of a GPU of the cluster that a worker takes; connect first."""
    ray = import_ray()

    def measure() -> int:
        import torch  # noqa: PLC0415

        return int(torch.cuda.get_device_properties(0).total_memory)

    return share_of(ray.get(ray.remote(num_gpus=1)(measure).remote()), needed_bytes)


def share_of(gpu_bytes: int, needed_bytes: int) -> float:
    """Return 1 / n, where n workers find room on a GPU; a whole one where it has no room for one.

    Rounded down, since Ray counts in ten-thousandths and n of them have to fit.
    """
    n_workers = max(1, gpu_bytes // needed_bytes)
    return int(10_000 / n_workers) / 10_000


def import_ray() -> Any:
    """Return the library.

    Raises:
        UserError: it is not installed.
    """
    try:
        return importlib.import_module("ray")
    except ImportError as error:
        raise UserError(
            "--executor ray needs Ray, which is not installed",
            hint='pip install "dreambench[ray]"',
            code="missing-package",
        ) from error


def connect(address: str | None) -> dict[str, float]:
    """Connect to a cluster, or start one on this machine for None; return its resources.

    Raises:
        UserError: Ray is not installed, or there is no cluster at the address.
    """
    ray = import_ray()
    if not ray.is_initialized():
        try:
            _require_listener(address)
            ray.init(
                address=address, log_to_driver=False, logging_level=logging.ERROR,
                include_dashboard=False if address is None else None, configure_logging=False,
            )  # fmt: skip
        except (OSError, ValueError, RuntimeError) as error:
            raise UserError(
                f"there is no Ray cluster at {address or 'this machine'}: {error}",
                hint="start one with: ray start --head; then --address auto or ray://HOST:10001",
                code="no-cluster",
            ) from error
    found: dict[str, float] = ray.cluster_resources()
    return found


def _require_listener(address: str | None) -> None:
    """Raise OSError where nobody listens at HOST:PORT: Ray itself would try for minutes."""
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS).close()


class RayPool(Pool):
    """Does units on a cluster; see `Executor`."""

    is_remote = True

    def __init__(self, n_workers: int, needs: Needs, *, device: str, storage: Storage) -> None:
        ray = import_ray()
        self._ray = ray
        self.needs = needs
        # On this node, which has to be there to the end anyway.
        here = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
            ray.get_runtime_context().get_node_id(), soft=False
        )
        self._board = ray.remote(Board).options(num_cpus=0, scheduling_strategy=here).remote()
        self._heard: dict[int, Progress] = {}
        self._is_reading = True
        self._numbers = itertools.count()
        self._datasets: dict[Path, Any] = {}
        self._lock = threading.Lock()
        threading.Thread(target=self._read_board, name="ray-board", daemon=True).start()
        self.ray_places = [
            RayPlace(self, needs, device=device, storage=storage) for _ in range(n_workers)
        ]
        super().__init__(self.ray_places)

    def describe(self, run: Run) -> Session:
        """See `Executor`; the first worker's stands for all."""
        return self.ray_places[0].describe(run.protocol.n_threads)

    def make_worker(self, needs: Needs, device: str) -> Any:
        """Start a worker on a node that has room."""
        remote = self._ray.remote(RemoteWorker).options(**needs.options, max_restarts=0)
        return remote.remote(device, self._board)

    def listen(self, progress: Progress) -> int:
        """Return a number under which a unit's worker will say how far it is."""
        number = next(self._numbers)
        self._heard[number] = progress
        return number

    def put_dataset(self, unit: Unit) -> Any:
        """Return the photos of a unit's run as an object that every node can have, read once."""
        with self._lock:
            folder = unit.run.folder
            if folder not in self._datasets:
                packed = pack_dataset(unit.run, unit.terms.data_dir)
                self._datasets = {folder: self._ray.put(packed)}
            return self._datasets[folder]

    def submit_task(self, task: Task, progress: Progress) -> Future[Any]:
        """Do a task on one of the nodes; the future raises what its handler does.

        One that is lost with its worker is done again, as units are.
        """
        return self.put(_TaskJob(task, progress))

    def close(self) -> None:
        """End the workers, whatever they do."""
        super().close()
        self._hear()
        self._is_reading = False
        self._ray.kill(self._board)

    def _read_board(self) -> None:
        stop = threading.Event()
        while self._is_reading:
            self._hear()
            stop.wait(BOARD_SECONDS)

    def _hear(self) -> None:
        try:
            said = self._ray.get(self._board.read.remote())
        except Exception:  # The cluster went away; whoever waits for a unit says so.
            return
        for number, kind, content in said:
            if kind == "progress":
                self._heard[number](*content)
            else:
                level, line = content
                logger.log(level, "%s", line)


class _TaskJob(Job):
    def __init__(self, task: Task, progress: Progress) -> None:
        super().__init__(task.name, progress)
        self._task = task

    def do(self, place: RayPlace) -> Any:
        return place.do_beside(self._task, self.progress)

    def give_up(self, why: PlaceLostError) -> None:
        self.future.set_exception(
            UserError(
                f"{self.name}: {why}",
                hint="run the same command again, on nodes with more free memory if they ran out",
                code="workers-lost",
            )
        )


class RayPlace:
    """A worker of a cluster."""

    def __init__(self, pool: RayPool, needs: Needs, *, device: str, storage: Storage) -> None:
        self._pool, self._needs, self._device = pool, needs, device
        self._storage = storage
        self._ray = import_ray()
        self._worker: Any = None
        self._is_closed = False
        self._opening = threading.Lock()
        self._seen: set[Path] = set()

    def open(self) -> None:
        """Wait until a node has room for it, and it is there."""
        with self._opening:
            while not self._is_closed:
                if self._worker is None:
                    self._worker = self._pool.make_worker(self._needs, self._device)
                    self._seen = set()
                try:
                    self._ray.get(self._worker.describe.remote(None))
                    return
                except self._ray.exceptions.RayActorError:
                    self._worker = None
                except self._ray.exceptions.RayError as error:
                    raise UserError(
                        f"a node of the cluster cannot work: {str(error).strip().splitlines()[-1]}",
                        hint="every node needs the same dreambench, with what it depends on",
                        code="broken-node",
                    ) from error

    def describe(self, n_threads: int | None) -> Session:
        """Return the session of its process, once it is there."""
        self.open()
        return Session.model_validate(self._ask(self._worker.describe, n_threads))

    def do(self, unit: Unit, progress: Progress) -> UnitResult:
        """See `Place`."""
        number = self._pool.listen(progress)
        if self._storage == "shared":
            (content,) = pack_manifest(unit.run).values()
            self._check_sight(unit.run.folder / FILE_NAME, content)
            kind, content, _ = self._ask(self._worker.do, number, unit.pack(), None, None)
        else:
            with claim_subject(unit.run.folder, unit.subject) as is_ours:
                if not is_ours:
                    return UnitResult(is_busy=True)
                sent = {**pack_manifest(unit.run), **pack_subject(unit.run, unit.subject)}
                dataset = self._pool.put_dataset(unit)
                answer = self._ask(self._worker.do, number, unit.pack(), sent, dataset)
                kind, content, files = answer
                if kind == "done":
                    take_subject(unit.run, unit.subject, files)
        if kind == "error":
            raise make_error(content)
        return UnitResult.unpack(content)

    def do_beside(self, task: Task, progress: Progress) -> Any:
        """Do a task in a process beside the worker's.

        Raises:
            PlaceLostError: one of the two ended before it answered.
            UserError: the node does not see the task's files; or as the task's handler does.
        """
        for path, content in task.seen.items():
            self._check_sight(path, content)
        number = self._pool.listen(progress)
        kind, content = self._ask(self._worker.do_beside, number, task.make_handler, task.request)
        if kind == "ended":
            raise PlaceLostError(content)
        if kind == "error":
            raise make_error(content)
        return content

    def close(self) -> None:
        """End it, whatever it does."""
        self._is_closed = True
        if self._worker is not None:
            self._ray.kill(self._worker)

    def _ask(self, method: Any, *words: Any) -> Any:
        try:
            return self._ray.get(method.remote(*words))
        except self._ray.exceptions.RayError as error:
            self._worker = None
            last = str(error).strip().splitlines()[-1]
            raise PlaceLostError(f"{type(error).__name__}: {last}") from error

    def _check_sight(self, path: Path, content: bytes) -> None:
        path = path.absolute()
        if path in self._seen:
            return
        if not self._ask(self._worker.sees, path, content):
            raise UserError(
                f"a node of the cluster does not see {path.parent}",
                hint="put --out and --cache on a disk that all share, or pass --storage driver",
                code="not-shared",
            )
        self._seen.add(path)
