"""External images: those that someone else made are checked, placed and made an image set."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from dreambench.artifacts.image_set import ImageSet, load_chosen
from dreambench.artifacts.manifest import (
    Digests,
    ExternalManifest,
    ImageInfo,
    ProblemRecord,
    RunManifest,
    has_manifest,
    read_manifest,
    write_manifest,
)
from dreambench.artifacts.plan import Plan, make_plan
from dreambench.config.protocol import PRIOR_PROMPT_ID, Protocol, choose_prompts, list_all
from dreambench.datasets.subjects import digest_subjects
from dreambench.errors import UserError, disk_errors
from dreambench.machine.environment import describe_session
from dreambench.progress import Progress
from dreambench.scoring.checking import Checked, check_images
from dreambench.scoring.layouts import LAYOUTS
from dreambench.scoring.placing import Placed, Wanted, place_images
from dreambench.scoring.problems import (
    STOPPING,
    ImageSetError,
    Problem,
    group_problems,
    list_problems,
)
from dreambench.scoring.tools import prepare_encoders, smallest_side_px
from dreambench.storage.files import digest
from dreambench.storage.paths import check_inside, find_name_fault
from dreambench.storage.sums import FILE_NAME as SUMS

_REPORT_SUFFIXES = (".csv", ".md", ".png")
"""How many names of a kind of problem are in the summary; the manifest has them all."""


@dataclass(frozen=True, kw_only=True)
class ExternalRequest:
    """What is to be scored: a folder (or an index) of images, and by which protocol.

    `index` is a CSV that says which of the files is which image; without one, the folder has this
    `layout` of LAYOUTS, or that which it is seen to have. `partial` takes a set that is not whole.
    `subjects`, `families` and `prompts` narrow; empty for all. `metrics` are added to those of the
    protocol, `encoders` in place of its own by role.
    """

    folder: Path
    protocol: Protocol
    name: str
    index: Path | None = None
    layout: str | None = None
    partial: bool = False
    subjects: Sequence[str] = ()
    families: Sequence[str] = ()
    prompts: Sequence[str] = ()
    metrics: Sequence[str] = ()
    encoders: Mapping[str, str] = field(default_factory=dict)
    data_dir: Path | None = None


def load_external(
    request: ExternalRequest, out: Path, *, device: str, cache_dir: Path, progress: Progress
) -> ImageSet:
    """Place and check external images; their results will be in OUT/PROTOCOL/NAME.

    Raises:
        ImageSetError: the images are not exactly the protocol's set, with all problems in its
            `problems`; not where `partial` is set and some can be scored. A folder without any
            class image is whole, and PRES is then not measured.
        UserError: a name is unknown, or the folder cannot be read.
    """
    protocol = request.protocol
    fault = find_name_fault(request.name)
    if fault or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+-]*", request.name):
        raise UserError(
            f"'{request.name}' cannot name a row{f': it {fault}' if fault else ''}",
            hint="use letters, digits and . _ + -, e.g. my-method-v2",
            code="invalid-name",
        )
    chosen = choose_prompts(protocol, families=request.families, prompt_ids=request.prompts)
    wanted = _find_wanted(request, chosen)
    images_dir, index = _find_index(request)
    placed = place_images(images_dir, wanted, index=index, layout=request.layout)
    folder = out / protocol.name / request.name
    _refuse_inside(folder, images_dir, placed)
    least = smallest_side_px(protocol, request.encoders)
    checked = check_images(placed, min_side_px=least, cache_dir=cache_dir, progress=progress)
    problems = [*placed.problems, *checked.problems]
    is_stopped = any(problem.kind in STOPPING for problem in problems)
    if not checked.files or (is_stopped and not request.partial):
        raise _refusal(request.folder, placed, checked, problems)
    manifest = ExternalManifest(
        protocol=protocol,
        name=request.name,
        subjects=[subject.name for subject in wanted.subjects],
        prompts=list(chosen or [prompt.id for prompt in protocol.prompts]),
        partial=is_stopped or _is_narrowed(wanted, chosen),
        device=device,
        precision="fp32",
        encoders=prepare_encoders(
            protocol, metrics=request.metrics, overrides=request.encoders, progress=progress
        ),
        images=_describe_images(placed, checked, problems),
        problems=[
            ProblemRecord(kind=p.kind, name=p.name, n_images=p.n_images, detail=p.detail)
            for p in problems
        ],
        not_measured=_find_not_measured(protocol, placed),
        digests=Digests(
            protocol=protocol.digest(),
            images=digest(
                {f"{u.subject}/{u.prompt_id}/{u.k}": sha for u, sha in checked.sha256.items()}
            ),
            data=digest_subjects(wanted.subjects, protocol.references),
        ),
    )
    return ImageSet(
        folder=folder, protocol=protocol, subjects=list(wanted.subjects),
        plan=Plan((), tuple(placed.units)), manifest=manifest, files=checked.files,
    )  # fmt: skip


def open_results(images: ImageSet) -> ImageSet:
    """Make the folder of the results, or clear it of older ones of external images.

    Raises:
        UserError: it holds something else.
    """
    folder = images.folder
    if has_manifest(folder):
        if isinstance(read_manifest(folder), RunManifest):
            raise UserError(
                f"{folder} holds a run", hint="choose another --name or --out", code="other-run"
            )
    elif any(not found.name.startswith(".") for found in folder.iterdir()):
        raise UserError(
            f"{folder} is not empty and holds no scores",
            hint="choose another --name or --out",
            code="folder-not-empty",
        )
    with disk_errors(folder):
        # Last of all the manifest is new: what is killed before has no numbers of other images.
        for old in (
            folder / SUMS, images.summary_path, images.scores_path, images.bounds_path,
            images.conventions_path,
        ):  # fmt: skip
            check_inside(old, folder).unlink(missing_ok=True)
        for old in (*images.report_dir.glob("*"), *images.report_dir.glob("grids/*")):
            if old.suffix in _REPORT_SUFFIXES:
                check_inside(old, folder).unlink(missing_ok=True)
    manifest = images.manifest.model_copy(update={"sessions": [describe_session(images.device)]})
    write_manifest(folder, manifest)
    return replace(images, manifest=manifest)


def _find_wanted(request: ExternalRequest, prompts: Sequence[str] | None) -> Wanted:
    protocol, data_dir = request.protocol, request.data_dir
    subjects = load_chosen(protocol, data_dir=data_dir, names=list(request.subjects) or None)
    dataset = protocol.find_dataset(photos_dir=data_dir)
    known = [subject.name for subject in list_all(protocol, dataset)]
    plan = make_plan(protocol.narrow(prompts), subjects, batch_size=1)
    return Wanted(protocol, subjects, known, plan.images)


def _find_index(request: ExternalRequest) -> tuple[Path | None, Path | None]:
    """Return the folder of the images and the index, either of which may be what was named."""
    folder, index = request.folder, request.index
    if folder.suffix.lower() == ".csv" and folder.is_file():
        if index is not None:
            raise UserError(
                f"{folder} is an index, and so is {index}",
                hint="name one of them",
                code="two-indexes",
            )
        return None, folder
    return folder, index


def _is_narrowed(wanted: Wanted, prompts: Sequence[str] | None) -> bool:
    n_prompts = len(wanted.protocol.prompts)
    return (
        len(wanted.subjects) < len(wanted.known_subjects)
        or len(prompts or wanted.protocol.prompts) < n_prompts
    )


def _describe_images(placed: Placed, checked: Checked, problems: Sequence[Problem]) -> ImageInfo:
    """Return what the images are like, without a path of this machine."""
    return ImageInfo(
        layout=placed.layout,
        n_scored=len(checked.files),
        n_expected=len(placed.units),
        n_lossy=checked.n_lossy,
        min_side_px=checked.min_side_px,
        notes=list(placed.notes),
        problems=group_problems(problems),
    )


def _find_not_measured(protocol: Protocol, placed: Placed) -> dict[str, str]:
    """Return PRES where nobody made class images: most methods do not speak of them."""
    has_prior = any(unit.prompt_id == PRIOR_PROMPT_ID for unit in placed.units)
    if "pres" not in protocol.metrics or has_prior:
        return {}
    return {"pres": "no class images"}


def _refuse_inside(results: Path, folder: Path | None, placed: Placed) -> None:
    """Raise UserError when the results would be written among the images."""
    folders = {path.parent.resolve() for path in placed.files.values()}
    if folder is not None:
        folders.add(folder.resolve())
    if any(results.resolve().is_relative_to(path) for path in folders):
        raise UserError(
            f"{results} would lie in the folder of the images, which nothing is written to",
            hint="choose another folder with --out",
            code="results-among-images",
        )


def _refusal(
    folder: Path, placed: Placed, checked: Checked, problems: Sequence[Problem]
) -> ImageSetError:
    """Return the error that names all that is wrong with a folder."""
    head = (
        f"{folder} ({LAYOUTS[placed.layout]}): {len(checked.files)} of {len(placed.units)} images "
        "can be scored"
    )
    hint = "fix the folder, or score the valid images, marked partial, with --partial"
    if not checked.files:
        layouts = "; ".join(f"{name}: {files}" for name, files in LAYOUTS.items())
        hint = f"the layouts that are known: {layouts}"
    error = ImageSetError.listed(
        [head, *placed.notes, *list_problems(problems)],
        hint=hint,
        code="wrong-image-set",
    )
    error.problems = problems
    return error
