"""Narrowed runs: what they are marked with, and how one grows into the whole one."""

import pandas as pd
import pytest
from conftest import invoke, refused, tree

from dreambench.storage.files import read_json


@pytest.fixture
def words(tiny, tmp_path, shared_cache):
    """The words of a whole run of a recipe without training."""
    return (
        "run", "--protocol", tiny[0], "--method", "copy-reference", "--alongside", "",
        "--out", tmp_path / "runs", "--cache", shared_cache, "--batch-size", 4,
    )  # fmt: skip


def finished_files(run_dir):
    """Images and what training left, with bytes, inode and time of each."""
    paths = [*run_dir.glob("images/*/*/*.png"), *run_dir.glob("train/*/*")]
    return {
        path.relative_to(run_dir).as_posix(): (
            path.read_bytes(), path.stat().st_ino, path.stat().st_mtime_ns
        )
        for path in paths
    }  # fmt: skip


def test_a_narrowed_run_grows_into_the_whole_one(finished, tmp_path):
    folder, words, _ = finished
    runs = tmp_path / "runs"
    words = [runs if word == folder.parent else word for word in words] + ["--alongside", ""]
    run_dir = runs / "tiny" / "quick"
    invoke(*words, "--subjects", "dog", "--prompts", "beach")
    narrow = read_json(run_dir / "run.json")
    assert (narrow["subjects"], narrow["prompts"]) == (["dog"], ["beach"])
    assert narrow["partial"] is read_json(run_dir / "summary.json")["partial"] is True
    before = finished_files(run_dir)
    images = {name for name in before if name.startswith("images/")}
    assert images == {f"images/dog/{prompt}/{k}.png" for prompt in ("beach", "prior") for k in "01"}
    assert "train/dog/unet.safetensors" in before

    invoke(*words)
    after = finished_files(run_dir)
    assert {name: after[name] for name in before} == before
    assert set(after) == set(finished_files(folder / "quick"))
    # What is trained and generated from the same seeds in the same batches has the same bits.
    for name in ("train/mug/unet.safetensors", "images/mug/red/1.png"):
        assert after[name][0] == (folder / "quick" / name).read_bytes()
    own, whole = (read_json(path / "run.json") for path in (run_dir, folder / "quick"))
    assert len(own["sessions"]) == 2
    assert {**own, "sessions": []} == {**whole, "sessions": []}
    summary, wanted = (read_json(path / "summary.json") for path in (run_dir, folder / "quick"))
    assert summary["partial"] is False
    assert summary["n_images"] == summary["n_images_expected"] == 12
    for name, entry in wanted["metrics"].items():
        found = summary["metrics"][name]
        assert (found["n_scored"], found["info"]) == (entry["n_scored"], entry["info"])
        # An image that was generated in another batch may differ in its last bits.
        assert found["whole"]["mean"] == pytest.approx(entry["whole"]["mean"], abs=0.02)

    grown = tree(run_dir)
    for narrowed, changes in (
        (("--subjects", "dog"), "subjects.1: 'mug' -> None"),
        (("--prompts", "beach"), "prompts.1: 'red' -> None"),
    ):
        line = refused(*words, *narrowed)
        assert str(run_dir) in line
        assert changes in line
        assert tree(run_dir) == grown


def test_a_run_of_one_subject_does_not_grow_into_that_of_another(words, tmp_path):
    invoke(*words, "--subjects", "dog")
    run_dir = tmp_path / "runs" / "tiny" / "copy-reference"
    before = tree(run_dir)
    line = refused(*words, "--subjects", "mug")
    assert "subjects.0: 'dog' -> 'mug'" in line
    assert tree(run_dir) == before


def test_a_run_grows_by_prompts_and_by_subjects_in_turn(words, tmp_path):
    run_dir = tmp_path / "runs" / "tiny" / "copy-reference"
    n_images = []
    for narrowed in (
        ("--subjects", "mug", "--family", "property"),
        ("--subjects", "mug"),
        (),
    ):
        invoke(*words, *narrowed)
        n_images.append(len(list(run_dir.glob("images/*/*/*.png"))))
    # Images of one prompt and of the class, then of two prompts, then of two subjects.
    assert n_images == [4, 6, 12]
    assert read_json(run_dir / "summary.json")["partial"] is False
    assert set(pd.read_parquet(run_dir / "scores.parquet")["subject"]) == {"dog", "mug"}


@pytest.mark.parametrize(
    ("old", "new", "change"),
    [
        ("guidance_scale = 3.0", "guidance_scale = 3.5", "guidance_scale: 3.0 -> 3.5"),
        ("a red {subject}", "a blue {subject}", "'a red {subject}' -> 'a blue"),
        ("version = 1", "version = 2", "protocol.version: 1 -> 2"),
    ],
)
def test_a_run_does_not_grow_into_that_of_another_protocol(words, tiny, tmp_path, old, new, change):
    invoke(*words, "--subjects", "dog", "--prompts", "beach")
    run_dir = tmp_path / "runs" / "tiny" / "copy-reference"
    before = tree(run_dir)
    tiny[0].write_text(tiny[0].read_text().replace(old, new))
    line = refused(*words)
    assert change in line
    assert str(run_dir) in line
    assert tree(run_dir) == before


def test_narrowing_marks_a_run_and_leaves_no_interval_of_one_subject(words, tmp_path):
    done = invoke(*words, "--subjects", "mug")
    assert "copy-reference" in done.stdout and "(partial)" in done.stdout
    assert "[-, -]" in done.stdout
    summary = read_json(tmp_path / "runs" / "tiny" / "copy-reference" / "summary.json")
    assert summary["partial"] is True
    whole = summary["metrics"]["dino"]["whole"]
    assert (whole["low"], whole["high"], whole["n_subjects"]) == (None, None, 1)
    assert whole["mean"] is not None and whole["no_interval"]


def test_narrowing_by_category_marks_the_run_partial(words, tmp_path):
    done = invoke(*words, "--family", "property")
    assert "(partial)" in done.stdout
    images = {p.parent.name for p in tmp_path.glob("runs/tiny/copy-reference/images/*/*/*.png")}
    assert images == {"red", "prior"}
    assert "prompts.0: 'red' -> 'beach'" in refused(*words, "--prompts", "beach")
    line = refused(*words, "--prompts", "beech")
    assert "'beech'" in line and "'beach'" in line
