"""Results: the scores of an image set with what their metrics are, and their summary.

`scores.parquet` has one row for each number (COLUMNS), and in its metadata a MetricInfo for each
metric, so that no later step needs a metric's code, and scores never part from their signatures;
and the identity of all that they were computed with.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field, ValidationError

from dreambench.artifacts.failures import FailureGroup
from dreambench.artifacts.image_set import ImageSet
from dreambench.artifacts.long_texts import CutText
from dreambench.artifacts.manifest import CodeState, Digests, ImageInfo, ProblemGroup, StoredPart
from dreambench.errors import UserError, disk_errors, name_some
from dreambench.storage.csv_files import show_cell
from dreambench.storage.files import render_json, sha256_bytes, write_bytes
from dreambench.storage.sums import has_products, read_sums, write_products
from dreambench.types import Bounds

COLUMNS = [
    "subject", "class_name", "kind", "family", "prompt_id", "k", "metric", "value", "n_pairs",
]  # fmt: skip
WHOLE_PROMPT = -1
"""The `k` of a row that belongs to all images of a prompt together."""
ROUNDING = 1e-6
"""How far rounding may put a number outside of its metric's range."""
Prompts = Literal["all", "not-property"]
_METADATA = b"dreambench"


class MetricInfo(StoredPart):
    """What a metric is, as far as tables and tests need it.

    `low` and `high` end its range, None where it has no end. `listed` says whether the protocol
    lists it, or a user asked for it, which gives it a column in the main table. `signature` is
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


class _ScoreMetadata(StoredPart):
    """What scores.parquet holds besides rows."""

    metrics: list[MetricInfo]
    identities: dict[str, str]
    images: dict[str, str]
    cut_texts: list[CutText] = Field(default_factory=list)
    problems: dict[str, ProblemGroup] = Field(default_factory=dict)
    nearest: dict[str, str] = Field(default_factory=dict)


@dataclass(frozen=True)
class ScoreTable:
    """Scores of an image set: a frame with COLUMNS, and what its metrics are, in table order.

    `identities` are those of the encoders, segmenter and hash that made the scores, by input;
    `images` are the SHA-256 of the files that were scored, by their path in a run folder.
    `nearest` is the name of the photo that each image is most like in DINO, by the image's path.
    `cut_texts` are prompts that the encoder of texts does not read to their end; `problems` are
    those images of a run that are black, of one colour, or there twice, by kind.
    """

    frame: pd.DataFrame
    metrics: tuple[MetricInfo, ...]
    identities: Mapping[str, str]
    images: Mapping[str, str] = field(default_factory=dict)
    cut_texts: Sequence[CutText] = ()
    problems: Mapping[str, ProblemGroup] = field(default_factory=dict)
    nearest: Mapping[str, str] = field(default_factory=dict)


class Part(StoredPart):
    """A mean over subjects with its interval; `no_interval` says why there is none."""

    mean: float | None
    low: float | None
    high: float | None
    n_subjects: int
    no_interval: str | None


class MetricSummary(StoredPart):
    """One metric of an image set.

    `whole` is over the metric's own prompts (`info.prompts`), `property` over property prompts
    alone, where there are others too.
    """

    info: MetricInfo
    whole: Part
    property: Part | None
    n_scored: int
    n_expected: int


class Summary(StoredPart):
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
    cut_texts: list[CutText] = Field(default_factory=list)
    problems: dict[str, ProblemGroup] = Field(default_factory=dict)


def write_scores(images: ImageSet, table: ScoreTable, bounds: pd.DataFrame) -> None:
    """Write the scores of an image set with what their metrics are, and what the photos score.

    What was made from older scores goes first, so that nothing ever stands beside other scores;
    where they are the same again, it stays.
    """
    content = pa.Table.from_pandas(table.frame, preserve_index=False)
    about = _ScoreMetadata(
        metrics=list(table.metrics), identities=dict(table.identities), images=dict(table.images),
        cut_texts=list(table.cut_texts),
        problems=dict(table.problems), nearest=dict(table.nearest),
    )  # fmt: skip
    text = json.dumps(about.model_dump(mode="json"), sort_keys=True)
    content = content.replace_schema_metadata(
        {**(content.schema.metadata or {}), _METADATA: text.encode()}
    )
    buffer = io.BytesIO()
    pq.write_table(content, buffer)
    contents = {
        images.scores_path.name: buffer.getvalue(),
        images.bounds_path.name: _render_table(bounds),
    }
    if has_products(images.folder, contents):
        return
    stale = (images.summary_path, images.conventions_path)
    for path in stale:
        with disk_errors(path):
            path.unlink(missing_ok=True)
    write_products(
        images.staging_dir, "scores", images.folder, contents,
        dropped=[path.name for path in stale],
    )  # fmt: skip


def _read_product(images: ImageSet, path: Path, *, missing: str, command: str, code: str) -> bytes:
    """Return the bytes of a product of an image set.

    Raises:
        UserError: it is not there, or is not what was written.
    """
    known = read_sums(images.folder).get(path.name)
    if known is None or not path.is_file():
        raise UserError(
            f"{images.folder} has no {missing}",
            hint=f"first: dreambench {command} {images.folder}",
            code=code,
        )
    with disk_errors(path):
        content = path.read_bytes()
    if sha256_bytes(content) != known:
        raise UserError(
            f"{path} was changed since it was written",
            hint=f"restore it, or make it again: dreambench {command} {images.folder}",
            code="changed-product",
        )
    return content


def read_scores(images: ImageSet) -> ScoreTable:
    """Read the scores of an image set.

    Raises:
        UserError: there are none, they were changed, or the file is not one of this version.
    """
    path = images.scores_path
    content = _read_product(images, path, missing="scores", command="score", code="not-scored")
    try:
        found = pq.read_table(io.BytesIO(content))
        about = _ScoreMetadata.model_validate_json((found.schema.metadata or {})[_METADATA])
        frame = found.to_pandas()
    except (pa.ArrowException, KeyError, ValidationError, OSError) as error:
        raise UserError(
            f"{path} cannot be read as scores",
            hint=f"make them again: dreambench score {images.folder}",
            code="damaged-file",
        ) from error
    return ScoreTable(
        frame, tuple(about.metrics), about.identities, about.images,
        cut_texts=tuple(about.cut_texts), problems=about.problems, nearest=about.nearest,
    )  # fmt: skip


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
                f"{images.scores_path} was made with {stored[name]} for '{name}', which is now "
                f"{identity}",
                hint="restore that one; or delete the scores, and those of every run beside it",
                code="changed-encoder",
            )


def _render_table(table: pd.DataFrame, *, float_format: str | None = None) -> bytes:
    texts = table.select_dtypes(exclude="number")
    shown = table.assign(**{name: texts[name].map(show_cell) for name in texts})
    shown = shown.rename(columns=show_cell)
    content: bytes = shown.to_csv(index=False, float_format=float_format).encode()
    return content


def write_table(path: Path, table: pd.DataFrame, *, float_format: str | None = None) -> None:
    """Write a frame as CSV, unrounded unless `float_format` says otherwise."""
    write_bytes(path, _render_table(table, float_format=float_format))


def write_conventions(images: ImageSet, table: pd.DataFrame) -> None:
    """Write what an image set scores under other scorers' conventions."""
    contents = {images.conventions_path.name: _render_table(table)}
    write_products(images.staging_dir, "conventions", images.folder, contents)


def read_conventions(images: ImageSet) -> pd.DataFrame:
    """Read what an image set scores under other scorers' conventions.

    Raises:
        UserError: it was not scored so, or the file was changed.
    """
    content = _read_product(
        images, images.conventions_path, missing="scores under conventions", command="score",
        code="not-scored",
    )  # fmt: skip
    return pd.read_csv(io.BytesIO(content))


def read_reference_bounds(images: ImageSet) -> pd.DataFrame:
    """Read what the real photos of an image set score.

    Raises:
        UserError: it was not scored, or the file was changed.
    """
    content = _read_product(
        images, images.bounds_path, missing="reference bounds", command="score", code="not-scored"
    )
    return pd.read_csv(io.BytesIO(content))


def write_summary(images: ImageSet, summary: Summary) -> None:
    """Write the summary of an image set."""
    content = render_json(summary.model_dump(mode="json", exclude_none=False))
    write_products(
        images.staging_dir, "summary", images.folder, {images.summary_path.name: content}
    )


def has_summary(images: ImageSet) -> bool:
    """Return whether an image set has a summary of the scores that it has."""
    return images.summary_path.is_file() and images.summary_path.name in read_sums(images.folder)


def read_summary(images: ImageSet) -> Summary:
    """Read the summary of an image set.

    Raises:
        UserError: there is none, or it was changed or damaged.
    """
    content = _read_product(
        images, images.summary_path, missing="summary", command="summarise", code="not-summarised"
    )
    try:
        return Summary.model_validate_json(content)
    except ValidationError as error:
        keys = [".".join(map(str, item["loc"])) for item in error.errors()]
        raise UserError(
            f"{images.summary_path} is damaged: {name_some(keys)}",
            hint=f"make it again: dreambench summarise {images.folder}",
            code="damaged-file",
        ) from error
