"""The command line with a few more commands, which print what was read of an input."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import click

from dreambench.cli import main
from dreambench.cli.shared import user_errors
from dreambench.scoring import process


class ForkedScorer:
    """The process that scores, as `subprocess.Popen` gives it, but forked and so there at once.

    A new interpreter takes seconds, and there are thousands of cases. What runs in it is the same.
    """

    def __init__(self, words: object, **options: object) -> None:
        requests, answers = os.pipe(), os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.dup2(requests[0], 0)
            os.dup2(answers[1], 1)
            for file in (*requests, *answers):
                os.close(file)
            sys.stdin, sys.stdout = (os.fdopen(n, "rw"[n], encoding="utf-8") for n in (0, 1))
            logging.getLogger("dreambench").handlers.clear()
            process.serve()
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

    Popen, PIPE = ForkedScorer, subprocess.PIPE


process.subprocess = _Forking  # type: ignore[assignment]


@main.command("read-protocol", hidden=True)
@click.argument("path")
@user_errors
def read_protocol(path: str) -> None:
    """Print a protocol as it was read."""
    from dreambench.config.protocol import load_protocol  # noqa: PLC0415

    click.echo(json.dumps(load_protocol(path).model_dump(mode="json")))


@main.command("read-recipe", hidden=True)
@click.argument("path")
@user_errors
def read_recipe(path: str) -> None:
    """Print the tables of a recipe as they were read."""
    from dreambench.config.recipe import load_recipe  # noqa: PLC0415

    click.echo(json.dumps(load_recipe(path).model_dump(mode="json")))


@main.command("read-subjects", hidden=True)
@click.argument("folder", type=click.Path(path_type=Path))
@user_errors
def read_subjects(folder: Path) -> None:
    """Print the subjects of a dataset as they were read."""
    from dreambench.datasets.subjects import find_dataset, list_subjects  # noqa: PLC0415

    found = list_subjects(find_dataset(str(folder)))
    rows = [
        [one.name, one.class_name, one.kind, *(path.name for path in one.photos)] for one in found
    ]
    click.echo(json.dumps(rows))


@main.command("place", hidden=True)
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--index", type=click.Path(path_type=Path))
@click.option("--name", default="mine")
@user_errors
def place(folder: Path, index: Path | None, name: str) -> None:
    """Print which file of a folder of external images is which, as `score --partial` takes it."""
    from dreambench.config.protocol import load_protocol  # noqa: PLC0415
    from dreambench.progress import no_progress  # noqa: PLC0415
    from dreambench.scoring.external import ExternalRequest, load_external  # noqa: PLC0415

    request = ExternalRequest(
        folder=folder, protocol=load_protocol("tiny.toml"), name=name, index=index, partial=True
    )
    out = Path("out")
    images = load_external(
        request, out, device="cpu", cache_dir=Path("cache"), progress=no_progress
    )
    files = images.files or {}
    rows = [[unit.subject, unit.prompt_id, unit.k, str(path)] for unit, path in files.items()]
    click.echo(json.dumps(rows))


@main.command("make-images", hidden=True)
@click.option("--protocol", required=True)
@user_errors
def make_images(protocol: str) -> None:
    """Make the images of a run as `run` does, without scoring them."""
    from dreambench.artifacts.image_set import hold_folder  # noqa: PLC0415
    from dreambench.benchmark import RunOptions, plan_runs  # noqa: PLC0415
    from dreambench.progress import no_progress  # noqa: PLC0415
    from dreambench.runs.pipeline import Pipeline  # noqa: PLC0415
    from dreambench.runs.run_folder import open_run  # noqa: PLC0415

    options = RunOptions(
        methods=["copy-reference"], alongside=(), protocol=protocol, out=Path("out"), batch_size=1
    )
    for run in plan_runs(options):
        with hold_folder(run.folder):
            pipeline = Pipeline(open_run(run), cache_dir=Path("cache"), progress=no_progress)
            pipeline.make_images()
