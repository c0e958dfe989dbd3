"""The page of the metrics' trial: tables, plots, and what they show."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from dreambench.artifacts.results import write_table
from dreambench.mini.validation.blocks import describe_origin, make_table
from dreambench.mini.validation.trial import (
    CAUSES,
    LEAST,
    TRUTH,
    compute_correlations,
    compute_dominance,
    compute_highest_tau,
    compute_responses,
    load_draw,
    mean_by_set,
    run_trial,
    sign_metrics,
    sign_of,
    title_of,
)
from dreambench.mini.validation.truth import TrueSubject, make_true_subject
from dreambench.progress import Progress
from dreambench.report.formatting import format_interval, format_number
from dreambench.report.heatmap import plot_responses
from dreambench.report.markdown import render_markdown
from dreambench.report.model import Document, Figure, Heading, Paragraph
from dreambench.report.pictures import plot_rows
from dreambench.storage.files import make_dir, write_bytes

MILD = ("blur 0.6", "blur 2.4", "crop 0.85", "crop 0.55", "JPEG 60", "JPEG 5")
"""Sets that the plot leaves out: of each damage it shows the middle level."""


def write_trial(
    out_dir: Path, *, n_subjects: int, progress: Progress
) -> tuple[pd.DataFrame, pd.DataFrame, list[Path]]:
    """Runs the trial; writes its tables, plots and page; correlations and dominance come back."""
    draw = load_draw()
    subjects = [make_true_subject(index, draw) for index in range(n_subjects)]
    frame = run_trial(subjects, progress=progress)
    correlations, dominance = compute_correlations(frame), compute_dominance(frame)
    responses = compute_responses(frame)
    signatures = sign_metrics(responses.index)
    make_dir(out_dir)
    paths = []
    for name, table in (
        ("correlations", correlations), ("dominance", dominance),
        ("responses", responses.reset_index()),
    ):  # fmt: skip
        signed = table.assign(signature=table["metric"].map(signatures))
        paths.append(out_dir / f"{name}.csv")
        write_table(paths[-1], signed, float_format="%.4f")
    means = mean_by_set(frame)
    spread = means[means["set_name"] == "faithful"].groupby("metric")["value"].std()
    shown = responses.drop(columns=[*LEAST.values(), *MILD])
    changes = shown.sub(shown["faithful"], axis=0).div(spread.reindex(shown.index), axis=0)
    # A metric that is the same for every faithful picture has no spread to be counted in.
    changes = changes.replace([np.inf, -np.inf], np.nan)
    signs = [sign_of(name) for name in shown.index]
    agreement = correlations[correlations["cause"] == TRUTH].set_index("metric")["agreement"]
    paths += plot_responses(
        shown, changes.mul(signs, axis=0), agreement, [title_of(name) for name in shown.index],
        out_dir / "responses",
    )  # fmt: skip
    paths.append(_plot_cases(subjects[0], out_dir / "cases.png"))
    document = make_document(
        correlations, dominance, n_subjects, list(signatures.values()),
        highest_tau=compute_highest_tau(frame),
        without_views=compute_correlations(frame[frame["cause"] != "view"]),
    )  # fmt: skip
    paths.append(out_dir / "page.md")
    write_bytes(paths[-1], render_markdown(document).encode())
    return correlations, dominance, paths


def _plot_cases(subject: TrueSubject, path: Path) -> Path:
    first: dict[str, Image.Image] = {}
    for case in subject.cases:
        first.setdefault(case.set_name, case.image)
    photos = {f"photo {n + 1}": picture.image for n, picture in enumerate(subject.photos)}
    return plot_rows(photos | first, path, n_columns=8)


def make_document(
    correlations: pd.DataFrame,
    dominance: pd.DataFrame,
    n_subjects: int,
    signatures: Sequence[str],
    *,
    highest_tau: float,
    without_views: pd.DataFrame,
) -> Document:
    """Return the page of a trial over so many subjects.

    `without_views` are correlations over the pictures that no view was asked for.
    """
    truth = correlations[correlations["cause"] == TRUTH]
    wide = correlations.pivot(index="metric", columns="cause", values="agreement")
    return Document(
        [
            Heading("The metrics themselves, tested", 1),
            Paragraph(
                f"`dreambench metrics test --subjects {n_subjects}`: {n_subjects} subjects "
                "rendered by the small world, each with five photos and three other individuals of "
                "its class; seven places that a prompt asks for. What is changed in a picture, and "
                "how far, is known. Pastes lie on images that mini's base model generated for the "
                "prompt, of an individual that it has made up."
            ),
            Figure("cases.png", "The cases of one subject"),
            Heading("Does a metric follow the truth?"),
            Paragraph(
                "Kendall's agreement over the pairs of sets that the truth orders (Somers' D): "
                "pairs in the same order less pairs in the other, over all of them; mean over "
                "subjects. `truth`: with subject x prompt, which is 0 for what was pasted from a "
                "photo, over all sets where both are known: identity moved step by step, another "
                "individual in the right place, wrong scene, kept background, photo given back, "
                "pastes, and views, accessories and colours that a prompt asks for and the picture "
                "lacks. The other columns: with the levels of one cause, +1 where the metric gets "
                "worse with every step, 0 where it does not notice, negative where it rises."
            ),
            make_table("correlations", wide.loc[truth["metric"], [TRUTH, *CAUSES]]),
            Paragraph(_describe_joint(truth, without_views, highest_tau=highest_tau)),
            Figure("responses.png", "Responses"),
            Heading("Does a trivial baseline win?"),
            Paragraph(
                "Share of subjects on which it is above the faithful new picture (ties count half; "
                "for metrics where lower is better, below). 0 is right; .5 cannot tell them apart."
            ),
            make_table("dominance", dominance.set_index("metric")),
            *describe_origin(signatures),
        ]
    )


def _describe_joint(truth: pd.DataFrame, without_views: pd.DataFrame, *, highest_tau: float) -> str:
    """Return how well Joint follows the truth, and what it misses."""
    best = truth.set_index("metric")
    others = without_views[without_views["cause"] == TRUTH].set_index("metric")
    joint, joint_without_views = (
        format_interval(*table.loc["joint", ["agreement", "low", "high"]])
        for table in (best, others)
    )
    return (
        f"Joint follows the truth at {joint}, plain DINO at "
        f"{format_number(best.loc['dino', 'agreement'])}. Tau-b, which counts pairs that the truth "
        "does not order against a metric that does, is "
        f"{format_number(best.loc['joint', 'tau'])} for Joint and "
        f"{format_number(best.loc['dino', 'tau'])} for DINO; most sets are simply wrong here, and "
        f"a metric without ties cannot get above {format_number(highest_tau)}. The definition of "
        "Joint was settled on other subjects than these. Mini's CLIP, like CLIP, hardly tells one "
        "view from another, so that a front view passes for the back view that was asked for: "
        f"without the pictures of views, Joint follows the truth at {joint_without_views}. A "
        "subject that was pasted half transparent does not match its photo and loses by its "
        "likeness alone."
    )
