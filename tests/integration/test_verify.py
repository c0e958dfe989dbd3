"""What lies in a folder is what was made: else it is made again or named, and `verify` says so."""

import json
import shutil

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from conftest import invoke, refused, tree
from PIL import Image

from dreambench.artifacts.image_set import hold_folder, read_image_set
from dreambench.artifacts.results import read_reference_bounds, read_scores, write_scores
from dreambench.cli.verification import parse_share
from dreambench.errors import UserError
from dreambench.storage.files import read_json, sha256_file, write_json
from dreambench.storage.sums import FILE_NAME, read_sums

IMAGE = "images/dog/beach/0.png"


def checks(*words, status=0):
    """The outcomes of `verify --json` by what was looked at."""
    found = json.loads(invoke("verify", *words, "--json", status=status).stdout)
    assert found["passed"] == (status == 0)
    return {one["what"]: (one["outcome"], " ".join(one["lines"])) for one in found["checks"]}


def failed(found):
    return {what for what, (outcome, _) in found.items() if outcome == "failed"}


def change_pixels(path):
    """Another picture of the same size, as someone would put there."""
    image = np.asarray(Image.open(path)).copy()
    image[:8] = 255 - image[:8]
    Image.fromarray(image).save(path)


def pin_again(folder):
    """List what is listed with the hashes that it has now, as whoever changed it would do next."""
    sums = {name: sha256_file(folder / name) for name in read_sums(folder)}
    (folder / FILE_NAME).write_text("".join(f"{sums[name]}  {name}\n" for name in sums))


def edit_scores(folder, edit):
    """Change the rows of scores.parquet and keep what it says of its metrics."""
    path = folder / "scores.parquet"
    content = pq.read_table(path)
    frame = content.to_pandas()
    edit(frame)
    table = content.from_pandas(frame, preserve_index=False)
    pq.write_table(table.replace_schema_metadata(content.schema.metadata), path)


def test_a_run_verifies_to_its_pixels_and_nothing_is_changed(copied):
    before = tree(copied)
    found = checks(copied, "--all")
    assert not failed(found)
    outcome, line = found["scores from pixels"]
    assert outcome == "passed" and "of 12 images" in line
    assert tree(copied) == before


def test_a_sample_is_drawn_by_its_seed(copied):
    found = checks(copied, "--sample", "20 %", "--seed", 3)
    assert "of 4 images" in found["scores from pixels"][1]
    assert found == checks(copied, "--sample", ".2", "--seed", 3)
    assert (
        found["scores from pixels"]
        == checks(copied, "--sample", "20%", "--seed", 3)["scores from pixels"]
    )
    none = checks(copied, "--sample", "0")
    assert none["scores from pixels"][0] == "not checked"


@pytest.mark.parametrize("text", ["half", "-1", "101 %", "", "nan"])
def test_a_sample_that_is_no_share_is_one_line(copied, text):
    assert "--sample" in refused("verify", copied, "--sample", text)
    with pytest.raises(UserError):
        parse_share(text)


@pytest.mark.parametrize(
    ("name", "what"),
    [
        (IMAGE, "images"), ("train/dog/losses.json", "weights"), ("scores.parquet", "results"),
        ("reference-bounds.csv", "results"), ("summary.json", "results"),
        ("report/table.csv", "report"),
    ],
)  # fmt: skip
def test_each_product_with_one_flipped_bit_is_found(copied, name, what):
    content = bytearray((copied / name).read_bytes())
    content[len(content) // 2] ^= 1
    (copied / name).write_bytes(content)
    found = checks(copied, "--sample", "0", status=1)
    assert what in failed(found)
    assert name.rpartition("/")[2] in found[what][1]


def test_products_that_are_gone_are_found(copied):
    (copied / IMAGE).unlink()
    (copied / "reference-bounds.csv").unlink()
    found = checks(copied, "--sample", "0", status=1)
    assert {"images", "results"} <= failed(found)
    assert "dog/beach/0.png" in found["images"][1]


@pytest.mark.parametrize(
    ("edit", "fact"),
    [
        (lambda frame: frame.loc.__setitem__((0, "value"), 7.5), "7.5"),
        (lambda frame: frame.loc.__setitem__((0, "k"), 99), "not in the plan"),
        (lambda frame: frame.loc.__setitem__((0, "metric"), "fame"), "fame"),
        (lambda frame: frame.loc.__setitem__((0, "n_pairs"), 10**6), "pairs"),
        (lambda frame: frame.loc.__setitem__((0, "value"), np.nan), "not a number"),
    ],
)
def test_scores_that_cannot_be_are_refused_even_with_their_hash_changed(copied, edit, fact):
    edit_scores(copied, edit)
    assert "changed since it was written" in refused("report", copied)
    pin_again(copied)
    assert fact in refused("report", copied) and fact in refused("compare", copied, copied)
    found = checks(copied, "--sample", "0", status=1)
    assert "scores" in failed(found) and fact in found["scores"][1]


def test_scores_that_could_be_are_found_from_pixels(copied):
    def flatter(frame):
        is_dino = frame["metric"] == "dino"
        frame.loc[is_dino, "value"] = (frame.loc[is_dino, "value"] + 0.05).clip(upper=1)

    edit_scores(copied, flatter)
    pin_again(copied)
    invoke("summarise", copied)
    invoke("report", copied)
    found = checks(copied, "--all", status=1)
    assert failed(found) == {"scores from pixels"}
    assert "dino of dog/beach/0" in found["scores from pixels"][1]


def test_a_mean_that_the_scores_do_not_give_is_refused(copied):
    summary = read_json(copied / "summary.json")
    summary["metrics"]["dino"]["whole"]["mean"] += 0.01
    write_json(copied / "summary.json", summary)
    pin_again(copied)
    line = refused("report", copied)
    assert "metrics.dino.whole.mean" in line and f"dreambench summarise {copied}" in line
    assert "summary" in failed(checks(copied, "--sample", "0", status=1))
    invoke("summarise", copied)
    invoke("report", copied)
    assert not failed(checks(copied, "--sample", "0"))


def test_a_changed_image_is_never_scored_and_is_made_again(copied, shared_cache):
    before = (copied / IMAGE).read_bytes()
    change_pixels(copied / IMAGE)
    line = refused("score", copied, "--cache", shared_cache)
    assert str(copied / IMAGE) in line and f"dreambench generate {copied}" in line
    done = invoke("generate", copied, "--cache", shared_cache)
    assert "1 images" in done.stderr and IMAGE in done.stderr
    assert (copied / IMAGE).read_bytes() == before
    invoke("score", copied, "--cache", shared_cache)
    assert not failed(checks(copied, "--sample", "0"))


def test_an_image_that_nobody_made_is_made(copied, shared_cache):
    before = (copied / IMAGE).read_bytes()
    sums = copied / "images" / "dog" / "SHA256SUMS"
    lines = [line for line in sums.read_text().splitlines() if "beach/0.png" not in line]
    sums.write_text("\n".join(lines) + "\n")
    change_pixels(copied / IMAGE)
    invoke("generate", copied, "--cache", shared_cache)
    assert (copied / IMAGE).read_bytes() == before


def test_changed_weights_draw_nothing_and_are_trained_again(copied, shared_cache):
    (weights, *_) = sorted((copied / "train" / "dog").glob("*.safetensors"))
    before, image = weights.read_bytes(), (copied / IMAGE).read_bytes()
    content = bytearray(before)
    content[-1] ^= 1
    weights.write_bytes(content)
    # Nothing is drawn from them as long as every image is there.
    invoke("generate", copied, "--cache", shared_cache)
    assert weights.read_bytes() == bytes(content)
    (copied / IMAGE).unlink()
    assert f"dreambench train {copied}" in refused("generate", copied, "--cache", shared_cache)
    invoke("train", copied, "--cache", shared_cache)
    invoke("generate", copied, "--cache", shared_cache)
    assert weights.read_bytes() == before and (copied / IMAGE).read_bytes() == image


def test_a_changed_class_image_is_generated_again(copied, shared_cache, tmp_path):
    cache = tmp_path / "cache"
    # What another worker is about to write comes and goes.
    writing = shutil.ignore_patterns("staging", "*.part")
    shutil.copytree(shared_cache / "class-images", cache / "class-images", ignore=writing)
    images = sorted((cache / "class-images").glob("*/0.png"))
    before = [path.read_bytes() for path in images]
    for path in images:
        change_pixels(path)
    weights = tree(copied / "train" / "dog")
    shutil.rmtree(copied / "train" / "dog")
    (copied / IMAGE).unlink()
    invoke("train", copied, "--cache", cache)
    again = tree(copied / "train" / "dog")
    assert all(again[name] == weights[name] for name in weights if name.endswith(".safetensors"))
    # Those of dogs; nobody asked for the others.
    assert sum(path.read_bytes() == known for path, known in zip(images, before, strict=True)) == 1


def test_images_that_were_made_anew_are_scored_anew(copied):
    change_pixels(copied / IMAGE)
    pin_again(copied / "images" / "dog")
    assert "made anew" in refused("report", copied)
    assert "made anew" in checks(copied, "--sample", "0", status=1)["scores"][1]


@pytest.fixture(scope="module")
def external(finished, tmp_path_factory, shared_cache):
    """Scores of external images, and the folder of the images."""
    root = tmp_path_factory.mktemp("external")
    images = root / "images"
    for path in (finished[0] / "class-only" / "images").rglob("*.png"):
        target = images / path.relative_to(finished[0] / "class-only" / "images")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    protocol = finished[1][2]
    invoke(
        "score", images, "--protocol", protocol, "--name", "mine", "--out", root / "scores",
        "--cache", shared_cache,
    )  # fmt: skip
    return root / "scores" / "tiny" / "mine", images


def test_external_scores_verify_against_their_images(external):
    folder, images = external
    found = checks(folder)
    assert found["scores from pixels"][0] == "not checked"
    assert "--images" in found["scores from pixels"][1]
    found = checks(folder, "--images", images, "--all")
    assert not failed(found)
    assert "of 12 images" in found["scores from pixels"][1]


def test_other_images_than_those_that_were_scored_are_named(external, tmp_path):
    folder, images = external
    other = shutil.copytree(images, tmp_path / "other")
    change_pixels(other / "dog" / "beach" / "0.png")
    found = checks(folder, "--images", other, status=1)
    assert failed(found) == {"images"} and IMAGE in found["images"][1]


def test_what_is_no_run_is_one_line(tmp_path):
    assert str(tmp_path) in refused("verify", tmp_path)


def test_a_kill_in_a_second_score_leaves_no_mixture(copied, monkeypatch):
    """The scores change, and the process ends before the summary is made again."""
    images = read_image_set(copied)
    table, bounds = read_scores(images), read_reference_bounds(images)
    frame = table.frame.assign(value=table.frame["value"] * 0.999)
    write_scores(images, type(table)(frame, table.metrics, table.identities, table.images), bounds)
    assert f"dreambench summarise {copied}" in refused("report", copied)
    assert pd.read_parquet(copied / "scores.parquet")["value"].equals(frame["value"])
    assert json.loads(invoke("status", copied, "--json").stdout)["summarised"] is False


def test_a_kill_before_the_first_manifest_leaves_nothing_for_good(tmp_path):
    ours, others = tmp_path / ".run.json.123.part", tmp_path / ".notes.txt.123.part"
    for path in (ours, others):
        path.write_text("{")
    with hold_folder(tmp_path):
        assert not ours.exists() and others.exists()
