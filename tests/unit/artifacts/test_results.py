"""Scores and summaries of an image set: read as they were written, refused when damaged."""

import json
import math
from dataclasses import replace

import pandas as pd
import pyarrow.parquet as pq
import pytest
from small_session import SESSION

from dreambench.analysis.summary import make_summary
from dreambench.artifacts.image_set import ImageSet
from dreambench.artifacts.manifest import Digests, ExternalManifest, ImageInfo
from dreambench.artifacts.plan import Plan
from dreambench.artifacts.results import (
    COLUMNS,
    MetricInfo,
    ScoreTable,
    has_summary,
    read_reference_bounds,
    read_scores,
    read_summary,
    write_scores,
    write_summary,
)
from dreambench.config.protocol import load_protocol
from dreambench.errors import UserError
from dreambench.storage.sums import write_sums

BOUNDS = pd.DataFrame(
    [["dog", "one", 0.9, 0.5]], columns=["subject", "metric", "copy_bound", "faithful_bound"]
)


def make_info(name, **facts):
    usual = {
        "title": name.upper(), "version": 1, "formula": "", "higher_is_better": True, "low": 0.0,
        "high": None, "tags": [], "prompts": "all", "listed": True, "signature": f"{name}|v1",
        "n_expected": 2,
    }  # fmt: skip
    return MetricInfo(name=name, **{**usual, **facts})


@pytest.fixture
def images(tiny, tmp_path):
    """An image set of no images, as it is read back."""
    protocol = load_protocol(str(tiny[0]))
    manifest = ExternalManifest(
        protocol=protocol, name="mine", subjects=["dog"], prompts=["beach"], partial=False,
        device="cpu", precision="fp32", encoders={}, digests=Digests(protocol="p", data="d"),
        sessions=[SESSION],
        images=ImageInfo(
            layout="run", n_scored=0, n_expected=0, n_lossy=0, min_side_px=1, notes=[], problems={}
        ),
        problems=[], not_measured={},
    )  # fmt: skip
    return ImageSet(
        folder=tmp_path, protocol=protocol, subjects=[], plan=Plan((), ()), manifest=manifest,
        files={},
    )  # fmt: skip


@pytest.fixture
def table():
    """Two subjects' numbers of two metrics; the second metric has none."""
    rows = [
        ["dog", "dog", "live", "art", "beach", 0, "one", 0.1 + 0.2, 5],
        ["mug", "mug", "object", "art", "beach", 0, "one", 1 / 3, 3],
    ]
    infos = (make_info("one", code={"file": "x.py"}), make_info("two", signature=None, low=None))
    frame = pd.DataFrame(rows, columns=COLUMNS)
    return ScoreTable(frame, infos, {"dino": "E"}, {"images/dog/beach/0.png": "0" * 64})


def refusal_of(read, images):
    with pytest.raises(UserError) as caught:
        read(images)
    assert len(str(caught.value).splitlines()) == 1
    return caught.value


def test_scores_are_read_to_the_last_bit_with_their_metrics(images, table):
    write_scores(images, table, BOUNDS)
    found = read_scores(images)
    pd.testing.assert_frame_equal(found.frame, table.frame, check_exact=True)
    assert found.metrics == table.metrics and found.images == table.images
    assert found.metrics[0].bounds == (0.0, math.inf)
    assert found.metrics[1].bounds == (-math.inf, math.inf)
    # Anybody's parquet reader sees the numbers.
    assert list(pd.read_parquet(images.scores_path).columns) == COLUMNS


def test_the_same_scores_are_the_same_bytes(images, table):
    write_scores(images, table, BOUNDS)
    before = images.scores_path.read_bytes()
    write_scores(images, read_scores(images), BOUNDS)
    assert images.scores_path.read_bytes() == before


@pytest.mark.parametrize(
    ("read", "code"),
    [
        (read_scores, "not-scored"),
        (read_reference_bounds, "not-scored"),
        (read_summary, "not-summarised"),
    ],
)
def test_results_that_are_not_there_say_which_command_makes_them(images, read, code):
    error = refusal_of(read, images)
    assert error.code == code
    assert str(images.folder) in str(error)
    assert "dreambench s" in error.hint


def spoil_metadata(path, metadata):
    content = pq.read_table(path)
    pq.write_table(content.replace_schema_metadata(metadata), path)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: spoil_metadata(path, None),
        lambda path: spoil_metadata(path, {b"dreambench": b"["}),
        lambda path: spoil_metadata(path, {b"dreambench": b'[{"name": "one"}]'}),
        lambda path: pd.read_parquet(path).to_parquet(path, index=False),
        lambda path: path.write_bytes(path.read_bytes()[:-100]),
        lambda path: path.write_bytes(b""),
    ],
    ids=["no metadata", "no JSON", "no info", "rewritten by pandas", "cut", "empty"],
)
def test_scores_without_their_metrics_are_damaged(images, table, spoil):
    write_scores(images, table, BOUNDS)
    spoil(images.scores_path)
    assert refusal_of(read_scores, images).code == "changed-product"
    write_sums(images.folder)  # As whoever spoilt it would do next.
    error = refusal_of(read_scores, images)
    assert error.code == "damaged-file"
    assert str(images.scores_path) in str(error)
    assert f"dreambench score {images.folder}" in error.hint


@pytest.fixture
def summary(images, table):
    """The summary of the table, written."""
    summary = make_summary(images, table, BOUNDS)
    write_summary(images, summary)
    return summary


def test_a_summary_is_read_as_it_was_written(images, summary):
    found = read_summary(images)
    assert found == summary
    assert found.metrics["one"].whole.mean == pytest.approx((0.1 + 0.2 + 1 / 3) / 2, abs=1e-15)
    assert (found.metrics["one"].n_scored, found.metrics["one"].n_expected) == (8, 2)
    assert found.metrics["two"].whole.mean is None
    assert found.reference_bounds == {"one": {"copy_bound": 0.9, "faithful_bound": 0.5}}


def test_new_scores_leave_nothing_that_was_made_from_older_ones(images, table, summary):
    write_scores(images, table, BOUNDS)
    write_summary(images, summary)
    write_scores(images, table, BOUNDS)  # The same again.
    assert has_summary(images)
    table = replace(table, frame=table.frame.assign(value=0.5))
    write_scores(images, table, BOUNDS)
    assert not has_summary(images)
    assert refusal_of(read_summary, images).code == "not-summarised"


def test_a_summary_that_was_put_there_is_none(images, table, summary):
    content = images.summary_path.read_bytes()
    write_scores(images, replace(table, frame=table.frame.assign(value=0.5)), BOUNDS)
    images.summary_path.write_bytes(content)
    assert refusal_of(read_summary, images).code == "not-summarised"


@pytest.mark.parametrize(
    ("change", "key"),
    [
        (lambda s: s.pop("digests"), "digests"),
        (lambda s: s["metrics"]["one"]["whole"].update(mean="high"), "metrics.one.whole.mean"),
        (lambda s: s["metrics"]["one"].pop("info"), "metrics.one.info"),
        (lambda s: s.update(measures={}), "measures"),
        (lambda s: s["code"].update(owner="somebody"), "code.owner"),
    ],
)
def test_a_damaged_summary_names_the_field(images, summary, change, key):
    content = json.loads(images.summary_path.read_text())
    change(content)
    images.summary_path.write_text(json.dumps(content))
    assert refusal_of(read_summary, images).code == "changed-product"
    write_sums(images.folder)
    error = refusal_of(read_summary, images)
    assert error.code == "damaged-file"
    assert str(images.summary_path) in str(error) and key in str(error)
    assert f"dreambench summarise {images.folder}" in error.hint
