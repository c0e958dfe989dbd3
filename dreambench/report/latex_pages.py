"""Tables as a paper prints them: what is grouped, what may be bold, and the words of a caption."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pandas as pd

from dreambench import __version__
from dreambench.analysis.comparison import Scored, find_best
from dreambench.analysis.paper_tables import SOURCE, PaperTable
from dreambench.report.latex import render_latex
from dreambench.report.model import Cell, Interval, Table
from dreambench.report.notes import list_signatures, make_comparison_notes
from dreambench.report.tables import (
    make_comparison_table,
    make_direction_table,
    make_main_table,
)

HEAD = (
    f"Made by dreambench {__version__}.",
    r"In the preamble: \usepackage{booktabs} and \usepackage[T1]{fontenc}",
)
SHORT = 8
"""Digits of a digest in a caption; comments have them all."""


def make_main_latex(runs: Sequence[Scored]) -> str:
    """Return the main table: methods, then references, then property prompts alone.

    Bold is only what is shown to be better than every other method (`find_best`).
    """
    methods = [run for run in runs if not run.is_reference]
    ordered = [*methods, *(run for run in runs if run.is_reference)]
    tables = [make_main_table([run]) for run in ordered]
    whole = [table.rows[0] for table in tables]
    apart: list[dict[str, Cell]] = [
        {**row, "method": run.label}
        for run, table in zip(ordered, tables, strict=True)
        for row in table.rows[1:]
    ]
    groups = {len(methods): "References"} if len(methods) < len(ordered) else {}
    groups |= {len(whole): "Property prompts alone"} if apart else {}
    best = find_best(runs)
    names = [run.name for run in ordered]
    bold = {
        (names.index(name), column)
        for metric, name in best.items()
        for column in [_find_column(whole[0], runs[0].infos[metric].heading)]
    }
    table = Table("main", make_main_table(runs).columns, [*whole, *apart])
    why = (
        " Bold: better than every other method in its column, references aside, by paired "
        "sign-flip tests over subjects (Holm over columns, 5 %)."
    )
    return render_latex(
        table,
        caption=f"{_describe_means(runs)}{why if best else ''}",
        label=f"tab:{_make_slug(runs[0].summary.protocol)}",
        comments=[
            *HEAD,
            *([] if best else ["No method is shown to be better than every other one."]),
            *_describe_runs(runs),
            *list_signatures(runs[0]),
        ],
        bold=bold, groups=groups,
    )  # fmt: skip


def _find_column(row: dict[str, Cell], heading: str) -> str:
    """Return the column of a metric, whose heading may say more."""
    return next(column for column in row if column.split(", property")[0] == heading)


def _describe_means(runs: Sequence[Scored]) -> str:
    summary = runs[0].summary
    counts = sorted(
        {e.whole.n_subjects for run in runs for e in run.summary.metrics.values() if e.info.listed}
        - {0}
    )
    n_subjects = " to ".join(str(count) for count in dict.fromkeys(counts[:1] + counts[-1:]))
    return (
        f"Means over {n_subjects or 'no'} subjects with 95 % intervals (Student t over subjects). "
        f"{_describe_digests(runs[0])}, metrics by dreambench {summary.code.version}."
    )


def _describe_digests(run: Scored) -> str:
    digests = run.summary.digests
    text = (
        f"Protocol {run.summary.protocol} (`{digests.protocol[:SHORT]}`), photos "
        f"`{digests.data[:SHORT]}`"
    )
    if digests.base_model is None:
        return text
    name, _, digest = digests.base_model.partition("@")
    return f"{text}, base model `{name}{'@' if digest else ''}{digest[:SHORT]}`"


def _describe_runs(runs: Sequence[Scored]) -> list[str]:
    lines = []
    for run in runs:
        digests = run.summary.digests
        named = {"recipe": digests.recipe, "images": digests.images, "data": digests.data}
        parts = [f"{key} {value}" for key, value in named.items() if value]
        lines.append(f"{run.label}: {', '.join([*parts, str(run.summary.code)])}")
    return lines


def _make_slug(text: str) -> str:
    return re.sub("[^a-z0-9]+", "-", text.lower()).strip("-")


def make_comparison_latex(runs: Sequence[Scored], table: pd.DataFrame) -> str:
    """Return the table of a comparison (`compare_scored`) of runs."""
    notes = make_comparison_notes(table)
    return render_latex(
        make_comparison_table(table, runs[0].infos),
        caption=f"{' '.join(notes[:2])} {_describe_digests(runs[0])}.",
        label=f"tab:{_make_slug(runs[0].summary.protocol)}-differences",
        comments=[
            *HEAD, *notes, *_describe_runs(runs),
            *dict.fromkeys(str(one) for one in table["signature"]),
        ],
    )  # fmt: skip


def make_paper_latex(table: PaperTable) -> str:
    """Return the two tables of a page that sets runs against a table of the paper."""
    metrics = list(dict.fromkeys(table.frame["metric"]))
    label = f"tab:paper-{table.number}-{_make_slug(table.runs[0].summary.protocol)}"
    about = f"{_describe_digests(table.runs[0])}."
    values = render_latex(
        _make_value_table(table),
        caption="Our means over subjects with 95 % intervals, each above what table "
        f"{table.number} of {SOURCE} has, whose models and images are others. {about}",
        label=label,
        comments=[
            *HEAD, *_describe_runs(table.runs),
            *(str(table.runs[0].signatures[name]) for name in metrics),
        ],
    )  # fmt: skip
    directions = render_latex(
        make_direction_table(table),
        caption=f"Directions of table {table.number} of {SOURCE}, and ours, paired by subject.",
        label=f"{label}-directions",
    )
    return f"{values}\n{directions}"


def _make_value_table(table: PaperTable) -> Table:
    """Return a row a method, and under it the paper's row."""
    rows: list[dict[str, Cell]] = []
    for run in table.runs:
        theirs = table.frame[table.frame["recipe"] == run.name].set_index("metric")
        own: dict[str, Cell] = {"method": run.label}
        printed: dict[str, Cell] = {"method": f"paper: {theirs['row'].iloc[0]}"}
        for metric, value in theirs["value"].items():
            info = run.infos[str(metric)]
            own[info.heading] = Interval.of(run.summary.metrics[info.name].whole)
            printed[info.heading] = float(value)
        rows += [own, printed]
    return Table.from_rows("values", rows)
