"""Cells come from strangers: what they cannot be is named before anything is done with them."""

import io
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dreambench.artifacts import cells as module
from dreambench.artifacts.cells import (
    ID_COLUMNS,
    list_images,
    make_scores,
    parse_cells,
    render_cells,
)
from dreambench.errors import UserError

SHA = "0" * 64


def make(**changes):
    rows = [
        [1, "dog", "dog", "live", "art", "paint", 0, 5, SHA, 0.5, 2],
        [1, "dog", "dog", "live", "art", "paint", 1, 6, None, np.nan, 0],
        [1, "dog", "dog", "live", "art", "paint", -1, None, None, 0.25, 1],
    ]
    frame = pd.DataFrame(rows, columns=[*ID_COLUMNS, "dino", "dino:n_pairs"])
    return frame.astype({"seed": "Int64"}).assign(**changes)


def parse(content):
    return parse_cells(content, ["dino"], path=Path("cells.parquet"))


def test_cells_come_back_as_they_were():
    found = parse(render_cells(make()))
    pd.testing.assert_frame_equal(found, make(), check_dtype=False)
    scores = make_scores(found, ["dino"])
    assert list(scores["value"]) == [0.5, 0.25] and list(scores["n_pairs"]) == [2, 1]
    assert list_images(found) == {"images/dog/paint/0.png": SHA, "images/dog/paint/1.png": None}


def test_seeds_keep_their_last_digit():
    seeds = pd.array([2**48 - 1, 2**48 - 2, None], "Int64")
    assert list(parse(render_cells(make(seed=seeds)))["seed"].dropna()) == list(seeds.dropna())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"dino": [np.inf, np.nan, 0]}, "infinite"),
        ({"sha256": ["A" * 64, None, None]}, "SHA-256"),
        ({"index": [0, 0, -1]}, "twice"),
        ({"prompt": ["paint", None, "paint"]}, "missing"),
    ],
)
def test_what_cells_cannot_hold_is_named(changes, said):
    with pytest.raises(UserError, match=said):
        parse(render_cells(make(**changes)))


@pytest.mark.parametrize(
    "frame",
    [make().drop(columns="dino"), make(more=1), make(dino="a"), make(replicate=1.5)],
    ids=["missing", "too many", "text", "not whole"],
)
def test_other_columns_are_named(frame):
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pandas(frame, preserve_index=False), buffer)
    with pytest.raises(UserError, match="columns"):
        parse(buffer.getvalue())


@pytest.mark.parametrize("content", [b"", b"PAR1", b"PAR1" * 100, b"\0" * 1000])
def test_what_is_no_parquet_is_one_line(content):
    with pytest.raises(UserError, match="Parquet"):
        parse(content)


def test_a_file_that_unpacks_to_too_much_is_not_unpacked(monkeypatch):
    monkeypatch.setattr(module, "MAX_UNPACKED_BYTES", 10)
    with pytest.raises(UserError, match="unpacks"):
        parse(render_cells(make()))
    monkeypatch.undo()
    monkeypatch.setattr(module, "MAX_ROWS", 2)
    with pytest.raises(UserError, match="rows"):
        parse(render_cells(make()))
