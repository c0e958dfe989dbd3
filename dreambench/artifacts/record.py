"""The record of a leaderboard: `record.json` with `cells.parquet`, the numbers of every image.

A record is what leaves a machine, and comes from strangers: it is read within limits, and runs no
code. `record.schema.json` beside this module is its JSON Schema.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import pandas as pd
from pydantic import Field, StringConstraints, TypeAdapter, ValidationError, model_validator

from dreambench.artifacts.cells import FILE_NAME as CELLS_NAME
from dreambench.artifacts.cells import ID_COLUMNS, list_images, parse_cells
from dreambench.artifacts.device_time import DeviceTime
from dreambench.artifacts.failures import FailureGroup
from dreambench.artifacts.long_texts import CutText
from dreambench.artifacts.manifest import (
    Digests,
    ImageInfo,
    ProblemGroup,
    RecipeRecord,
    Session,
    StoredPart,
    check_format,
)
from dreambench.artifacts.results import (
    MetricInfo,
    Part,
)
from dreambench.config.protocol import MetricName, Protocol
from dreambench.errors import UserError, disk_errors, name_some
from dreambench.storage.files import digest, read_json, render_json, write_bytes
from dreambench.storage.paths import FileName, check_tree

FORMAT = 1
FILE_NAME, THUMBNAILS_NAME = "record.json", "thumbnails.webp"
MAX_BYTES: Mapping[str, int] = {
    FILE_NAME: 1_000_000, CELLS_NAME: 20_000_000, THUMBNAILS_NAME: 500_000,
}  # fmt: skip
"""How large each file of a record may be."""
SCHEMA_PATH = Path(__file__).with_name("record.schema.json")
MAX_DEPTH = 30
"""How deep its values may lie in each other."""
MAX_MISSING = 100
"""How many missing images are named; all are counted."""

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Evaluator = Literal["authors", "third-party", "maintainers"]
Status = Literal["submitted", "re-scored", "re-run", "withdrawn"]


_ADDRESS = r"^https?://[^\s/@]+(/[^\s]*)?$"
Address = Annotated[str, Field(pattern=_ADDRESS, max_length=500)]
"""Of the web, without a name and password."""


class BaseModelPart(StoredPart):
    """The base model: its name in recipes, which weights they were, and the weights' licence."""

    name: str
    identity: str
    licence: str = ""


class MethodPart(StoredPart):
    """What made the images. `code` has the digest of each file of a method from outside."""

    name: FileName
    title: str
    source: str = ""
    track: str = ""
    licence: str = ""
    base_model: BaseModelPart | None = None
    code: dict[str, str] = Field(default_factory=dict)


class RecordedMetric(StoredPart):
    """A metric of a record: what it is, its mean, and the parts that the mean is made of.

    `property` is over property prompts alone; `by_category` and `by_subject` are over all prompts.
    """

    info: MetricInfo
    whole: Part
    property: Part | None
    n_scored: int
    n_expected: int
    by_category: dict[str, Part]
    by_subject: dict[str, float]


class BoundsPart(StoredPart):
    """What real photos score in one metric: plain means over subjects, and each subject's."""

    copy_bound: float | None
    faithful_bound: float | None
    copy_by_subject: dict[str, float | None]
    faithful_by_subject: dict[str, float | None]


class FloorPart(StoredPart):
    """Means of a row that saw no photo, made on the same machine with the same base model."""

    name: FileName
    recipe: str
    means: dict[str, float | None]


class ReplicatePart(StoredPart):
    """The same recipe trained again with other seeds: its means, and how many images it has."""

    replicate: int = Field(ge=2)
    n_images: int
    means: dict[str, float | None]


class Remeasurement(StoredPart):
    """Means that someone else measured again, from the images or from the recipe.

    `largest_difference` is that of one number of an image from the record's when it was scored
    again, and of one mean when it was run again.
    """

    session: Session
    n_images: int
    largest_difference: float
    means: dict[str, float | None]


class Record(StoredPart):
    """The outcome of a run or of external images, as a leaderboard keeps it.

    `digest` is of what was scored, with what, and names the record's folder; statuses, addresses
    and metrics that are added later do not change it. `batch_size` is how many images of a run were
    generated together, which the last bits of an image depend on. `files` has the SHA-256 of the
    files beside it.
    """

    format: Literal[1] = 1
    digest: str = Field(pattern=r"^[0-9a-f]{16}$")
    status: Status = "submitted"
    evaluator: Evaluator
    origin: Literal["run", "external"]
    method: MethodPart
    recipe: RecipeRecord | None
    protocol: Protocol
    subjects: list[FileName]
    prompts: list[FileName]
    partial: bool
    digests: Digests
    encoders: dict[str, str]
    precision: str
    batch_size: int | None = Field(default=None, ge=1)
    interval: str
    metrics: dict[MetricName, RecordedMetric] = Field(min_length=1)
    reference_bounds: dict[str, BoundsPart]
    floor: FloorPart | None = None
    replicates: list[ReplicatePart] = Field(default_factory=list)
    n_images: int
    n_images_expected: int
    missing: list[str] = Field(default_factory=list, max_length=MAX_MISSING)
    n_failed: int = 0
    failures: dict[str, list[FailureGroup]] = Field(default_factory=dict)
    problems: dict[str, ProblemGroup] = Field(default_factory=dict)
    cut_texts: list[CutText] = Field(default_factory=list)
    images: ImageInfo | None = None
    sessions: list[Session] = Field(min_length=1)
    device_time: DeviceTime | None = None
    paper_url: Address | None = None
    code_url: Address | None = None
    images_url: Address | None = None
    re_scored: Remeasurement | None = None
    re_run: Remeasurement | None = None
    withdrawn: str = ""
    files: dict[FileName, Sha256]

    @model_validator(mode="after")
    def _names_its_metrics(self) -> Record:
        for name, entry in self.metrics.items():
            if entry.info.name != name or name in ID_COLUMNS:
                raise ValueError(f"{name} cannot name the metric {entry.info.name}")
        return self

    @model_validator(mode="after")
    def _has_its_status(self) -> Record:
        if self.status != self.expected_status:
            raise ValueError(f"status is {self.status}, and what it says is {self.expected_status}")
        return self

    @property
    def expected_status(self) -> Status:
        """The status that follows from what else the record holds."""
        if self.withdrawn:
            return "withdrawn"
        if self.re_run is not None:
            return "re-run"
        return "submitted" if self.re_scored is None else "re-scored"

    @property
    def path(self) -> Path:
        """Where its folder stands among records."""
        return Path(self.protocol.name) / self.method.name / self.digest


def check_address(option: str, address: str | None) -> str | None:
    """Return an address that a record may have.

    Raises:
        UserError: it is none; says by which option it came.
    """
    try:
        return TypeAdapter(Address | None).validate_python(address)
    except ValidationError as error:
        raise UserError(
            f"{option}: {address} is not a web address",
            hint="write it as https://..., without a name and password",
            code="invalid-value",
        ) from error


def digest_record(
    *, digests: Digests, method: str, encoders: Mapping[str, str], precision: str,
    subjects: Sequence[str], prompts: Sequence[str], images: Mapping[str, str],
) -> str:  # fmt: skip
    """Return the digest of what was scored and with what; `images` are SHA-256 by path."""
    return digest(
        [
            digests.model_dump(mode="json", exclude_none=True), method, dict(encoders), precision,
            list(subjects), list(prompts), dict(images),
        ]
    )  # fmt: skip


def find_digest(record: Record, cells: pd.DataFrame) -> str:
    """Return the digest that a record should have by what it and its cells hold."""
    made = {name: known for name, known in list_images(cells).items() if known is not None}
    return digest_record(
        digests=record.digests, method=record.method.name, encoders=record.encoders,
        precision=record.precision, subjects=record.subjects, prompts=record.prompts,
        images=made,
    )  # fmt: skip


def render_record(record: Record) -> bytes:
    """Return a record as the bytes of its file.

    Raises:
        UserError: it is larger than a record may be.
    """
    content = render_json(record.model_dump(mode="json"))
    if len(content) > MAX_BYTES[FILE_NAME]:
        raise UserError(
            f"the record of {record.method.name} has {len(content):,} bytes, over "
            f"{MAX_BYTES[FILE_NAME]:,}",
            hint="score it with fewer metrics, or fewer subjects",
            code="too-large",
        )
    return content


def write_record(folder: Path, record: Record) -> Record:
    """Write `record.json` with the status that follows from the record; return it so.

    Raises:
        UserError: it cannot be written, or is larger than a record may be.
    """
    record = record.model_copy(update={"status": record.expected_status})
    write_bytes(folder / FILE_NAME, render_record(record))
    return record


def read_record(folder: Path) -> Record:
    """Read `record.json` of a record's folder.

    Raises:
        UserError: it is not there, too large, of another format, or not as its schema has it.
    """
    path = _find_file(folder, FILE_NAME)
    content = read_json(path)
    check_format(path, content, FORMAT)
    if not _is_shallow(content):
        raise UserError(
            f"{path} holds values more than {MAX_DEPTH} deep in each other",
            hint="make it again: dreambench submit RUN --out DIR",
            code="invalid-record",
        )
    try:
        return Record.model_validate(content)
    except ValidationError as error:
        faults = [
            f"{'.'.join(map(str, item['loc'])) or 'record'}: {item['msg']}"
            for item in error.errors()
        ]
        raise UserError(
            f"{path} is not as the schema of records has it: {name_some(faults)}",
            hint="make it again: dreambench submit RUN --out DIR",
            code="invalid-record",
        ) from error


def _is_shallow(content: Any) -> bool:
    layer = [content]
    for _ in range(MAX_DEPTH):
        parts = [part.values() if isinstance(part, dict) else part for part in layer]
        layer = [one for part in parts for one in part if isinstance(one, dict | list)]
        if not layer:
            return True
    return False


def read_cells(folder: Path, record: Record) -> pd.DataFrame:
    """Read the cells of a record's folder.

    Raises:
        UserError: they are not there, too large, or not as cells of this record are.
    """
    path = _find_file(folder, CELLS_NAME)
    with disk_errors(path):
        content = path.read_bytes()
    return parse_cells(content, list(record.metrics), path=path)


def _find_file(folder: Path, name: str) -> Path:
    """Return the path of a record's file, which is there and not too large.

    Raises:
        UserError: it is not, or a link lies in the folder.
    """
    path = folder / name
    if not path.is_file():
        raise UserError(
            f"{folder} is not the folder of a record: {name} is missing",
            hint="make one with: dreambench submit RUN --out DIR",
            code="not-a-record",
        )
    check_tree(folder)
    with disk_errors(path):
        n_bytes = path.stat().st_size
    if n_bytes > MAX_BYTES[name]:
        raise UserError(
            f"{path} has {n_bytes:,} bytes, and may have {MAX_BYTES[name]:,}",
            hint="make it again: dreambench submit RUN --out DIR",
            code="too-large",
        )
    return path


def is_record(folder: Path) -> bool:
    """Return whether a folder has a record."""
    return (folder / FILE_NAME).is_file()


def make_json_schema() -> dict[str, Any]:
    """Return the JSON Schema of record.json."""
    about = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    return about | Record.model_json_schema()


STATUSES: tuple[Status, ...] = get_args(Status)
"""From the least checked to the most, and withdrawn."""


if __name__ == "__main__":  # python -m dreambench.artifacts.record: writes the schema again.
    SCHEMA_PATH.write_bytes(render_json(make_json_schema()))
