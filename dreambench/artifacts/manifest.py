"""The manifest of a folder, `run.json`: what its images and scores were made from.

It is written and read here and nowhere else. Two kinds share a head: of a run, which made its
images, and of external images, which someone else made. A folder of another FORMAT is refused in
one line. No path and no name of a machine or a person is in it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    TypeAdapter,
    ValidationError,
)

from dreambench.artifacts.long_texts import CutText
from dreambench.config.protocol import Protocol
from dreambench.config.sampler import Sampler
from dreambench.errors import UserError, name_some
from dreambench.storage.files import read_json, write_json
from dreambench.storage.paths import FileName, check_tree

FORMAT = 4
"""Raised when a field, or what a folder has to hold, changes; none before 4 was a release's."""
FILE_NAME = "run.json"


class StoredPart(BaseModel):
    """A part of a file of this package: fields that are not its own are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def check_format(
    path: Path,
    content: Any,
    expected: int,
    *,
    hint: str = "use the version of dreambench that made it",
) -> None:
    """Refuse the content of a JSON file that is not of this format.

    Raises:
        UserError: its `format` is another, or it has none.
    """
    found = content.get("format") if isinstance(content, dict) else None
    if found != expected:
        raise UserError(
            f"{path} has format {found}, and this version of dreambench reads format {expected}",
            hint=hint,
            code="old-format",
        )


class CodeState(StoredPart):
    """Version and, in a git checkout, commit and whether files of the package differ from it."""

    version: str
    commit: str | None = None
    dirty: bool | None = None

    def __str__(self) -> str:
        changed = ", changed" if self.dirty else ""
        return f"code {self.commit or 'release'} ({self.version}{changed})"


class Compute(StoredPart):
    """What floating-point sums depend on besides versions.

    `threads` are those that torch trains and generates with on a CPU; `cpu` is the instruction set
    that torch uses; `limits` are the settings of the environment that limit instruction sets;
    `processor` is the CPU by its maker's name, None where that was not noted or is not known.
    """

    device: str
    threads: int
    cpu: str
    deterministic: bool
    limits: dict[str, str]
    processor: str | None = None

    def __str__(self) -> str:
        instructions = f"{self.cpu} of {self.processor}" if self.processor else self.cpu
        return (
            f"{self.device}, {self.threads} {'thread' if self.threads == 1 else 'threads'}, "
            f"instructions {instructions}, "
            f"deterministic algorithms {'on' if self.deterministic else 'off'}"
        )


class Session(StoredPart):
    """When someone worked on the folder, with which versions, and on what."""

    started: str
    python: str
    platform: str
    packages: dict[str, str]
    code: CodeState
    compute: Compute


class Digests(StoredPart):
    """What the numbers depend on; external images have protocol, data and images alone.

    `weights` are identities of what a method loads besides the base model, by name.
    """

    protocol: str
    data: str
    recipe: str | None = None
    base_model: str | None = None
    sampler: str | None = None
    plan: str | None = None
    images: str | None = None
    weights: dict[str, str] | None = None


class RecipeRecord(StoredPart):
    """The recipe of a run with its one table; `code` says which code a method from outside is."""

    name: FileName
    method: str
    title: str
    source: str
    track: str
    settings: dict[str, Any]
    code: dict[str, str] | None = None
    tunes: bool | None = None
    n_references: int | None = None


class ProblemGroup(StoredPart):
    """All problems of one kind in a folder of images, and the first names."""

    n_images: int
    names: list[str]


class ProblemRecord(StoredPart):
    """One thing that is not as the protocol has it; `name` is a path inside the folder."""

    kind: str
    name: str
    n_images: int
    detail: str


class ImageInfo(StoredPart):
    """What a folder of external images was like when it was scored."""

    layout: str
    n_scored: int
    n_expected: int
    n_lossy: int
    min_side_px: int
    notes: list[str]
    problems: dict[str, ProblemGroup]


class _Head(StoredPart):
    format: Literal[4] = 4
    protocol: Protocol
    subjects: list[FileName]
    prompts: list[FileName]
    partial: bool
    device: str
    precision: str
    encoders: dict[str, str]
    digests: Digests
    cut_texts: list[CutText] = []
    sessions: list[Session] = []

    @property
    def session(self) -> Session:
        """The latest session."""
        return self.sessions[-1]


class RunManifest(_Head):
    """The manifest of a run."""

    kind: Literal["run"] = "run"
    recipe: RecipeRecord
    base_model: str
    sampler: Sampler
    batch_size: int
    replicate: int = 1

    @property
    def row_name(self) -> str:
        """What tables call the run: its recipe, and which replicate it is after the first."""
        again = "" if self.replicate == 1 else f" (replicate {self.replicate})"
        return f"{self.recipe.name}{again}"

    @property
    def images(self) -> ImageInfo | None:
        """Nothing: the images are the run's own."""
        return None

    @property
    def not_measured(self) -> dict[str, str]:
        """Metrics of the protocol that are left out, with the reason: none."""
        return {}


class ExternalManifest(_Head):
    """The manifest of external images; where they lie is not in it."""

    kind: Literal["external"] = "external"
    name: FileName
    images: ImageInfo
    problems: list[ProblemRecord]
    not_measured: dict[str, str]

    @property
    def row_name(self) -> str:
        """What tables call the images."""
        return self.name


Manifest = RunManifest | ExternalManifest
_ADAPTER: TypeAdapter[Manifest] = TypeAdapter(Annotated[Manifest, Discriminator("kind")])


def has_manifest(folder: Path) -> bool:
    """Return whether a folder is that of a run or of external images' scores."""
    return (folder / FILE_NAME).is_file()


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest of a folder.

    Raises:
        UserError: there is none, it is of another format, or it was damaged; or a link lies in
            the folder.
    """
    path = folder / FILE_NAME
    if not path.is_file():
        raise UserError(
            f"{folder} is not the folder of a run or of scores",
            hint="make a run with: dreambench run --method dreambooth",
            code="not-a-run",
        )
    check_tree(folder)
    content = read_json(path)
    check_format(
        path, content, FORMAT,
        hint="run or score again in another folder (--out), or use the version that made it",
    )  # fmt: skip
    try:
        return _ADAPTER.validate_python(content)
    except ValidationError as error:
        # A kind that is unknown has no place of its own.
        keys = [".".join(map(str, item["loc"])) or "kind" for item in error.errors()]
        raise UserError(
            f"{path} is damaged: {name_some(keys)}",
            hint="restore it from a copy; without one, run or score in another folder (--out)",
            code="damaged-file",
        ) from error


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write the manifest of a folder."""
    write_json(folder / FILE_NAME, manifest.model_dump(mode="json", exclude_none=True))


def list_changes(old: Manifest, new: Manifest, *, ignored: Sequence[str] = ()) -> list[str]:
    """Return what differs between two manifests, one readable line each.

    Sessions do not count, and neither do prompts that are too long, which follow from the rest.
    """
    left = {"sessions", "cut_texts", *ignored}
    before, after = (
        flatten(one.model_dump(mode="json", exclude=left, exclude_none=True)) for one in (old, new)
    )
    keys = [key for key in {**before, **after} if before.get(key) != after.get(key)]
    return [f"{key}: {before.get(key)!r} -> {after.get(key)!r}" for key in keys]


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """Return the leaves of nested mappings and lists by their keys joined with points."""
    if isinstance(value, Mapping):
        items: Any = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    else:
        return {prefix: value}
    flat: dict[str, Any] = {}
    for key, inner in items:
        flat |= flatten(inner, f"{prefix}.{key}" if prefix else str(key))
    return flat
