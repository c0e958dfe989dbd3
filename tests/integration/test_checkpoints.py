"""`--checkpoints`: one training, scored on the way, with a photo held out."""

import shutil

import pandas as pd
import pytest
from conftest import LIGHT_PROTOCOL, TINY_PROTOCOL, TINY_RECIPE, invoke, refused, tree
from PIL import Image

from dreambench.artifacts.image_set import read_image_set
from dreambench.artifacts.manifest import read_manifest
from dreambench.artifacts.results import read_scores, read_summary
from dreambench.encoders.registry import load_encoder
from dreambench.metrics.base import compute_cosines
from dreambench.storage.images import load_image

STEPS = (2, 5)


def write_inputs(root):
    (root / "tiny.toml").write_text(TINY_PROTOCOL)
    (root / "quick.toml").write_text(TINY_RECIPE)
    return ["run", "--protocol", root / "tiny.toml", "--method", root / "quick.toml"]


@pytest.fixture(scope="module")
def checked(tmp_path_factory, shared_cache):
    """The folder of the runs of `--checkpoints`, and the words of the command."""
    root = tmp_path_factory.mktemp("checkpoints")
    words = [
        *write_inputs(root), "--alongside", "class-only", "--checkpoints", "5,2",
        "--out", root / "runs", "--cache", shared_cache,
    ]  # fmt: skip
    invoke(*words)
    return root / "runs" / "tiny-checkpoints", words


def test_each_checkpoint_is_a_run_with_what_training_to_it_alone_leaves(
    checked, tmp_path, shared_cache
):
    """Weights and pixels are to the byte those of a run with so many steps on the same photos."""
    root, _ = checked
    words = write_inputs(tmp_path)
    (tmp_path / "tiny.toml").write_text(f'references = "all-but-last"\n{LIGHT_PROTOCOL}')
    for step in STEPS:
        invoke(
            *words, "--alongside", "", "--set", f"n_steps={step}", "--out", tmp_path / "alone",
            "--cache", shared_cache,
        )  # fmt: skip
        name = f"quick+n_steps={step}"
        alone, found = tmp_path / "alone" / "tiny" / name, root / name
        images = sorted(path.relative_to(alone) for path in alone.glob("images/**/*.png"))
        assert images
        for path in images:  # Pixels, since files say of which protocol they are.
            assert load_image(found / path).tobytes() == load_image(alone / path).tobytes()
        weights = [path.relative_to(alone) for path in alone.glob("train/*/*.safetensors")]
        assert weights
        for path in [*weights, *(p.with_name("losses.json") for p in weights)]:
            assert (found / path).read_bytes() == (alone / path).read_bytes()
        assert not list(found.rglob("step-*"))
        assert read_manifest(found).recipe.settings["n_steps"] == step


def test_the_held_out_photo_is_scored_and_not_trained_on(checked):
    root, _ = checked
    images = read_image_set(root / "quick+n_steps=5")
    assert images.protocol.references == "all-but-last"
    subject = images.subjects[0]
    assert subject.held_out("all-but-last") == subject.photos[-1:]
    assert len(subject.show("all-but-last").photos) == len(subject.photos) - 1
    dino = load_encoder("mini-vit", "dino")
    photo = dino.encode_images([load_image(subject.photos[-1])])
    scores = read_scores(images).frame
    rows = scores[(scores["metric"] == "dino-held-out") & (scores["subject"] == subject.name)]
    assert len(rows)
    for row in rows.itertuples():
        path = images.folder / "images" / row.subject / row.prompt_id / f"{row.k}.png"
        wanted = compute_cosines(dino.encode_images([load_image(path)]), photo)[0, 0]
        assert row.value == pytest.approx(wanted, abs=1e-5)


def test_the_report_has_the_curve(checked):
    root, _ = checked
    report = root / "quick+n_steps=2" / "report"
    table = pd.read_csv(report / "steps.csv")
    assert table["steps"].tolist() == [0, *STEPS]
    assert set(table["method"]) == {"quick"}
    folders = [root / "class-only", *(root / f"quick+n_steps={step}" for step in STEPS)]
    for number, folder in enumerate(folders):
        metrics = read_summary(read_image_set(folder)).metrics
        for name in ("dino-held-out", "clip-t", "pres"):
            shown = table[metrics[name].info.heading][number]
            assert shown == pytest.approx(metrics[name].whole.mean)
    with Image.open(report / "steps.png") as picture:
        assert picture.width > 800
    assert "## Which step?" in (report / "report.md").read_text()


def test_a_command_that_was_stopped_goes_on_and_what_is_lost_is_trained_again(
    checked, tmp_path, shared_cache
):
    root, words = checked
    again = shutil.copytree(root.parent, tmp_path / "runs")
    before = tree(again)
    shutil.rmtree(again / root.name / "quick+n_steps=2" / "train")
    shutil.rmtree(again / root.name / "quick+n_steps=2" / "images")
    invoke(*[again if word == root.parent else word for word in words])
    after = tree(again)
    for path, content in before.items():
        if str(path).endswith((".png", ".safetensors", "losses.json", ".parquet")):
            assert after[path] == content, path


@pytest.mark.parametrize(
    ("words", "fact"),
    [
        (("--checkpoints", "0,5"), "0, 5"), (("--checkpoints", "5,5"), "5, 5"),
        (("--checkpoints", "many"), "many"),
        (("--checkpoints", "2", "--set", "n_steps=3"), "n_steps"),
        (("--method", "copy-reference", "--checkpoints", "2,5"), "n_steps"),
    ],
)  # fmt: skip
def test_checkpoints_that_cannot_be(words, fact, tmp_path, shared_cache):
    command = write_inputs(tmp_path)
    line = refused(*command, *words, "--out", tmp_path / "runs", "--cache", shared_cache)
    assert fact in line
    assert not (tmp_path / "runs").exists()
