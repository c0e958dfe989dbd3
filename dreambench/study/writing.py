"""Writes what a study showed: results as JSON, tables, a figure and a page."""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd

from dreambench.artifacts.study import RESULTS_NAME, StudyResults
from dreambench.report.csv import render_csv
from dreambench.report.figures import plot_following
from dreambench.report.html.pages import render_page
from dreambench.report.html.tables import make_sections
from dreambench.report.markdown import render_markdown
from dreambench.report.study_page import (
    FIDELITY,
    ONE_RATER,
    SIMULATED,
    list_overall,
    list_study_tables,
    make_study_document,
    title_metric,
)
from dreambench.storage.files import make_dir, render_json, write_bytes

FIGURE = "following"


def write_study_results(results: StudyResults, out_dir: Path) -> list[Path]:
    """Write results, tables, figure and page into a folder and return their paths, page first."""
    make_dir(out_dir)
    contents = {RESULTS_NAME: render_json(results.model_dump(mode="json"))}
    contents |= {
        f"{table.name}.csv": render_csv(table).encode() for table in list_study_tables(results)
    }
    for name, content in contents.items():
        write_bytes(out_dir / name, content, inside=out_dir)
    paths = [out_dir / name for name in contents] + _write_figure(results, out_dir)
    document = make_study_document(results, files=[path.name for path in paths])
    title, sections = make_sections(document)
    pages = {
        "index.html": render_page("document.html", {"title": title, "sections": sections}),
        "study.md": render_markdown(document),
    }
    for name, text in pages.items():
        write_bytes(out_dir / name, text.encode(), inside=out_dir)
    return [*(out_dir / name for name in pages), *paths]


def _write_figure(results: StudyResults, out_dir: Path) -> list[Path]:
    """Draw how often each metric agrees with the majority; nothing where none was measured."""
    rows = [
        {
            "method": title_metric(results, row.metric),
            "metric": f"{FIDELITY[row.asks]}" + (f"\n{SIMULATED}" if results.simulated else ""),
            **{
                name: math.nan if value is None else value
                for name, value in row.agrees.model_dump(exclude={"n"}).items()
            },
        }
        for row in list_overall(results.everyone)
    ]
    if not results.metrics or not rows:
        return []
    return plot_following(pd.DataFrame(rows), out_dir / FIGURE, references=[ONE_RATER])
