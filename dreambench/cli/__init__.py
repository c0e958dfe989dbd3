"""The command line: parse, call one function, print. Imports nothing slow before it has to."""

from __future__ import annotations

import io
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any

import click

from dreambench import __version__
from dreambench.cli import (
    cache,
    checks,
    data,
    inspection,
    leaderboard,
    records,
    stages,
    study,
    verification,
    view,
)
from dreambench.cli import run as run_command
from dreambench.cli.display import set_up_logging
from dreambench.cli.shared import say
from dreambench.machine.collection import search_less_often
from dreambench.text import make_lines_printable


class _Program(click.Group):
    """The whole program: what holds for every command's text, whoever prints it."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Print letters that the console's encoding lacks, and a bug's traceback, spelled."""
        search_less_often()
        sys.excepthook = _print_traceback
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")
        return super().main(*args, **kwargs)

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        """Read the command line's head."""
        with _printable_errors():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> Any:
        """Call the command."""
        with _printable_errors():
            return super().invoke(ctx)


def _print_traceback(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    for line in "".join(traceback.format_exception(kind, error, trace)).splitlines():
        say(line, err=True)


@contextmanager
def _printable_errors() -> Iterator[None]:
    """Spell what Click says of arguments; a shell's * puts names of files among them."""
    try:
        yield
    except click.ClickException as error:
        # Final for subclasses, and not for whoever shows it.
        error.message = make_lines_printable(error.message)  # type: ignore[misc]
        raise


@click.group(
    cls=_Program, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(__version__)
@click.option("-q", "--quiet", is_flag=True, help="No progress and no notices, only errors.")
@click.option("-v", "--verbose", is_flag=True, help="Everything that the package logs.")
def main(quiet: bool, verbose: bool) -> None:
    """How faithfully does a method put a given subject into new images, and how sure are we?

    The main job, on the embedded benchmark (no GPU, no network):

        dreambench run --method dreambooth
    """
    set_up_logging(quiet=quiet, verbose=verbose)


for _command in (
    run_command.run,
    *stages.COMMANDS,
    view.view,
    verification.verify,
    records.submit,
    records.export,
    records.rerun,
    leaderboard.leaderboard,
    study.study,
    inspection.compare,
    inspection.status,
    inspection.list_,
    data.data,
    cache.cache,
    checks.plan,
    checks.tokens,
    checks.doctor,
    checks.metrics,
):
    main.add_command(_command)
