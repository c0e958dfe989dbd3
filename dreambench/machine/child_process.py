"""Processes beside this one that do what they are asked for, and end with this one.

They are forked from a process that has only imported this package, so that nothing that ran here is
in them and each is there at once. Where a GPU is used, which no fork can, each is started anew.
"""

from __future__ import annotations

import gc
import importlib
import logging
import multiprocessing
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from multiprocessing import util
from multiprocessing.connection import Connection, wait
from types import ModuleType
from typing import Any

from dreambench.errors import DiskError, UserError, explain_os_error, format_traceback
from dreambench.machine.devices import count_cores
from dreambench.progress import Progress

Handler = Callable[[Any, Progress], Any]
"""Does what a request asks for, and returns an answer. Both can be pickled: they come from here."""

START_METHODS = ("forkserver", "spawn")
"""Of `multiprocessing`: for CPUs and other devices, in order of preference."""

IDLE_SECONDS = 2.0
"""How long a process that has nothing to do may take to end."""

_main_lock = threading.Lock()

logger = logging.getLogger(__name__)


class ChildEndedError(Exception):
    """The process ended before it answered."""

    def __init__(self, exit_code: int | None) -> None:
        super().__init__(f"the process ended with exit code {exit_code}")
        self.exit_code = exit_code


def prepare_children(modules: Sequence[str], *, device: str, n_at_once: int = 1) -> None:
    """Start what processes for a device are forked from, which imports these modules meanwhile.

    Only the first call of a process counts; nothing is started where each is started anew. Where
    `n_at_once` processes leave no two cores for each, threads that wait for one another sleep:
    kept busy, as OpenMP has it else, they keep the others' from a core.
    """
    if n_at_once > 1 and 2 * n_at_once > count_cores():
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    if _choose_method(device) == "forkserver":
        from multiprocessing import forkserver  # noqa: PLC0415  (not on every system)

        multiprocessing.set_forkserver_preload(["dreambench.machine.forked", *modules])
        with _without_main():
            forkserver.ensure_running()


def _choose_method(device: str) -> str:
    is_there = START_METHODS[0] in multiprocessing.get_all_start_methods()
    return START_METHODS[0] if device == "cpu" and is_there else START_METHODS[1]


@contextmanager
def _without_main() -> Iterator[None]:
    """Keep `multiprocessing` from running the user's script again in each process."""
    with _main_lock:
        kept = sys.modules["__main__"]
        sys.modules["__main__"] = ModuleType("__main__")
        try:
            yield
        finally:
            sys.modules["__main__"] = kept


class ChildProcess:
    """A process that answers requests, from this side.

    `make_handler` is called there, once. `environment` and `search_path` are what os.environ and
    sys.path are there. What is not warned of here is not warned of there.
    """

    def __init__(
        self,
        make_handler: Callable[[], Handler],
        *,
        device: str,
        environment: Mapping[str, str],
        search_path: Sequence[str],
    ) -> None:
        context: Any = multiprocessing.get_context(_choose_method(device))
        self._pipe, theirs = context.Pipe()
        # By its name, so that nothing is imported there before the environment is as it should be.
        named = (make_handler.__module__, make_handler.__name__)
        state = (dict(environment), list(search_path), _list_filters())
        self.process = context.Process(target=_serve, args=(theirs, named, *state))
        with _without_main():
            self.process.start()
        theirs.close()
        # One thread may ask or close at a time, and another may close what is asked.
        self._lock = threading.RLock()
        self._is_asked = self._is_closed = False
        # Before `multiprocessing` waits at the end of this one for those that it started.
        self._at_exit = util.Finalize(None, self.close, exitpriority=1)

    @property
    def is_there(self) -> bool:
        """Whether it still runs."""
        with self._lock:
            return not self._is_closed and bool(self.process.is_alive())

    def close(self) -> None:
        """End it, whatever it does; what it was asked for ends with `ChildEndedError`."""
        self._at_exit.cancel()
        self._is_closed = True
        if self._is_asked:
            self.process.kill()  # So that whoever waits for its answer lets go of the lock.
        with self._lock:
            if self._pipe.closed:
                return
            self._pipe.close()
            # It has nothing to do, so it ends by itself, and tidies up.
            self.process.join(IDLE_SECONDS)
            self.process.kill()
            self.process.join()

    def ask(self, request: Any, progress: Progress) -> Any:
        """Send a request and return its answer when it is done.

        Raises:
            ChildEndedError: the process ended, or was closed.
            UserError: it was raised there.
            RuntimeError: another error was raised there.
        """
        with self._lock:
            self._is_asked = True
            try:
                kind, content = self._wait_for_answer(request, progress)
            except BaseException:
                self.process.kill()  # Its answer would be taken for that of the next request.
                self.process.join()
                raise
            finally:
                self._is_asked = False
        if kind == "done":
            return content
        raise make_error(content)

    def _wait_for_answer(self, request: Any, progress: Progress) -> tuple[str, Any]:
        self._talk(self._pipe.send, request)
        while True:
            kind, content = self._talk(self._pipe.recv)
            if kind == "progress":
                progress(*content)
            elif kind == "log":
                logger.log(*content)
            else:
                return kind, content

    def _talk(self, do: Callable[..., Any], *arguments: Any) -> Any:
        try:
            if self._is_closed:
                raise EOFError
            return do(*arguments)
        except (EOFError, OSError) as error:
            self.process.join(IDLE_SECONDS)
            self.process.kill()
            self.process.join()
            raise ChildEndedError(self.process.exitcode) from error


def describe_error(error: BaseException) -> dict[str, Any]:
    """Return what `make_error` makes of an error; its own class may not be here to be pickled."""
    if isinstance(error, OSError):
        error = explain_os_error(error)
    if not isinstance(error, UserError):
        return {"fault": format_traceback(error)}
    kind = {"is_full": error.is_full} if isinstance(error, DiskError) else {}
    about = {"problem": error.problem, "hint": error.hint, "code": error.code, "lines": str(error)}
    return {**about, **kind}


def make_error(described: Mapping[str, Any]) -> Exception:
    """Return what `describe_error` described, to be raised here."""
    if "fault" in described:
        return RuntimeError(f"in another process:\n{described['fault']}")
    about = {key: described[key] for key in ("hint", "code", "is_full") if key in described}
    error = (DiskError if "is_full" in described else UserError)(described["problem"], **about)
    error.args = (described["lines"],)
    return error


def _serve(
    pipe: Connection[Any, Any],
    named: tuple[str, str],
    environment: dict[str, str],
    search_path: list[str],
    filters: list[Any],
) -> None:
    """Answer requests until nobody sends any."""
    gc.freeze()  # What was imported before the fork stays, and is not looked through again.
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Whoever started it ends it.
    # For a method of its own that starts processes, as in any other program.
    multiprocessing.set_start_method(None, force=True)  # type: ignore[arg-type]
    os.environ.clear()
    os.environ.update(environment)
    sys.path[:] = search_path
    warnings.resetwarnings()
    for one in filters:
        warnings.filterwarnings(*one)
    # Standard output is for data, and what libraries print is none.
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    log = logging.getLogger("dreambench")
    log.handlers, log.propagate = [_Forward(pipe)], False

    def tell(what: str, done: int, total: int) -> None:
        pipe.send(("progress", (what, done, total)))

    module, function = named
    handler: Handler = getattr(importlib.import_module(module), function)()
    while True:
        try:
            request = pipe.recv()
        except EOFError:
            return
        try:
            answer = ("done", handler(request, tell))
        except BaseException as error:
            answer = ("error", describe_error(error))
        pipe.send(answer)


def _list_filters() -> list[Any]:
    """Return what `warnings.filterwarnings` is to be called with there, one after the other.

    A library's own kinds of warnings are left out: to name them there would import it.
    """

    def write(pattern: Any) -> str:
        # Python's own have a module's name, others a compiled pattern or none.
        return pattern if isinstance(pattern, str) else getattr(pattern, "pattern", "")

    return [
        (action, write(message), category, write(module), line)
        for action, message, category, module, line in reversed(warnings.filters)
        if category.__module__ == "builtins"
    ]


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(0)


class _Forward(logging.Handler):
    """Sends what is logged to the other side, which knows what its user wants to see."""

    def __init__(self, pipe: Connection[Any, Any]) -> None:
        super().__init__()
        self._pipe = pipe

    def emit(self, record: logging.LogRecord) -> None:
        self._pipe.send(("log", (record.levelno, "%s", record.getMessage())))
