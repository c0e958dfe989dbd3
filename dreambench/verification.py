"""`dreambench verify`: whether the numbers of a folder follow from what lies in it.

From the outside in: the manifest's digests, the SHA-256 of all that was written, the scores by
themselves, the summary and the report's table made again from the scores, and a sample of the
scores made again from pixels, with nothing from the feature cache.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import pandas as pd

from dreambench.analysis.checking import (
    FAILED,
    NOT_CHECKED,
    PASSED,
    Verified,
    find_score_faults,
    find_summary_faults,
    judge,
)
from dreambench.analysis.comparison import Scored
from dreambench.artifacts.image_set import ImageSet, read_image_set
from dreambench.artifacts.manifest import ExternalManifest
from dreambench.artifacts.plan import Plan
from dreambench.artifacts.results import (
    ScoreTable,
    read_reference_bounds,
    read_scores,
    read_summary,
)
from dreambench.encoders.pace import Pace
from dreambench.errors import UserError, name_some
from dreambench.progress import Progress, no_progress
from dreambench.report.csv import render_csv
from dreambench.report.tables import make_long_table
from dreambench.scoring.external import ExternalRequest, load_external
from dreambench.scoring.scorer import Scorer
from dreambench.storage.sums import find_changed, read_sums

TOLERANCE = 5e-4
"""How far a score that is made again may lie from the stored one: the third decimal stands."""
T = TypeVar("T")
_KEY = ["subject", "prompt_id", "k", "metric"]


@dataclass(frozen=True)
class VerifyOptions:
    """What to verify, and how much of the pixels.

    `share` of the images, in whole prompts, are scored again; `seed` picks them. `images_dir` is
    where external images lie, which is written nowhere. `metrics` and `encoders` are those that the
    scores were made with besides the protocol's.
    """

    share: float = 0.05
    seed: int = 0
    images_dir: Path | None = None
    metrics: Sequence[str] = ()
    encoders: Mapping[str, str] = field(default_factory=dict)
    data_dir: Path | None = None
    n_decoding: int = 0


def verify(
    folder: Path, options: VerifyOptions, *, progress: Progress = no_progress
) -> list[Verified]:
    """Verify the folder of a run or of external images' scores; change nothing in it.

    Raises:
        UserError: it is not such a folder, or an option asks for what cannot be had.
    """
    images = read_image_set(folder, data_dir=options.data_dir)
    n_photos = sum(len(subject.photos) for subject in images.subjects)
    found = [
        Verified(
            "manifest",
            PASSED,
            [f"digests of protocol, plan and {n_photos} photos are those of what is here"],
        )
    ]
    found += _verify_files(images)
    table = _read(found, "scores", read_scores, images)
    if table is not None:
        found.append(
            judge("scores", find_score_faults(images, table), f"{len(table.frame)} numbers")
        )
        found += _verify_summary(images, table)
        found += _verify_pixels(images, table, options, progress)
    return found


def _read(
    found: list[Verified], what: str, read: Callable[[ImageSet], T], images: ImageSet
) -> T | None:
    """Return what is read; where it cannot be, add that to what was found."""
    try:
        return read(images)
    except UserError as error:
        is_absent = error.code in ("not-scored", "not-summarised")
        found.append(Verified(what, NOT_CHECKED if is_absent else FAILED, [str(error)]))
        return None


def _verify_files(images: ImageSet) -> Iterator[Verified]:
    """Hash all that a list of sums names; what no list names is said."""
    folders = {"results": images.folder, "report": images.report_dir}
    yield from (_verify_sums(what, [folder]) for what, folder in folders.items())
    if isinstance(images.manifest, ExternalManifest):
        return
    subjects = [subject.name for subject in images.subjects]
    trained = [images.folder / "train" / name for name in subjects]
    yield _verify_sums("weights", [folder for folder in trained if folder.is_dir()])
    changed = [unit.relative_path for unit in images.find_changed_images()]
    n_made = len(images.plan.images) - len(images.missing_images())
    gone = [name for name in images.read_image_sums() if not (images.folder / name).is_file()]
    faults = [f"not what the run made: {name_some(changed)}"] if changed else []
    faults += [f"made and no longer there: {name_some(gone)}"] if gone else []
    left = len(images.plan.images) - n_made - len(gone)
    missing = f"; {left} of the plan were not made" if left else ""
    yield judge("images", faults, f"{n_made} files are what was made{missing}")


def _verify_sums(what: str, folders: Sequence[Path]) -> Verified:
    try:
        sums = {folder: read_sums(folder) for folder in folders}
        changed = [str(folder / name) for folder in folders for name in find_changed(folder)]
    except UserError as error:
        return Verified(what, FAILED, [str(error)])
    n_files = sum(map(len, sums.values()))
    if not n_files:
        return Verified(what, NOT_CHECKED, ["there are none"])
    faults = [f"changed or gone since it was written: {name_some(changed)}"] if changed else []
    return judge(what, faults, f"{n_files} files are what was written")


def _verify_summary(images: ImageSet, table: ScoreTable) -> Iterator[Verified]:
    """Make means, intervals and the report's rows again from the scores."""
    read: list[Verified] = []
    summary = _read(read, "summary", read_summary, images)
    bounds = _read(read, "summary", read_reference_bounds, images)
    yield from read[:1]
    if summary is None or bounds is None:
        return
    faults = find_summary_faults(images, table, bounds, summary)
    yield judge("summary", faults, f"{len(summary.metrics)} metrics follow from the scores")
    path = images.report_dir / "table.csv"
    if path.is_file():
        own = render_csv(make_long_table([Scored(images.name, table, summary)])).splitlines()[1:]
        there = set(path.read_text(encoding="utf-8", errors="replace").splitlines())
        lacking = [row for row in own if row not in there]
        faults = [f"{path} lacks: {row}" for row in lacking]
        yield judge("report's table", faults, f"{len(own)} rows follow from the summary")


def _verify_pixels(
    images: ImageSet, table: ScoreTable, options: VerifyOptions, progress: Progress
) -> Iterator[Verified]:
    """Score a sample of the images again, from their files, with an empty cache."""
    what = "scores from pixels"
    with tempfile.TemporaryDirectory(prefix="dreambench-verify-") as cache:
        shown = images
        if isinstance(images.manifest, ExternalManifest):
            if options.images_dir is None:
                why = "where the images lie is written nowhere; name their folder with --images"
                yield Verified(what, NOT_CHECKED, [why])
                return
            shown = find_external(images, options.images_dir, options, Path(cache), progress)
            there = shown.hash_images()
            faults = [
                f"not the file that was scored: {name}"
                for name, known in table.images.items()
                if there.get(name) != known
            ]
            yield judge("images", faults, f"{len(there)} files are what was scored")
            if faults:
                return
        cells = _choose_cells(shown, options)
        if not cells:
            yield Verified(what, NOT_CHECKED, ["no image was asked for"])
            return
        units = tuple(u for u in shown.plan.images if (u.subject, u.prompt_id) in cells)
        part = replace(shown, plan=Plan(shown.plan.train, units))
        try:
            scorer = Scorer(
                part, metrics=options.metrics, encoders=options.encoders, cache_dir=Path(cache),
                progress=progress, pace=Pace(n_threads=options.n_decoding),
            )  # fmt: skip
            again, _ = scorer.compute()
        except UserError as error:
            yield Verified(what, FAILED, [str(error)])
            return
    compared = compare_scores(table, again, cells)
    about = f"{compared.n_numbers} numbers of {len(units)} images again"
    yield judge(what, compared.faults, f"{about}, at most {compared.largest:.0e} apart")
    left = {info.name for info in table.metrics} - {info.name for info in again.metrics}
    if left:
        why = "made by code that was not named; name it with --metric"
        yield Verified(f"scores of {name_some(sorted(left))}", NOT_CHECKED, [why])


def find_external(
    images: ImageSet, images_dir: Path, options: VerifyOptions, cache_dir: Path, progress: Progress
) -> ImageSet:
    """Return scores of external images as an image set that knows where its images lie."""
    manifest = images.manifest
    request = ExternalRequest(
        folder=images_dir, protocol=images.protocol, name=images.name,
        partial=True, subjects=manifest.subjects, prompts=manifest.prompts,
        metrics=options.metrics, encoders=options.encoders, data_dir=options.data_dir,
    )  # fmt: skip
    # Nothing is written there.
    return load_external(
        request, images.folder.parent, device=images.device, cache_dir=cache_dir, progress=progress
    )


def _choose_cells(images: ImageSet, options: VerifyOptions) -> set[tuple[str, str]]:
    """Pick subjects' prompts until they hold the share of the images; all images of each prompt."""
    made: dict[tuple[str, str], int] = {}
    for unit in images.plan.images:
        if images.find_image(unit) is not None:
            cell = (unit.subject, unit.prompt_id)
            made[cell] = made.get(cell, 0) + 1
    order = sorted(made)
    random.Random(options.seed).shuffle(order)
    wanted, cells, n_images = options.share * sum(made.values()), set[tuple[str, str]](), 0
    for cell in order:
        if n_images >= wanted:
            break
        cells.add(cell)
        n_images += made[cell]
    return cells


@dataclass(frozen=True)
class Comparison:
    """Scores that were made again beside those that are stored: where they differ, a line each.

    `n_numbers` are in both, and at most `largest` apart.
    """

    faults: Sequence[str]
    n_numbers: int
    largest: float


def compare_scores(
    table: ScoreTable,
    again: ScoreTable,
    cells: Collection[tuple[str, str]],
    *,
    tolerance: float = TOLERANCE,
) -> Comparison:
    """Compare stored scores with those that were made `again` of some `cells` (subject, prompt)."""
    names = {info.name for info in again.metrics if info.signature is not None}
    frame = table.frame
    places = zip(frame["subject"], frame["prompt_id"], strict=True)
    is_drawn = pd.Series([place in cells for place in places], index=frame.index, dtype=bool)
    stored = frame[is_drawn & frame["metric"].isin(names)].set_index(_KEY)["value"]
    made = again.frame.set_index(_KEY)["value"]
    both = pd.concat([stored, made], axis=1, keys=["stored", "made"])
    alone = both[both.isna().any(axis=1)]
    gaps = (both["stored"] - both["made"]).abs().dropna()
    faults = [
        f"{role} was {table.identities[role]}, and is {identity} here"
        for role, identity in again.identities.items()
        if table.identities.get(role, identity) != identity
    ]
    faults += [
        f"{'no score of' if pd.isna(row.stored) else 'a score of nothing:'} {_name(row.Index)}"
        for row in alone.itertuples()
    ]
    far = gaps[gaps > tolerance].sort_values(ascending=False)
    faults += [
        f"{_name(key)} is {both['stored'][key]:.4f}, and {both['made'][key]:.4f} from its pixels"
        for key in far.index
    ]
    return Comparison(faults, len(gaps), float(gaps.max()) if len(gaps) else 0.0)


def _name(key: Sequence[object]) -> str:
    subject, prompt, k, metric = key
    return f"{metric} of {subject}/{prompt}/{k}"
