"""The main job: `dreambench run`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from dreambench.cli.display import show_progress
from dreambench.cli.printing import print_report
from dreambench.cli.shared import (
    address_option,
    cache_option,
    checkpoints_option,
    data_option,
    devices_option,
    encoder_option,
    executor_option,
    method_option,
    metric_option,
    narrowing_options,
    parse_steps,
    protocol_option,
    replicates_option,
    say,
    set_option,
    split,
    storage_option,
    timeout_option,
    track_option,
    user_errors,
    weights_option,
    workers_option,
)

if TYPE_CHECKING:
    from dreambench.config.sampler import Precision
    from dreambench.runs.pipeline import Pipeline

ALONGSIDE = "class-only,copy-reference"


@click.command()
@method_option
@set_option
@protocol_option
@narrowing_options
@data_option
@click.option(
    "--alongside",
    "--beside",
    "alongside",
    default=ALONGSIDE,
    show_default=True,
    help="Methods to run and report alongside; an empty string for none.",
)
@metric_option
@encoder_option
@click.option("--base-model", help="Another base model: NAME, or NAME=FOLDER for a local one.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default="runs",
    show_default=True,
    help="Folder of the run folders, which are OUT/PROTOCOL/METHOD.",
)
@devices_option
@click.option(
    "--precision",
    type=click.Choice(["fp32", "bf16"]),
    help="Precision of training and generating; by default the protocol's on a GPU, and fp32 on a "
    "CPU. Scores are always fp32.",
)
@replicates_option
@checkpoints_option
@click.option(
    "--batch-size",
    type=click.IntRange(1, 512),
    default=16,
    show_default=True,
    help="Images generated together.",
)
@timeout_option
@workers_option
@executor_option
@address_option
@storage_option
@weights_option
@track_option
@cache_option
@user_errors
def run(
    method: str, changes: tuple[str, ...], protocol: str | None, subjects: str | None,
    family: str | None, prompts: str | None, data_dir: Path | None, alongside: str,
    metrics: tuple[str, ...], encoders: tuple[str, ...], base_model: str | None, out: Path,
    device: str, precision: Precision | None, replicates: int, checkpoints: str | None,
    batch_size: int, unit_timeout: float | None, workers: int | None,
    executor: Literal["local", "ray"], address: str | None, storage: Literal["shared", "driver"],
    keep_weights: bool | None,
    track: str | None, cache: Path | None,
) -> None:  # fmt: skip
    """Train, generate, score and report METHOD, or resume it.

    Failures are reported and counted, and the rest of the run continues; the exit code is then 1,
    and running the same command again retries what failed.
    """
    from dreambench.config.changes import parse_changes  # noqa: PLC0415
    from dreambench.encoders.registry import parse_encoder_options  # noqa: PLC0415

    changed = parse_changes(changes)
    overrides = parse_encoder_options(encoders)
    from dreambench.benchmark.execution import execute_runs  # noqa: PLC0415  (imports torch)
    from dreambench.benchmark.planning import RunOptions, plan_runs  # noqa: PLC0415

    options = RunOptions(
        methods=split(method), alongside=split(alongside), protocol=protocol,
        subjects=split(subjects), families=split(family), prompts=split(prompts),
        metrics=metrics, encoders=overrides, settings=changed, base_model=base_model, out=out,
        device=device, replicates=replicates, checkpoints=parse_steps(checkpoints),
        precision=precision, batch_size=batch_size, data_dir=data_dir, cache_dir=cache,
        workers=workers, executor=executor, address=address, storage=storage,
        keep_weights=keep_weights, track=track, unit_timeout=unit_timeout,
    )  # fmt: skip
    with show_progress() as progress:
        planned = plan_runs(options, progress=progress)
        outcome = execute_runs(planned, options, progress=progress, begin=progress.begin)
    if outcome.scored:
        print_report(outcome.scored, outcome.paths)
    end_with_failures(outcome.pipelines)


def end_with_failures(pipelines: Sequence[Pipeline]) -> None:
    """End the command with exit code 1 and a line for each reason where something failed.

    A command all of whose methods were refused by what the user has to fix ends as a mistake does.
    """
    from dreambench.artifacts.failures import describe_failures, group_failures  # noqa: PLC0415

    found = {one: one.failures for one in pipelines}
    failed = [one for one in pipelines if found[one]]
    if not failed:
        return
    if all(one.refusal is not None for one in pipelines):
        raise pipelines[0].explain_failure()
    for one in failed:
        for line in describe_failures(group_failures(found[one])):
            say(f"{one.run.name}: {line}", err=True)
    n_failed = sum(failure.n_images for one in failed for failure in found[one])
    folders = ", ".join(str(one.failures_dir) for one in failed)
    say(
        f"dreambench: {n_failed} images of {len(failed)} of {len(pipelines)} methods could not be "
        f"made; run the same command again to retry them (tracebacks: {folders})",
        err=True,
    )
    raise SystemExit(1)
