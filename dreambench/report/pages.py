"""The pages of a report as documents: of a run alongside others, and of a comparison."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import pandas as pd

from dreambench.analysis.comparison import Scored
from dreambench.analysis.costs import Cost
from dreambench.artifacts.device_time import DeviceTime
from dreambench.artifacts.manifest import Manifest, RunManifest
from dreambench.artifacts.results import Summary
from dreambench.artifacts.study import StudyResults
from dreambench.report.model import (
    Block,
    Bullets,
    Document,
    Figure,
    Heading,
    Links,
    Paragraph,
    Table,
)
from dreambench.report.notes import (
    INTERVAL_SKEW,
    describe_digests,
    describe_recipe,
    describe_seeds,
    describe_tracks,
    list_other_signatures,
    list_signatures,
    list_versions,
    make_comparison_notes,
    make_image_notes,
)
from dreambench.report.study_page import make_study_section
from dreambench.report.tables import (
    OTHER_PROMPTS,
    PROPERTY_PROMPTS,
    make_bounds_table,
    make_comparison_table,
    make_cost_table,
    make_difference_table,
    make_family_table,
    make_kind_table,
    make_learning_table,
    make_main_table,
    make_metric_table,
    make_replicate_table,
    make_step_table,
    make_subject_table,
)

DOCS = "https://github.com/dreambench/dreambench/blob/main/docs"
PICTURES: Mapping[str, tuple[str, str]] = {
    "intervals.png": (
        "Mean of each method in each metric, as a dot on its interval",
        "Grey: baselines that show the ends of the scale. The lines are the reference bounds.",
    ),
    "fidelity.png": (
        "Subject fidelity (DINO) against prompt fidelity (CLIP-T), with intervals in both",
        "Up and to the right is better. Steps join the methods whose means no other one exceeds in "
        "both; where intervals overlap, their order may be chance.",
    ),
    "families.png": ("DINO and CLIP-T of each method in each prompt category, with intervals", ""),
    "steps.png": ("Scores by number of training steps, with intervals as bands", ""),
    "side-by-side.png": (
        "A photo of each subject, and an image of it by each method for the same prompt",
        "",
    ),
    "grid.png": ("Photos of each subject beside its first image for each prompt", ""),
}
"""By file: what is to be seen, for those who do not see it, and how to read it."""


def make_run_document(
    runs: Sequence[Scored],
    replicates: Sequence[Scored] = (),
    *,
    manifest: Manifest | None = None,
    device_time: DeviceTime | None = None,
    costs: Sequence[Cost] = (),
    study: StudyResults | None = None,
    files: Collection[str] = (),
) -> Document:
    """Return the page of the first run alongside the others, with what is known of replicates.

    `manifest` and `device_time` are those of the first run, `costs` of all. Of `files`, which lie
    beside the page, it shows the pictures and links to all.
    """
    summary = runs[0].summary
    blocks: list[Block] = [
        Heading(f"{runs[0].label} on {summary.protocol}", 1),
        Paragraph(
            "Means over subjects with 95 % intervals (Student t over subjects, cut at the ends of "
            f"a metric's range). {INTERVAL_SKEW}"
        ),
        make_main_table(runs),
    ]
    blocks += [
        *_notes(runs),
        *_show(files, "intervals.png", "fidelity.png"),
        *_show(files, "side-by-side.png", "grid.png", heading="Image grids"),
        Heading("Reference bounds, recomputed from the photos"),
        make_bounds_table(runs),
        Heading("Differences, paired by subject"),
        make_difference_table(runs) if len(runs) > 1 else Paragraph("Nothing to compare with."),
        Paragraph(
            "Each interval stands for itself; `dreambench compare` tests them, and adjusts for how "
            "many there are."
        ),
        *_learning(runs),
        *_steps(runs, files),
        *_between_replicates([*runs, *replicates]),
        Heading("By prompt category"),
        Paragraph(
            "A property prompt asks for another colour, surface or shape: there a right image "
            "loses similarity to the photos, which is why these prompts stand apart."
        ),
        *_show(files, "families.png"),
        make_family_table(runs),
        *_other_metrics(runs),
        Heading("By kind of subject"),
        make_kind_table(runs),
        Heading("By subject"),
        make_subject_table(runs),
        *_costs(costs),
        *(make_study_section(study) if study else []),
        Heading("What the numbers depend on"),
        Paragraph("Signatures:"),
        Bullets(list_signatures(runs[0]), is_code=True),
        Paragraph(f"{describe_digests(summary.digests)}, {summary.code}."),
        *_made_with(manifest, summary, device_time),
        Heading("Files and explanations"),
        Links(_list_links(runs, files)),
    ]
    return Document(blocks)


def _notes(runs: Sequence[Scored]) -> list[Block]:
    tracks, notes = describe_tracks(runs), make_image_notes(runs)
    blocks: list[Block] = [Paragraph(tracks)] if tracks else []
    return [*blocks, Paragraph("Notes:"), Bullets(notes)] if notes else blocks


def _made_with(
    manifest: Manifest | None, summary: Summary, device_time: DeviceTime | None
) -> list[Block]:
    if manifest is None:
        return []
    versions = list_versions(manifest, summary, device_time)
    blocks: list[Block] = [Paragraph(describe_seeds(manifest)), Bullets(versions)]
    if isinstance(manifest, RunManifest):
        blocks.insert(0, Paragraph(describe_recipe(manifest.recipe)))
    return blocks


def _show(files: Collection[str], *names: str, heading: str = "") -> list[Block]:
    """Return those pictures that there are, each with its words beneath it, under a heading."""
    blocks: list[Block] = []
    for name in names:
        if name in files:
            title, words = PICTURES[name]
            blocks += [Figure(name, title), *([Paragraph(words)] if words else [])]
    return [Heading(heading), *blocks] if heading and blocks else blocks


def _list_links(
    runs: Sequence[Scored], files: Collection[str]
) -> list[tuple[str, Sequence[tuple[str, str]]]]:
    """Return links to files beside the page, by what they are, and to what explains metrics."""
    kinds = {
        "Tables, unrounded": ".csv", "The table above for a paper": ".tex",
        "Figures for a paper": ".pdf", "Figures for the web": ".svg",
    }  # fmt: skip
    groups = {
        words: [(name, name) for name in files if name.endswith(suffix)]
        for words, suffix in kinds.items()
    }
    infos = {name: info for run in runs for name, info in run.infos.items()}
    # Metrics that users added have no page.
    groups["What each metric is and cannot see"] = [
        (info.title, f"{DOCS}/metrics/{name}.md") for name, info in infos.items() if not info.code
    ]
    groups["How to read intervals and tests"] = [
        ("statistics", f"{DOCS}/explanation/statistics.md"),
        ("comparing methods", f"{DOCS}/how-to/compare-methods.md"),
    ]
    return [(words, links) for words, links in groups.items() if links]


def _section(title: str, text: str, table: Table, *, shown: Sequence[Block] = ()) -> list[Block]:
    """Return what stands under a heading; nothing where the table has no row."""
    if not table.rows:
        return []
    return [Heading(title), Paragraph(text), *shown, table]


def _learning(runs: Sequence[Scored]) -> list[Block]:
    return _section(
        "Did it learn?",
        "Subjects whose images are closer to the photos in DINO than those of class-only from "
        "the same seeds: a sign-flip test over prompts at 5 %, property prompts left out.",
        make_learning_table(runs),
    )


def _steps(runs: Sequence[Scored], files: Collection[str]) -> list[Block]:
    return _section(
        "Which step?",
        "One training, scored on the way; step 0 is class-only, which is not trained. Held-out "
        "photos were not trained on, so that learning them by heart gains nothing. What is "
        "chosen by this curve has been chosen on these subjects.",
        make_step_table(runs),
        shown=_show(files, "steps.png"),
    )


def _costs(costs: Sequence[Cost]) -> list[Block]:
    return _section(
        "What it costs",
        "Training is that of one subject: means, and the highest peak of memory, which is what the "
        "device held at once, and on a CPU what the whole process did. An image's seconds are with "
        "loading and all tries. Time and memory depend on the machine, and on what else it did.",
        make_cost_table(costs),
    )


def _between_replicates(runs: Sequence[Scored]) -> list[Block]:
    return _section(
        "Between replicates",
        "The same recipe trained again with other seeds. An interval over subjects says how a "
        "mean would move with other subjects; this says how it moves when the same ones are "
        "trained again.",
        make_replicate_table(runs),
    )


def _other_metrics(runs: Sequence[Scored]) -> list[Block]:
    tables = [make_metric_table(runs, prompts) for prompts in (OTHER_PROMPTS, PROPERTY_PROMPTS)]
    if not tables[0].rows:
        return []
    return [
        Heading("Metrics that the paper does not have"),
        Paragraph(
            "Without property prompts, in which a right image must lose likeness. Links at the end "
            "of this page lead to what each metric is and cannot see."
        ),
        tables[0],
        Paragraph("Property prompts alone:"),
        tables[1],
        Bullets(list_other_signatures(runs), is_code=True),
    ]


def make_comparison_document(runs: Sequence[Scored], table: pd.DataFrame) -> Document:
    """Return the page of a comparison (`compare_scored`) of runs."""
    digests = runs[0].summary.digests
    return Document(
        [
            Heading(f"{', '.join(run.label for run in runs)} on {runs[0].summary.protocol}", 1),
            make_comparison_table(table, runs[0].infos),
            Bullets(make_comparison_notes(table)),
            Paragraph("Signatures:"),
            Bullets(list(dict.fromkeys(table["signature"])), is_code=True),
            Paragraph(f"Protocol {digests.protocol}, base model `{digests.base_model}`. Runs:"),
            Bullets([f"{run.label}: {_describe_run(run)}" for run in runs]),
        ]
    )


def _describe_run(run: Scored) -> str:
    digests = run.summary.digests
    return f"recipe {digests.recipe}, data {digests.data}, {run.summary.code}"


def describe_comparison(runs: Sequence[Scored], table: pd.DataFrame) -> dict[str, Any]:
    """Return a comparison with its recipe as JSON takes it, unrounded."""
    every = table.drop(columns=["protocol", "base_model", "n_comparisons"])
    every = every[[name for name in every if not name.startswith(("partial", "recipe", "data"))]]
    rows = every.astype(object).where(every.notna(), None).to_dict("records")
    keys = {"method", "partial", "n_images", "digests", "code"}
    return {
        "protocol": runs[0].summary.protocol,
        "n_tests": int(table["n_comparisons"].max()),
        "notes": make_comparison_notes(table),
        "comparisons": rows,
        "runs": [
            {"name": run.name} | run.summary.model_dump(mode="json", include=keys) for run in runs
        ],
    }


def list_csv_tables(
    runs: Sequence[Scored], replicates: Sequence[Scored] = (), *, costs: Sequence[Cost] = ()
) -> list[Table]:
    """Return the tables of a run's report that are written as CSV as well."""
    spread = make_replicate_table([*runs, *replicates])
    tables = [
        *[table
            for table in (
                make_learning_table(runs), make_step_table(runs), spread, make_cost_table(costs),
            )
            if table.rows],
        make_bounds_table(runs), make_difference_table(runs), make_family_table(runs),
        make_kind_table(runs), make_subject_table(runs),
    ]  # fmt: skip
    others: list[dict[str, Any]] = []
    for prompts in (OTHER_PROMPTS, PROPERTY_PROMPTS):
        others += [{**row, "prompts": prompts} for row in make_metric_table(runs, prompts).rows]
    return [*tables, Table.from_rows("metrics", others)]
