"""Images that a user brings: checked, scored and reported as those of a run are."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import pandas as pd

from dreambench.analysis.stats import mean_by_subject
from dreambench.artifacts.image_set import EXTERNAL, ExternalImages
from dreambench.artifacts.plan import Plan, make_plan
from dreambench.config.protocol import PRIOR_PROMPT_ID, Protocol, choose_prompts, load_protocol
from dreambench.datasets.subjects import digest_subjects, find_dataset, read_index
from dreambench.encoders.extraction import AUTO, Pace
from dreambench.errors import UserError, disk_errors
from dreambench.machine.throughput import pick_device
from dreambench.metrics.conventions import find_convention
from dreambench.progress import Progress, no_progress
from dreambench.report.tables import Scored
from dreambench.runs.pipeline import Scorer, write_report
from dreambench.runs.run_folder import FORMAT, describe_machine, hold_run, load_chosen
from dreambench.scoring.layouts import (
    LAYOUTS,
    STOPPING,
    Checked,
    ImageSetError,
    Placed,
    Problem,
    Wanted,
    check_images,
    count_problems,
    list_problems,
    place_images,
)
from dreambench.scoring.scores import encoder_identities, ensure_weights, smallest_side_px
from dreambench.storage.files import digest, make_dir, read_json, write_json
from dreambench.storage.shipped import cache_dir

N_NAMES = 20
"""How many names of a kind of problem are in the summary; run.json has them all."""


@dataclass(frozen=True)
class ExternalScores:
    """What `score` found, also written to `folder` as a run's results are.

    `scores` has a row for each thing scored (`scoring.COLUMNS`), `by_subject` the columns metric,
    subject, value, and `means` a row a metric: mean, low, high (95 %, over subjects), n_subjects,
    n_scored, n_expected, signature; NaN where nothing was measured. `measures` has a row for each
    image and measure beside them, and `measure_means` one a measure and part of the prompts
    ("property prompts" stand apart from the "other prompts"), with the columns of `means`.
    `conventions` is None unless asked for. `problems` has a row for each thing that was not as the
    protocol has it: kind, name, n_images, detail (`layouts.Problem`). `summary` and `manifest` are
    the contents of summary.json and run.json.
    """

    folder: Path
    scores: pd.DataFrame
    by_subject: pd.DataFrame
    means: pd.DataFrame
    measures: pd.DataFrame
    measure_means: pd.DataFrame
    conventions: pd.DataFrame | None
    problems: pd.DataFrame
    summary: dict[str, Any]
    manifest: dict[str, Any]
    scored: Sequence[Scored]
    paths: Sequence[Path]


def score(
    folder: str | Path,
    *,
    protocol: str,
    name: str,
    index: str | Path | None = None,
    partial: bool = False,
    subjects: Sequence[str] = (),
    families: Sequence[str] = (),
    prompts: Sequence[str] = (),
    conventions: Sequence[str] = (),
    encoders: Mapping[str, str] | None = None,
    out: str | Path = "scores",
    data_dir: Path | None = None,
    cache: Path | None = None,
    device: str = "auto",
    pace: Pace = AUTO,
    progress: Progress = no_progress,
) -> ExternalScores:
    """Scores images made elsewhere by a protocol, and writes OUT/PROTOCOL/NAME.

    `folder` is in one of the layouts of `layouts.LAYOUTS`, or an index itself; `index` is a CSV
    that says which of its files is which image. `subjects`, `families`, `prompts` narrow, and mark
    the result partial. `conventions` are other scorers' rules to score by as well.
    `encoders` names encoders by role in place of the protocol's: a name, or FILE.py:Class. `pace`
    is how fast it may go, and changes no number.

    Raises ImageSetError (a UserError) when the images are not exactly the protocol's set, with all
    problems in its `problems`; with `partial`, what can be scored is, and marked partial. A folder
    without any image of the plain class is whole, and PRES is then not measured.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+-]*", name):
        raise UserError(
            f"'{name}' cannot name a row", hint="use letters, digits and . _ + -, e.g. my-method-v2"
        )
    loaded = load_protocol(protocol)
    for convention in conventions:
        find_convention(convention)
    device = pick_device(device)
    chosen = choose_prompts(loaded, families=families, prompt_ids=prompts)
    wanted = _find_wanted(loaded, chosen, list(subjects) or None, data_dir)
    images_dir: Path | None = Path(folder)
    index = None if index is None else Path(index)
    if Path(folder).suffix.lower() == ".csv" and Path(folder).is_file():
        if index is not None:
            raise UserError(f"{folder} is an index, and so is {index}", hint="name one of them")
        images_dir, index = None, Path(folder)
    placed = place_images(images_dir, wanted, index=index)
    run_dir = Path(out) / loaded.name / name
    _refuse_inside(run_dir, images_dir, placed)
    root = make_dir(cache or cache_dir())
    checked = check_images(
        placed, min_side_px=smallest_side_px(loaded, encoders), cache_dir=root, progress=progress
    )
    problems = [*placed.problems, *checked.problems]
    stopping = [problem for problem in problems if problem.kind in STOPPING]
    if not checked.files or (stopping and not partial):
        raise _refusal(folder, placed, checked, problems)
    ensure_weights(loaded, encoders, progress=progress)
    manifest = {
        **_describe(wanted, chosen, placed, checked, problems),
        "format": FORMAT,
        "kind": EXTERNAL,
        "name": name,
        "partial": bool(stopping) or _is_narrowed(wanted, chosen),
        "device": device,
        "precision": "fp32",
        "encoders": encoder_identities(loaded, encoders),
        "sessions": [describe_machine()],
    }
    entry = ExternalImages(
        run_dir=run_dir, protocol=loaded, subjects=list(wanted.subjects),
        plan=Plan((), tuple(placed.units)), manifest=manifest, files=checked.files,
    )  # fmt: skip
    scorer = Scorer(entry, cache_dir=root, progress=progress, pace=pace, encoders=encoders)
    with hold_run(run_dir):
        _open_results(entry)
        scores = scorer.score()
        table = scorer.score_conventions(conventions) if conventions else None
        summary = scorer.summarise()
        scored, paths = write_report(entry, [])
    return ExternalScores(
        folder=run_dir, scores=scores, by_subject=mean_by_subject(scores),
        means=_make_means(
            ["metric"], [{"metric": name} | row for name, row in summary["metrics"].items()]
        ),
        measures=scored[0].measures,
        measure_means=_make_means(["metric", "prompts"], _list_measures(summary)),
        conventions=table,
        problems=pd.DataFrame(
            manifest["problems"], columns=[field.name for field in fields(Problem)]
        ),
        summary=summary, manifest=manifest, scored=scored, paths=paths,
    )  # fmt: skip


def _list_measures(summary: dict[str, Any]) -> list[dict[str, Any]]:
    """The measures of a summary, one row each and part of the prompts."""
    return [
        {"metric": name, "prompts": prompts, **row, **(row[prompts] or {"n_subjects": 0})}
        for name, row in summary["measures"].items()
        for prompts in ("other prompts", "property prompts")
    ]


def _make_means(keys: Sequence[str], rows: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """Rows of a summary as a frame; NaN where one has no mean or no interval."""
    numbers = ["mean", "low", "high"]
    columns = [*keys, *numbers, "n_subjects", "n_scored", "n_expected", "signature"]
    return pd.DataFrame(rows, columns=columns).astype(dict.fromkeys(numbers, float))


def _find_wanted(
    protocol: Protocol,
    prompts: Sequence[str] | None,
    names: Sequence[str] | None,
    data_dir: Path | None,
) -> Wanted:
    subjects = load_chosen(protocol, data_dir=data_dir, names=names)
    dataset = find_dataset(protocol.dataset, photos_dir=data_dir)
    index = read_index(dataset, names=protocol.subjects or None)
    plan = make_plan(protocol.narrow(prompts), subjects, batch_size=1)
    return Wanted(protocol, subjects, [row["subject"] for row in index.subjects], plan.images)


def _is_narrowed(wanted: Wanted, prompts: Sequence[str] | None) -> bool:
    n_prompts = len(wanted.protocol.prompts)
    return (
        len(wanted.subjects) < len(wanted.known_subjects)
        or len(prompts or wanted.protocol.prompts) < n_prompts
    )


def _describe(
    wanted: Wanted,
    prompts: Sequence[str] | None,
    placed: Placed,
    checked: Checked,
    problems: Sequence[Problem],
) -> dict[str, Any]:
    """The part of the manifest that says which images these are; no path of this machine in it."""
    protocol = wanted.protocol
    return {
        "protocol": protocol.model_dump(mode="json"),
        "subjects": [subject.name for subject in wanted.subjects],
        "prompts": list(prompts or [prompt.id for prompt in protocol.prompts]),
        "images": {
            "layout": placed.layout,
            "n_scored": len(checked.files),
            "n_expected": len(placed.units),
            "n_lossy": checked.n_lossy,
            "min_side_px": checked.min_side_px,
            "notes": list(placed.notes),
            "problems": {
                kind: {
                    "n_images": n_images,
                    "names": [str(p) for p in problems if p.kind == kind][:N_NAMES],
                }
                for kind, n_images in count_problems(problems).items()
            },
        },
        "problems": [asdict(problem) for problem in problems],
        "not_measured": _find_not_measured(protocol, placed),
        "digests": {
            "protocol": protocol.digest(),
            "recipe": None,
            "images": digest(
                {f"{u.subject}/{u.prompt_id}/{u.k}": sha for u, sha in checked.sha256.items()}
            ),
            "data": digest_subjects(wanted.subjects),
            "base_model": None,
        },
    }


def _find_not_measured(protocol: Protocol, placed: Placed) -> dict[str, str]:
    """PRES, where nobody made images of the plain class: most methods do not speak of them."""
    has_prior = any(unit.prompt_id == PRIOR_PROMPT_ID for unit in placed.units)
    if "pres" not in protocol.metrics or has_prior:
        return {}
    return {"pres": "no images of the plain class"}


def _refuse_inside(run_dir: Path, folder: Path | None, placed: Placed) -> None:
    """UserError when the results would be written among the images."""
    folders = {path.parent.resolve() for path in placed.files.values()}
    if folder is not None:
        folders.add(folder.resolve())
    if any(run_dir.resolve().is_relative_to(path) for path in folders):
        raise UserError(
            f"{run_dir} would lie in the folder of the images, which nothing is written to",
            hint="pick another folder with --out",
        )


def _refusal(
    folder: str | Path, placed: Placed, checked: Checked, problems: Sequence[Problem]
) -> ImageSetError:
    """The error that names all that is wrong with a folder."""
    head = (
        f"{folder} ({LAYOUTS[placed.layout]}): {len(checked.files)} of {len(placed.units)} images "
        "can be scored"
    )
    hint = "mend the folder, or score what is right, marked partial, with --partial"
    if not checked.files:
        layouts = "; ".join(LAYOUTS.values())
        hint = f"the layouts that are known: {layouts}"
    error = ImageSetError.listed(
        [head, *placed.notes, *list_problems(problems, n_names=N_NAMES)], hint=hint
    )
    error.problems = problems
    return error


def _open_results(entry: ExternalImages) -> None:
    """Makes the folder of the results, or clears it of older ones of images that were brought.

    Raises UserError when it holds something else.
    """
    path = entry.run_dir / "run.json"
    if path.exists():
        old = read_json(path)
        if not isinstance(old, dict) or old.get("kind") != EXTERNAL:
            raise UserError(f"{entry.run_dir} holds a run", hint="pick another --name or --out")
    elif any(not found.name.startswith(".") for found in entry.run_dir.iterdir()):
        raise UserError(
            f"{entry.run_dir} is not empty and holds no scores",
            hint="pick another --name or --out",
        )
    with disk_errors(entry.run_dir):
        # Last of all the manifest is new: what is killed before has no numbers of other images.
        for old_path in (
            entry.summary_path, entry.scores_path, entry.measures_path, entry.bounds_path,
            entry.conventions_path,
        ):  # fmt: skip
            old_path.unlink(missing_ok=True)
        shutil.rmtree(entry.report_dir, ignore_errors=True)
    write_json(path, entry.manifest)
