"""What all commands share: options, what is printed, errors as one line."""

from __future__ import annotations

import errno
import functools
import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from dreambench.artifacts import MAX_REPLICATES
from dreambench.errors import UserError, explain_os_error
from dreambench.text import make_lines_printable, make_printable

method_option = click.option(
    "--method",
    required=True,
    help="Name of a method or recipe, path of a recipe (.toml), or your own FILE.py:Class; "
    "comma-separated for several; all for one of each method.",
)
code_option = click.option(
    "--method", help="Where your own method's code is: FILE.py:Class, or its recipe."
)
metric_option = click.option(
    "--metric",
    "metrics",
    multiple=True,
    metavar="METRIC",
    help="Another metric: its name, or your own FILE.py:Class; repeatable.",
)
encoder_option = click.option(
    "--encoder",
    "encoders",
    multiple=True,
    metavar="ROLE=ENCODER",
    help="Another encoder for dino, clip, perceptual or another input: a name, or your own "
    "FILE.py:Class; repeatable.",
)
set_option = click.option(
    "--set",
    "changes",
    multiple=True,
    metavar="KEY=VALUE",
    help="Another value for a setting of METHOD, e.g. n_steps=200; repeatable. The row is then "
    "called METHOD+KEY=VALUE.",
)
protocol_option = click.option(
    "--protocol", help="Name of a protocol, or path of one (.toml).  [default: mini]"
)
own_protocol_option = click.option(
    "--protocol", help="Your own protocol (.toml), where the records are of one."
)
replicates_option = click.option(
    "--replicates",
    type=click.IntRange(1, MAX_REPLICATES),
    default=1,
    show_default=True,
    help="Runs of each method that trains, with different training seeds, to see how much they "
    "vary.",
)
checkpoints_option = click.option(
    "--checkpoints",
    metavar="STEPS",
    help="Score METHOD after these numbers of steps, e.g. 100,200,400, with one photo held out.",
)
data_option = click.option(
    "--data",
    "data_dir",
    type=click.Path(path_type=Path),
    help="Folder of the paper's photos.  [default: DREAMBENCH_DATA or the user's cache]",
)
layout_option = click.option(
    "--layout",
    help="run, subject/prompt, dreambench-plus, uno or patchdpo.  [default: auto-detected]",
)
cache_option = click.option(
    "--cache",
    type=click.Path(path_type=Path),
    help="Folder for features and class images.  [default: DREAMBENCH_CACHE or the user's cache]",
)
device_option = click.option(
    "--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, ..."
)
devices_option = click.option(
    "--device",
    "--devices",
    "device",
    default="auto",
    show_default=True,
    help="auto, cpu, cuda, cuda:1, ...; comma-separated for several, with a worker on each.",
)
decoding_option = click.option(
    "--decoding-threads",
    "n_decoding",
    type=click.IntRange(0, 256),
    default=0,
    help="Threads that decode images for scoring; no number depends on it.  [default: the cores]",
)
extract_workers_option = click.option(
    "--workers",
    type=click.IntRange(1, 256),
    default=1,
    show_default=True,
    help="Processes that extract features at once, each on a GPU or its share of the cores.",
)
workers_option = click.option(
    "--workers",
    type=click.IntRange(1, 256),
    help="Processes that train and generate at once; no image depends on it.  [default: one for "
    "each device; on a CPU as many as the protocol's threads leave room for]",
)
executor_option = click.option(
    "--executor",
    type=click.Choice(["local", "ray"]),
    default="local",
    show_default=True,
    help="Where the workers run: on this machine, or on a Ray cluster.",
)
address_option = click.option(
    "--address",
    metavar="ADDRESS",
    help="The Ray cluster: auto, or ray://HOST:PORT.  [default: one that starts on this machine]",
)
storage_option = click.option(
    "--storage",
    type=click.Choice(["shared", "driver"]),
    default="shared",
    show_default=True,
    help="shared: all nodes see --out and --cache on one disk; driver: they send what they make to "
    "this machine.",
)
track_option = click.option(
    "--track",
    metavar="TRACKER",
    help="Send losses and images to a tracker as they come: tensorboard, or your own "
    "FILE.py:Class.",
)
weights_option = click.option(
    "--keep-weights/--drop-weights",
    default=None,
    help="Keep what was trained on a subject once its images are made.  [default: up to 500 MB]",
)
extract_batch_option = click.option(
    "--batch-size",
    type=click.IntRange(0, 4096),
    default=0,
    help="Images per encoder batch; no score depends on it.  [default: by device]",
)
timeout_option = click.option(
    "--unit-timeout",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="Give up on training a subject, or a batch of images, after this long.  [default: none]",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
run_dir_argument = click.argument("run_dir", type=click.Path(path_type=Path))


def narrowing_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that narrow a protocol."""
    partial = "; marks the result partial."
    for option in (
        click.option("--prompts", help=f"Only prompts with these ids{partial}"),
        click.option("--family", help=f"Only prompts of these categories{partial}"),
        click.option("--subjects", help=f"Only these subjects, comma-separated{partial}"),
    ):
        command = option(command)
    return command


def split(names: str | None) -> tuple[str, ...]:
    """Return comma-separated names, without blanks."""
    return tuple(name.strip() for name in (names or "").split(",") if name.strip())


def say(line: object, *, err: bool = False) -> None:
    """Print a line of text, on stderr with `err`; all of it is seen (`text.make_printable`)."""
    click.echo(make_printable(str(line)), err=err)  # noqa: TID251


def parse_steps(text: str | None) -> list[int]:
    """Return what `--checkpoints` says.

    Raises:
        UserError: a part of it is not a whole number.
    """
    try:
        return [int(part) for part in split(text)]
    except ValueError as error:
        raise UserError(
            f"--checkpoints: '{text}' is not a list of numbers of steps",
            hint="e.g. --checkpoints 100,200,400",
            code="invalid-value",
        ) from error


def print_json(content: Any) -> None:
    """Print what programs read: in ASCII, which every console has and no terminal obeys."""
    click.echo(json.dumps(content, indent=2, allow_nan=False))  # noqa: TID251


def print_text(text: str) -> None:
    """Print a text of several lines, whose words were made printable when it was made."""
    click.echo(make_lines_printable(text.rstrip("\n")))  # noqa: TID251


class Failure(click.ClickException):
    """A UserError on its way out: one line, exit code 2."""

    exit_code = 2

    def show(self, file: Any = None) -> None:
        """Print it on stderr: one line, or one for each problem."""
        for line in f"dreambench: {self.message}".split("\n"):
            say(line, err=True)


def user_errors(command: Callable[..., Any]) -> Callable[..., Any]:
    """Print a UserError or OSError as one line and exit with 2; a bug keeps its traceback."""

    @functools.wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        try:
            return command(*args, **kwargs)
        except UserError as error:
            raise Failure(str(error)) from error
        except OSError as error:
            if error.errno == errno.EPIPE:
                raise  # The reader of a pipe has enough; Click ends without a word.
            logging.getLogger("dreambench").debug("an error of the system", exc_info=error)
            raise Failure(str(explain_os_error(error))) from error
        except KeyboardInterrupt:
            say("", err=True)
            say("dreambench: stopped; run the same command again to resume", err=True)
            sys.exit(130)

    return wrapped
