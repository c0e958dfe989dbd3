"""Each stage alone: train, generate, extract, score, summarise, report."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dreambench.cli.display import show_progress
from dreambench.cli.printing import print_conventions, print_report
from dreambench.cli.run import end_with_failures
from dreambench.cli.shared import (
    cache_option,
    code_option,
    data_option,
    decoding_option,
    encoder_option,
    extract_batch_option,
    extract_workers_option,
    layout_option,
    metric_option,
    narrowing_options,
    run_dir_argument,
    split,
    timeout_option,
    user_errors,
    weights_option,
)
from dreambench.errors import UserError

if TYPE_CHECKING:
    from dreambench.encoders.pace import Pace
    from dreambench.runs.pipeline import Pipeline
    from dreambench.scoring.scorer import Scorer


@contextmanager
def _opened_pipeline(
    run_dir: Path,
    *,
    cache: Path | None,
    data_dir: Path | None,
    method: str | None,
    unit_timeout: float | None,
    keep_weights: bool | None = None,
) -> Iterator[Pipeline]:
    """Open a run for the stages that call its method's code."""
    from dreambench.artifacts.image_set import hold_folder  # noqa: PLC0415
    from dreambench.methods.plugins import attach_code  # noqa: PLC0415
    from dreambench.runs.pipeline import Pipeline  # noqa: PLC0415  (imports torch)
    from dreambench.runs.run_folder import check_weights, open_run, read_run  # noqa: PLC0415
    from dreambench.runs.units import Terms  # noqa: PLC0415
    from dreambench.storage.shipped import cache_dir  # noqa: PLC0415

    run = read_run(run_dir, data_dir=data_dir)
    run = replace(run, recipe=attach_code(run.recipe, method))
    check_weights(run)
    terms = Terms(
        cache_dir=cache or cache_dir(), data_dir=data_dir, unit_timeout=unit_timeout,
        keep_weights=keep_weights,
    )  # fmt: skip
    with hold_folder(run_dir, joins=True):
        run = open_run(run)
    with show_progress() as progress:
        yield Pipeline(run, terms=terms, progress=progress)


def _stage_of_code(stage: Callable[..., None]) -> click.Command:
    """Make a command of a stage that calls a method's code."""
    for option in (
        user_errors, data_option, cache_option, timeout_option, code_option, run_dir_argument,
    ):  # fmt: skip
        stage = option(stage)
    return click.command()(stage)


@_stage_of_code
def train(
    run_dir: Path, method: str | None, unit_timeout: float | None, cache: Path | None,
    data_dir: Path | None,
) -> None:  # fmt: skip
    """Stage: train on the subjects that are left."""
    from dreambench.runs.executors.local import Here  # noqa: PLC0415  (imports torch)

    with _opened_pipeline(
        run_dir, cache=cache, data_dir=data_dir, method=method, unit_timeout=unit_timeout
    ) as pipeline:
        pipeline.train(Here())
    end_with_failures([pipeline])


@_stage_of_code
@weights_option
def generate(
    run_dir: Path, method: str | None, unit_timeout: float | None, keep_weights: bool | None,
    cache: Path | None, data_dir: Path | None,
) -> None:  # fmt: skip
    """Stage: generate the images that are left."""
    from dreambench.runs.executors.local import Here  # noqa: PLC0415  (imports torch)

    with _opened_pipeline(
        run_dir,
        cache=cache,
        data_dir=data_dir,
        method=method,
        unit_timeout=unit_timeout,
        keep_weights=keep_weights,
    ) as pipeline:
        pipeline.generate(Here())
    end_with_failures([pipeline])


@contextmanager
def _opened_scorer(
    run_dir: Path,
    *,
    cache: Path | None,
    data_dir: Path | None,
    n_workers: int,
    pace: Pace,
    metrics: Sequence[str] = (),
    encoders: Mapping[str, str],
    conventions: Sequence[str] = (),
) -> Iterator[Scorer]:
    """Open a run for the stages that see its images."""
    from dreambench.artifacts.image_set import hold_folder  # noqa: PLC0415
    from dreambench.runs.run_folder import open_run, read_run  # noqa: PLC0415  (imports torch)
    from dreambench.scoring.process import ScoreRequest, extract_on_all  # noqa: PLC0415
    from dreambench.scoring.scorer import Scorer  # noqa: PLC0415
    from dreambench.storage.shipped import cache_dir  # noqa: PLC0415

    found = read_run(run_dir, data_dir=data_dir)
    asked = ScoreRequest(
        metrics=metrics, encoders=encoders, conventions=conventions,
        cache_dir=cache or cache_dir(), data_dir=data_dir, pace=pace,
    )  # fmt: skip
    with hold_folder(run_dir), show_progress() as progress:
        run = open_run(found)
        if n_workers > 1:
            extract_on_all(run, asked, n_workers=n_workers, progress=progress)
        yield Scorer(
            run, metrics=metrics, encoders=encoders, cache_dir=asked.cache_dir, progress=progress,
            pace=pace,
        )  # fmt: skip


@click.command()
@run_dir_argument
@extract_workers_option
@decoding_option
@extract_batch_option
@encoder_option
@cache_option
@data_option
@user_errors
def extract(
    run_dir: Path, workers: int, n_decoding: int, batch_size: int, encoders: tuple[str, ...],
    cache: Path | None, data_dir: Path | None,
) -> None:  # fmt: skip
    """Stage: extract features of photos, images and texts."""
    from dreambench.encoders.pace import Pace  # noqa: PLC0415  (imports torch)
    from dreambench.encoders.registry import parse_encoder_options  # noqa: PLC0415

    pace = Pace(n_threads=n_decoding, batch_size=batch_size)
    with _opened_scorer(
        run_dir, cache=cache, data_dir=data_dir, n_workers=workers, pace=pace,
        encoders=parse_encoder_options(encoders),
    ) as scorer:  # fmt: skip
        scorer.extract()


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option(
    "--convention",
    help="Also score as other scorers do: comma-separated names, or all; see `list`.",
)
@metric_option
@encoder_option
@extract_workers_option
@decoding_option
@extract_batch_option
@cache_option
@data_option
@click.option("--protocol", help="For external images: a protocol's name or path (.toml).")
@click.option("--name", help="For external images: their name in tables.")
@click.option(
    "--index",
    type=click.Path(path_type=Path),
    help="CSV with the columns file, subject, prompt, index: which image each file is.",
)
@layout_option
@click.option("--partial", is_flag=True, help="Score the valid images of a set, marked partial.")
@narrowing_options
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Folder of the results, which are OUT/PROTOCOL/NAME.  [default: scores]",
)
@click.option("--device", help="auto, cpu, cuda, cuda:1, ...  [default: auto]")
@user_errors
def score(
    folder: Path, convention: str | None, metrics: tuple[str, ...], encoders: tuple[str, ...],
    workers: int, n_decoding: int, batch_size: int, cache: Path | None, data_dir: Path | None,
    protocol: str | None, name: str | None, index: Path | None, layout: str | None,
    partial: bool, subjects: str | None, family: str | None, prompts: str | None,
    out: Path | None, device: str | None,
) -> None:  # fmt: skip
    """Stage: score a run. With --protocol: score external images.

    FOLDER of a run has its run.json. Otherwise it holds images/<subject>/<prompt>/<k>.png, or
    <subject>/<prompt>/<k>.png, or what DreamBench++, UNO or PatchDPO write, or it is a CSV (see
    --index).
    """
    given = {
        "--name": name, "--index": index, "--layout": layout, "--partial": partial,
        "--subjects": subjects, "--family": family, "--prompts": prompts, "--out": out,
        "--device": device,
    }  # fmt: skip
    _check_use(folder, protocol, name, [option for option, value in given.items() if value])
    from dreambench.encoders.pace import Pace  # noqa: PLC0415  (imports torch)
    from dreambench.encoders.registry import parse_encoder_options  # noqa: PLC0415

    overrides = parse_encoder_options(encoders)
    pace = Pace(n_threads=n_decoding, batch_size=batch_size)
    conventions = _choose_conventions(convention)
    if protocol is None:
        with _opened_scorer(
            folder, cache=cache, data_dir=data_dir, n_workers=workers, pace=pace, metrics=metrics,
            encoders=overrides, conventions=conventions,
        ) as scorer:  # fmt: skip
            scorer.score()
            table = scorer.score_conventions(conventions) if conventions else None
        if table is not None:
            print_conventions(table)
        return

    from dreambench.benchmark.external import score_external  # noqa: PLC0415  (imports torch)
    from dreambench.config.protocol import load_protocol  # noqa: PLC0415
    from dreambench.scoring.external import ExternalRequest  # noqa: PLC0415

    request = ExternalRequest(
        folder=folder, protocol=load_protocol(protocol), name=str(name), index=index,
        layout=layout, partial=partial, subjects=split(subjects), families=split(family),
        prompts=split(prompts), metrics=metrics, encoders=overrides, data_dir=data_dir,
    )  # fmt: skip
    with show_progress() as progress:
        found = score_external(
            request, conventions=conventions, out=out or Path("scores"), device=device or "auto",
            cache_dir=cache, pace=pace, n_workers=workers, apart=False, progress=progress,
        )  # fmt: skip
    if found.conventions is not None:
        print_conventions(found.conventions)
    print_report([found.scored], found.paths)


def _check_use(folder: Path, protocol: str | None, name: str | None, given: Sequence[str]) -> None:
    """Refuse options that belong to the other use of `score`."""
    from dreambench.artifacts.manifest import has_manifest  # noqa: PLC0415

    if protocol is not None:
        if name is None:
            raise UserError(
                "external images need a --name", hint="e.g. --name my-method", code="missing-option"
            )
        return
    if given:
        raise UserError(
            f"{', '.join(given)} is for external images, and these need --protocol",
            hint="for a run, name its folder alone; for images, add --protocol",
            code="missing-option",
        )
    if not has_manifest(folder):
        raise UserError(
            f"{folder} holds no run",
            hint="to score external images, add --protocol mini --name my-method, or another "
            "protocol; to make a run: dreambench run --method ...",
            code="not-a-run",
        )


def _choose_conventions(names: str | None) -> tuple[str, ...]:
    """Return the names of conventions; checked before anything is done."""
    from dreambench.metrics.conventions import CONVENTIONS, find_convention  # noqa: PLC0415

    chosen = tuple(CONVENTIONS) if names == "all" else split(names)
    for name in chosen:
        find_convention(name)
    return chosen


@click.command()
@run_dir_argument
@click.option(
    "--allow-incomplete", is_flag=True, help="Take a run with missing images, marked partial."
)
@data_option
@user_errors
def summarise(run_dir: Path, allow_incomplete: bool, data_dir: Path | None) -> None:
    """Stage: write summary.json, the means with intervals."""
    from dreambench.analysis.summary import summarise as write  # noqa: PLC0415
    from dreambench.artifacts.image_set import hold_folder, read_image_set  # noqa: PLC0415

    images = read_image_set(run_dir, data_dir=data_dir)
    with hold_folder(run_dir):
        write(images, allow_incomplete=allow_incomplete)


@click.command()
@run_dir_argument
@click.argument("alongside", nargs=-1, type=click.Path(path_type=Path))
@click.option("--paper-table", type=int, help="Also against this table of the DreamBooth paper.")
@click.option(
    "--study",
    type=click.Path(path_type=Path),
    help="Also report what people said: the study-results.json of `study analyse`.",
)
@data_option
@user_errors
def report(
    run_dir: Path, alongside: tuple[Path, ...], paper_table: int | None, study: Path | None,
    data_dir: Path | None,
) -> None:  # fmt: skip
    """Stage: write tables, plots and the grid of RUN_DIR.

    Further folders are reported alongside: of runs, or of `score` with the scores of external
    images, all of one protocol.
    """
    from dreambench.artifacts.image_set import hold_folder, read_image_set  # noqa: PLC0415
    from dreambench.artifacts.study import read_study_results  # noqa: PLC0415
    from dreambench.report.paper_page import write_paper_table  # noqa: PLC0415
    from dreambench.report.writing import write_report  # noqa: PLC0415

    sets = [read_image_set(path, data_dir=data_dir) for path in (run_dir, *alongside)]
    said = read_study_results(study) if study else None
    with hold_folder(run_dir):
        scored, paths = write_report(sets[0], sets[1:], study=said)
        if paper_table is not None:
            paths += write_paper_table(scored, paper_table, run_dir / "report")
    print_report(scored, paths)


COMMANDS: Sequence[Any] = (train, generate, extract, score, summarise, report)
