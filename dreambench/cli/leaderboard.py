"""`dreambench submit` and `dreambench leaderboard`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from dreambench.artifacts.record import FILE_NAME, Evaluator, check_address, write_record
from dreambench.cli.printing import print_rerun, print_verified
from dreambench.cli.shared import (
    cache_option,
    code_option,
    data_option,
    device_option,
    encoder_option,
    json_option,
    metric_option,
    print_json,
    print_text,
    say,
    show_progress,
    timeout_option,
    user_errors,
    workers_option,
)
from dreambench.cli.verification import sample_options
from dreambench.errors import UserError

if TYPE_CHECKING:
    from dreambench.leaderboard.checks import Checked
    from dreambench.leaderboard.rescoring import RescoreOptions


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
    type=click.Choice(get_args(Evaluator)),
    default="authors",
    show_default=True,
    help="Who made these images, as seen from the method.",
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
@click.option("--dry-run", is_flag=True, help="Show what would go out, and write nothing.")
@sample_options
@metric_option
@encoder_option
@workers_option
@data_option
@json_option
@user_errors
def submit(
    folder: Path, out_dir: Path, evaluator: Evaluator, paper_url: str | None,
    code_url: str | None, images_url: str | None, licence: str, images_dir: Path | None,
    title: str | None, source: str | None, track: str | None, base_model: str | None,
    dry_run: bool, share: float, seed: int, metrics: tuple[str, ...], encoders: tuple[str, ...],
    workers: int, data_dir: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Make a record of a run, or of external scores, for a leaderboard.

    The folder has to pass `dreambench verify`. Replicates that lie beside the run go with it.
    """
    from dreambench.encoders.registry import parse_encoder_options  # noqa: PLC0415  (imports torch)
    from dreambench.leaderboard import submission  # noqa: PLC0415
    from dreambench.verification import VerifyOptions  # noqa: PLC0415

    options = VerifyOptions(
        share=share, seed=seed, images_dir=images_dir, metrics=metrics,
        encoders=parse_encoder_options(encoders), data_dir=data_dir, n_workers=workers,
    )  # fmt: skip
    about = submission.About(
        title=title, source=source, track=track, base_model=base_model, evaluator=evaluator,
        licence=licence, paper_url=check_address("--paper", paper_url),
        code_url=check_address("--code", code_url),
        images_url=check_address("--images", images_url),
    )  # fmt: skip
    with show_progress() as progress:
        made = submission.submit(folder, about, options, progress=progress)
    record = made.record
    target = out_dir / record.path
    if not dry_run:
        submission.write_submission(made, out_dir)
    if as_json:
        content = json.loads(made.files[FILE_NAME])
        print_json({"folder": str(target), "written": not dry_run, "record": content})
        return
    say(f"{target}{' would hold' if dry_run else ''}:")
    for name, content in made.files.items():
        say(f"  {name}  {len(content):,} bytes")
    n_replicates = 1 + len(record.replicates)
    again = f", and {n_replicates} replicates" if n_replicates > 1 else ""
    say(f"  of {record.n_images} of {record.n_images_expected} images{again}")
    if record.partial:
        say("It is partial, less than its protocol, and is never ranked.")
    if dry_run:
        say("Nothing was written. --json shows all of record.json.")
    else:
        say(f"Check it as others will: dreambench leaderboard check {target}")


own_protocol_option = click.option(
    "--protocol", help="A protocol of your own that the records are of (.toml)."
)


@click.group()
def leaderboard() -> None:
    """Check records, and see what they show."""


@leaderboard.command()
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--against",
    "board",
    type=click.Path(path_type=Path),
    help="Folder of the records that were there before: what changed, is gone or there twice.",
)
@click.option(
    "--images",
    type=click.Path(path_type=Path),
    help="Of one record: score its images again, from a folder, a zip or a tar archive.",
)
@click.option(
    "--write", is_flag=True, help="With --images: write into the record that it was re-scored."
)
@own_protocol_option
@metric_option
@encoder_option
@device_option
@workers_option
@data_option
@json_option
@user_errors
def check(
    paths: tuple[Path, ...], board: Path | None, images: Path | None, write: bool,
    protocol: str | None, metrics: tuple[str, ...], encoders: tuple[str, ...], device: str,
    workers: int, data_dir: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Check that records are what they say; PATHS are folders of records, or of one.

    The exit code is 0 where no check failed, and 1 where one did. What is flagged is for somebody
    to look at, and fails nothing.
    """
    from dreambench.analysis.checking import PASSED  # noqa: PLC0415  (imports pandas)
    from dreambench.config.protocol import load_protocol  # noqa: PLC0415
    from dreambench.leaderboard.checks import check_paths  # noqa: PLC0415

    named = None if protocol is None else load_protocol(protocol)
    checked = check_paths(paths, board=board, protocol=named)
    if images is not None:
        from dreambench.encoders.registry import parse_encoder_options  # noqa: PLC0415  (torch)
        from dreambench.leaderboard.rescoring import RescoreOptions  # noqa: PLC0415

        options = RescoreOptions(
            images=images, protocol=named, metrics=metrics, device=device, data_dir=data_dir,
            encoders=parse_encoder_options(encoders), n_workers=workers,
        )  # fmt: skip
        checked = [_rescore(checked, options, write=write)]
    elif write:
        raise UserError(
            "--write is for what scoring the images again found",
            hint="name the images with --images FOLDER",
            code="missing-option",
        )
    is_right = all(one.passed for one in checked)
    if as_json:
        print_json({"passed": is_right, "records": [_describe_checked(one) for one in checked]})
    else:
        for one in checked:
            say(f"{one.folder}: {'passed' if one.passed else 'FAILED'}, {len(one.found)} checks")
            # Of many records, what passed is not worth a line each.
            print_verified([f for f in one.found if f.outcome != PASSED or len(checked) == 1])
    raise SystemExit(0 if is_right else 1)


def _rescore(checked: Sequence[Checked], options: RescoreOptions, *, write: bool) -> Checked:
    """Return one record with what scoring its images again found, and write that if asked."""
    from dreambench.leaderboard.rescoring import rescore  # noqa: PLC0415  (imports torch)

    opened = checked[0].opened
    if len(checked) != 1:
        raise UserError(
            f"these are {len(checked)} records, and --images is for one",
            hint="name the folder of one record",
            code="too-many",
        )
    if opened is None or not checked[0].passed:
        return checked[0]
    with show_progress() as progress:
        found, measured = rescore(opened, options, progress=progress)
    if write and measured is not None:
        write_record(opened.folder, opened.record.model_copy(update={"re_scored": measured}))
    return replace(checked[0], found=[*checked[0].found, *found])


def _describe_checked(one: Checked) -> dict[str, Any]:
    """Return what the checks of a record found, as JSON takes it."""
    return {
        "folder": str(one.folder),
        "passed": one.passed,
        "checks": [asdict(found) for found in one.found],
    }


@leaderboard.command()
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--records",
    type=click.Path(path_type=Path),
    required=True,
    help="Folder of the records that are there already.",
)
@own_protocol_option
@user_errors
def comment(paths: tuple[Path, ...], records: Path, protocol: str | None) -> None:
    """Print what a pull request with records would change, as Markdown.

    PATHS are folders of records, or of one. It has what the checks found, the new rows beside
    class-only and copy-reference, and paired differences to their nearest neighbours.
    """
    from dreambench.config.protocol import load_protocol  # noqa: PLC0415
    from dreambench.leaderboard.comment import make_comment  # noqa: PLC0415  (imports pandas)
    from dreambench.report.markdown import render_markdown  # noqa: PLC0415

    named = None if protocol is None else load_protocol(protocol)
    print_text(render_markdown(make_comment(paths, records, protocol=named)))


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
@click.option("--base-model", help="Where the base model lies: NAME=FOLDER for a local one.")
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
    unit_timeout: float | None, workers: int, data_dir: Path | None, cache: Path | None,
    as_json: bool,
) -> None:  # fmt: skip
    """Run the recipe of a record again, and say how far its numbers lie apart.

    No code is taken from the record: a method from outside is named with --method.
    """
    from dreambench.benchmark import RunOptions  # noqa: PLC0415  (imports torch)
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
