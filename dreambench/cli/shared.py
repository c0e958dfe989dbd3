"""What all commands share: errors as one line, progress on stderr."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from dreambench.errors import UserError

method_option = click.option(
    "--method",
    required=True,
    help="Name of a baseline, path of a recipe (.toml), or your own FILE.py:Class; several with "
    "commas between; all for one of each method.",
)
set_option = click.option(
    "--set",
    "changes",
    multiple=True,
    metavar="KEY=VALUE",
    help="Another value for a setting of METHOD, e.g. n_steps=200; repeatable. The row is then "
    "called METHOD+KEY=VALUE.",
)
data_option = click.option(
    "--data",
    "data_dir",
    type=click.Path(path_type=Path),
    help="Folder of the paper's photos.  [default: DREAMBENCH_DATA or the user's cache]",
)
cache_option = click.option(
    "--cache",
    type=click.Path(path_type=Path),
    help="Folder for embeddings and class images.  [default: DREAMBENCH_CACHE or the user's cache]",
)
workers_option = click.option(
    "--workers",
    type=click.IntRange(0, 256),
    default=0,
    help="Threads that decode images for scoring; no number depends on it.  [default: the cores]",
)


class Failure(click.ClickException):
    """A UserError on its way out: one line, exit code 2."""

    exit_code = 2

    def show(self, file: Any = None) -> None:
        """Prints the line on stderr."""
        click.echo(f"dreambench: {self.message}", err=True)


def user_errors(command: Callable[..., Any]) -> Callable[..., Any]:
    """Prints a UserError as one line and exits with 2; anything else keeps its traceback."""

    @functools.wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        try:
            return command(*args, **kwargs)
        except UserError as error:
            raise Failure(str(error)) from error
        except KeyboardInterrupt:
            click.echo("\ndreambench: stopped; the same command goes on from here", err=True)
            sys.exit(130)

    return wrapped


class Display:
    """Progress on stderr: bars with time left on a terminal, else a line for each finished step."""

    def __init__(self) -> None:
        from rich.console import Console  # noqa: PLC0415  (slow import)
        from rich.progress import (  # noqa: PLC0415
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        console = Console(stderr=True)
        self.bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self.plain = not console.is_terminal
        self.whole: Any = None
        self.tasks: dict[str, Any] = {}

    def __call__(self, what: str, done: int, total: int) -> None:
        """See `progress.Progress`."""
        if self.plain:
            if done >= total:
                click.echo(f"{what}: {total} of {total}", err=True)
            return
        if what not in self.tasks:
            self.tasks[what] = self.bars.add_task(what, total=total)
        self.bars.update(self.tasks[what], completed=done)
        if done >= total:
            self.bars.remove_task(self.tasks.pop(what))

    def begin(self, name: str, index: int, total: int) -> None:
        """Says that the `index`-th of several methods, from 0, is begun."""
        if total == 1:
            return
        text = f"method {index + 1} of {total}: {name}"
        if self.plain:
            click.echo(text, err=True)
            return
        # What a method left behind unfinished is over.
        for task in self.tasks.values():
            self.bars.remove_task(task)
        self.tasks = {}
        if self.whole is None:
            self.whole = self.bars.add_task(text, total=total)
        self.bars.update(self.whole, description=text, completed=index)

    def end(self) -> None:
        """Says that all methods are through."""
        if self.whole is not None:
            self.bars.remove_task(self.whole)
            self.whole = None


@contextmanager
def show_progress() -> Iterator[Display]:
    """A display for the length of a command."""
    display = Display()
    with display.bars:
        yield display
