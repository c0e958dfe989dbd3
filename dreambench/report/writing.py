"""Writes reports: tables, plots and grids of a run alongside others, and comparisons."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from dreambench.analysis.comparison import Scored
from dreambench.analysis.costs import Cost, measure_costs
from dreambench.analysis.replicates import load_with_replicates
from dreambench.analysis.stats import estimate_table
from dreambench.analysis.steps import estimate_steps
from dreambench.artifacts.device_time import read_device_time
from dreambench.artifacts.image_set import ImageSet
from dreambench.artifacts.results import MetricInfo, write_table
from dreambench.artifacts.study import StudyResults
from dreambench.errors import UserError, disk_errors
from dreambench.report.csv import render_csv
from dreambench.report.figures import plot_families, plot_fidelity, plot_intervals, plot_steps
from dreambench.report.image_grids import write_grid, write_side_by_side
from dreambench.report.latex_pages import make_comparison_latex, make_main_latex
from dreambench.report.markdown import render_markdown
from dreambench.report.pages import (
    list_csv_tables,
    make_comparison_document,
    make_run_document,
)
from dreambench.report.run_page import write_run_page
from dreambench.report.study_page import check_study_fits
from dreambench.report.tables import make_long_table
from dreambench.storage.files import make_dir, write_bytes
from dreambench.storage.paths import check_inside
from dreambench.storage.sums import read_sums, write_sums

FIDELITY = ("dino", "clip-t")


def write_report(
    images: ImageSet, alongside: Sequence[ImageSet], *, study: StudyResults | None = None
) -> tuple[list[Scored], list[Path]]:
    """Write tables, plots and grids of an image set alongside others, in its folder `report`.

    `study` is what a user study of it showed.

    Raises:
        UserError: they are not of one protocol and dataset, or the study is of other runs.
    """
    if study is not None:
        digests = images.manifest.digests
        check_study_fits(study, digests.protocol, digests.recipe)
    sets = [images, *alongside]
    runs, replicates = load_with_replicates(sets)
    out_dir = make_dir(images.report_dir, inside=images.folder)
    # Replicates have no rows, plots and grids of their own here.
    shown = list(zip(runs, sets, strict=True))
    costs = measure_costs((run.label, one) for run, one in shown)
    paths = [*_write_tables(runs, replicates, costs, out_dir), *_write_plots(runs, out_dir)]
    paths += _write_grids(shown, out_dir)
    names = [path.relative_to(out_dir).as_posix() for path in paths]
    document = make_run_document(
        runs, replicates, manifest=images.manifest, device_time=read_device_time(images.folder),
        costs=costs, study=study, files=names,
    )  # fmt: skip
    text = out_dir / "report.md"
    write_bytes(text, render_markdown(document).encode(), inside=out_dir)
    page, thumbnails = write_run_page(document, shown, out_dir)
    written = [page, text, *paths]
    _remove_others(out_dir, [*written, *thumbnails])
    write_sums(out_dir, [*written, *thumbnails])
    return runs, written


def _remove_others(out_dir: Path, paths: Sequence[Path]) -> None:
    """Remove what an earlier report wrote and this one did not: it had other rows."""
    try:
        old = read_sums(out_dir)
    except UserError:
        return  # The list is damaged, and is written again.
    for path in {out_dir / name for name in old} - set(paths):
        with disk_errors(path):
            path.unlink(missing_ok=True)


def _write_tables(
    runs: Sequence[Scored], replicates: Sequence[Scored], costs: Sequence[Cost], out_dir: Path
) -> list[Path]:
    csv_tables = list_csv_tables(runs, replicates, costs=costs)
    contents = {"table.csv": render_csv(make_long_table([*runs, *replicates]))}
    contents |= {f"{table.name}.csv": render_csv(table) for table in csv_tables}
    contents["table.tex"] = make_main_latex(runs)
    for name, text in contents.items():
        write_bytes(out_dir / name, text.encode(), inside=out_dir)
    return [out_dir / name for name in contents]


def _write_plots(runs: Sequence[Scored], out_dir: Path) -> list[Path]:
    infos: dict[str, MetricInfo] = {}
    for run in runs:
        infos |= {name: info for name, info in run.infos.items() if info.listed}
    bounds = {name: info.bounds for name, info in infos.items()}
    frames = {
        run.label: run.scores.frame[run.scores.frame["metric"].isin(list(infos))] for run in runs
    }
    estimates = pd.concat(
        [estimate_table(s, bounds=bounds).assign(method=name) for name, s in frames.items()]
    )
    references = [run.label for run in runs if run.is_reference]
    of_photos = runs[0].summary.reference_bounds
    paths = plot_intervals(
        estimates, out_dir / "intervals", infos=infos, references=references, bounds=of_photos
    )
    steps = estimate_steps(runs)
    if len(steps):
        every = {name: info for run in runs for name, info in run.infos.items()}
        paths += plot_steps(steps, out_dir / "steps", infos=every)
    families = pd.concat(
        [
            estimate_table(s[s["metric"].isin(FIDELITY)], by=["family"], bounds=bounds)
            .assign(method=name)
            for name, s in frames.items()
        ]
    )  # fmt: skip
    if len(families):
        paths += plot_families(families, out_dir / "families", infos=infos, references=references)
    if all(set(FIDELITY) <= set(s["metric"]) for s in frames.values()):
        paths += plot_fidelity(
            estimates, out_dir / "fidelity", references=references, bounds=of_photos.get("dino", {})
        )
    return paths


def _write_grids(sets: Sequence[tuple[Scored, ImageSet]], out_dir: Path) -> list[Path]:
    paths: list[Path] = []
    first, grid = sets[0][1], out_dir / "grid.png"
    if first.has_images():
        paths.append(write_grid(first, grid))
    elif grid.is_file():
        # Where external images lie is written nowhere: their grid is from when they were scored.
        paths.append(grid)
    shown = [(run.label, images) for run, images in sets if images.has_images()]
    if len(shown) > 1:
        paths += [
            write_grid(images, check_inside(out_dir / "grids" / f"{label}.png", out_dir))
            for label, images in shown
            if images is not first
        ]
        paths += [write_side_by_side(shown, out_dir / "side-by-side.png")]
    return paths


def write_comparison(runs: Sequence[Scored], table: pd.DataFrame, path: Path) -> None:
    """Write a comparison as .csv (unrounded, with what it depends on), or as .md or .tex (rounded).

    Raises:
        UserError: the file has another suffix.
    """
    if path.suffix == ".csv":
        write_table(path, table)
    elif path.suffix == ".md":
        text = render_markdown(make_comparison_document(runs, table))
        write_bytes(path, text.encode())
    elif path.suffix == ".tex":
        write_bytes(path, make_comparison_latex(runs, table).encode())
    else:
        raise UserError(
            f"{path} is none of .csv, .md and .tex",
            hint="name a file that ends in one of these",
            code="unknown-format",
        )
