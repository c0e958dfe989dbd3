"""Image sets: the images of a plan, whoever made them, and the folder with their numbers."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from dreambench.artifacts import MAX_REPLICATES
from dreambench.artifacts.manifest import (
    FILE_NAME,
    Manifest,
    RecipeRecord,
    RunManifest,
    has_manifest,
    read_manifest,
)
from dreambench.artifacts.plan import ImageUnit, Plan, make_plan
from dreambench.config.protocol import PRIOR_PROMPT_ID, Protocol, load_all
from dreambench.datasets.subjects import Subject, digest_subjects
from dreambench.errors import UserError, unknown_name
from dreambench.storage.files import digest, finish_together, make_dir, sha256_file
from dreambench.storage.locks import locked, try_lock
from dreambench.storage.paths import check_inside, check_tree, remove_leftovers
from dreambench.storage.sums import read_sums

logger = logging.getLogger(__name__)

STAGING, CLAIMS, LOCK = ".staging", ".claims", ".lock"


@dataclass(frozen=True, kw_only=True)
class ImageSet:
    """Images of some subjects and prompts of a protocol, and the folder of their numbers.

    `plan` has all images that there should be. `files` says where external images lie; a run's lie
    in its own folder (None). Read back from its results, a set of external images has numbers and
    no images, since where they lie is written nowhere.
    """

    folder: Path
    protocol: Protocol
    subjects: list[Subject]
    plan: Plan
    manifest: Manifest
    files: Mapping[ImageUnit, Path] | None = None

    @property
    def name(self) -> str:
        """What tables call it."""
        return self.manifest.row_name

    @property
    def device(self) -> str:
        """Where networks run."""
        return self.manifest.device

    @property
    def encoders(self) -> dict[str, str]:
        """Identity of the encoder of each role."""
        return self.manifest.encoders

    @property
    def scores_path(self) -> Path:
        """One row for each number, and which metrics they are of."""
        return self.folder / "scores.parquet"

    @property
    def bounds_path(self) -> Path:
        """What the real photos score, one row a subject and metric."""
        return self.folder / "reference-bounds.csv"

    @property
    def summary_path(self) -> Path:
        """Means, intervals, counts and what they depend on."""
        return self.folder / "summary.json"

    @property
    def conventions_path(self) -> Path:
        """The images under other scorers' conventions."""
        return self.folder / "conventions.csv"

    @property
    def staging_dir(self) -> Path:
        """Where products wait until all that are written together are whole."""
        return self.folder / STAGING

    @property
    def report_dir(self) -> Path:
        """Tables, plots and the grid."""
        return self.folder / "report"

    def images_dir(self, subject: str) -> Path:
        """Return the folder of a subject's images in a run folder."""
        return self.folder / "images" / subject

    def train_dir(self, subject: str) -> Path:
        """Return the folder of what a method learned about a subject, there only when whole."""
        return self.folder / "train" / subject

    def read_image_sums(self) -> dict[str, str]:
        """Return the SHA-256 of each image that a run made, by its path in the run folder.

        Nobody knows what external images were: it is empty for them.
        """
        if self.files is not None:
            return {}
        return {
            f"images/{subject.name}/{name}": known
            for subject in self.subjects
            for name, known in read_sums(self.images_dir(subject.name)).items()
        }

    def find_changed_images(self, found: Mapping[str, str] | None = None) -> list[ImageUnit]:
        """Return the units whose image is there, and is not what the run made.

        `found` is what `hash_images` gives, where it is at hand: that reads them all. Of a part of
        them, only those are looked at.
        """
        if self.files is not None:
            return []
        known = self.read_image_sums()
        now = self.hash_images() if found is None else found
        names = {name for name, sha256 in now.items() if known.get(name) != sha256}
        return [unit for unit in self.plan.images if unit.relative_path in names]

    def find_image(self, unit: ImageUnit) -> Path | None:
        """Return the file of a unit's image; None when there is none."""
        if self.files is not None:
            return self.files.get(unit)
        path = self.folder / unit.relative_path
        return path if path.is_file() else None

    def missing_images(self) -> list[ImageUnit]:
        """Return the units without an image."""
        return [unit for unit in self.plan.images if self.find_image(unit) is None]

    def made_images(self, subject: str) -> list[tuple[ImageUnit, Path]]:
        """Return the images of a subject that are there, with their units; class images too."""
        units = [unit for unit in self.plan.images if unit.subject == subject]
        found = [(unit, self.find_image(unit)) for unit in units]
        return [(unit, path) for unit, path in found if path is not None]

    def hash_images(self, subject: str | None = None) -> dict[str, str]:
        """Return the SHA-256 of each image that is there, by its path in a run folder.

        With `subject` only of its images.
        """
        units = [unit for unit in self.plan.images if subject in (None, unit.subject)]
        found = {unit.relative_path: self.find_image(unit) for unit in units}
        return {name: sha256_file(path) for name, path in found.items() if path is not None}

    def has_images(self) -> bool:
        """Return whether any image is there."""
        return any(self.find_image(unit) is not None for unit in self.plan.images)

    def is_partial(self) -> bool:
        """Return whether this is less than its protocol: narrowed, or with images missing."""
        return self.manifest.partial or bool(self.missing_images())


def is_class_image(unit: ImageUnit) -> bool:
    """Return whether a unit shows the class and not the subject, for PRES alone."""
    return unit.prompt_id == PRIOR_PROMPT_ID


def load_chosen(
    protocol: Protocol,
    *,
    data_dir: Path | None,
    names: Sequence[str] | None,
    near: Path | None = None,
) -> list[Subject]:
    """Load the subjects of a protocol that `names` picks, all for None, with checked photos.

    `near` is the folder that the protocol was read from, see `Protocol.find_dataset`.

    Raises:
        UserError: the protocol does not have a subject, or photos are missing or changed.
    """
    dataset = protocol.find_dataset(photos_dir=data_dir, near=near)
    for name in names or ():
        if protocol.names and name not in protocol.names:
            what = "pair" if protocol.pairs else "subject"
            raise unknown_name(f"{what} of '{protocol.name}'", name, protocol.names)
    return load_all(protocol, dataset, names=names)


def read_image_set(
    folder: Path, *, data_dir: Path | None = None, near: Path | None = None
) -> ImageSet:
    """Read a folder by its manifest; no code and no network is loaded.

    `data_dir` is where the photos of the paper's dataset lie, see `find_dataset`. A dataset that
    the protocol names by a relative path is looked for above the folder, or above `near`.

    Raises:
        UserError: the folder has no manifest, or what it says of protocol, photos or plan is not
            what is here.
    """
    manifest = read_manifest(folder)
    protocol = manifest.protocol
    subjects = load_chosen(
        protocol, data_dir=data_dir, names=manifest.subjects, near=near or folder
    )
    plan = plan_images(manifest, subjects)
    own: RunManifest | None = manifest if isinstance(manifest, RunManifest) else None
    for name, stored, found in (
        ("protocol", manifest.digests.protocol, protocol.digest()),
        ("recipe", own and own.digests.recipe, own and digest_recipe(own.recipe)),
        ("sampler", own and own.digests.sampler, own and own.sampler.digest()),
        ("photos", manifest.digests.data, digest_subjects(subjects, protocol.references)),
        ("plan", own and own.digests.plan, own and plan.digest()),
    ):
        if stored != found:
            raise _refuse_change(folder, name, stored, found)
    return ImageSet(
        folder=folder, protocol=protocol, subjects=subjects, plan=plan, manifest=manifest,
        files=None if own else {},
    )  # fmt: skip


def _refuse_change(folder: Path, name: str, stored: object, found: object) -> UserError:
    """Return the error for a folder that does not fit the photos here, or its own manifest."""
    if name == "photos":
        return UserError(
            f"{folder} was made with other photos ({stored}) than are here ({found})",
            hint=f"restore those photos or {FILE_NAME}, or name the photos' folder with --data",
            code="changed-data",
        )
    return UserError(
        f"{folder / FILE_NAME} was changed: its {name} ({found}) is not the one that the folder "
        f"was made with ({stored})",
        hint=f"restore {FILE_NAME} from a copy; nothing else in the folder has to be made again",
        code="changed-data",
    )


def plan_images(manifest: Manifest, subjects: Sequence[Subject]) -> Plan:
    """Return the plan that a manifest stands for."""
    own = manifest if isinstance(manifest, RunManifest) else None
    size, replicate = (own.batch_size, own.replicate) if own else (1, 1)
    protocol = manifest.protocol.narrow(manifest.prompts)
    plan = make_plan(protocol, subjects, batch_size=size, replicate=replicate)
    return plan.without_prior() if "pres" in manifest.not_measured else plan


def digest_recipe(recipe: RecipeRecord) -> str:
    """Return the digest of the recipe that a manifest or record holds."""
    parts: list[object] = [recipe.method, recipe.settings]
    return digest(parts if recipe.code is None else [*parts, recipe.code])


@contextmanager
def hold_folder(folder: Path, *, joins: bool = False) -> Iterator[None]:
    """Keep other processes off a folder, and finish what a kill interrupted in it.

    The lock goes with the process, even when killed. Who `joins` others that make images in the
    folder waits for the lock, leaves their claims alone, and so what they are writing.

    Raises:
        UserError: `folder-in-use` when another process works on it, `no-lock` on a disk that
            refuses locks, `unsafe-path` when it holds a link.
    """
    path = check_inside(make_dir(folder) / LOCK, folder)
    if joins:
        lock = try_lock(path)
        if lock is None:
            logger.warning("Waiting for another dreambench that is working on %s", folder)
        else:
            lock.release()
    with locked(path, timeout=-1 if joins else 0):
        if not is_claimed(folder):
            check_tree(folder)
            for staging in (folder / STAGING, *sorted(folder.glob(f"images/*/{STAGING}"))):
                finish_together(staging)
            # Where there is no manifest, nothing but one that was not finished is known to be ours.
            remove_leftovers(folder, of=None if has_manifest(folder) else FILE_NAME)
        elif not joins:
            raise UserError(
                f"another dreambench is making images in {folder}",
                hint="wait for it; `dreambench run` with the same options joins in",
                code="folder-in-use",
            )
        yield


@contextmanager
def claim_subject(folder: Path, subject: str) -> Iterator[bool]:
    """Keep other processes off a subject of a run; say whether that is possible.

    A claim is a lock on a file of its own. It goes with the process, so that what a killed one was
    at is anybody's.

    Raises:
        UserError: `no-lock` on a disk that refuses locks.
    """
    path = check_inside(make_dir(folder / CLAIMS) / f"{subject}.lock", folder)
    with locked(folder / LOCK):  # Nobody who holds the folder is joined unawares.
        claim = try_lock(path)
    if claim is None:
        yield False
        return
    try:
        os.utime(path)  # Who looks later can see that there was a claim.
        yield True
    finally:
        claim.release()


def list_claims(folder: Path) -> dict[str, int]:
    """Return when each subject of a run was last claimed, in nanoseconds."""
    paths = sorted((folder / CLAIMS).glob("*.lock"))
    return {path.name.removesuffix(".lock"): path.stat().st_mtime_ns for path in paths}


def is_claimed(folder: Path, subject: str = "*") -> bool:
    """Return whether another process works on a subject of a run, or on any."""
    for path in sorted((folder / CLAIMS).glob(f"{subject}.lock")):
        claim = try_lock(path)
        if claim is None:
            return True
        claim.release()
    return False


def replicate_folder(folder: Path, replicate: int) -> Path:
    """Return the folder of a replicate of the run in `folder`, which is the first."""
    return folder if replicate == 1 else folder.with_name(f"{folder.name}-replicate-{replicate}")


def list_replicates(sets: Sequence[ImageSet]) -> list[ImageSet]:
    """Return the further replicates of runs that lie beside them, with a summary, in order.

    Those that are among `sets` are left out, and so is what is not of the same recipe and data.
    """
    known = {images.folder.resolve() for images in sets}
    found = []
    for images in sets:
        own = images.manifest
        if not isinstance(own, RunManifest) or own.replicate != 1:
            continue
        for number in range(2, MAX_REPLICATES + 1):
            folder = replicate_folder(images.folder, number)
            if not has_manifest(folder) or folder.resolve() in known:
                continue
            other = read_manifest(folder)
            is_same = isinstance(other, RunManifest) and all(
                getattr(other.digests, key) == getattr(own.digests, key)
                for key in ("protocol", "recipe", "data", "base_model")
            )
            if is_same and images.summary_path.name in read_sums(folder):
                subjects, protocol = images.subjects, images.protocol
                found.append(
                    ImageSet(
                        folder=folder, protocol=protocol, subjects=subjects,
                        plan=plan_images(other, subjects), manifest=other,
                    )
                )  # fmt: skip
    return found
