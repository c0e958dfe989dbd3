"""The page of the metrics' trial: tables, plots, and what they show."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from dreambench.machine.environment import describe_session
from dreambench.mini.validation.trial import (
    CAUSES,
    TRUTHS,
    compute_correlations,
    compute_dominance,
    compute_responses,
    mean_by_set,
    run_trial,
    sign_metrics,
    sign_of,
    title_of,
)
from dreambench.mini.validation.truth import TrueSubject, make_true_subject
from dreambench.mini.world.renderer import RENDERER_VERSION
from dreambench.progress import Progress
from dreambench.report.figures import plot_responses, plot_rows
from dreambench.report.formatting import format_interval, format_number
from dreambench.report.markdown import render_markdown
from dreambench.report.model import Bullets, Cell, Document, Figure, Heading, Paragraph, Table
from dreambench.storage.files import make_dir, write_bytes


def write_trial(
    out_dir: Path, *, n_subjects: int, progress: Progress
) -> tuple[pd.DataFrame, pd.DataFrame, list[Path]]:
    """Runs the trial; writes its tables, plots and page; correlations and dominance come back."""
    frame = run_trial(n_subjects, progress=progress)
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
        write_bytes(paths[-1], signed.to_csv(index=False, float_format="%.4f").encode())
    means = mean_by_set(frame)
    spread = means[means["set_name"] == "faithful"].groupby("metric")["value"].std()
    shown = responses.drop(columns=["right view", "wrong view"])
    changes = shown.sub(shown["faithful"], axis=0).div(spread.reindex(shown.index), axis=0)
    # A metric that is the same for every faithful picture has no spread to be counted in.
    changes = changes.replace([np.inf, -np.inf], np.nan)
    signs = [sign_of(name) for name in shown.index]
    taus = correlations[correlations["cause"] == "truth"].set_index("metric")["tau"]
    paths.append(
        plot_responses(
            shown, changes.mul(signs, axis=0), taus, [title_of(name) for name in shown.index],
            out_dir / "responses.png",
        )
    )  # fmt: skip
    paths.append(_plot_cases(make_true_subject(0), out_dir / "cases.png"))
    document = make_document(correlations, dominance, n_subjects, list(signatures.values()))
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
    correlations: pd.DataFrame, dominance: pd.DataFrame, n_subjects: int, signatures: Sequence[str]
) -> Document:
    """Return the page of a trial over so many subjects."""
    session = describe_session("cpu")
    packages = ", ".join(f"{name} {version}" for name, version in session.packages.items())
    truth = correlations[correlations["cause"] == "truth"]
    wide = correlations.pivot(index="metric", columns="cause", values="tau")
    best = truth.set_index("metric")
    joint = format_interval(*best.loc["joint", ["tau", "low", "high"]])
    return Document(
        [
            Heading("The metrics themselves, tested", 1),
            Paragraph(
                f"`dreambench metrics test --subjects {n_subjects}`: {n_subjects} subjects drawn "
                "by the small world, each with five photos and three other individuals of its "
                "class; seven places that a prompt asks for. What is changed in a picture, and how "
                "far, is known."
            ),
            Figure("cases.png", "The cases of one subject"),
            Heading("Does a metric follow the truth?"),
            Paragraph(
                "Kendall's tau-b, mean over subjects. `truth`: with subject x prompt over all sets "
                "where both are known (identity moved step by step, wrong scene, kept background, "
                "photo pasted back); `truth+view` has the prompt that asks for a view as well. The "
                "other columns: with the levels of one cause, +1 where the metric gets worse with "
                "every step, 0 or empty where it does not notice, negative where it rises."
            ),
            _make_table("correlations", wide.loc[truth["metric"], [*TRUTHS, *CAUSES]]),
            Paragraph(
                f"Joint follows the truth at {joint}, plain DINO at "
                f"{format_number(best.loc['dino', 'tau'])}. Truth has ties (four sets are simply "
                "wrong), so that no metric without ties gets above .93. The definition of Joint "
                "was settled on other subjects than these. With views it is lower: mini's CLIP, "
                "like CLIP, hardly tells one view from another (the column `view`), so that a "
                "front view passes for the back view that was asked for."
            ),
            Figure("responses.png", "Responses"),
            Heading("Does a trivial baseline win?"),
            Paragraph(
                "Share of subjects on which it is above the faithful new picture (ties count half; "
                "for metrics where lower is better, below). 0 is right; .5 cannot tell them apart."
            ),
            _make_table("dominance", dominance.set_index("metric")),
            Heading("What these numbers depend on"),
            Bullets(signatures, is_code=True),
            Paragraph(
                f"Pictures by the small world's renderer, version {RENDERER_VERSION}; "
                f"{session.code}; Python {session.python}, {packages}."
            ),
        ]
    )


def _make_table(name: str, frame: pd.DataFrame) -> Table:
    """Return a frame by metric as a table."""
    rows: list[dict[str, Cell]] = [
        {"metric": title_of(str(metric)), **{str(k): float(v) for k, v in row.items()}}
        for metric, row in frame.iterrows()
    ]
    return Table.from_rows(name, rows)
