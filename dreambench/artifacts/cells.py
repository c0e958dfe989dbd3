"""The evidence of a record, `cells.parquet`: the numbers of every image, and its SHA-256.

There is a row for each planned image, and one for each prompt that has scores of its own. Each
metric is a column, so that every mean of the record can be computed from it again.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from dreambench.artifacts.image_set import ImageSet
from dreambench.artifacts.results import COLUMNS, WHOLE_PROMPT, ScoreTable
from dreambench.errors import UserError, name_some

FILE_NAME = "cells.parquet"
MAX_ROWS, MAX_METRICS, MAX_UNPACKED_BYTES = 200_000, 200, 400_000_000
"""What a file of cells may hold."""
_ID_TYPES = {
    "replicate": pa.int64(), "subject": pa.string(), "class_name": pa.string(),
    "kind": pa.string(), "category": pa.string(), "prompt": pa.string(), "index": pa.int64(),
    "seed": pa.int64(), "sha256": pa.string(),
}  # fmt: skip
ID_COLUMNS = list(_ID_TYPES)
"""The columns of a cell besides its numbers; `index` is WHOLE_PROMPT where it is of a prompt."""
_OF_SCORES = {"prompt": "prompt_id", "category": "family", "index": "k"}
"""What scores.parquet calls the same."""
_PAIRS = ":n_pairs"
_SHA256 = re.compile(r"[0-9a-f]{64}")


def make_cells(images: ImageSet, table: ScoreTable, *, replicate: int) -> pd.DataFrame:
    """Return the cells of an image set: ID_COLUMNS, then for each metric a value and its pairs.

    An image that is missing has no SHA-256 and no numbers.
    """
    kinds = {subject.name: (subject.class_name, subject.kind) for subject in images.subjects}
    rows: list[list[object]] = [
        [
            replicate, unit.subject, *kinds[unit.subject], unit.family, unit.prompt_id, unit.k,
            unit.seed, table.images.get(unit.relative_path),
        ]
        for unit in images.plan.images
    ]  # fmt: skip
    frame = table.frame
    prompts = frame[frame["k"] == WHOLE_PROMPT].drop_duplicates(["subject", "prompt_id"])
    rows += [
        [
            replicate, row.subject, row.class_name, row.kind, row.family, row.prompt_id,
            WHOLE_PROMPT, None, None,
        ]
        for row in prompts.itertuples()
    ]  # fmt: skip
    cells = pd.DataFrame(rows, columns=ID_COLUMNS).astype({"seed": "Int64"})
    places = pd.MultiIndex.from_frame(cells[["subject", "prompt", "index"]])
    for info in table.metrics:
        scores = frame[frame["metric"] == info.name].set_index(["subject", "prompt_id", "k"])
        cells[info.name] = scores["value"].reindex(places).to_numpy(np.float64)
        n_pairs = scores["n_pairs"].reindex(places).fillna(0)
        cells[info.name + _PAIRS] = n_pairs.to_numpy(np.int64)
    return cells


def make_scores(cells: pd.DataFrame, metrics: Sequence[str], *, replicate: int = 1) -> pd.DataFrame:
    """Return the scores of one replicate from cells, as scores.parquet has them (COLUMNS)."""
    own = cells[cells["replicate"] == replicate].rename(columns=_OF_SCORES)
    places = [np.flatnonzero(own[metric].notna()) for metric in metrics]
    if not places:
        return pd.DataFrame(columns=COLUMNS)

    def join(ending: str) -> NDArray[Any]:
        return np.concatenate(
            [own[m + ending].to_numpy()[place] for m, place in zip(metrics, places, strict=True)]
        )

    # One take of all rows: one for each metric would cost the same again.
    rows = own[[name for name in COLUMNS if name in own]].take(np.concatenate(places))
    of_metric = np.repeat(range(len(places)), [len(place) for place in places])
    rows = rows.reset_index(drop=True).assign(
        metric=pd.Series(metrics, dtype=str).take(of_metric).array,
        value=join(""),
        n_pairs=join(_PAIRS),
    )
    return rows[COLUMNS]


def list_images(cells: pd.DataFrame, *, replicate: int = 1) -> dict[str, str | None]:
    """Return the SHA-256 of each planned image by its path in a run folder; None if missing."""
    own = cells[(cells["replicate"] == replicate) & (cells["index"] != WHOLE_PROMPT)]
    places = zip(own["subject"], own["prompt"], own["index"], own["sha256"], strict=True)
    return {
        f"images/{subject}/{prompt}/{index}.png": None if pd.isna(sha256) else sha256
        for subject, prompt, index, sha256 in places
    }


def render_cells(cells: pd.DataFrame) -> bytes:
    """Return cells as the bytes of a Parquet file."""
    metrics = [name for name in cells.columns if name + _PAIRS in cells.columns]
    content = pa.Table.from_pandas(cells, schema=_make_schema(metrics), preserve_index=False)
    buffer = io.BytesIO()
    pq.write_table(content.replace_schema_metadata(None), buffer, compression="zstd")
    return buffer.getvalue()


def _make_schema(metrics: Sequence[str]) -> pa.Schema:
    numbers = [
        (name + end, kind)
        for name in metrics
        for end, kind in (("", pa.float64()), (_PAIRS, pa.int64()))
    ]
    return pa.schema([*_ID_TYPES.items(), *numbers])


def parse_cells(content: bytes, metrics: Sequence[str], *, path: Path) -> pd.DataFrame:
    """Return the cells of a file that comes from a stranger; `path` is for what is said of it.

    Raises:
        UserError: it is too much, has other columns than these metrics have, or holds what cells
            do not.
    """
    try:
        file = pq.ParquetFile(io.BytesIO(content))
        groups = [file.metadata.row_group(n) for n in range(file.metadata.num_row_groups)]
        n_bytes = sum(group.total_byte_size for group in groups)
        if fault := _find_excess(file.metadata.num_rows, len(metrics), n_bytes):
            raise _refuse(path, fault)
        schema = _make_schema(metrics)
        if odd := sorted({str(f) for f in schema} ^ {str(f) for f in file.schema_arrow}):
            raise _refuse(path, f"its columns are not those of the record: {name_some(odd)}")
        cells: pd.DataFrame = file.read().to_pandas(integer_object_nulls=True)[schema.names]
    except (pa.ArrowException, OSError, ValueError) as error:
        raise _refuse(path, "it cannot be read as Parquet") from error
    if fault := _find_fault(cells, metrics):
        raise _refuse(path, fault)
    return cells.astype({"seed": "Int64"})


def _find_excess(n_rows: int, n_metrics: int, n_bytes: int) -> str:
    limits = {
        f"it has more than {MAX_ROWS:,} rows": n_rows > MAX_ROWS,
        f"it has more than {MAX_METRICS} metrics": n_metrics > MAX_METRICS,
        f"it unpacks to more than {MAX_UNPACKED_BYTES:,} bytes": n_bytes > MAX_UNPACKED_BYTES,
    }
    return next((words for words, is_so in limits.items() if is_so), "")


def _find_fault(cells: pd.DataFrame, metrics: Sequence[str]) -> str:
    """Return what cells hold that they cannot; "" for nothing."""
    no_gaps = [name for name in cells if name not in ("seed", "sha256", *metrics)]
    sums = cells["sha256"].dropna()
    faults = {
        "a value is missing where there is always one": cells[no_gaps].isna().any(axis=None),
        "a score is infinite": np.isinf(cells[list(metrics)].to_numpy(np.float64)).any(),
        "a SHA-256 is not 64 hexadecimal digits": not sums.map(
            lambda text: bool(_SHA256.fullmatch(text))
        ).all(),
        "a cell is there twice": cells.duplicated(
            ["replicate", "subject", "prompt", "index"]
        ).any(),
    }
    return next((words for words, is_so in faults.items() if is_so), "")


def _refuse(path: Path, why: str) -> UserError:
    return UserError(
        f"{path} cannot be used: {why}",
        hint="make it again: dreambench submit RUN --out DIR",
        code="invalid-record",
    )
