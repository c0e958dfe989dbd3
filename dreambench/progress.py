"""How long work says how far it is."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol


class Progress(Protocol):
    """What a long work calls to say how far it is."""

    def __call__(self, what: str, done: int, total: int) -> None:
        """Says that `done` of `total` steps of `what` are through."""
        ...


def no_progress(what: str, done: int, total: int) -> None:
    """Says nothing."""


class Pace:
    """How fast a work has gone since it was first heard of, and how long the rest will take.

    The mean over all steps, since they may take minutes: none is too old to count. `done` are those
    that were through at the start.
    """

    def __init__(self, done: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._started = self._heard = clock()
        self._first = self._done = done

    def update(self, done: int) -> None:
        """Note that so many steps are through."""
        if done != self._done:
            self._done, self._heard = done, self._clock()

    def seconds_left(self, total: int) -> float | None:
        """Return the seconds until `total` steps are through; None before one was made."""
        n_made = self._done - self._first
        if n_made < 1:
            return None
        a_step = (self._heard - self._started) / n_made
        # A step that takes longer than those before leaves the rest as it is.
        of_this_step = max(a_step - (self._clock() - self._heard), 0.0)
        return of_this_step + a_step * (total - self._done - 1) if total > self._done else 0.0


def format_seconds(seconds: float | None) -> str:
    """Return a time as "1:02:03"; dashes for None."""
    if seconds is None:
        return "-:--:--"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"
