"""Two subjects in one picture, whole: a run, a folder of UNO's, what is refused, a record."""

import json

import numpy as np
import pandas as pd
import pytest
from conftest import invoke, refused
from external_images import write_uno
from pairs import TINY_PAIRS

import dreambench
from dreambench.artifacts.image_set import read_image_set
from dreambench.config.protocol import load_all, load_protocol
from dreambench.encoders.registry import load_spec
from dreambench.errors import UserError
from dreambench.metrics.conventions import find_convention
from dreambench.storage.images import load_image
from dreambench.study.plan import make_study


@pytest.fixture(scope="module")
def own(tmp_path_factory, shared_cache):
    """The protocol's file, and the words that are the same for each command."""
    folder = tmp_path_factory.mktemp("pairs")
    (folder / "own.toml").write_text(TINY_PAIRS)
    return folder, ("--protocol", folder / "own.toml", "--cache", shared_cache, "--device", "cpu")


@pytest.fixture(scope="module")
def made(own):
    """A run of class-only with copies alongside: its folder, and what was printed."""
    folder, words = own
    done = invoke("run", "--method", "class-only", *words, "--out", folder / "runs")
    return folder / "runs" / "own", done.stdout


def test_a_run_has_images_and_numbers_of_each_pair(made):
    found = dreambench.load_run(made[0] / "class-only")
    assert set(found.scores["subject"]) == {"dog+mug", "plushie+plushie2"}
    assert set(found.scores["kind"]) == {"live-object", "object-object"}
    assert found.summary.n_images == found.summary.n_images_expected == 4
    measured = {name for name, part in found.summary.metrics.items() if part.n_scored}
    assert measured == {
        "pair-dino", "pair-clip-i", "clip-t", "pair-own-dino", "pair-own-clip-i", "pair-both",
        "pair-twice", "pair-swapped", "prompt-rank",
    }  # fmt: skip
    swapped = found.scores[found.scores["metric"] == "pair-swapped"]
    assert set(swapped["subject"]) == {"dog+mug"}


def test_photos_of_both_side_by_side_are_both_subjects_and_the_class_is_neither(made):
    means = {
        name: dreambench.load_run(made[0] / name).means.set_index("metric")["mean"]
        for name in ("class-only", "copy-reference")
    }
    copy, floor = means["copy-reference"], means["class-only"]
    assert copy["pair-both"] == 1
    assert copy["pair-own-dino"] > floor["pair-own-dino"] + 0.2
    assert copy["clip-t"] < floor["clip-t"]


def test_what_the_photos_score_has_both_side_by_side_and_each_alone(made):
    bounds = pd.read_csv(made[0] / "class-only" / "reference-bounds.csv")
    assert set(bounds["metric"]) == {"pair-dino", "pair-clip-i"}
    assert bounds["faithful_bound"].isna().all()
    assert (bounds[["first_alone_bound", "second_alone_bound"]] > 0.2).all(axis=None)
    page = (made[0] / "class-only" / "report" / "report.md").read_text()
    for words in ("side by side", "first subject alone", "second subject alone"):
        assert words in page


def test_the_report_names_the_pairs_of_which_no_prompt_says_which_is_which(made):
    lines = [line for line in made[1].splitlines() if "1 of 2 pairs" in line]
    assert lines and all("plushie+plushie2" in line for line in lines)


def test_a_folder_as_uno_writes_it_gives_the_numbers_of_the_run(own, made, tmp_path):
    _, words = own
    images = made[0] / "class-only" / "images"
    texts = {"beach": "a {} and a {} on the beach", "red": "a red {}, next to it is a {}"}
    nouns = {"dog+mug": ("dog", "mug"), "plushie+plushie2": ("plushie", "plushie")}
    listed = [
        (pair, text.format(*both), 0, images / pair / prompt / "0.png")
        for pair, both in nouns.items()
        for prompt, text in texts.items()
    ]
    theirs = write_uno(tmp_path / "inference", listed)
    (theirs / "0_1.png").write_bytes((theirs / "0_0.png").read_bytes())
    note = json.loads((theirs / "0_0.json").read_text())
    note["image_paths"].reverse()
    (theirs / "0_1.json").write_text(json.dumps(note))
    done = invoke("score", theirs, *words, "--name", "uno", "--out", tmp_path / "scores")
    assert "(uno)" in done.stdout and "mug+dog" in done.stdout
    found = dreambench.load_run(tmp_path / "scores" / "own" / "uno").scores
    wanted = dreambench.load_run(made[0] / "class-only").scores
    assert found.equals(wanted)


def test_conventions_take_the_mean_of_both_subjects(own, made, tmp_path):
    _, words = own
    images = made[0] / "copy-reference" / "images"
    invoke(
        "score", images, *words, "--name", "x", "--out", tmp_path, "--convention",
        "paper,kosmos-g", "--layout", "subject/prompt",
    )  # fmt: skip
    table = pd.read_csv(tmp_path / "own" / "x" / "conventions.csv")
    found = table.set_index(["convention", "metric"])["mean"]
    means = dreambench.load_run(tmp_path / "own" / "x").summary.metrics
    every = dreambench.load_run(tmp_path / "own" / "x").scores.groupby("metric")["value"].mean()
    assert means["pair-dino"].n_scored == 40
    assert found["paper", "dino"] == pytest.approx(every["pair-dino"], abs=0.02)
    protocol = load_protocol(str(own[0] / "own.toml"))
    spec = find_convention("kosmos-g").encoders(protocol)["dino"]
    encode = load_spec(spec, device="cpu").encode_images
    wanted = []
    for pair in load_all(protocol, protocol.find_dataset()):
        rows = encode([load_image(path) for path in sorted((images / pair.name).rglob("*.png"))])
        photos = encode([load_image(one.photos[one.single]) for one in pair.each])
        wanted += (rows @ photos.T).ravel().tolist()
    assert found["kosmos-g", "dino"] == pytest.approx(100 * np.mean(wanted), abs=1e-3)


def test_what_is_for_one_subject_is_refused(own, tmp_path):
    _, words = own
    for method in ("textual-inversion", "ip-adapter"):
        line = refused("run", "--method", method, *words, "--out", tmp_path / "runs")
        assert f"'{method}'" in line and "show 2" in line
    line = refused("run", "--method", "class-only", "--metric", "rank-1", *words)
    assert "'rank-1'" in line
    line = refused("run", "--method", "class-only", "--subjects", "dog", *words)
    assert "'dog'" in line
    assert not (tmp_path / "runs").exists()


def test_a_metric_of_two_is_refused_for_one_subject(tiny, tmp_path):
    line = refused(
        "run", "--method", "class-only", "--protocol", tiny[0], "--metric", "pair-both",
        "--out", tmp_path,
    )  # fmt: skip
    assert "'pair-both'" in line


def test_a_study_is_refused_whose_questions_are_about_one_item(made):
    runs = [made[0] / name for name in ("class-only", "copy-reference")]
    with pytest.raises(UserError) as caught:
        make_study([read_image_set(path) for path in runs])
    assert caught.value.code == "unsupported-protocol"


def test_a_record_of_pairs_is_made_and_checked(own, made, tmp_path):
    folder, _ = own
    invoke("submit", made[0] / "copy-reference", "--out", tmp_path / "records")
    for named in ((), ("--protocol", folder / "own.toml")):
        done = invoke("leaderboard", "check", tmp_path / "records", *named)
        lines = [line for line in done.stdout.splitlines() if line.startswith("failed")]
        assert not lines
        assert "regions is" not in done.stdout
