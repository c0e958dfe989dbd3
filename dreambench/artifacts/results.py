"""Results: the scores of an image set with what their metrics are, and their summary.

`scores.parquet` has one row for each number (COLUMNS), and in its metadata a MetricInfo for each
metric, so that no later step needs a metric's code, and scores never part from their signatures;
and the identity of all that they were computed with.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field, ValidationError

from dreambench.artifacts.failures import FailureGroup
from dreambench.artifacts.image_set import ImageSet
from dreambench.artifacts.manifest import CodeState, Digests, ImageInfo, Record
from dreambench.errors import UserError, name_some
from dreambench.storage.files import read_json, write_bytes, write_json
from dreambench.types import Bounds

COLUMNS = [
    "subject", "class_name", "kind", "family", "prompt_id", "k", "metric", "value", "n_pairs",
]  # fmt: skip
WHOLE_PROMPT = -1
"""The `k` of a row that belongs to all images of a prompt together."""
Prompts = Literal["all", "not-property"]
_METADATA = b"dreambench"


class MetricInfo(Record):
    """What a metric is, as far as tables and tests need it.

    `low` and `high` end its range, None where it has no end. `listed` says whether the protocol
    lists it, or somebody asked for it, which gives it a column in the main table. `signature` is
    None, and `not_measured` says why, where it was not measured.
    """

    name: str
    title: str
    version: int
    formula: str
    higher_is_better: bool
    low: float | None
    high: float | None
    tags: list[str]
    prompts: Prompts
    listed: bool = False
    code: dict[str, str] = Field(default_factory=dict)
    signature: str | None
    not_measured: str = ""
    n_expected: int = 0

    @property
    def bounds(self) -> Bounds:
        """The ends of its range."""
        return (
            -math.inf if self.low is None else self.low,
            math.inf if self.high is None else self.high,
        )

    @property
    def heading(self) -> str:
        """Its title with the direction in which it is better."""
        return f"{self.title} {'(up)' if self.higher_is_better else '(down)'}"


class _ScoreMetadata(Record):
    """What scores.parquet holds besides rows."""

    metrics: list[MetricInfo]
    identities: dict[str, str]


@dataclass(frozen=True)
class ScoreTable:
    """Scores of an image set: a frame with COLUMNS, and what its metrics are, in table order.

    `identities` are those of the encoders, segmenter and hash that made the scores, by input.
    """

    frame: pd.DataFrame
    metrics: tuple[MetricInfo, ...]
    identities: Mapping[str, str]


class Part(Record):
    """A mean over subjects with its interval; `no_interval` says why there is none."""

    mean: float | None
    low: float | None
    high: float | None
    n_subjects: int
    no_interval: str | None


class MetricSummary(Record):
    """One metric of an image set.

    `whole` is over the metric's own prompts (`info.prompts`), `property` over property prompts
    alone, where there are others too.
    """

    info: MetricInfo
    whole: Part
    property: Part | None
    n_scored: int
    n_expected: int


class Summary(Record):
    """The numbers of an image set, with everything that they depend on."""

    method: str
    protocol: str
    partial: bool
    n_images: int
    n_images_expected: int
    interval: str
    metrics: dict[str, MetricSummary]
    reference_bounds: dict[str, dict[str, float | None]]
    digests: Digests
    encoders: dict[str, str]
    device: str
    precision: str
    packages: dict[str, str]
    python: str
    code: CodeState
    track: str | None = None
    method_code: dict[str, str] | None = None
    settings: dict[str, Any] | None = None
    replicate: int = 1
    n_failed: int = 0
    failures: dict[str, list[FailureGroup]] = Field(default_factory=dict)
    images: ImageInfo | None = None


def write_scores(images: ImageSet, table: ScoreTable) -> None:
    """Write the scores of an image set with what their metrics are, in one file."""
    content = pa.Table.from_pandas(table.frame, preserve_index=False)
    about = _ScoreMetadata(metrics=list(table.metrics), identities=dict(table.identities))
    text = json.dumps(about.model_dump(mode="json"), sort_keys=True)
    content = content.replace_schema_metadata(
        {**(content.schema.metadata or {}), _METADATA: text.encode()}
    )
    buffer = io.BytesIO()
    pq.write_table(content, buffer)
    write_bytes(images.scores_path, buffer.getvalue())


def read_scores(images: ImageSet) -> ScoreTable:
    """Read the scores of an image set.

    Raises:
        UserError: there are none, or the file is not one of this version.
    """
    path = images.scores_path
    if not path.is_file():
        raise UserError(
            f"{images.folder} has no scores",
            hint=f"first: dreambench score {images.folder}",
            code="not-scored",
        )
    try:
        content = pq.read_table(path)
        about = _ScoreMetadata.model_validate_json((content.schema.metadata or {})[_METADATA])
        frame = content.to_pandas()
    except (pa.ArrowException, KeyError, ValidationError, OSError) as error:
        raise UserError(
            f"{path} cannot be read as scores",
            hint=f"make them again: dreambench score {images.folder}",
            code="damaged-file",
        ) from error
    return ScoreTable(frame, tuple(about.metrics), about.identities)


def check_identities(images: ImageSet, found: Mapping[str, str]) -> None:
    """Refuse to score an image set again with something else than before; `found` by input.

    What is new beside the others is let through, and so are scores that cannot be read.

    Raises:
        UserError: an encoder, the segmenter or the hash is another one; says which.
    """
    try:
        stored = read_scores(images).identities
    except UserError:
        return
    for name, identity in found.items():
        if stored.get(name, identity) != identity:
            raise UserError(
                f"{images.scores_path} was made with {stored[name]} for '{name}', and now there is "
                f"{identity}",
                hint="restore that one; or delete the scores, and those of every run beside it",
                code="changed-encoder",
            )


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Write a frame as CSV, unrounded."""
    write_bytes(path, table.to_csv(index=False).encode())


def read_reference_bounds(images: ImageSet) -> pd.DataFrame:
    """Read what the real photos of an image set score.

    Raises:
        UserError: it was not scored.
    """
    if not images.bounds_path.is_file():
        raise UserError(
            f"{images.folder} has no reference bounds",
            hint=f"first: dreambench score {images.folder}",
            code="not-scored",
        )
    return pd.read_csv(images.bounds_path)


def write_summary(images: ImageSet, summary: Summary) -> None:
    """Write the summary of an image set."""
    write_json(images.summary_path, summary.model_dump(mode="json", exclude_none=False))


def read_summary(images: ImageSet) -> Summary:
    """Read the summary of an image set.

    Raises:
        UserError: there is none, or it is damaged.
    """
    if not images.summary_path.is_file():
        raise UserError(
            f"{images.folder} has no summary",
            hint=f"first: dreambench summarise {images.folder}",
            code="not-summarised",
        )
    content: Mapping[str, Any] = read_json(images.summary_path)
    try:
        return Summary.model_validate(content)
    except ValidationError as error:
        keys = [".".join(map(str, item["loc"])) for item in error.errors()]
        raise UserError(
            f"{images.summary_path} is damaged: {name_some(keys)}",
            hint=f"make it again: dreambench summarise {images.folder}",
            code="damaged-file",
        ) from error
