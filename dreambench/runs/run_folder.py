"""The run folder: what it was made from, what is done, what is left, and who holds it."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from dreambench import __version__
from dreambench.artifacts.failures import describe_failures, read_failures, summarise_failures
from dreambench.artifacts.image_set import EXTERNAL, ExternalImages, ImageSet
from dreambench.artifacts.plan import ImageUnit, Plan, TrainUnit, make_plan
from dreambench.base_models.registry import BaseModel, find_base_model
from dreambench.config.protocol import Protocol
from dreambench.config.recipe import PluginRecipe, Recipe
from dreambench.datasets.subjects import (
    Subject,
    digest_subjects,
    find_dataset,
    load_subjects,
    read_index,
)
from dreambench.errors import UserError, disk_errors, name_some, unknown_name
from dreambench.storage.files import make_dir, read_json, write_json
from dreambench.storage.shipped import PACKAGE_DIR

FORMAT = 1
PACKAGES = (
    "torch", "diffusers", "transformers", "peft", "timm", "open_clip_torch", "numpy", "pillow",
    "opencv-python-headless", "safetensors",
)  # fmt: skip


@dataclass(frozen=True)
class Request:
    """What a run is asked to be. Everything that an image or a score depends on is in here."""

    protocol: Protocol
    recipe: Recipe
    subjects: tuple[str, ...] | None
    base_model: str
    device: str
    precision: str
    batch_size: int
    encoders: Mapping[str, str]
    prompts: tuple[str, ...] | None = None
    # Where the photos lie: whose bytes count is pinned, where they are is not.
    data_dir: Path | None = None

    def load_subjects(self) -> list[Subject]:
        """The subjects that were asked for, all of the protocol's by default."""
        return load_chosen(self.protocol, data_dir=self.data_dir, names=self.subjects)


@dataclass(frozen=True, kw_only=True)
class Run(ImageSet):
    """An opened run folder."""

    request: Request
    base_model: BaseModel

    @property
    def name(self) -> str:
        """The method's recipe."""
        return self.request.recipe.name

    def train_dir(self, subject: str) -> Path:
        """Folder of what a method learned about a subject; it is there only when whole."""
        return self.run_dir / "train" / subject

    def image_path(self, unit: ImageUnit) -> Path:
        """Where a unit's image is, or will be."""
        return self.run_dir / unit.relative_path

    def find_image(self, unit: ImageUnit) -> Path | None:
        """See `ImageSet`."""
        path = self.image_path(unit)
        return path if path.is_file() else None

    def missing_training(self) -> list[TrainUnit]:
        """Subjects left to tune on."""
        return [unit for unit in self.plan.train if not self.train_dir(unit.subject).is_dir()]

    def subject(self, name: str) -> Subject:
        """The subject of that name."""
        return next(subject for subject in self.subjects if subject.name == name)


def describe_code() -> dict[str, Any]:
    """Version and, in a git checkout, commit and whether files of the package differ from it."""
    found: dict[str, Any] = {"version": __version__, "commit": None, "dirty": None}
    root = PACKAGE_DIR.parent
    if (root / ".git").exists():
        try:
            commit = subprocess.run(
                ["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, check=True
            )
            changes = subprocess.run(
                ["git", "status", "--porcelain", "--", "dreambench", "protocols", "baselines"],
                cwd=root, capture_output=True, text=True, check=True,
            )  # fmt: skip
        except (OSError, subprocess.CalledProcessError):
            return found
        found["commit"] = commit.stdout.strip()
        found["dirty"] = bool(changes.stdout.strip())
    return found


def describe_machine() -> dict[str, Any]:
    """Versions and hardware kind of this session; no host, user or path."""
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
        "code": describe_code(),
    }


def _flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(value, dict):
        items: Any = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    else:
        return {prefix: value}
    flat: dict[str, Any] = {}
    for key, inner in items:
        flat |= _flatten(inner, f"{prefix}.{key}" if prefix else str(key))
    return flat


def _changes(old: Any, new: Any) -> list[str]:
    """Readable differences of two JSON values."""
    before, after = _flatten(old), _flatten(new)
    keys = [key for key in {**before, **after} if before.get(key) != after.get(key)]
    return [f"{key}: {before.get(key)!r} -> {after.get(key)!r}" for key in keys]


def _make_manifest(request: Request, base: BaseModel, subjects: list[Subject], plan: Plan) -> Any:
    protocol = request.protocol
    index = read_index(find_dataset(protocol.dataset), names=protocol.subjects or None)
    prompts = request.prompts or tuple(prompt.id for prompt in protocol.prompts)
    return {
        "format": FORMAT,
        "protocol": protocol.model_dump(mode="json"),
        "recipe": {
            "name": request.recipe.name,
            "method": request.recipe.method,
            "title": request.recipe.title,
            "source": request.recipe.source,
            "settings": request.recipe.settings_for(base.name),
            **_describe_plugin(request.recipe),
        },
        "subjects": [subject.name for subject in subjects],
        "prompts": list(prompts),
        "partial": len(subjects) < len(index.subjects) or len(prompts) < len(protocol.prompts),
        "base_model": request.base_model,
        "device": request.device,
        "precision": request.precision,
        "batch_size": request.batch_size,
        "encoders": dict(request.encoders),
        "digests": {
            "protocol": protocol.digest(),
            "recipe": request.recipe.digest(base.name),
            "data": digest_subjects(subjects),
            "base_model": base.identity(),
            "plan": plan.digest(),
        },
    }


def _describe_plugin(recipe: Recipe) -> dict[str, Any]:
    if not isinstance(recipe, PluginRecipe):
        return {}
    return recipe.model_dump(mode="json", include={"code", "tunes", "n_references"})


def load_chosen(
    protocol: Protocol, *, data_dir: Path | None, names: Sequence[str] | None
) -> list[Subject]:
    """The subjects of a protocol that `names` picks, all for None, with their checked photos.

    Raises UserError for a subject that the protocol does not have and for photos that are missing
    or changed.
    """
    dataset = find_dataset(protocol.dataset, photos_dir=data_dir)
    for name in names or ():
        if protocol.subjects and name not in protocol.subjects:
            raise unknown_name(f"subject of '{protocol.name}'", name, protocol.subjects)
    return load_subjects(dataset, names=names or protocol.subjects or None)


def plan_run(run_dir: Path, request: Request) -> Run:
    """Lays out a run and reads its data; writes nothing.

    Raises UserError for names that are unknown and photos that are missing or changed.
    """
    base = find_base_model(request.base_model)
    subjects = request.load_subjects()
    narrowed = request.protocol.narrow(request.prompts)
    plan = make_plan(narrowed, subjects, batch_size=request.batch_size)
    manifest = _make_manifest(request, base, subjects, plan)
    return Run(
        run_dir=run_dir, protocol=request.protocol, subjects=subjects, plan=plan,
        manifest=manifest, request=request, base_model=base,
    )  # fmt: skip


def open_run(run: Run) -> Run:
    """Makes a run's folder or goes on with it.

    Raises UserError when the folder holds a run of another protocol, recipe, data or setting, and
    says what differs.
    """
    run_dir = run.run_dir
    path = run_dir / "run.json"
    if path.exists():
        sessions = _refuse_changes(run, read_json(path))
    else:
        make_dir(run_dir)
        others = [entry for entry in run_dir.iterdir() if not entry.name.startswith(".")]
        if others:
            raise UserError(
                f"{run_dir} is not empty and holds no run", hint="pick another folder with --out"
            )
        sessions = []
    manifest = {**run.manifest, "sessions": [*sessions, describe_machine()]}
    write_json(path, manifest)
    return replace(run, manifest=manifest)


def check_folder(run: Run) -> None:
    """What `open_run` would refuse, said before anything is begun; writes nothing."""
    path = run.run_dir / "run.json"
    if path.exists():
        _refuse_changes(run, read_json(path))


def _refuse_changes(run: Run, old: dict[str, Any]) -> list[Any]:
    """The sessions of a stored manifest; UserError where the rest of it is not the run's."""
    kept = {key: value for key, value in old.items() if key != "sessions"}
    wanted = {key: value for key, value in run.manifest.items() if key != "sessions"}
    changes = _changes(kept, wanted)
    if changes:
        some = name_some(changes, separator="; ")
        raise UserError(
            f"{run.run_dir} holds a run of something else: {some}",
            hint="pick another folder with --out, or delete this one",
        )
    return old.get("sessions", [])


def read_run(run_dir: Path, *, data_dir: Path | None = None) -> ImageSet:
    """Reads an existing folder by its run.json alone: a `Run`, or the results of brought images.

    `open_run` then goes on with a run. `data_dir` is where the photos of the paper's dataset lie,
    see `find_dataset`.
    """
    manifest = _read_manifest(run_dir)
    if manifest.get("kind") == EXTERNAL:
        return _read_brought(run_dir, manifest, data_dir)
    base = find_base_model(manifest["base_model"])
    head = {key: value for key, value in manifest["recipe"].items() if key != "settings"}
    recipe_class = PluginRecipe if "code" in head else Recipe
    request = Request(
        protocol=Protocol.model_validate(manifest["protocol"]),
        recipe=recipe_class(**head, tables={base.name: manifest["recipe"]["settings"]}),
        subjects=tuple(manifest["subjects"]),
        base_model=manifest["base_model"],
        device=manifest["device"],
        precision=manifest["precision"],
        batch_size=manifest["batch_size"],
        encoders=manifest["encoders"],
        prompts=tuple(manifest["prompts"]),
        data_dir=data_dir,
    )
    run = plan_run(run_dir, request)
    sessions = _refuse_changes(run, manifest)
    return replace(run, manifest={**run.manifest, "sessions": sessions})


def _read_manifest(run_dir: Path) -> dict[str, Any]:
    manifest = read_json(run_dir / "run.json")
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise UserError(f"{run_dir}/run.json is not of format {FORMAT}", hint="run anew")
    return manifest


def _read_brought(run_dir: Path, manifest: dict[str, Any], data_dir: Path | None) -> ExternalImages:
    protocol = Protocol.model_validate(manifest["protocol"])
    subjects = load_chosen(protocol, data_dir=data_dir, names=manifest["subjects"])
    data = digest_subjects(subjects)
    if data != manifest["digests"]["data"]:
        raise UserError(
            f"{run_dir} was scored against other photos ({manifest['digests']['data']}) than are "
            f"here ({data})",
            hint="score the images again",
        )
    plan = make_plan(protocol.narrow(manifest["prompts"]), subjects, batch_size=1)
    if "pres" in manifest["not_measured"]:
        plan = plan.without_prior()
    return ExternalImages(
        run_dir=run_dir, protocol=protocol, subjects=subjects, plan=plan, manifest=manifest
    )


@contextmanager
def hold_run(run_dir: Path) -> Iterator[None]:
    """Keeps other processes off a run folder; the lock goes with the process, even when killed."""
    make_dir(run_dir)
    lock = FileLock(run_dir / ".lock")
    try:
        with disk_errors(run_dir):
            lock.acquire(timeout=0)
    except Timeout as error:
        raise UserError(
            f"another dreambench is working on {run_dir}",
            hint="wait for it, or pick another folder with --out",
        ) from error
    try:
        yield
    finally:
        lock.release()


def read_status(run_dir: Path, *, data_dir: Path | None = None) -> dict[str, Any]:
    """What is done and left in a run folder, read without changing anything in it."""
    manifest = _read_manifest(run_dir)
    protocol = Protocol.model_validate(manifest["protocol"])
    named = f"{protocol.name} v{protocol.version}"
    scored = {
        "scored": (run_dir / "scores.parquet").is_file(),
        "summarised": (run_dir / "summary.json").is_file(),
        "sessions": len(manifest.get("sessions", [])),
    }
    if manifest.get("kind") == EXTERNAL:
        images = manifest["images"]
        return {
            "method": manifest["name"],
            "protocol": named,
            "partial": manifest["partial"],
            "images": f"{images['n_scored']} of {images['n_expected']}, made elsewhere",
            **scored,
        }
    subjects = load_chosen(protocol, data_dir=data_dir, names=manifest["subjects"])
    plan = make_plan(
        protocol.narrow(manifest["prompts"]), subjects, batch_size=manifest["batch_size"]
    )
    n_tuned = sum((run_dir / "train" / unit.subject).is_dir() for unit in plan.train)
    n_images = sum((run_dir / unit.relative_path).is_file() for unit in plan.images)
    return {
        "method": manifest["recipe"]["name"],
        "protocol": named,
        "partial": manifest["partial"],
        "tuned": f"{n_tuned} of {len(plan.train)}",
        "images": f"{n_images} of {len(plan.images)}",
        **_describe_failed(run_dir),
        **scored,
    }


def _describe_failed(run_dir: Path) -> dict[str, Any]:
    """What failed the last time; empty for most."""
    summary = summarise_failures(read_failures(run_dir))
    return {"failed": describe_failures(summary)} if summary["failures"] else {}
