"""What runs in a Ray cluster: workers, and a board where they say how far they are."""

from __future__ import annotations

import logging
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from dreambench.errors import UserError
from dreambench.machine.child_process import (
    ChildEndedError,
    ChildProcess,
    Handler,
    describe_error,
)
from dreambench.machine.environment import describe_session
from dreambench.runs.executors.transfer import Dataset, Files, pack_subject, unpack
from dreambench.runs.units import UnitReader
from dreambench.runs.worker import Worker

SECONDS_BETWEEN_WORDS = 0.5
"""How often unfinished work reports its progress."""

Answer = tuple[str, Any]

# As they are when this module is imported, which is before any method's code is.
_ENVIRONMENT = dict(os.environ)
_SEARCH_PATH = list(sys.path)


class Board:
    """Collects what workers say, until it is read."""

    def __init__(self) -> None:
        self._said: list[tuple[int, str, Any]] = []

    def tell(self, number: int, kind: str, content: Any) -> None:
        """Take what the worker of a unit says; `kind` is "progress" or "log"."""
        self._said.append((number, kind, content))

    def read(self) -> list[tuple[int, str, Any]]:
        """Return what was said since the last time."""
        said, self._said = self._said, []
        return said


class RemoteWorker:
    """Works on units in a process of Ray's, on one of its nodes."""

    def __init__(self, device: str, board: Any) -> None:
        self._device, self._board = device, board
        self._worker, self._reader = Worker(), UnitReader(device=device)
        self._number = 0
        self._told: dict[str, float] = {}
        self._folders: dict[str, Path] = {}
        log = logging.getLogger("dreambench")
        log.handlers, log.propagate = [_ToBoard(self)], False

    def describe(self, n_threads: int | None) -> dict[str, Any]:
        """Return this process's session; also says that it is there."""
        return describe_session(self._device, n_threads=n_threads).model_dump(mode="json")

    def sees(self, path: Path, content: bytes) -> bool:
        """Return whether a file is on this node's disk, as it was written."""
        return path.is_file() and path.read_bytes() == content

    def do_beside(self, number: int, make_handler: Callable[[], Handler], request: Any) -> Answer:
        """Do a task; return ("done", its answer), ("error", what was raised) or ("ended", why)."""
        self._number = number
        child = ChildProcess(
            make_handler, device=self._device, environment=_ENVIRONMENT, search_path=_SEARCH_PATH
        )
        try:
            return "done", child.ask(request, self._tell)
        except ChildEndedError as error:
            return "ended", str(error)
        except BaseException as error:
            return "error", describe_error(error)
        finally:
            child.close()

    def do(
        self, number: int, packed: Mapping[str, Any], sent: Files | None, dataset: Dataset | None
    ) -> tuple[str, Any, Files]:
        """Do a unit; return ("done", its result) or ("error", what was raised), and its files.

        With `sent`, the run's manifest and what there is of the subject, the unit is done in a
        folder of this node, and the files are what is there of the subject afterwards.
        """
        self._number = number
        try:
            if sent is None or dataset is None:
                return "done", self._worker.do(self._reader.unpack(packed), self._tell).pack(), {}
            unit = self._reader.unpack(self._place(packed, sent, dataset))
            result = self._worker.do(unit, self._tell)
            return "done", result.pack(), pack_subject(unit.run, unit.subject)
        except BaseException as error:
            return "error", describe_error(error), {}

    def _place(self, packed: Mapping[str, Any], sent: Files, dataset: Dataset) -> dict[str, Any]:
        """Write a unit's files on this node, and return it with their places."""
        if packed["checkpoints"]:
            raise UserError(
                "checkpoints need a disk that all nodes share",
                hint="pass --storage shared",
                code="not-supported",
            )
        if packed["folder"] not in self._folders:
            for folder in self._folders.values():
                shutil.rmtree(folder.parent, ignore_errors=True)
            root = Path(tempfile.mkdtemp(prefix="dreambench-worker-"))
            self._folders = {packed["folder"]: root / "run"}
            unpack(root / "data" / (dataset.folder or ""), dataset.files)
        folder = self._folders[packed["folder"]]
        shutil.rmtree(folder, ignore_errors=True)  # Earlier subjects' weights, above all.
        unpack(folder, sent)
        data = folder.parent / "data"
        return {
            **packed, "folder": str(folder), "near": str(data / "protocol.toml"),
            "data_dir": str(data), "cache_dir": str(Path(tempfile.gettempdir()) / "dreambench"),
        }  # fmt: skip

    def _tell(self, what: str, done: int, total: int) -> None:
        now = time.monotonic()
        if done < total and now - self._told.get(what, 0.0) < SECONDS_BETWEEN_WORDS:
            return
        self._told[what] = now
        self.say("progress", (what, done, total))

    def say(self, kind: str, content: Any) -> None:
        """Say something of the unit that is being worked on."""
        self._board.tell.remote(self._number, kind, content)


class _ToBoard(logging.Handler):
    def __init__(self, worker: RemoteWorker) -> None:
        super().__init__()
        self._worker = worker

    def emit(self, record: logging.LogRecord) -> None:
        self._worker.say("log", (record.levelno, record.getMessage()))
