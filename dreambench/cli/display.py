"""What stderr shows while a command works: progress with the time left, and the log."""

from __future__ import annotations

import logging
import os
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from dreambench.cli.shared import say
from dreambench.progress import Pace, format_seconds
from dreambench.text import make_printable

LIBRARIES = (
    "accelerate", "bitsandbytes", "diffusers", "huggingface_hub", "lpips", "open_clip", "peft",
    "timm", "torch", "torchvision", "transformers",
)  # fmt: skip
"""What their warnings are about (kernels that nothing calls, arguments that are called otherwise
now) is nothing that who runs a benchmark can do something about; errors are shown."""
SECONDS_BETWEEN_LINES = 60.0
"""Where there is no terminal, unfinished work is heard of so often."""


class _EchoHandler(logging.Handler):
    """Prints the package's log on stderr as whoever is there at the moment."""

    def emit(self, record: logging.LogRecord) -> None:
        say(record.getMessage(), err=True)
        if record.exc_info:
            for line in logging.Formatter().formatException(record.exc_info).split("\n"):
                say(line, err=True)


def set_up_logging(*, quiet: bool, verbose: bool) -> None:
    """Print the package's log on stderr: notices, only errors (quiet), or all (verbose).

    Warnings of the libraries beneath are printed with `verbose` alone.
    """
    # A picture that is refused for its size need not be warned of as well.
    warnings.filterwarnings("ignore", message="Image size .* exceeds limit of")
    logger = logging.getLogger("dreambench")
    logger.setLevel(logging.ERROR if quiet else logging.DEBUG if verbose else logging.WARNING)
    if not any(isinstance(handler, _EchoHandler) for handler in logger.handlers):
        logger.addHandler(_EchoHandler())
        logger.propagate = False
    if not verbose:
        _silence_libraries()


def _silence_libraries() -> None:
    warnings.filterwarnings("ignore", module=rf"({'|'.join(LIBRARIES)})(\.|$)")
    for name in LIBRARIES:
        logging.getLogger(name).setLevel(logging.ERROR)
    # These two set their loggers' levels when they are imported.
    for name in ("DIFFUSERS", "TRANSFORMERS"):
        os.environ.setdefault(f"{name}_VERBOSITY", "error")


def is_quiet() -> bool:
    """Return whether -q was given."""
    context = click.get_current_context(silent=True)
    return bool(context and context.find_root().params.get("quiet"))


class Display:
    """Progress on stderr with the time left: bars on a terminal, else lines.

    A line says when a step is finished, and each minute how far an unfinished one is. With -q it
    prints nothing.
    """

    def __init__(self, *, quiet: bool) -> None:
        from rich.console import Console  # noqa: PLC0415, TID251  (slow import)
        from rich.progress import (  # noqa: PLC0415
            BarColumn,
            MofNCompleteColumn,
            Progress,
            ProgressColumn,
            Task,
            TextColumn,
            TimeElapsedColumn,
        )
        from rich.text import Text  # noqa: PLC0415

        class TimeLeftColumn(ProgressColumn):
            # Rich's own forgets what is older than half a minute, and with it all slow steps.
            def render(self, task: Task) -> Text:
                left = task.fields["pace"].seconds_left(int(task.total or 0))
                return Text(format_seconds(left), style="progress.remaining")

        console = Console(stderr=True)
        self.bars = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeLeftColumn(),
            console=console,
            disable=quiet or not console.is_terminal,
        )
        self.quiet = quiet
        self.plain = not console.is_terminal
        self.whole: Any = None
        self.tasks: dict[str, Any] = {}
        self.paces: dict[str, Pace] = {}
        self.said = time.monotonic()
        self.lock = threading.Lock()

    def __call__(self, what: str, done: int, total: int) -> None:
        """See `progress.Progress`; several threads may call it."""
        if self.quiet:
            return
        with self.lock:
            self._show(what, done, total)

    def _show(self, what: str, done: int, total: int) -> None:
        what = make_printable(what)
        pace = self.paces.setdefault(what, Pace(done))
        pace.update(done)
        if self.plain:
            self._print_line(what, done, total, pace)
        else:
            if what not in self.tasks:
                self.tasks[what] = self.bars.add_task(what, total=total, pace=pace)
            self.bars.update(self.tasks[what], completed=done)
            if done >= total:
                self.bars.remove_task(self.tasks.pop(what))
        if done >= total:
            del self.paces[what]

    def _print_line(self, what: str, done: int, total: int, pace: Pace) -> None:
        left = ""
        if done < total:
            if time.monotonic() - self.said < SECONDS_BETWEEN_LINES:
                return
            seconds = pace.seconds_left(total)
            left = "" if seconds is None else f", {format_seconds(seconds)} left"
        self.said = time.monotonic()
        say(f"{what}: {min(done, total)} of {total}{left}", err=True)

    def begin(self, name: str, index: int, total: int) -> None:
        """Say that the `index`-th of several methods, from 0, starts."""
        if total == 1 or self.quiet:
            return
        text = make_printable(f"method {index + 1} of {total}: {name}")
        if self.plain:
            say(text, err=True)
            return
        # What a method left behind unfinished is over.
        for task in self.tasks.values():
            self.bars.remove_task(task)
        self.tasks, self.paces = {}, {}
        if self.whole is None:
            self.pace = Pace(index)
            self.whole = self.bars.add_task(text, total=total, pace=self.pace)
        self.pace.update(index)
        self.bars.update(self.whole, description=text, completed=index)


@contextmanager
def show_progress() -> Iterator[Display]:
    """Show a display for the length of a command."""
    display = Display(quiet=is_quiet())
    with display.bars:
        yield display
