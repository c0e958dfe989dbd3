"""Child processes, forked from one that has imported what is slow to import.

Commands that tests call in their own process have the real one.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from importlib import import_module

from dreambench.machine import child_process


class ForkedChild:
    """A child process, as `subprocess.Popen` gives it, but forked and so there at once.

    A new interpreter takes seconds at each command. What runs in it is the same.
    """

    def __init__(self, words: list[str], **options: object) -> None:
        requests, answers = os.pipe(), os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.dup2(requests[0], 0)
            os.dup2(answers[1], 1)
            for file in (*requests, *answers):
                os.close(file)
            sys.stdin, sys.stdout = (os.fdopen(n, "rw"[n], encoding="utf-8") for n in (0, 1))
            logging.getLogger("dreambench").handlers.clear()
            *_, module, function = words
            getattr(import_module(module), function)()
        os.close(requests[0])
        os.close(answers[1])
        self.stdin = os.fdopen(requests[1], "w", encoding="utf-8")
        self.stdout = os.fdopen(answers[0], encoding="utf-8")
        self.code: int | None = None

    def poll(self) -> int | None:
        """Return its exit code, None while it runs."""
        return self.wait(os.WNOHANG)

    def wait(self, options: int = 0) -> int | None:
        """Wait for its end and return its exit code."""
        if self.code is None:
            ended, status = os.waitpid(self.pid, options)
            self.code = os.waitstatus_to_exitcode(status) if ended else None
        return self.code

    def kill(self) -> None:
        """End it."""
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)

    def communicate(self) -> None:
        """Close its pipes, and wait for its end."""
        self.stdin.close()
        self.stdout.close()
        self.wait()


class _Forking:
    """Stands for the module `subprocess` in the one that starts it."""

    Popen, PIPE = ForkedChild, subprocess.PIPE


def fork_children() -> None:
    """Have child processes forked, in this process and those forked from it."""
    child_process.subprocess = _Forking  # type: ignore[assignment]
