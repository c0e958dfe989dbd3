"""`dreambench study`: make questionnaires, collect answers, analyse them. No torch."""

from __future__ import annotations

from pathlib import Path

import click

from dreambench.cli.display import show_progress
from dreambench.cli.printing import print_study
from dreambench.cli.shared import data_option, json_option, print_json, say, user_errors

_folder = click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))


@click.group()
def study() -> None:
    """Ask people which method's images they prefer."""


@study.command()
@click.argument(
    "run_dirs", metavar="RUN RUN...", nargs=-1, required=True, type=click.Path(path_type=Path)
)
@click.option(
    "--comparisons",
    "n_comparisons",
    type=click.IntRange(1, 20_000),
    default=600,
    show_default=True,
    help="Pairs of images; both questions are asked of each.",
)
@click.option(
    "--raters",
    "n_raters",
    type=click.IntRange(1, 100_000),
    default=72,
    show_default=True,
    help="People who answer, shared out evenly among the questionnaires.",
)
@click.option(
    "--questions",
    "n_questions",
    type=click.IntRange(1, 500),
    default=25,
    show_default=True,
    help="Comparisons in a questionnaire.",
)
@click.option(
    "--seed",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="Another seed gives another study.",
)
@click.option("--contact", default="", help="Who runs the study, for its first page.")
@click.option(
    "--address",
    default="",
    metavar="URL",
    help="Where you will put the folder questionnaires/, for the links in links.csv.",
)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder of the study.")
@data_option
@user_errors
def make(
    run_dirs: tuple[Path, ...], n_comparisons: int, n_raters: int, n_questions: int, seed: int,
    contact: str, address: str, out: Path, data_dir: Path | None,
) -> None:  # fmt: skip
    """Make questionnaires from the images of runs.

    RUN are folders of runs of one protocol; each pair of them is compared on the same subjects and
    prompts. The defaults are the DreamBooth paper's: 600 comparisons in questionnaires of 25, each
    answered by 3 of 72 people.
    """
    from dreambench.artifacts.image_set import read_image_set  # noqa: PLC0415  (imports pandas)
    from dreambench.study.pages import write_study_folder  # noqa: PLC0415
    from dreambench.study.plan import make_study  # noqa: PLC0415

    sets = [read_image_set(path, data_dir=data_dir) for path in run_dirs]
    planned, pictures = make_study(
        sets, n_comparisons=n_comparisons, n_raters=n_raters, n_questions=n_questions, seed=seed,
        contact=contact,
    )  # fmt: skip
    with show_progress() as progress:
        write_study_folder(planned, pictures, out, address=address, progress=progress)
    n_sheets = len(planned.questionnaires)
    say(f"Study {planned.digest()}: {len(planned.comparisons)} comparisons in {n_sheets} pages")
    say(f"Give each page to {planned.raters_each} people: {out / 'questionnaires'}, or links.csv")
    say(f"In a lab: dreambench study serve {out}")
    say(f"Then: dreambench study analyse {out} ANSWERS...")


@study.command()
@_folder
@click.option("--port", type=click.IntRange(0, 65535), help="Port.  [default: a free one]")
@click.option("--no-browser", is_flag=True, help="Print the address without opening a browser.")
@user_errors
def serve(folder: Path, port: int | None, no_browser: bool) -> None:
    """Collect answers on this machine, for a lab.

    Whoever opens the address gets the questionnaire that the fewest have answered. Answers go into
    DIR/answers.sqlite. Only this machine can reach it, until Ctrl-C ends it.
    """
    from dreambench.cli.view import serve_until_stopped  # noqa: PLC0415
    from dreambench.study.serving import StudyServer  # noqa: PLC0415

    with StudyServer(folder, port=port or 0) as server:
        serve_until_stopped(server, no_browser=no_browser)
        n_answers = sum(server.store.count().values())
        people = "1 person" if n_answers == 1 else f"{n_answers} people"
        say(f"{server.store.path} has the answers of {people}.", err=True)


@study.command()
@_folder
@click.argument("answers", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--out", type=click.Path(path_type=Path), help="Folder of the results.  [default: DIR/results]"
)
@click.option(
    "--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the resampling."
)
@json_option
@user_errors
def analyse(
    folder: Path, answers: tuple[Path, ...], out: Path | None, seed: int, as_json: bool
) -> None:
    """Say what people prefer, and which metric follows them.

    ANSWERS are the JSON files that people saved, folders of them, or the answers.sqlite of `study
    serve`.
    """
    from dreambench.artifacts.study import read_study  # noqa: PLC0415
    from dreambench.study.analysis import analyse as find  # noqa: PLC0415
    from dreambench.study.answers import load_answers  # noqa: PLC0415
    from dreambench.study.writing import write_study_results  # noqa: PLC0415

    planned = read_study(folder)
    results = find(planned, load_answers(answers, planned), seed=seed)
    paths = write_study_results(results, out or folder / "results")
    if as_json:
        print_json(results.model_dump(mode="json"))
        return
    print_study(results)
    say(f"Written: {paths[0]}")
