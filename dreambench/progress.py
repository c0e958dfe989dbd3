"""How long work says how far it is."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """What a long work calls to say how far it is."""

    def __call__(self, what: str, done: int, total: int) -> None:
        """Says that `done` of `total` steps of `what` are through."""
        ...


def no_progress(what: str, done: int, total: int) -> None:
    """Says nothing."""
