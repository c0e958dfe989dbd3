"""From a run, or from the scores of external images, to a record (`dreambench submit`)."""

from __future__ import annotations

import getpass
import re
import socket
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from dreambench.analysis.checking import FAILED
from dreambench.analysis.comparison import Scored
from dreambench.analysis.replicates import load_with_replicates
from dreambench.analysis.summary import mean_reference_bounds
from dreambench.artifacts.cells import FILE_NAME as CELLS_NAME
from dreambench.artifacts.cells import make_cells, render_cells
from dreambench.artifacts.device_time import read_device_time
from dreambench.artifacts.image_set import ImageSet, list_replicates, read_image_set
from dreambench.artifacts.manifest import (
    ExternalManifest,
    RunManifest,
    Session,
    flatten,
    has_manifest,
    read_manifest,
)
from dreambench.artifacts.record import (
    FILE_NAME,
    MAX_MISSING,
    THUMBNAILS_NAME,
    BaseModelPart,
    BoundsPart,
    Evaluator,
    FloorPart,
    MethodPart,
    Record,
    ReplicatePart,
    digest_record,
    render_record,
)
from dreambench.artifacts.results import Summary, has_summary, read_reference_bounds, read_summary
from dreambench.base_models.catalogue import BASE_MODELS
from dreambench.config.track import NO_PHOTOS
from dreambench.errors import UserError, name_some
from dreambench.leaderboard.numbers import compute_metrics
from dreambench.leaderboard.thumbnails import make_thumbnails
from dreambench.progress import Progress, no_progress
from dreambench.storage.files import make_dir, sha256_bytes, write_together
from dreambench.text import names_folder
from dreambench.verification import VerifyOptions, find_external, verify

COMMON_NAMES = frozenset(("root", "user", "admin", "ubuntu", "runner", "localhost"))
"""Names of users and machines that say nothing of either."""


@dataclass(frozen=True)
class About:
    """What only the submitter knows; the first five are of external images alone.

    A run's title, source, track and base model are in its recipe.
    """

    title: str | None = None
    source: str | None = None
    track: str | None = None
    base_model: str | None = None
    evaluator: Evaluator = "authors"
    licence: str = ""
    paper_url: str | None = None
    code_url: str | None = None
    images_url: str | None = None


@dataclass(frozen=True)
class Submission:
    """A record with its files, not yet written anywhere."""

    record: Record
    files: Mapping[str, bytes] = field(repr=False)


def submit(
    folder: Path, about: About, options: VerifyOptions, *, progress: Progress = no_progress
) -> Submission:
    """Verify the folder of a run or of external images' scores, and make its record.

    Raises:
        UserError: it does not pass `dreambench verify`, or see `make_submission`.
    """
    images = read_image_set(folder, data_dir=options.data_dir)
    for one in [images, *list_replicates([images])]:
        for found in verify(one.folder, options, progress=progress):
            if found.outcome == FAILED:
                raise UserError(
                    f"{one.folder} does not pass dreambench verify: {found.what}: "
                    f"{name_some(found.lines, separator='; ')}",
                    hint=f"see all with: dreambench verify {one.folder}",
                    code="not-verified",
                )
    shown = images
    if options.images_dir is not None and isinstance(images.manifest, ExternalManifest):
        with tempfile.TemporaryDirectory(prefix="dreambench-submit-") as cache:
            shown = find_external(images, options.images_dir, options, Path(cache), progress)
    return make_submission(images, about, shown=shown)


def make_submission(images: ImageSet, about: About, *, shown: ImageSet | None = None) -> Submission:
    """Make the record of an image set and of the replicates that lie beside it.

    Nothing is verified here but what every report verifies. `shown` is the same set where it is
    known where its images lie, for the thumbnails.

    Raises:
        UserError: it has no summary, or one that does not follow from its scores; `about` says
            what a run's recipe says; or the record would hold a path or a name of this machine.
    """
    (run,), again = load_with_replicates([images])
    manifest, summary, table = images.manifest, run.summary, run.scores
    _check_first(images, summary)
    missing = [one for one in images.plan.paths if one not in table.images]
    method = _describe_method(images, summary, about)
    own = manifest if isinstance(manifest, RunManifest) else None
    digest = digest_record(
        digests=manifest.digests, method=method.name, encoders=table.identities,
        precision=manifest.precision, subjects=manifest.subjects, prompts=manifest.prompts,
        images=table.images,
    )  # fmt: skip
    files = {CELLS_NAME: render_cells(_join_cells(images, [run, *again]))}
    if thumbnails := make_thumbnails(shown or images, method=method.name, record=digest):
        files[THUMBNAILS_NAME] = thumbnails
    record = Record(
        digest=digest,
        evaluator=about.evaluator,
        origin="external" if own is None else "run",
        method=method,
        recipe=None if own is None else own.recipe,
        protocol=images.protocol,
        subjects=manifest.subjects,
        prompts=manifest.prompts,
        partial=manifest.partial or bool(missing),
        digests=manifest.digests,
        encoders=dict(table.identities),
        precision=manifest.precision,
        batch_size=None if own is None else own.batch_size,
        interval=summary.interval,
        metrics=compute_metrics(table.frame, table.metrics),
        reference_bounds=_describe_bounds(read_reference_bounds(images)),
        floor=None if own is None else _find_floor(images, own),
        replicates=[_describe_replicate(scored.summary) for scored in again],
        n_images=len(images.plan.images) - len(missing),
        n_images_expected=len(images.plan.images),
        missing=missing[:MAX_MISSING],
        n_failed=summary.n_failed,
        failures=summary.failures,
        problems=summary.problems,
        cut_texts=summary.cut_texts,
        images=manifest.images,
        sessions=_list_sessions(manifest.sessions),
        device_time=read_device_time(images.folder),
        paper_url=about.paper_url,
        code_url=about.code_url,
        images_url=about.images_url,
        files={name: sha256_bytes(content) for name, content in files.items()},
    )
    _check_private(record)
    return Submission(record, {FILE_NAME: render_record(record), **files})


def write_submission(submission: Submission, out_dir: Path) -> Path:
    """Write a record into its folder below `out_dir`, all files as one step; return the folder."""
    folder = out_dir / submission.record.path
    make_dir(folder, inside=make_dir(out_dir))
    files = {folder / name: content for name, content in submission.files.items()}
    write_together(folder / ".staging", "record", files)
    with suppress(OSError):
        (folder / ".staging").rmdir()
    return folder


def _check_first(images: ImageSet, summary: Summary) -> None:
    if summary.replicate != 1:
        raise UserError(
            f"{images.folder} is replicate {summary.replicate} of its recipe",
            hint="submit the first, and the others go with it",
            code="invalid-value",
        )


def _join_cells(images: ImageSet, replicates: Sequence[Scored]) -> pd.DataFrame:
    """Return the cells of a run's replicates, the first of which is the run itself."""
    sets = [images, *list_replicates([images])]
    cells = [
        make_cells(one, scored.scores, replicate=scored.summary.replicate)
        for one, scored in zip(sets, replicates, strict=True)
    ]
    return pd.concat(cells, ignore_index=True)


def _describe_replicate(summary: Summary) -> ReplicatePart:
    means = {name: entry.whole.mean for name, entry in summary.metrics.items()}
    return ReplicatePart(replicate=summary.replicate, n_images=summary.n_images, means=means)


def _describe_method(images: ImageSet, summary: Summary, about: About) -> MethodPart:
    manifest = images.manifest
    said = {
        name: value
        for name in ("title", "source", "track", "base_model")
        if (value := getattr(about, name)) is not None
    }
    if not isinstance(manifest, RunManifest):
        base = said.get("base_model")
        return MethodPart(
            name=manifest.name, title=said.get("title", manifest.name),
            source=said.get("source", ""), track=said.get("track", ""), licence=about.licence,
            base_model=None if base is None else BaseModelPart(
                name=base, identity="", licence=_find_licence(base)
            ),
        )  # fmt: skip
    if said:
        raise UserError(
            f"{images.folder} is a run, whose recipe says its {name_some(sorted(said))}",
            hint="leave these options out; they are for images that another program made",
            code="invalid-value",
        )
    recipe, identity = manifest.recipe, manifest.digests.base_model or ""
    name = identity.partition(":")[0]
    # A folder in place of the named weights may hold any.
    is_known = ":folder@" not in identity or name == "mini"
    return MethodPart(
        name=recipe.name, title=recipe.title, source=recipe.source, track=recipe.track,
        licence=about.licence, code=recipe.code or {},
        base_model=BaseModelPart(
            name=name, identity=identity, licence=_find_licence(name) if is_known else ""
        ),
    )  # fmt: skip


def _find_licence(base_model: str) -> str:
    known = BASE_MODELS.get(base_model)
    return "" if known is None else known.licence


def _describe_bounds(bounds: pd.DataFrame) -> dict[str, BoundsPart]:
    found = {}
    for metric, means in mean_reference_bounds(bounds).items():
        rows = bounds[bounds["metric"] == metric].set_index("subject")
        by_subject = {
            name: {str(key): None if pd.isna(value) else float(value)
                   for key, value in rows[name].items()}
            for name in ("copy_bound", "faithful_bound")
        }  # fmt: skip
        found[metric] = BoundsPart(
            copy_bound=means["copy_bound"],
            faithful_bound=means["faithful_bound"],
            copy_by_subject=by_subject["copy_bound"],
            faithful_by_subject=by_subject["faithful_bound"],
        )
    return found


def _find_floor(images: ImageSet, own: RunManifest) -> FloorPart | None:
    """Return the row beside a run that saw no photo, of the same protocol, data and base model."""
    for folder in sorted(images.folder.absolute().parent.iterdir()):
        if not has_manifest(folder):
            continue
        try:
            other = read_manifest(folder)
            if not isinstance(other, RunManifest) or other.recipe.track != NO_PHOTOS:
                continue
            keys = ("protocol", "data", "base_model", "sampler")
            if any(getattr(other.digests, key) != getattr(own.digests, key) for key in keys):
                continue
            floor = read_image_set(folder)
            if other.replicate != 1 or floor.is_partial() or not has_summary(floor):
                continue
            summary = read_summary(floor)
        except UserError:
            continue  # What lies beside a run is not this record's.
        means = {name: entry.whole.mean for name, entry in summary.metrics.items()}
        return FloorPart(name=other.recipe.name, recipe=other.digests.recipe or "", means=means)
    return None


def _list_sessions(sessions: Sequence[Session]) -> list[Session]:
    """Return sessions that differ by more than their time; the first of each kind."""
    kinds: dict[str, Session] = {}
    for session in sessions:
        kinds.setdefault(session.model_dump_json(exclude={"started"}), session)
    return list(kinds.values())


def _check_private(record: Record) -> None:
    """Refuse to let a path, or a name of this machine or its user, out with a record.

    Raises:
        UserError: says where it stands.
    """
    with suppress(OSError, KeyError):
        names = {socket.gethostname(), getpass.getuser()} - COMMON_NAMES
    words = [
        re.compile(rf"\b{re.escape(name)}\b", re.IGNORECASE) for name in names if len(name) > 2
    ]
    for key, value in flatten(record.model_dump(mode="json")).items():
        if not isinstance(value, str) or key.endswith("_url"):
            continue
        if names_folder(value) or any(word.search(value) for word in words):
            raise UserError(
                f"the record would say where or by whom it was made, in {key}: {value}",
                hint="write a relative path, or another name, in the recipe or protocol; run again",
                code="private-text",
            )
