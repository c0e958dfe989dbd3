"""What is done with one record: `dreambench submit`, `rerun` and `export`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import click

from dreambench.cli.display import show_progress
from dreambench.cli.printing import print_rerun
from dreambench.cli.shared import (
    cache_option,
    code_option,
    data_option,
    decoding_option,
    device_option,
    encoder_option,
    json_option,
    metric_option,
    own_protocol_option,
    print_json,
    say,
    timeout_option,
    user_errors,
    workers_option,
)
from dreambench.cli.verification import sample_options

if TYPE_CHECKING:
    from dreambench.artifacts.record import Evaluator
    from dreambench.leaderboard.exporting import Format
    from dreambench.leaderboard.submission import Submission


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option(
    "--out",
    "out_dir",
    type=click.Path(path_type=Path),
    default=Path("records"),
    show_default=True,
    help="Folder of records; this one goes to PROTOCOL/METHOD/DIGEST in it.",
)
@click.option(
    "--evaluator",
    type=click.Choice(["authors", "third-party", "maintainers"]),
    default="authors",
    show_default=True,
    help="Who made these images, in relation to the method.",
)
@click.option("--paper", "paper_url", metavar="URL", help="Address of the paper.")
@click.option("--code", "code_url", metavar="URL", help="Address of the method's code.")
@click.option("--images", "images_url", metavar="URL", help="Address of all images.")
@click.option("--licence", default="", help="Licence of the method's code or weights.")
@click.option(
    "--images-dir",
    type=click.Path(path_type=Path),
    help="For scores of external images: the folder or index of the images.",
)
@click.option("--title", help="For external images: what the method is, in a few words.")
@click.option("--source", help="For external images: paper or report of the method.")
@click.option("--track", help='For external images: what it may use, e.g. "tuned, all photos".')
@click.option("--base-model", help="For external images: name of the base model.")
@click.option(
    "--push",
    "repository",
    metavar="OWNER/NAME",
    help="Then open a pull request with it on this dataset repository of the Hub.",
)
@click.option("--dry-run", is_flag=True, help="Show what would be submitted, and write nothing.")
@sample_options
@metric_option
@encoder_option
@decoding_option
@data_option
@json_option
@user_errors
def submit(
    folder: Path, out_dir: Path, evaluator: Evaluator, paper_url: str | None,
    code_url: str | None, images_url: str | None, licence: str, images_dir: Path | None,
    title: str | None, source: str | None, track: str | None, base_model: str | None,
    repository: str | None, dry_run: bool, share: float, seed: int, metrics: tuple[str, ...],
    encoders: tuple[str, ...], n_decoding: int, data_dir: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Make a record of a run, or of external scores, for a leaderboard.

    The folder has to pass `dreambench verify`. Replicates that lie beside the run go with it.
    """
    from dreambench.artifacts.record import FILE_NAME, check_address  # noqa: PLC0415
    from dreambench.encoders.registry import parse_encoder_options  # noqa: PLC0415  (imports torch)
    from dreambench.leaderboard import hub, submission  # noqa: PLC0415
    from dreambench.verification import VerifyOptions  # noqa: PLC0415

    if repository is not None:
        hub.check_repository(repository)
    options = VerifyOptions(
        share=share, seed=seed, images_dir=images_dir, metrics=metrics,
        encoders=parse_encoder_options(encoders), data_dir=data_dir, n_decoding=n_decoding,
    )  # fmt: skip
    about = submission.About(
        title=title, source=source, track=track, base_model=base_model, evaluator=evaluator,
        licence=licence, paper_url=check_address("--paper", paper_url),
        code_url=check_address("--code", code_url),
        images_url=check_address("--images", images_url),
    )  # fmt: skip
    with show_progress() as progress:
        made = submission.submit(folder, about, options, progress=progress)
    target = out_dir / made.record.path
    if not dry_run:
        submission.write_submission(made, out_dir)
    if not as_json:
        _print_submission(made, target, dry_run=dry_run)
    address = None
    if repository is not None:
        push = hub.Push(repository, PurePosixPath(made.record.path.as_posix()), made.files)
        say(f"To {repository}, as a pull request: {push.target}", err=as_json)
        if not dry_run:
            address = hub.open_pull_request(push, target)
            answer = (
                f"Pull request: {address}" if address else "The repository already has all of it."
            )
            say(answer, err=as_json)
    if as_json:
        content = json.loads(made.files[FILE_NAME])
        print_json(
            {
                "folder": str(target),
                "written": not dry_run,
                "pull_request": address,
                "record": content,
            }
        )
        return
    if dry_run:
        say("Nothing was written or sent. --json shows all of record.json.")
    else:
        say(f"Check it as others will: dreambench leaderboard check {target}")


def _print_submission(made: Submission, target: Path, *, dry_run: bool) -> None:
    record = made.record
    say(f"{target}{' would hold' if dry_run else ''}:")
    for name, content in made.files.items():
        say(f"  {name}  {len(content):,} bytes")
    n_replicates = 1 + len(record.replicates)
    again = f", and {n_replicates} replicates" if n_replicates > 1 else ""
    say(f"  of {record.n_images} of {record.n_images_expected} images{again}")
    if record.partial:
        say("It is partial, covering less than its protocol, and is never ranked.")


@click.command()
@click.argument("record_dir", metavar="RECORD", type=click.Path(path_type=Path))
@click.option(
    "--format",
    "form",
    type=click.Choice(["every-eval-ever", "eval-results", "model-index"]),
    required=True,
    help="Every Eval Ever's JSON, the Hub's .eval_results, or the index of a model card.",
)
@click.option(
    "--out",
    "out_dir",
    type=click.Path(path_type=Path),
    required=True,
    help="Folder for the file, which goes to the path that its format prescribes.",
)
@click.option(
    "--model",
    metavar="OWNER/NAME",
    help="Model whose results these are, as named on the Hub.  [default: dreambench/METHOD]",
)
@click.option(
    "--dataset",
    metavar="OWNER/NAME",
    help="Hub dataset that they are on.  [default: google/dreambooth for the paper's photos, "
    "dreambench/PROTOCOL for others]",
)
@user_errors
def export(
    record_dir: Path, form: Format, out_dir: Path, model: str | None, dataset: str | None
) -> None:
    """Write a record in a format of the Hub or of Every Eval Ever."""
    from dreambench.artifacts.record import read_record  # noqa: PLC0415  (imports pandas)
    from dreambench.leaderboard.exporting import export_record, write_export  # noqa: PLC0415

    record = read_record(record_dir)
    files = export_record(record, form, model=model, dataset=dataset)
    for path in write_export(files, out_dir):
        say(f"Written: {path}")
    if form == "eval-results":
        say(
            "It belongs in the model's repository. The Hub shows it if the dataset that it names "
            "is a benchmark, with these tasks in its eval.yaml."
        )


@click.command()
@click.argument("folder", metavar="RECORD", type=click.Path(path_type=Path))
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("reruns"),
    show_default=True,
    help="Folder of the run, which is OUT/PROTOCOL/METHOD; it resumes as any run does.",
)
@click.option("--write", is_flag=True, help="Write into the record that it was re-run.")
@code_option
@own_protocol_option
@click.option("--base-model", help="Where the base model is: NAME=FOLDER for a local one.")
@metric_option
@encoder_option
@device_option
@timeout_option
@workers_option
@data_option
@cache_option
@json_option
@user_errors
def rerun(
    folder: Path, out: Path, write: bool, method: str | None, protocol: str | None,
    base_model: str | None, metrics: tuple[str, ...], encoders: tuple[str, ...], device: str,
    unit_timeout: float | None, workers: int | None, data_dir: Path | None, cache: Path | None,
    as_json: bool,
) -> None:  # fmt: skip
    """Run the recipe of a record again, and compare the numbers.

    No code is taken from the record: a method from outside is named with --method.
    """
    from dreambench.artifacts.record import write_record  # noqa: PLC0415  (imports pandas)
    from dreambench.benchmark.planning import RunOptions  # noqa: PLC0415  (imports torch)
    from dreambench.cli.run import end_with_failures  # noqa: PLC0415
    from dreambench.config.protocol import load_protocol  # noqa: PLC0415
    from dreambench.encoders.registry import parse_encoder_options  # noqa: PLC0415
    from dreambench.leaderboard import rerunning  # noqa: PLC0415
    from dreambench.leaderboard.records import open_record  # noqa: PLC0415

    opened = open_record(folder)
    options = RunOptions(
        methods=(), metrics=metrics, encoders=parse_encoder_options(encoders), out=out,
        base_model=base_model, device=device, data_dir=data_dir, cache_dir=cache, workers=workers,
        unit_timeout=unit_timeout,
    )  # fmt: skip
    named = None if protocol is None else load_protocol(protocol)
    with show_progress() as progress:
        run = rerunning.plan_rerun(opened, options, code=method, protocol=named, progress=progress)
        again = rerunning.rerun(opened, run, options, progress=progress)
    if write and again.measured is not None:
        write_record(folder, opened.record.model_copy(update={"re_run": again.measured}))
    if as_json:
        print_json(
            {
                "folder": str(run.folder),
                "n_images": again.n_images,
                "n_same": again.n_same,
                "n_replicates": again.n_replicates,
                "written": write and again.measured is not None,
                "differences": [asdict(one) for one in again.differences],
            }
        )
    else:
        print_rerun(again)
    end_with_failures([again.pipeline])
