"""Replicates: the same recipe with other training seeds, and what they say of a difference."""

import shutil

import numpy as np
import pandas as pd
import pytest
from conftest import invoke, refused, tree

import dreambench
from dreambench.analysis.pairing import compare_paired
from dreambench.artifacts.image_set import read_image_set
from dreambench.artifacts.manifest import read_manifest
from dreambench.artifacts.results import read_scores, read_summary

N_REPLICATES = 3


@pytest.fixture(scope="module")
def replicated(tmp_path_factory, shared_cache):
    """A run with replicates and one that trains nothing alongside: its folder, and what it said."""
    from conftest import LIGHT_PROTOCOL, TINY_RECIPE  # noqa: PLC0415

    root = tmp_path_factory.mktemp("replicates")
    (root / "tiny.toml").write_text(LIGHT_PROTOCOL)
    (root / "quick.toml").write_text(TINY_RECIPE.replace("n_steps = 6", "n_steps = 3"))
    words = (
        "run", "--protocol", root / "tiny.toml", "--method", root / "quick.toml", "--alongside",
        "class-only", "--replicates", N_REPLICATES, "--out", root / "runs", "--cache", shared_cache,
    )  # fmt: skip
    invoke(*words)
    return root / "runs" / "tiny", words


def folders(root):
    return [root / "quick", *(root / f"quick-replicate-{n}" for n in range(2, N_REPLICATES + 1))]


def test_replicates_differ_in_their_training_seeds_alone(replicated):
    root, _ = replicated
    assert {path.name for path in root.iterdir()} == {
        "class-only", *(path.name for path in folders(root))
    }  # fmt: skip
    sets = [read_image_set(folder) for folder in folders(root)]
    seeds = [{unit.seed for unit in images.plan.train} for images in sets]
    assert not set.intersection(*seeds)
    assert len({images.plan.images for images in sets}) == 1
    assert [read_manifest(folder).replicate for folder in folders(root)] == [1, 2, 3]
    assert len({read_manifest(folder).digests.recipe for folder in folders(root)}) == 1
    images = [tree(folder / "images") for folder in folders(root)]
    assert images[0] != images[1] != images[2] != images[0]


def test_a_run_of_its_own_is_the_first_replicate(replicated, tmp_path, shared_cache):
    root, words = replicated
    alone = [
        tmp_path if word == root.parent else 1 if word == N_REPLICATES else word for word in words
    ]
    invoke(*alone)
    assert tree(tmp_path / "tiny" / "quick" / "images") == tree(root / "quick" / "images")


def test_each_stage_takes_a_replicate_by_its_folder(replicated, tmp_path, shared_cache):
    root, _ = replicated
    second = shutil.copytree(root / "quick-replicate-2", tmp_path / "quick-replicate-2")
    before = (second / "scores.parquet").read_bytes()
    for stage in ("train", "generate", "score"):
        invoke(stage, second, "--cache", shared_cache)
    invoke("summarise", second)
    assert (second / "scores.parquet").read_bytes() == before
    assert read_manifest(second).replicate == 2
    assert "(replicate 2)" in invoke("status", second).stdout


def test_the_report_shows_the_spread_between_replicates_beside_the_interval(replicated):
    root, _ = replicated
    report = root / "quick" / "report"
    rows = pd.read_csv(report / "replicates.csv")
    assert set(rows["method"]) == {"quick"} and set(rows["replicates"]) == {N_REPLICATES}
    summaries = [read_summary(read_image_set(folder)) for folder in folders(root)]
    means = [summary.metrics["dino"].whole.mean for summary in summaries]
    first = summaries[0].metrics["dino"].whole
    assert rows["DINO (up)"].tolist() == pytest.approx(
        [np.mean(means), np.std(means, ddof=1), (first.high - first.low) / 2]
    )
    page = (report / "report.md").read_text()
    assert "## Between replicates" in page
    # Rows of the main table are those of methods.
    assert "| quick (replicate 2)" not in page
    table = pd.read_csv(report / "table.csv")
    assert set(table["method"]) == {
        "quick",
        "quick (replicate 2)",
        "quick (replicate 3)",
        "class-only",
    }


def test_a_comparison_says_when_a_difference_is_within_one_methods_own_spread(replicated):
    root, _ = replicated
    found = dreambench.compare([root / "quick", root / "class-only"], metrics=["dino"]).table
    frames = [
        frame[frame["metric"] == "dino"]
        for frame in (read_scores(read_image_set(folder)).frame for folder in folders(root))
    ]
    gaps = [
        abs(compare_paired(frames[i], frames[j])["mean"].item())
        for i, j in ((0, 1), (0, 2), (1, 2))
    ]
    assert found["between_replicates"].item() == pytest.approx(max(gaps))
    # A method against its own replicate is within the spread by definition, unless it is the end.
    inner = min(gaps)
    pair = [(0, 1), (0, 2), (1, 2)][gaps.index(inner)]
    words = [folders(root)[index] for index in pair]
    said = invoke("compare", *words, "--metrics", "dino").stdout
    assert "replicates" in said
    table = dreambench.compare(words, metrics=["dino"])
    assert any("smaller than the difference between two replicates" in n for n in table.notes)


def test_replicates_of_nothing_that_trains_are_refused(tiny, tmp_path):
    line = refused(
        "run", "--method", "class-only", "--alongside", "", "--protocol", tiny[0],
        "--replicates", 2, "--out", tmp_path / "runs",
    )  # fmt: skip
    assert "--replicates" in line
    assert not (tmp_path / "runs").exists()


def test_methods_without_replicates_have_none(finished):
    root = finished[0]
    table = dreambench.compare([root / "quick", root / "class-only"]).table
    assert table["between_replicates"].isna().all()
    assert not (root / "quick" / "report" / "replicates.csv").exists()
