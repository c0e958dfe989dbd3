"""Commands on runs: the main job, each stage alone, what is done and left, what there is."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dreambench.cli.shared import (
    cache_option,
    data_option,
    method_option,
    set_option,
    show_progress,
    user_errors,
    workers_option,
)
from dreambench.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

    from dreambench.analysis.comparison import Scored
    from dreambench.config.recipe import Recipe
    from dreambench.progress import Progress
    from dreambench.runs.pipeline import Job
    from dreambench.runs.run_folder import Request

COMPANIONS = ("class-only", "copy-reference")
PAPER_COMMAND = "dreambench run --method {method} --protocol dreambench"


@dataclass(frozen=True)
class _Narrowing:
    """What of a protocol was asked for; empty for all."""

    subjects: tuple[str, ...]
    families: tuple[str, ...]
    prompts: tuple[str, ...]


def _make_requests(
    recipes: Sequence[Recipe],
    protocol: str,
    narrowing: _Narrowing,
    base_model: str | None,
    options: dict[str, Any],
    progress: Progress,
) -> list[Request]:
    """One request a method; the protocol is read and its encoders are identified once for all."""
    from dreambench.config.protocol import choose_prompts, load_protocol  # noqa: PLC0415
    from dreambench.runs.run_folder import Request  # noqa: PLC0415
    from dreambench.scoring.scores import encoder_identities  # noqa: PLC0415  (imports torch)

    loaded = load_protocol(protocol)
    prompts = choose_prompts(loaded, families=narrowing.families, prompt_ids=narrowing.prompts)
    encoders = encoder_identities(loaded, progress=progress)
    return [
        Request(
            protocol=loaded,
            recipe=recipe,
            subjects=narrowing.subjects or None,
            prompts=prompts,
            base_model=base_model or loaded.base_model,
            encoders=encoders,
            **options,
        )
        for recipe in recipes
    ]


def _split(names: str | None) -> tuple[str, ...]:
    return tuple(name.strip() for name in (names or "").split(",") if name.strip())


_run_dir = click.argument("run_dir", type=click.Path(path_type=Path))
_embed_batch = click.option(
    "--batch-size",
    type=click.IntRange(0, 4096),
    default=0,
    help="Images that an encoder takes at once; no score depends on it.  [default: by device]",
)


@click.command()
@method_option
@set_option
@click.option(
    "--protocol", help="Name of a protocol, or path of one (.toml).  [default: mini without a GPU]"
)
@click.option("--subjects", help="Only these subjects, with commas between; marks the run partial.")
@click.option("--family", help="Only prompts of these families; marks the run partial.")
@click.option("--prompts", help="Only prompts with these ids; marks the run partial.")
@data_option
@click.option(
    "--beside",
    default=",".join(COMPANIONS),
    show_default=True,
    help="Baselines to run and report beside the method; an empty string for none.",
)
@click.option("--base-model", help="Another base model: NAME, or NAME=FOLDER for a local one.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default="runs",
    show_default=True,
    help="Folder of the run folders, which are OUT/PROTOCOL/METHOD.",
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, ...")
@click.option(
    "--precision",
    type=click.Choice(["fp32", "bf16"]),
    default="fp32",
    show_default=True,
    help="Arithmetic of tuning and drawing; scores are always fp32.",
)
@click.option(
    "--batch-size",
    type=click.IntRange(1, 512),
    default=16,
    show_default=True,
    help="Images drawn together.",
)
@workers_option
@cache_option
@user_errors
def run(
    method: str, changes: tuple[str, ...], protocol: str | None, subjects: str | None,
    family: str | None, prompts: str | None, data_dir: Path | None, beside: str,
    base_model: str | None, out: Path, device: str, precision: str, batch_size: int,
    workers: int, cache: Path | None,
) -> None:  # fmt: skip
    """Tune, generate, score and report METHOD on a protocol; goes on where it was stopped.

    What a method fails at is said and counted, and the rest goes on; the exit code is then 1, and
    the same command tries again what failed.
    """
    from dreambench.config.changes import parse_changes  # noqa: PLC0415
    from dreambench.config.protocol import load_protocol  # noqa: PLC0415
    from dreambench.machine.throughput import pick_device  # noqa: PLC0415
    from dreambench.methods.plugins import ALL, find_recipe, find_recipes  # noqa: PLC0415

    # Names are checked before anything slow is imported.
    # What nobody named is left out where the base model does not know it.
    optional = COMPANIONS if beside == ",".join(COMPANIONS) else ()
    alongside = [name for name in _split(beside) if name not in optional]
    changed = parse_changes(changes)
    if not _split(method):
        raise UserError("no method is named", hint="see what there is: dreambench list methods")
    for name in [*_split(method), *alongside]:
        if name != ALL:
            find_recipe(name)
    if protocol is not None:
        load_protocol(protocol)
    device = pick_device(device)
    if protocol is None:
        protocol = "dreambench" if device.startswith("cuda") else "mini"
        if protocol == "mini":
            click.echo(
                "No CUDA device: running the embedded benchmark 'mini'. The paper's benchmark: "
                + PAPER_COMMAND.format(method=method)
            )

    from dreambench.encoders.extraction import Pace  # noqa: PLC0415  (imports torch)
    from dreambench.encoders.feature_cache import read_max_bytes  # noqa: PLC0415
    from dreambench.methods.plugins import check_recipe  # noqa: PLC0415
    from dreambench.runs.pipeline import run_all, write_report  # noqa: PLC0415  (imports torch)
    from dreambench.runs.run_folder import check_folder, hold_run, open_run, plan_run  # noqa: PLC0415
    from dreambench.storage.shipped import cache_dir  # noqa: PLC0415

    read_max_bytes()  # A mistake in the environment shows now, too.
    options = {
        "device": device,
        "precision": precision,
        "batch_size": batch_size,
        "data_dir": data_dir,
    }
    narrowing = _Narrowing(_split(subjects), _split(family), _split(prompts))
    base_name = (base_model or load_protocol(protocol).base_model).partition("=")[0]
    recipes, skipped = find_recipes(
        _split(method), base_name, alongside=alongside, optional=optional, changes=changed
    )
    for name in skipped:
        click.echo(f"Left out: {name} has no numbers for the base model '{base_name}'", err=True)
    _refuse_doubled([recipe.name for recipe in recipes])
    with show_progress() as progress:
        requests = _make_requests(recipes, protocol, narrowing, base_model, options, progress)
    # All are planned before the first is begun: a mistake in the last shows now, not in hours.
    planned = [
        plan_run(out / request.protocol.name / request.recipe.name, request) for request in requests
    ]
    for plan in planned:
        check_recipe(plan.request.recipe, plan.base_model)
        check_folder(plan)
    jobs: list[Job] = []
    with show_progress() as progress:
        for index, plan in enumerate(planned):
            progress.begin(plan.name, index, len(planned))
            with hold_run(plan.run_dir):
                jobs.append(
                    run_all(
                        open_run(plan),
                        cache_dir=cache or cache_dir(),
                        progress=progress,
                        pace=Pace(n_workers=workers),
                    )
                )
        progress.end()
        # A method of which nothing could be drawn has no row; that it failed is said below.
        runs = [job.run for job in jobs if job.run.summary_path.is_file()]
        if runs:
            scored, paths = write_report(runs[0], runs[1:])
    if runs:
        _print_report(scored, paths)
    _end_with_failures(jobs)


def _refuse_doubled(names: Sequence[str]) -> None:
    """UserError for two rows of one name, which would share a folder."""
    doubled = [name for name in dict.fromkeys(names) if names.count(name) > 1]
    if doubled:
        raise UserError(
            f"two methods are called '{doubled[0]}'",
            hint="rename yours: the recipe's file, or the class's attribute `name`",
        )


def _end_with_failures(jobs: Sequence[Job]) -> None:
    """Ends the command with exit code 1 and a line for each run with failures.

    A command all of whose methods were refused by what the user has to mend ends as a mistake does.
    """
    failed = [job for job in jobs if job.failures.found]
    if not failed:
        return
    if all(job.refusal is not None for job in jobs):
        raise jobs[0].refusal or UserError("nothing was made")
    from dreambench.artifacts.failures import describe_failures, summarise_failures  # noqa: PLC0415

    for job in failed:
        summary = summarise_failures(job.failures.found)
        for line in describe_failures(summary):
            click.echo(f"{job.run.name}: {line}", err=True)
    n_failed = sum(f.n_images for job in failed for f in job.failures.found)
    folders = ", ".join(str(job.failures.folder) for job in failed)
    click.echo(
        f"dreambench: {n_failed} images of {len(failed)} of {len(jobs)} methods could not be made; "
        f"the same command tries them again (tracebacks: {folders})",
        err=True,
    )
    raise SystemExit(1)


def _print_report(scored: list[Scored], paths: list[Path]) -> None:
    from dreambench.report.tables import (  # noqa: PLC0415
        NO_INTERVAL,
        make_difference_table,
        make_image_notes,
        make_main_table,
        make_signatures,
    )

    tables = {"Means over subjects with 95 % intervals": make_main_table(scored)}
    if len(scored) > 1:
        tables["Differences, paired by subject and prompt"] = make_difference_table(scored)
    for title, frame in tables.items():
        cells = _stack(frame)
        cells.iloc[:, 0] = cells.iloc[:, 0].str.replace(" - ", "\n- ")
        _print_table(title, cells)
    if any(
        frame.map(lambda value: "[-, -]" in str(value)).any(axis=None) for frame in tables.values()
    ):
        click.echo(NO_INTERVAL)
    for note in make_image_notes(scored):
        click.echo(note)
    click.echo("Signatures:")
    for signature in make_signatures(scored[0]):
        click.echo(f"  {signature}")
    click.echo("Report:")
    for path in paths:
        click.echo(f"  {path}")


def _stack(frame: pd.DataFrame) -> pd.DataFrame:
    """With interval, count and mark below what they belong to, so that a table fits a terminal."""
    return frame.map(lambda value: str(value).replace(" [", "\n[").replace(" (", "\n("))


def _print_table(title: str, frame: pd.DataFrame) -> None:
    """A table as wide as the terminal, else of 120 columns; the last column may fold."""
    from rich.console import Console  # noqa: PLC0415  (slow import)
    from rich.table import Table  # noqa: PLC0415

    table = Table(title=title, title_justify="left")
    for column in frame.columns:
        table.add_column(str(column).replace(" (", "\n("), no_wrap=column != "verdict")
    for row in frame.itertuples(index=False):
        table.add_row(*row)
    Console(width=None if sys.stdout.isatty() else 120).print(table)


@contextmanager
def _opened(
    run_dir: Path,
    cache: Path | None,
    data_dir: Path | None,
    *,
    workers: int = 0,
    batch_size: int = 0,
    needs_code: bool = False,
    method: str | None = None,
) -> Iterator[Job]:
    from dreambench.encoders.extraction import Pace  # noqa: PLC0415  (imports torch)
    from dreambench.methods.plugins import attach_code  # noqa: PLC0415
    from dreambench.runs.pipeline import Job  # noqa: PLC0415  (imports torch)
    from dreambench.runs.run_folder import Run, hold_run, open_run, read_run  # noqa: PLC0415
    from dreambench.storage.shipped import cache_dir  # noqa: PLC0415

    if not (run_dir / "run.json").is_file():
        raise UserError(
            f"{run_dir} holds no run", hint="make one with: dreambench run --method ..."
        )
    found = read_run(run_dir, data_dir=data_dir)
    if not isinstance(found, Run):
        raise UserError(
            f"{run_dir} holds the scores of images made elsewhere and no run",
            hint="score the folder of the images again: dreambench score FOLDER --protocol ...",
        )
    if needs_code:
        recipe = attach_code(found.request.recipe, method)
        found = replace(found, request=replace(found.request, recipe=recipe))
    with hold_run(run_dir), show_progress() as progress:
        pace = Pace(n_workers=workers, batch_size=batch_size)
        yield Job(open_run(found), cache_dir=cache or cache_dir(), progress=progress, pace=pace)


def _stage_of_code(stage: Callable[..., None]) -> click.Command:
    """A command of a stage that runs a method's code; gets what `_opened` takes."""
    code = click.option(
        "--method",
        help="Where the code of somebody's own method is: FILE.py:Class, or its recipe.",
    )
    for option in (user_errors, data_option, cache_option, code, _run_dir):
        stage = option(stage)
    return click.command()(stage)


@_stage_of_code
def train(**options: Any) -> None:
    """Stage: tune on the subjects that are left."""
    with _opened(**options, needs_code=True) as job:
        job.train()
    _end_with_failures([job])


@_stage_of_code
def generate(**options: Any) -> None:
    """Stage: make the images that are left."""
    with _opened(**options, needs_code=True) as job:
        job.generate()
    _end_with_failures([job])


@click.command()
@_run_dir
@workers_option
@_embed_batch
@cache_option
@data_option
@user_errors
def embed(
    run_dir: Path, workers: int, batch_size: int, cache: Path | None, data_dir: Path | None
) -> None:
    """Stage: embed photos, images and texts into the cache."""
    with _opened(run_dir, cache, data_dir, workers=workers, batch_size=batch_size) as job:
        job.embed()


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option(
    "--convention",
    help="Score as other scorers do, too: names with commas between, or all; see `list`.",
)
@workers_option
@_embed_batch
@cache_option
@data_option
@click.option("--protocol", help="For images made elsewhere: a protocol's name or path (.toml).")
@click.option("--name", help="For images made elsewhere: what tables call them.")
@click.option(
    "--index",
    type=click.Path(path_type=Path),
    help="CSV with the columns file, subject, prompt, index: which image each file is.",
)
@click.option("--partial", is_flag=True, help="Score what is right of a set, marked partial.")
@click.option("--subjects", help="Only these subjects, with commas between; marks it partial.")
@click.option("--family", help="Only prompts of these families; marks it partial.")
@click.option("--prompts", help="Only prompts with these ids; marks it partial.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Folder of the results, which are OUT/PROTOCOL/NAME.  [default: scores]",
)
@click.option("--device", help="auto, cpu, cuda, cuda:1, ...  [default: auto]")
@user_errors
def score(
    folder: Path, convention: str | None, cache: Path | None, data_dir: Path | None,
    protocol: str | None, name: str | None, index: Path | None, partial: bool,
    subjects: str | None, family: str | None, prompts: str | None, out: Path | None,
    device: str | None, workers: int, batch_size: int,
) -> None:  # fmt: skip
    """Stage: write scores.parquet of a run. With --protocol: score images made elsewhere.

    FOLDER of a run has its run.json. Else it holds images/<subject>/<prompt>/<k>.png, or
    <subject>/<prompt>/<k>.png, or DreamBench++'s tgt_image and text, or it is a CSV (see --index).
    """
    brought = {
        "--name": name, "--index": index, "--partial": partial, "--subjects": subjects,
        "--family": family, "--prompts": prompts, "--out": out, "--device": device,
    }  # fmt: skip
    given = [option for option, value in brought.items() if value]
    if protocol is None:
        if given:
            raise UserError(
                f"{', '.join(given)} is for images made elsewhere, and these need --protocol",
                hint="for a run, name its folder alone; for images, add --protocol",
            )
        if not (folder / "run.json").is_file():
            raise UserError(
                f"{folder} holds no run",
                hint="to score images made elsewhere, add --protocol mini --name my-method, or "
                "another protocol; to make a run: dreambench run --method ...",
            )
    elif name is None:
        raise UserError("images made elsewhere need a --name", hint="e.g. --name my-method")

    from dreambench.metrics.conventions import CONVENTIONS, find_convention  # noqa: PLC0415  (torch)

    conventions = tuple(CONVENTIONS) if convention == "all" else _split(convention)
    for convention_name in conventions:
        find_convention(convention_name)
    if protocol is None:
        with _opened(folder, cache, data_dir, workers=workers, batch_size=batch_size) as job:
            job.score()
            table = job.score_conventions(conventions) if conventions else None
        if table is not None:
            _print_conventions(table)
        return

    from dreambench.encoders.extraction import Pace  # noqa: PLC0415
    from dreambench.scoring.external import score as score_brought  # noqa: PLC0415  (imports torch)

    with show_progress() as progress:
        found = score_brought(
            folder, protocol=protocol, name=str(name), index=index, partial=partial,
            subjects=_split(subjects), families=_split(family), prompts=_split(prompts),
            conventions=conventions, data_dir=data_dir, cache=cache, out=out or "scores",
            device=device or "auto", pace=Pace(n_workers=workers, batch_size=batch_size),
            progress=progress,
        )  # fmt: skip
    if found.conventions is not None:
        _print_conventions(found.conventions)
    _print_report(list(found.scored), list(found.paths))


def _print_conventions(table: pd.DataFrame) -> None:
    for row in table.itertuples():
        marks = f" ({row.n_dropped} dropped)" if row.n_dropped else ""
        marks += " (partial)" if row.partial else ""
        click.echo(
            f"{row.convention:18} {row.metric:7} {row.mean:8.3f} on {row.n_images} images"
            f"{marks}  {row.signature}"
        )


@click.command()
@_run_dir
@click.option(
    "--allow-incomplete", is_flag=True, help="Take a run with missing images, marked partial."
)
@data_option
@user_errors
def aggregate(run_dir: Path, allow_incomplete: bool, data_dir: Path | None) -> None:
    """Stage: write summary.json, the means with intervals."""
    with _opened(run_dir, None, data_dir) as job:
        job.aggregate(allow_incomplete=allow_incomplete)


@click.command()
@_run_dir
@click.argument("beside", nargs=-1, type=click.Path(path_type=Path))
@click.option("--paper-table", type=int, help="Also beside this table of the DreamBooth paper.")
@data_option
@user_errors
def report(
    run_dir: Path, beside: tuple[Path, ...], paper_table: int | None, data_dir: Path | None
) -> None:
    """Stage: tables, plots and the grid of RUN_DIR, beside other folders of its protocol.

    A folder is a run's, or that of `score` with the scores of images made elsewhere.
    """
    from dreambench.analysis.paper_tables import write_paper_table  # noqa: PLC0415
    from dreambench.runs.pipeline import write_report  # noqa: PLC0415  (imports torch)
    from dreambench.runs.run_folder import read_run  # noqa: PLC0415

    runs = [read_run(path, data_dir=data_dir) for path in (run_dir, *beside)]
    scored, paths = write_report(runs[0], runs[1:])
    if paper_table is not None:
        paths.append(write_paper_table(scored, paper_table, run_dir / "report"))
    _print_report(scored, paths)


@click.command()
@click.argument(
    "run_dirs", metavar="RUN RUN...", nargs=-1, required=True, type=click.Path(path_type=Path)
)
@click.option("--all-pairs", is_flag=True, help="Every pair, not the first against each other one.")
@click.option(
    "--metrics",
    help="Only these metrics or measures, with commas between: fewer tests to adjust for.  "
    "[default: the paper's metrics]",
)
@click.option("--family", help="Only prompts of these families, with commas between.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option(
    "--out", type=click.Path(path_type=Path), help="Also write it: .csv (unrounded) or .md."
)
@data_option
@user_errors
def compare(
    run_dirs: tuple[Path, ...], all_pairs: bool, metrics: str | None, family: str | None,
    as_json: bool, out: Path | None, data_dir: Path | None,
) -> None:  # fmt: skip
    """Test runs of one protocol against the first, paired by subject and prompt."""
    if len(run_dirs) < 2:
        raise UserError("one run cannot be compared", hint="name at least two run folders")
    from dreambench.analysis.comparison import compare_runs  # noqa: PLC0415  (imports torch)
    from dreambench.report.tables import (  # noqa: PLC0415
        describe_comparison,
        make_comparison_notes,
        make_comparison_table,
        write_comparison,
    )
    from dreambench.runs.pipeline import read_comparable  # noqa: PLC0415
    from dreambench.runs.run_folder import read_run  # noqa: PLC0415

    scored = read_comparable([read_run(path, data_dir=data_dir) for path in run_dirs])
    table = compare_runs(
        scored, all_pairs=all_pairs, metrics=_split(metrics) or None, families=_split(family)
    )
    if out is not None:
        write_comparison(scored, table, out)
    if as_json:
        click.echo(json.dumps(describe_comparison(scored, table), indent=2, allow_nan=False))
        return
    shown = make_comparison_table(table).rename(
        columns={"mean and 95 % interval": "mean,\n95 % interval", "subjects": "subjects,\ncells"}
    )
    shown["subjects,\ncells"] += "\n" + shown.pop("cells")
    for title, rows in shown.groupby("difference", sort=False):
        _print_table(str(title), _stack(rows.drop(columns="difference")))
    for note in make_comparison_notes(table):
        click.echo(note)
    click.echo("Signatures:")
    for signature in dict.fromkeys(table["signature"]):
        click.echo(f"  {signature}")
    if out is not None:
        click.echo(f"Written: {out}")


@click.command()
@_run_dir
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@data_option
@user_errors
def status(run_dir: Path, as_json: bool, data_dir: Path | None) -> None:
    """What is done and what is left in a run folder."""
    from dreambench.runs.run_folder import read_status  # noqa: PLC0415

    found = read_status(run_dir, data_dir=data_dir)
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    for key, value in found.items():
        for line in value if isinstance(value, list) else [value]:
            click.echo(f"{key:12} {line}")


@click.command("list")
@click.argument(
    "what",
    type=click.Choice(["methods", "protocols", "base-models", "encoders", "conventions"]),
    required=False,
)
@click.option(
    "--base-model", default="mini", show_default=True, help="Whose trained parameters: NAME."
)
@click.option("--json", "as_json", is_flag=True, help="Print the methods as JSON.")
@user_errors
def list_(what: str | None, base_model: str, as_json: bool) -> None:
    """What there is: methods, protocols, base models, encoders, conventions.

    `list methods` is a table with each method's track: whether it tunes, and how many photos it
    sees.
    """
    if what == "methods" or as_json:
        if what not in (None, "methods"):
            raise UserError("--json is for methods", hint="dreambench list methods --json")
        _print_methods(base_model, as_json=as_json)
        return
    from dreambench.base_models.registry import BASE_MODELS  # noqa: PLC0415
    from dreambench.config.protocol import list_protocols, load_protocol  # noqa: PLC0415
    from dreambench.config.recipe import list_recipes, load_recipe  # noqa: PLC0415

    recipes = [load_recipe(name) for name in list_recipes()]
    tables = {
        "methods": [(r.name, f"{r.title} ({', '.join(r.tables)}); {r.source}") for r in recipes],
        "protocols": [(name, load_protocol(name).title) for name in list_protocols()],
        "base-models": [(m.name, f"{m.location}") for m in BASE_MODELS.values()],
    }
    if what in (None, "encoders"):
        from dreambench.encoders.encoder import ENCODERS  # noqa: PLC0415  (imports torch)

        tables["encoders"] = [
            (spec.name, f"{spec.role}: {spec.library} {spec.architecture}")
            for spec in ENCODERS.values()
        ]
    if what in (None, "conventions"):
        from dreambench.metrics.conventions import CONVENTIONS  # noqa: PLC0415  (imports torch)

        tables["conventions"] = [(c.name, f"{c.title}; {c.source}") for c in CONVENTIONS.values()]
    for heading, rows in tables.items():
        if what not in (None, heading):
            continue
        click.echo(f"{heading}:")
        for name, text in rows:
            click.echo(f"  {name:18} {text}")


def _print_methods(base_model: str, *, as_json: bool) -> None:
    from rich.console import Console  # noqa: PLC0415  (slow import)
    from rich.table import Table  # noqa: PLC0415

    from dreambench.base_models.registry import find_base_model  # noqa: PLC0415
    from dreambench.methods.plugins import list_methods  # noqa: PLC0415

    base = find_base_model(base_model)
    rows = list_methods(base)
    if as_json:
        click.echo(json.dumps(rows, indent=2, ensure_ascii=False))
        return
    table = Table(title=f"Methods; trained parameters with {base.name}", title_justify="left")
    for heading in ("name", "title", "track", "trained", "base models", "source"):
        table.add_column(
            heading, no_wrap=heading == "name", justify="right" if heading == "trained" else "left"
        )
    for row in rows:
        n_trained = row["trained_parameters"]
        table.add_row(
            row["name"], row["title"], row["track"], f"{n_trained:,}" if n_trained else "-",
            " ".join(row["base_models"]), row["source"],
        )  # fmt: skip
    Console(width=None if sys.stdout.isatty() else 140).print(table)
