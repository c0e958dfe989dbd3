"""`dreambench submit` and `dreambench leaderboard`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from dreambench.artifacts.record import FILE_NAME, Evaluator, check_address
from dreambench.cli.printing import print_verified
from dreambench.cli.shared import (
    data_option,
    encoder_option,
    json_option,
    metric_option,
    print_json,
    say,
    show_progress,
    user_errors,
    workers_option,
)
from dreambench.cli.verification import sample_options

if TYPE_CHECKING:
    from dreambench.leaderboard.checks import Checked


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
@click.option("--protocol", help="A protocol of your own that the records are of (.toml).")
@json_option
@user_errors
def check(paths: tuple[Path, ...], board: Path | None, protocol: str | None, as_json: bool) -> None:
    """Check that records are what they say; PATHS are folders of records, or of one.

    The exit code is 0 where no check failed, and 1 where one did. What is flagged is for somebody
    to look at, and fails nothing.
    """
    from dreambench.analysis.checking import PASSED  # noqa: PLC0415  (imports pandas)
    from dreambench.config.protocol import load_protocol  # noqa: PLC0415
    from dreambench.leaderboard.checks import check_paths  # noqa: PLC0415  (imports pandas)

    named = None if protocol is None else load_protocol(protocol)
    checked = check_paths(paths, board=board, protocol=named)
    is_right = all(one.passed for one in checked)
    if as_json:
        print_json({"passed": is_right, "records": [describe_checked(one) for one in checked]})
    else:
        for one in checked:
            say(f"{one.folder}: {'passed' if one.passed else 'FAILED'}, {len(one.found)} checks")
            # Of many records, what passed is not worth a line each.
            print_verified([f for f in one.found if f.outcome != PASSED or len(checked) == 1])
    raise SystemExit(0 if is_right else 1)


def describe_checked(one: Checked) -> dict[str, Any]:
    """Return what the checks of a record found, as JSON takes it."""
    return {
        "folder": str(one.folder),
        "passed": one.passed,
        "checks": [asdict(found) for found in one.found],
    }
