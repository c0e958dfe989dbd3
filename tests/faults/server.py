"""A process that has imported all that is slow, and forks a child for each command of a case.

    with Server(folder, shim=path) as server:
        done = server.call(["plan", "--method", "class-only", "--protocol", "mini"], cwd=folder)

With a shim it is loaded before anything else, and `server.faults` says what it is to spoil.
"""

from __future__ import annotations

import gc
import importlib
import json
import mmap
import os
import resource
import select
import shutil
import signal
import struct
import subprocess
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from processes import PRELOADED

TESTS = Path(__file__).resolve().parent.parent
SHIM_SOURCE = Path(__file__).with_name("shim.c")
MORE_PRELOADED = (
    "dreambench.analysis.replicates", "dreambench.datasets.custom_subjects",
    "dreambench.datasets.fetch", "dreambench.preflight.cost_estimate",
    "dreambench.report.writing", "dreambench.encoders.perceptual",
    "dreambench.methods.reference.copy_reference",
    "dreambench.metrics.registry", "dreambench.report.terminal", "imagehash",
    "matplotlib.backends.backend_agg", "pyarrow.dataset", "pyarrow.parquet",
    "rich.progress", "transformers.models.segformer.modeling_segformer",
)  # fmt: skip
ACTIONS = ("count", "kill-before", "kill-after", "kill-half", "fail")


def compile_shim(folder: Path) -> Path | None:
    """Compile the shim into a folder and return its path; None without Linux or a C compiler."""
    compiler = shutil.which("cc")
    if compiler is None or not sys.platform.startswith("linux"):
        return None
    path = folder / "shim.so"
    words = [compiler, "-shared", "-fPIC", "-O1", "-o", str(path), str(SHIM_SOURCE), "-ldl"]
    subprocess.run(words, check=True)
    return path


class Faults:
    """What the shim spoils, in the memory that it shares with all processes of a server."""

    LAYOUT = struct.Struct("6l32s512s512s")

    def __init__(self, path: Path) -> None:
        path.write_bytes(bytes(self.LAYOUT.size))
        with path.open("r+b") as stream:
            self._memory = mmap.mmap(stream.fileno(), self.LAYOUT.size)

    def arm(
        self, folder: Path, *, at: int, action: str, error: int = 0, for_good: bool = False
    ) -> None:
        """Spoil the `at`-th call below a folder, from 1 (0 for none), and those after it, too."""
        fields = (at, ACTIONS.index(action), error, for_good, 0, 0, b"", b"", os.fsencode(folder))
        self.LAYOUT.pack_into(self._memory, 0, *fields)

    def disarm(self) -> Fired:
        """Let all calls through, and return what happened since `arm`."""
        fields = self.LAYOUT.unpack_from(self._memory)
        self.LAYOUT.pack_into(self._memory, 0, *[0] * 6, b"", b"", b"")
        operation, path = (os.fsdecode(field.rstrip(b"\0")) for field in fields[6:8])
        return Fired(n_calls=fields[4], n_spoiled=fields[5], operation=operation, path=path)


@dataclass(frozen=True)
class Fired:
    """How many calls there were, how many were spoiled, and which was the first."""

    n_calls: int
    n_spoiled: int
    operation: str
    path: str


@dataclass(frozen=True)
class Done:
    """How a command ended: `status` is its exit code, or minus the signal that ended it."""

    status: int
    seconds: float
    timed_out: bool
    stdout: str
    stderr: str


class Server:
    """The process that forks; a context, which ends it."""

    def __init__(self, folder: Path, *, shim: Path | None = None) -> None:
        self.folder = folder
        self.faults = Faults(folder / "faults.state")
        environment = {
            **os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)]),
            "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1", "FAULTS_STATE": str(folder / "faults.state"),
        }  # fmt: skip
        if shim is not None:
            environment["LD_PRELOAD"] = str(shim)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "faults.server"], env=environment, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=(folder / "server.log").open("w"),
        )  # fmt: skip

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(30)

    def call(
        self,
        words: Sequence[object],
        *,
        cwd: Path,
        environment: Mapping[str, str] = MappingProxyType({}),
        max_seconds: float = 120.0,
        max_bytes: int = 0,
    ) -> Done:
        """Run a command of `dreambench` in a child; `max_bytes` bounds what memory it adds."""
        assert self._process.stdin is not None and self._process.stdout is not None
        outputs = [str(self.folder / name) for name in ("stdout", "stderr")]
        asked = {
            "words": [str(word) for word in words], "cwd": str(cwd), "outputs": outputs,
            "environment": dict(environment), "max_seconds": max_seconds, "max_bytes": max_bytes,
        }  # fmt: skip
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        printed = [Path(path).read_bytes().decode(errors="surrogateescape") for path in outputs]
        return Done(**answer, stdout=printed[0], stderr=printed[1])


def _serve() -> None:
    for name in (*PRELOADED, *MORE_PRELOADED, "faults.entry"):
        importlib.import_module(name)
    gc.freeze()  # What is imported stays: no child looks through it for circles.
    for line in sys.stdin:
        asked = json.loads(line)
        for path in asked["outputs"]:
            Path(path).write_bytes(b"")
        started = time.monotonic()
        child = os.fork()
        if child == 0:
            _enter(asked)
        status, timed_out = _wait(child, asked["max_seconds"])
        seconds = time.monotonic() - started
        answer = {"status": status, "seconds": seconds, "timed_out": timed_out}
        print(json.dumps(answer), flush=True)


def _wait(child: int, max_seconds: float) -> tuple[int, bool]:
    handle = os.pidfd_open(child)
    ended, _, _ = select.select([handle], [], [], max_seconds)
    os.close(handle)
    # Also what the child started: it may not write any more when the next case begins.
    with suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), not ended


def _enter(asked: dict) -> None:
    os.setsid()
    code = 1
    try:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for number, path in enumerate(asked["outputs"], start=1):
            os.dup2(os.open(path, os.O_WRONLY | os.O_APPEND), number)
        os.environ.update(asked["environment"])
        os.chdir(asked["cwd"])
        if asked["max_bytes"]:
            pages = int(Path("/proc/self/statm").read_text().split()[0])
            limit = pages * resource.getpagesize() + asked["max_bytes"]
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        sys.argv = ["dreambench", *asked["words"]]
        from faults.entry import main  # noqa: PLC0415  (is imported in the process forked from)

        main(asked["words"])
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        with suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    _serve()
