"""The page of the trial of metrics for two subjects in one picture."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from PIL import Image

from dreambench.artifacts.results import write_table
from dreambench.mini.validation.blocks import describe_origin, make_table
from dreambench.mini.validation.pairs import (
    RIGHT,
    TruePair,
    compute_wins,
    make_true_pair,
    mean_by_pair_set,
    run_pair_trial,
)
from dreambench.mini.validation.trial import sign_metrics
from dreambench.progress import Progress
from dreambench.report.formatting import format_number
from dreambench.report.markdown import render_markdown
from dreambench.report.model import Document, Figure, Heading, Paragraph
from dreambench.report.pictures import plot_rows
from dreambench.storage.files import make_dir, write_bytes


def write_pair_trial(
    out_dir: Path, *, n_pairs: int, progress: Progress
) -> tuple[pd.DataFrame, pd.DataFrame, list[Path]]:
    """Run the trial; write its tables and page; return means by set, and shares of wins."""
    pairs = [make_true_pair(index) for index in range(n_pairs)]
    frame = run_pair_trial(pairs, progress=progress)
    means, wins = mean_by_pair_set(frame), compute_wins(frame)
    signatures = sign_metrics(means.index)
    make_dir(out_dir)
    paths = []
    for name, table in (("pairs-responses", means), ("pairs-wins", wins)):
        signed = table.rename_axis("metric").reset_index()
        signed["signature"] = signed["metric"].map(signatures)
        paths.append(out_dir / f"{name}.csv")
        write_table(paths[-1], signed, float_format="%.4f")
    paths.append(_plot_cases(pairs[0], out_dir / "pairs-cases.png"))
    document = make_document(means, wins, pairs, list(signatures.values()))
    paths.append(out_dir / "pairs.md")
    write_bytes(paths[-1], render_markdown(document).encode())
    return means, wins, paths


def _plot_cases(pair: TruePair, path: Path) -> Path:
    first: dict[str, Image.Image] = {}
    for case in pair.cases:
        first.setdefault(case.set_name, case.image)
    return plot_rows(first, path, n_columns=6)


def make_document(
    means: pd.DataFrame, wins: pd.DataFrame, pairs: list[TruePair], signatures: list[str]
) -> Document:
    """Return the page of a trial over so many pairs."""
    n_same = sum(pair.shares_noun for pair in pairs)
    field, own = (means.loc[name] for name in ("pair-dino", "pair-own-dino"))
    return Document(
        [
            Heading("Two subjects in one picture: the metrics, tested", 1),
            Paragraph(
                f"`dreambench metrics test --pairs {len(pairs)}`: {len(pairs)} pairs of "
                f"individuals rendered by the small world, {n_same} of them of one class, each "
                "with five photos; pictures of seven places, in which both are there, or are not: "
                "the two with each other's looks (swapped), one missing, one twice, one body "
                "half-way between both (merged), strangers of both classes (class only). Photos of "
                "either, and of both side by side, are what copying gives."
            ),
            Figure("pairs-cases.png", "The pictures of one pair, the first of each set"),
            Heading("What each metric says"),
            Paragraph(
                "Means over pairs. The field's metric is the mean of two similarities of the whole "
                f"picture: it gives {format_number(field[RIGHT])} to both, "
                f"{format_number(field['swapped'])} to the swapped, "
                f"{format_number(field['first twice'])} to the first twice, and "
                f"{format_number(field['first photo alone'])} to a photo of the first alone. By "
                f"their own regions it is {format_number(own[RIGHT])}, "
                f"{format_number(own['swapped'])}, {format_number(own['first twice'])} and "
                f"{format_number(own['first photo alone'])}."
            ),
            make_table("pairs-responses", means),
            Heading("Does a picture with a fault win?"),
            Paragraph(
                "Share of pairs on which a set is above the right one, pictures of a pair averaged "
                "(ties count half; for metrics where lower is better, below). 0 is right; .5 "
                "cannot tell them apart, as is right for a metric of another fault. Swapped "
                f"pictures there are of the {len(pairs) - n_same} pairs of two classes alone."
            ),
            make_table("pairs-wins", wins),
            *describe_origin(signatures),
        ]
    )
