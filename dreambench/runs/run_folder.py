"""The run folder: what a run was asked to be, what is done, and what is left."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from dreambench.artifacts.image_set import STAGING, ImageSet, load_chosen
from dreambench.artifacts.long_texts import CutText
from dreambench.artifacts.manifest import (
    Digests,
    Manifest,
    RecipeRecord,
    RunManifest,
    Session,
    has_manifest,
    list_changes,
    read_manifest,
    write_manifest,
)
from dreambench.artifacts.plan import ImageUnit, TrainUnit, make_plan
from dreambench.base_models.registry import find_base_model
from dreambench.base_models.spec import BaseModel
from dreambench.config.protocol import Protocol, list_all
from dreambench.config.recipe import PluginRecipe, Recipe
from dreambench.datasets.subjects import Subject, digest_subjects
from dreambench.errors import UserError, name_some
from dreambench.machine.environment import describe_session
from dreambench.methods.plugins import identify_weights
from dreambench.methods.registry import describe_track
from dreambench.methods.words import find_drawn_cuts
from dreambench.runs.weights import has_weights
from dreambench.storage.files import make_dir


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a run is asked to be. Everything that an image or a score depends on is in here.

    `encoders` maps each role to its encoder's identity; `data_dir` says where the photos lie: whose
    bytes count is pinned, where they are is not; `near` is for a dataset at a relative path, see
    `Protocol.find_dataset`. `cut_texts` and `weights` are those that were found before, which takes
    the method's code; None to find them.
    """

    protocol: Protocol
    recipe: Recipe
    base_model: str
    device: str
    precision: str
    batch_size: int
    encoders: Mapping[str, str]
    replicate: int = 1
    subjects: tuple[str, ...] | None = None
    prompts: tuple[str, ...] | None = None
    data_dir: Path | None = None
    near: Path | None = None
    cut_texts: Sequence[CutText] | None = None
    weights: Mapping[str, str] | None = None


@dataclass(frozen=True, kw_only=True)
class Run(ImageSet):
    """An image set that is being made, by a recipe on a base model."""

    manifest: RunManifest
    recipe: Recipe
    base_model: BaseModel

    def make_absolute(self) -> Run:
        """Return the run with absolute paths: of its folder, its photos and a local base model."""
        base = self.base_model
        if base.is_local:
            base = replace(base, location=str(Path(base.location).absolute()))
        subjects = [_make_absolute(subject) for subject in self.subjects]
        return replace(self, folder=self.folder.absolute(), subjects=subjects, base_model=base)

    def image_path(self, unit: ImageUnit) -> Path:
        """Return where a unit's image is, or will be."""
        return self.folder / unit.relative_path

    def staging_of(self, subject: str) -> Path:
        """Return where images of a subject wait until all that are written together are whole."""
        return self.images_dir(subject) / STAGING

    def is_trained(self, subject: str) -> bool:
        """Return whether training on a subject is done, and what its images need is there."""
        folder = self.train_dir(subject)
        return folder.is_dir() and (has_weights(folder) or not self.missing_of(subject))

    def missing_training(self) -> list[TrainUnit]:
        """Return the subjects left to train on."""
        return [unit for unit in self.plan.train if not self.is_trained(unit.subject)]

    def refuse_untrained(self, subjects: Collection[str]) -> None:
        """Raise UserError where any of these subjects has no training to generate images from."""
        untrained = [unit.subject for unit in self.missing_training() if unit.subject in subjects]
        if untrained:
            raise UserError(
                f"{len(untrained)} subjects of {self.folder} are not trained",
                hint=f"first: dreambench train {self.folder}",
                code="not-trained",
            )

    def missing_of(self, subject: str) -> list[ImageUnit]:
        """Return the units of a subject that have no image."""
        units = [unit for unit in self.plan.images if unit.subject == subject]
        return [unit for unit in units if not self.image_path(unit).is_file()]

    def list_left(self) -> list[str]:
        """Return the subjects with anything to train, to generate, or to make again."""
        left = {unit.subject for unit in self.missing_training()}
        left |= {unit.subject for unit in [*self.missing_images(), *self.find_changed_images()]}
        return [subject.name for subject in self.subjects if subject.name in left]

    def subject(self, name: str) -> Subject:
        """Return the subject of that name, with the photos that the protocol shows a method."""
        subject = next(subject for subject in self.subjects if subject.name == name)
        return subject.show(self.protocol.references)


def _make_absolute(subject: Subject) -> Subject:
    return replace(
        subject,
        photos=tuple(path.absolute() for path in subject.photos),
        masks=tuple(path.absolute() for path in subject.masks),
        members=tuple(_make_absolute(member) for member in subject.members),
    )


def plan_run(folder: Path, request: Request) -> Run:
    """Lay out a run and read its data; write nothing.

    Raises:
        UserError: a name is unknown, or photos are missing or changed.
    """
    base = find_base_model(request.base_model)
    protocol = request.protocol
    subjects = load_chosen(
        protocol, data_dir=request.data_dir, names=request.subjects, near=request.near
    )
    plan = make_plan(
        protocol.narrow(request.prompts), subjects, batch_size=request.batch_size,
        replicate=request.replicate,
    )  # fmt: skip
    dataset = protocol.find_dataset(near=request.near)
    known = list_all(protocol, dataset)
    prompts = list(request.prompts or [prompt.id for prompt in protocol.prompts])
    sampler = base.choose_sampler(protocol.sampler)
    weights = request.weights
    if weights is None:
        weights = identify_weights(request.recipe, base)
    manifest = RunManifest(
        protocol=protocol,
        recipe=_describe_recipe(request.recipe, base),
        subjects=[subject.name for subject in subjects],
        prompts=prompts,
        partial=len(subjects) < len(known) or len(prompts) < len(protocol.prompts),
        base_model=request.base_model,
        device=request.device,
        sampler=sampler,
        precision=request.precision,
        batch_size=request.batch_size,
        replicate=request.replicate,
        encoders=dict(request.encoders),
        digests=Digests(
            protocol=protocol.digest(),
            recipe=request.recipe.digest(base.name),
            data=digest_subjects(subjects, protocol.references),
            base_model=base.identity(),
            sampler=sampler.digest(),
            plan=plan.digest(),
            weights=dict(weights) or None,
        ),
        cut_texts=list(
            find_drawn_cuts(request.recipe, base, subjects, plan.images)
            if request.cut_texts is None
            else request.cut_texts
        ),
    )
    return Run(
        folder=folder, protocol=protocol, subjects=subjects, plan=plan, manifest=manifest,
        recipe=request.recipe, base_model=base,
    )  # fmt: skip


def _describe_recipe(recipe: Recipe, base: BaseModel) -> RecipeRecord:
    outside = recipe if isinstance(recipe, PluginRecipe) else None
    return RecipeRecord(
        name=recipe.name,
        method=recipe.method,
        title=recipe.title,
        source=recipe.source,
        track=describe_track(recipe, base.name),
        settings=recipe.settings_for(base.name),
        code=None if outside is None else dict(outside.code),
        tunes=None if outside is None else outside.tunes,
        n_references=None if outside is None else outside.n_references,
    )


def open_run(run: Run, *, session: Session | None = None) -> Run:
    """Make a run's folder, or resume it.

    A folder with fewer subjects or prompts of the same run grows: what is done stays. `session`
    says what the images will be made with; None for this machine's.

    Raises:
        UserError: the folder holds a run of another protocol, recipe, data or setting; the line
            says what differs.
    """
    sessions: list[Session] = []
    if has_manifest(run.folder):
        sessions = check_folder(run)
    else:
        make_dir(run.folder)
        others = [entry for entry in run.folder.iterdir() if not entry.name.startswith(".")]
        if others:
            raise UserError(
                f"{run.folder} is not empty and holds no run",
                hint="choose another folder with --out",
                code="folder-not-empty",
            )
    session = session or describe_session(run.device, n_threads=run.protocol.n_threads)
    manifest = run.manifest.model_copy(update={"sessions": [*sessions, session]})
    write_manifest(run.folder, manifest)
    return replace(run, manifest=manifest)


def check_folder(run: Run) -> list[Session]:
    """Refuse what `open_run` would refuse, before anything is begun; return earlier sessions."""
    if not has_manifest(run.folder):
        return []
    old = read_manifest(run.folder)
    if changes := list_changes(old, _narrow_to(old, run)):
        raise UserError(
            f"{run.folder} holds another run: {name_some(changes, separator='; ')}",
            hint="choose another folder with --out, or delete this one",
            code="other-run",
        )
    return list(old.sessions)


def check_weights(run: Run) -> None:
    """Refuse to go on with a run that was read, with other weights than it has begun with.

    Raises:
        UserError: those besides the base model's are not its own.
    """
    said, here = run.manifest.digests.weights, identify_weights(run.recipe, run.base_model)
    changed = sorted(name for name, value in here.items() if (said or {}).get(name) != value)
    if changed:
        raise UserError(
            f"{run.folder} was begun with weights other than those here: {name_some(changed)}",
            hint="restore them, or begin another run with --out",
            code="changed-data",
        )


def _narrow_to(old: Manifest, run: Run) -> RunManifest:
    """Return what a run's manifest would be with no more subjects and prompts than an older one.

    So the photos and the plan of what is done are compared too, and not only the names. The run's
    own manifest where it lacks one of them.
    """
    new = run.manifest
    if not (set(old.subjects) <= set(new.subjects) and set(old.prompts) <= set(new.prompts)):
        return new
    subjects = [subject for subject in run.subjects if subject.name in old.subjects]
    plan = make_plan(
        run.protocol.narrow(old.prompts), subjects, batch_size=new.batch_size,
        replicate=new.replicate,
    )  # fmt: skip
    data = digest_subjects(subjects, run.protocol.references)
    digest = plan.digest()
    return new.model_copy(
        update={
            "subjects": [subject.name for subject in subjects],
            "prompts": old.prompts,
            "partial": old.partial,
            "digests": new.digests.model_copy(update={"data": data, "plan": digest}),
        }
    )


def read_run(folder: Path, *, data_dir: Path | None = None, near: Path | None = None) -> Run:
    """Read an existing run by its manifest alone, to be opened and resumed.

    A dataset that the protocol names by a relative path is looked for above `near` as well.

    Raises:
        UserError: the folder holds no run, or is not the run that its manifest says.
    """
    manifest = read_manifest(folder)
    if not isinstance(manifest, RunManifest):
        raise UserError(
            f"{folder} holds scores of external images and no run",
            hint="score the folder of the images again: dreambench score FOLDER --protocol ...",
            code="not-a-run",
        )
    base = find_base_model(manifest.base_model)
    run = plan_run(
        folder,
        Request(
            protocol=manifest.protocol,
            recipe=read_recipe(manifest.recipe, base),
            subjects=tuple(manifest.subjects),
            prompts=tuple(manifest.prompts),
            base_model=manifest.base_model,
            device=manifest.device,
            precision=manifest.precision,
            batch_size=manifest.batch_size,
            replicate=manifest.replicate,
            encoders=manifest.encoders,
            data_dir=data_dir,
            near=near or folder,
            cut_texts=manifest.cut_texts,
            weights=manifest.digests.weights or {},
        ),
    )
    if changes := list_changes(manifest, run.manifest):
        raise UserError(
            f"{folder} does not match what is here: {name_some(changes, separator='; ')}",
            hint="restore its run.json, or the photos or base model that it was made with",
            code="changed-data",
        )
    sessions = manifest.sessions
    return replace(run, manifest=run.manifest.model_copy(update={"sessions": sessions}))


def read_recipe(record: RecipeRecord, base: BaseModel) -> Recipe:
    """Return the recipe that a manifest or a record holds, without the code of a method outside."""
    head = record.model_dump(include={"name", "method", "title", "source"})
    tables = {base.name: record.settings}
    if record.code is None:
        return Recipe(**head, tables=tables)
    return PluginRecipe(
        **head, tables=tables, code=record.code, tunes=bool(record.tunes),
        n_references=record.n_references,
    )  # fmt: skip
