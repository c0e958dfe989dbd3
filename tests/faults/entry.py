"""The command line with a few more commands, which print what was read of an input."""

from __future__ import annotations

import json
from pathlib import Path

import click

from dreambench.cli import main
from dreambench.cli.shared import user_errors
from dreambench.machine import child_process

# Children start at once.
child_process.START_METHODS = ("fork", "fork")


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
    from dreambench.datasets.index import find_dataset  # noqa: PLC0415
    from dreambench.datasets.subjects import list_subjects  # noqa: PLC0415

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
    from dreambench.benchmark.planning import RunOptions, plan_runs  # noqa: PLC0415
    from dreambench.progress import no_progress  # noqa: PLC0415
    from dreambench.runs.executors.local import Here  # noqa: PLC0415
    from dreambench.runs.pipeline import Pipeline, work_through  # noqa: PLC0415
    from dreambench.runs.run_folder import open_run  # noqa: PLC0415
    from dreambench.runs.units import Terms  # noqa: PLC0415

    options = RunOptions(
        methods=["copy-reference"], alongside=(), protocol=protocol, out=Path("out"), batch_size=1
    )
    for run in plan_runs(options):
        with hold_folder(run.folder, joins=True):
            opened = open_run(run)
        pipeline = Pipeline(opened, terms=Terms(cache_dir=Path("cache")), progress=no_progress)
        pipeline.plan_images()
        work_through([pipeline], Here())
