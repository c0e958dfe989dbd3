"""A process beside this one that answers requests: a line of JSON each, and lines of JSON back.

It starts a new interpreter, so that nothing that ran in this one is in it, and ends with this one.
"""

from __future__ import annotations

import atexit
import json
import logging
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from typing import IO, Any

from dreambench.errors import DiskError, UserError, explain_os_error, format_traceback
from dreambench.progress import Progress

Handler = Callable[[Mapping[str, Any], Progress], Any]
"""Does what a request asks for, and returns an answer that JSON can hold."""

_START = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]);"
    "from importlib import import_module;"
    "getattr(import_module(sys.argv[2]), sys.argv[3])()"
)

logger = logging.getLogger(__name__)


class ChildEndedError(Exception):
    """The process ended before it answered."""

    def __init__(self, exit_code: int) -> None:
        super().__init__(f"the process ended with exit code {exit_code}")
        self.exit_code = exit_code


class ChildProcess:
    """A process that runs `serve` in the function that is named, from this side."""

    def __init__(
        self,
        module: str,
        function: str,
        *,
        environment: Mapping[str, str],
        search_path: list[str],
    ) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", _START, json.dumps(search_path), module, function],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, encoding="utf-8",
        )  # fmt: skip
        atexit.register(self.close)

    @property
    def is_there(self) -> bool:
        """Whether it still runs."""
        return self.process.poll() is None

    def close(self) -> None:
        """End it, whatever it does."""
        atexit.unregister(self.close)
        self.process.kill()
        self.process.communicate()

    def ask(self, request: Mapping[str, Any], progress: Progress) -> Any:
        """Send a request and return its answer when it is done.

        Raises:
            ChildEndedError: the process ended.
            UserError: it was raised there.
            RuntimeError: another error was raised there.
        """
        requests, answers = self.process.stdin, self.process.stdout
        if requests is None or answers is None:
            raise ValueError("a process without pipes")
        try:
            requests.write(json.dumps(request) + "\n")
            requests.flush()
        except BrokenPipeError:
            pass  # Its exit code says why.
        for line in answers:
            answer = json.loads(line)
            if "progress" in answer:
                progress(*answer["progress"])
            elif "log" in answer:
                logger.log(*answer["log"])
            elif "done" in answer:
                return answer["done"]
            else:
                _raise_as_there(answer)
        raise ChildEndedError(self.process.wait())


def _raise_as_there(answer: Mapping[str, Any]) -> None:
    if "lines" in answer:
        about = {key: answer[key] for key in ("hint", "code", "is_full") if key in answer}
        error = (DiskError if "is_full" in answer else UserError)(answer["problem"], **about)
        error.args = (answer["lines"],)
        raise error
    raise RuntimeError(f"in another process:\n{answer['fault']}")


def _describe(error: BaseException) -> dict[str, Any]:
    """Return an answer that `_raise_as_there` raises again."""
    if isinstance(error, OSError):
        error = explain_os_error(error)
    if not isinstance(error, UserError):
        return {"fault": format_traceback(error)}
    kind = {"is_full": error.is_full} if isinstance(error, DiskError) else {}
    about = {"problem": error.problem, "hint": error.hint, "code": error.code, "lines": str(error)}
    return {**about, **kind}


def serve(handler: Handler) -> None:
    """Answer requests until nobody sends any; the other side's end is this one's, at once."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Whoever started it ends it.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    # What libraries print is no answer.
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    requests: queue.Queue[str] = queue.Queue()
    threading.Thread(target=_listen, args=(requests,), daemon=True).start()
    logging.getLogger("dreambench").addHandler(_Forward(answers))
    logging.getLogger("dreambench").propagate = False

    def tell(what: str, done: int, total: int) -> None:
        _answer(answers, {"progress": [what, done, total]})

    while True:
        request = json.loads(requests.get())
        try:
            answer = {"done": handler(request, tell)}
        except BaseException as error:
            answer = _describe(error)
        _answer(answers, answer)


def _listen(requests: queue.Queue[str]) -> None:
    for line in sys.stdin:
        requests.put(line)
    os._exit(0)


def _answer(answers: IO[str], answer: Mapping[str, Any]) -> None:
    answers.write(json.dumps(answer) + "\n")
    answers.flush()


class _Forward(logging.Handler):
    """Sends what is logged to the other side, which knows what its user wants to see."""

    def __init__(self, answers: IO[str]) -> None:
        super().__init__()
        self.answers = answers

    def emit(self, record: logging.LogRecord) -> None:
        _answer(self.answers, {"log": [record.levelno, "%s", record.getMessage()]})
