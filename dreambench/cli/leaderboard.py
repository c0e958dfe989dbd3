"""`dreambench leaderboard`: what is done with many records."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dreambench.cli.display import show_progress
from dreambench.cli.printing import print_verified
from dreambench.cli.shared import (
    data_option,
    decoding_option,
    device_option,
    encoder_option,
    json_option,
    layout_option,
    metric_option,
    own_protocol_option,
    print_json,
    print_text,
    say,
    user_errors,
)
from dreambench.errors import UserError, name_some

if TYPE_CHECKING:
    from dreambench.leaderboard.checks import Checked
    from dreambench.leaderboard.rescoring import RescoreOptions


@click.group()
def leaderboard() -> None:
    """Check records, render a board of them, and list rows of papers."""


@leaderboard.command()
@click.option("--method", default="", help="Only methods with this in their name.")
@click.option(
    "--benchmark",
    default="dreambench",
    show_default=True,
    help="Only rows on this set of subjects and prompts; all for every one.",
)
@click.option(
    "--references",
    type=click.Choice(["all", "one", "unknown"]),
    help="Only rows scored against all photos of a subject, or against one.",
)
@click.option(
    "--convention", help="Only rows under this convention (list conventions), or unknown."
)
@click.option("--track", help="Only rows of this track: tuned, tuning-free, no photos, unknown.")
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV.")
@json_option
@user_errors
def published(
    method: str, benchmark: str, references: str | None, convention: str | None,
    track: str | None, as_csv: bool, as_json: bool,
) -> None:  # fmt: skip
    """List what papers print, with convention and source.

    None of these numbers has been checked here, and rows of two conventions cannot be compared.
    """
    from dreambench.leaderboard.published import (  # noqa: PLC0415
        COLUMNS,
        choose_published,
        explain_references,
        load_published,
        make_published_table,
    )
    from dreambench.report.terminal import print_table  # noqa: PLC0415
    from dreambench.storage.csv_files import format_csv  # noqa: PLC0415

    rows = load_published()
    chosen = choose_published(
        rows, method=method, benchmark=None if benchmark == "all" else benchmark,
        references=references, convention=convention, track=track,
    )  # fmt: skip
    found = [row.model_dump(by_alias=True) for row in chosen]
    if as_json:
        print_json(found)
    elif as_csv:
        for line in format_csv(COLUMNS, found).splitlines():
            say(line)
    else:
        title = f"{len(chosen)} of {len(rows)} rows of papers, none of them checked here"
        print_table(title, make_published_table(chosen))
        say(explain_references(rows))


@leaderboard.command()
@click.option(
    "--records",
    "records_dir",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    default=Path("records"),
    show_default=True,
    help="Folder of records, each in PROTOCOL/METHOD/DIGEST.",
)
@click.option(
    "--out",
    "out_dir",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("site"),
    show_default=True,
    help="Folder of the site.",
)
@json_option
@user_errors
def render(records_dir: Path, out_dir: Path, as_json: bool) -> None:
    """Make a static site of records: a board, and a page for each.

    It needs no server and loads nothing from anywhere; the same records give the same bytes.
    """
    from dreambench.leaderboard.site import render_site  # noqa: PLC0415

    paths = render_site(records_dir, out_dir)
    if as_json:
        print_json({"folder": str(out_dir), "files": [str(path) for path in paths]})
        return
    say(f"{out_dir}: {len(paths)} files. Open {out_dir / 'index.html'} in a browser.")


@leaderboard.command()
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--against",
    "board",
    type=click.Path(path_type=Path),
    help="Folder of the earlier records, to find what changed, is gone or is there twice.",
)
@click.option(
    "--images",
    type=click.Path(path_type=Path),
    help="For one record: score its images again, from a folder, an index (.csv) or an archive.",
)
@click.option(
    "--write", is_flag=True, help="With --images: write into the record that it was re-scored."
)
@layout_option
@own_protocol_option
@metric_option
@encoder_option
@device_option
@decoding_option
@data_option
@json_option
@user_errors
def check(
    paths: tuple[Path, ...], board: Path | None, images: Path | None, write: bool,
    layout: str | None, protocol: str | None, metrics: tuple[str, ...], encoders: tuple[str, ...],
    device: str, n_decoding: int, data_dir: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Check that records are what they claim to be.

    PATHS are folders of records, or of one. The exit code is 0 if no check failed, and 1 if
    one did. What is flagged is for a person to look at, and does not count as a failure.
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
            images=images, layout=layout, protocol=named, metrics=metrics,
            device=device, data_dir=data_dir, encoders=parse_encoder_options(encoders),
            n_decoding=n_decoding,
        )  # fmt: skip
        checked = [_rescore(checked, options, write=write)]
    elif unused := [
        option for option, value in (("--write", write), ("--layout", layout)) if value
    ]:
        raise UserError(
            f"{name_some(unused)}: only for scoring images again, and no images are named",
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
    from dreambench.artifacts.record import write_record  # noqa: PLC0415  (imports pandas)
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

    PATHS are folders of records, or of one. It shows what the checks found, the new rows
    alongside class-only and copy-reference, and paired differences to their nearest neighbours.
    """
    from dreambench.config.protocol import load_protocol  # noqa: PLC0415
    from dreambench.leaderboard.comment import make_comment  # noqa: PLC0415  (imports pandas)
    from dreambench.report.markdown import render_markdown  # noqa: PLC0415

    named = None if protocol is None else load_protocol(protocol)
    print_text(render_markdown(make_comment(paths, records, protocol=named)))
