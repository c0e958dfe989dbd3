"""Calls the code of a method so that whatever it does is its own failure and nobody else's."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, TypeVar

from dreambench.errors import name_error, read_message
from dreambench.methods.guard import Guard
from dreambench.methods.process_state import kept_process

T = TypeVar("T")

HANG_SECONDS = 60.0
"""How long after its time limit a call may take to be interrupted, until the process is ended."""
_RING_AGAIN_SECONDS = 1.0


class ExitError(Exception):
    """A method's code raised what ends a whole program: SystemExit, KeyboardInterrupt."""


class TimeLimitError(Exception):
    """A method's code took longer than `--unit-timeout`."""


class _Ring(BaseException):
    """The time is over. No Exception, so that a method's `except Exception` lets it through."""


class Calls:
    """Calls a method's code, each time with the process as it was.

    `files` watches over what it writes. With `limit_seconds`, a call that takes longer fails: the
    system's alarm clock interrupts Python code, and where native code does not come back from its
    work within HANG_SECONDS more, the process is ended.
    """

    def __init__(self, *, files: Guard | None = None, limit_seconds: float | None = None) -> None:
        self._files = files
        self._limit_seconds = limit_seconds

    @property
    def watches_files(self) -> bool:
        """Whether what else is written during a call is taken for the method's."""
        return self._files is not None

    def make(self, function: Callable[[], T]) -> T:
        """Call what loads a method, which has no time limit; see `run`."""
        return self._watch(function, _Clock(None, _ignore), own=None)

    def run(
        self,
        function: Callable[[], T],
        *,
        on_hang: Callable[[TimeLimitError], object],
        out_dir: Any = None,
    ) -> T:
        """Return what a function returns; nothing but `out_dir` may be written by it.

        `on_hang` is called, in another thread, before a process that hangs is ended.

        Raises:
            ExitError: it raised what is not an Exception.
            TimeLimitError: it took longer than the limit.
            WriteOutsideError: it wrote where it may not.
            KeyboardInterrupt: the user asked for a stop while it worked.
        """
        return self._watch(function, _Clock(self._limit_seconds, on_hang), own=out_dir)

    def _watch(self, function: Callable[[], T], clock: _Clock, *, own: Any) -> T:
        files = self._files.watch(own) if self._files else nullcontext()
        with kept_process(), files:
            return _call(function, clock)


def _ignore(_: TimeLimitError) -> None:
    return


def _call(function: Callable[[], T], clock: _Clock) -> T:
    stops = _Stops()
    try:
        try:
            stops.start()
            clock.start()
            found = function()
        finally:
            # Also in what handles the error, since the alarm may ring in here.
            clock.end()
            stops.end()
    except BaseException as error:
        clock.end()
        stops.end()
        if stops.was_asked:
            raise KeyboardInterrupt from error
        if clock.is_over:
            raise clock.describe() from error
        if isinstance(error, Exception):
            raise
        raise ExitError(
            f"{name_error(error)} ({read_message(error)}) would have ended the whole run"
        ) from error
    if stops.was_asked:
        raise KeyboardInterrupt
    if clock.is_over:
        raise clock.describe()
    return found


class _Stops:
    """Tells a stop that the user asks for (Ctrl-C) from a KeyboardInterrupt that code raises.

    Signals come to the main thread alone, and no stop does to another.
    """

    def __init__(self) -> None:
        self.was_asked = False
        self._before: Any = None

    def start(self) -> None:
        before = signal.getsignal(signal.SIGINT)
        if threading.current_thread() is threading.main_thread() and callable(before):
            self._before = before
            signal.signal(signal.SIGINT, self._ask)

    def end(self) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    def _ask(self, number: int, frame: Any) -> None:
        self.was_asked = True
        self._before(number, frame)


class _Clock:
    """Interrupts the main thread after a time limit, and ends the process if that does not help."""

    def __init__(
        self, limit_seconds: float | None, on_hang: Callable[[TimeLimitError], object]
    ) -> None:
        self._limit = limit_seconds
        self._on_hang = on_hang
        self._started = self._seconds = 0.0
        self._is_running = False
        self._alarm: tuple[Any, tuple[float, float]] | None = None
        self._last_resort: threading.Timer | None = None

    @property
    def is_over(self) -> bool:
        """Whether a call took longer than the limit."""
        return self._limit is not None and self._seconds > self._limit

    def describe(self) -> TimeLimitError:
        return TimeLimitError(f"took longer than {self._limit:g} seconds (--unit-timeout)")

    def start(self) -> None:
        if self._limit is None:
            return
        self._is_running = True
        self._started = time.monotonic()
        self._last_resort = threading.Timer(self._limit + HANG_SECONDS, self._end_process)
        self._last_resort.daemon = True
        self._last_resort.start()
        # For code that holds Python's lock, which no thread of Python gets past.
        if sys.__stderr__ is not None:
            with contextlib.suppress(OSError, ValueError):
                faulthandler.dump_traceback_later(
                    self._limit + 2 * HANG_SECONDS, exit=True, file=sys.__stderr__
                )
        is_main = threading.current_thread() is threading.main_thread()
        if is_main and hasattr(signal, "setitimer"):
            handler = signal.signal(signal.SIGALRM, self._ring)
            timer = signal.setitimer(signal.ITIMER_REAL, self._limit, _RING_AGAIN_SECONDS)
            self._alarm = (handler, timer)

    def end(self) -> None:
        if not self._is_running:
            return
        if self._alarm is not None:
            handler, timer = self._alarm
            signal.setitimer(signal.ITIMER_REAL, *timer)
            signal.signal(signal.SIGALRM, handler)
        self._is_running = False
        self._seconds = time.monotonic() - self._started
        faulthandler.cancel_dump_traceback_later()
        if self._last_resort is not None:
            self._last_resort.cancel()

    def _ring(self, number: int, frame: Any) -> None:
        if self._is_running:
            raise _Ring

    def _end_process(self) -> None:
        frame = sys._current_frames().get(threading.main_thread().ident or 0)
        error = self.describe()
        error.add_note("It hangs here:\n" + "".join(traceback.format_stack(frame)))
        try:
            self._on_hang(error)
        finally:
            os._exit(1)
