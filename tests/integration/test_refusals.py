"""What a run refuses: another run's folder, wrong names, missing data, a disk that is full."""

import hashlib
import os
import re
import shutil

import pytest
from conftest import TINY_PROTOCOL, invoke, refused, tree
from processes import call

from dreambench.artifacts.image_set import hold_folder
from dreambench.datasets.index import find_dataset


@pytest.mark.parametrize(
    ("file", "old", "new", "change"),
    [
        ("tiny.toml", "guidance_scale = 3.0", "guidance_scale = 3.5", "guidance_scale: 3.0 -> 3.5"),
        ("tiny.toml", "a red {subject}", "a blue {subject}", "'a red {subject}' -> 'a blue"),
        ("quick.toml", "n_steps = 6", "n_steps = 7", "n_steps: 6 -> 7"),
    ],
)
def test_another_protocol_or_recipe_under_an_old_folder_is_refused(
    finished, tmp_path, shared_cache, file, old, new, change
):
    root = finished[0].parent.parent
    for name in ("tiny.toml", "quick.toml"):
        text = (root / name).read_text()
        (tmp_path / name).write_text(text.replace(old, new) if name == file else text)
    before = tree(finished[0])
    line = refused(
        "run", "--protocol", tmp_path / "tiny.toml", "--method", tmp_path / "quick.toml",
        "--out", root / "runs", "--cache", shared_cache, "--batch-size", 4,
    )  # fmt: skip
    assert str(finished[0] / "quick") in line
    assert change in line
    assert "--out" in line
    assert tree(finished[0]) == before


def test_another_batch_size_under_an_old_folder_is_refused(finished):
    _, words, _ = finished
    assert "batch_size: 4 -> 3" in refused(*words[:-1], 3)


def test_second_process_on_a_folder_is_refused(finished):
    folder, *_ = finished
    with hold_folder(folder / "quick"):
        done = call("score", folder / "quick")
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("dreambench:")]
    assert str(folder / "quick") in line
    assert "Traceback" not in done.stderr


def test_unknown_names_suggest_and_leave_nothing(tmp_path):
    out = ("--out", tmp_path / "runs")
    words = ("run", "--method", "class-only", "--alongside", "", *out)
    mini = (*words, "--protocol", "mini")
    for command, name, suggested in (
        (("run", "--method", "dreamboot", *out), "dreamboot", "dreambooth"),
        ((*words, "--protocol", "minni"), "minni", "mini"),
        ((*mini, "--subjects", "dgo"), "dgo", "dog"),
        ((*mini, "--base-model", "sd99"), "sd99", "sd15"),
        ((*mini, "--device", "tpu9"), "tpu9", "cpu"),
        # Torch knows these names; it is not built for one, and the other has no numbers.
        ((*mini, "--device", "hpu"), "hpu", "cpu"),
        ((*mini, "--device", "meta"), "meta", "cpu"),
        ((*mini, "--metric", "dinno"), "dinno", "dino"),
    ):
        line = refused(*command)
        assert f"'{name}'" in line, line
        assert re.search(rf"\b{suggested}\b", line.replace(f"'{name}'", "")), line
    assert not (tmp_path / "runs").exists()


def test_paper_protocol_without_weights_says_which_file_goes_where(tmp_path):
    done = call(
        "run", "--method", "class-only", "--protocol", "dreambench", "--out", tmp_path / "runs",
        env={**os.environ, "DREAMBENCH_CACHE": str(tmp_path), "DREAMBENCH_DATA": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "'dino-vits16'" in line
    file = "dino_deitsmall16_pretrain.pth"
    assert f"https://dl.fbaipublicfiles.com/dino/dino_deitsmall16_pretrain/{file}" in line
    assert str(tmp_path / "weights" / "dino-vits16" / file) in line
    assert not (tmp_path / "runs").exists()


def test_paper_dataset_without_photos_says_which_are_missing_and_how_to_get_them(tmp_path):
    text = TINY_PROTOCOL.replace('dataset = "mini"', 'dataset = "dreambooth"')
    (tmp_path / "photos.toml").write_text(text.replace('"mug"', '"cat"'))
    (tmp_path / "photos").mkdir()
    done = call(
        "run", "--method", "class-only", "--protocol", tmp_path / "photos.toml",
        "--out", tmp_path / "runs", "--cache", tmp_path / "cache",
        env={**os.environ, "DREAMBENCH_DATA": str(tmp_path / "photos")},
    )  # fmt: skip
    assert done.returncode == 2
    # Before it stands what mini's encoders know of the paper's photos.
    line = done.stderr.splitlines()[-1]
    assert str(tmp_path / "photos") in line
    # Ten photos of a dog and a cat; three are named.
    assert "cat/00.jpg" in line and " 7 more" in line
    assert "dreambench data fetch" in line and "DREAMBENCH_DATA" in line
    assert not (tmp_path / "runs").exists()


def test_file_in_the_way_is_one_line(tmp_path, shared_cache):
    (tmp_path / "runs").write_text("a file")
    line = refused(
        "run", "--method", "class-only", "--protocol", "mini", "--out", tmp_path / "runs",
        "--cache", shared_cache,
    )  # fmt: skip
    assert str(tmp_path / "runs") in line and "--out" in line
    assert (tmp_path / "runs").read_text() == "a file"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_folder_that_may_not_be_written_is_one_line(tmp_path, shared_cache):
    (tmp_path / "closed").mkdir(mode=0o555)
    line = refused(
        "run", "--method", "class-only", "--protocol", "mini", "--out", tmp_path / "closed",
        "--cache", shared_cache,
    )  # fmt: skip
    assert str(tmp_path / "closed") in line and "--out" in line


def test_folder_with_other_things_is_left_alone(finished, tmp_path):
    _, words, _ = finished
    (tmp_path / "tiny" / "quick").mkdir(parents=True)
    (tmp_path / "tiny" / "quick" / "thesis.tex").write_text("years of work")
    changed = [tmp_path if word == finished[0].parent else word for word in words]
    line = refused(*changed)
    assert str(tmp_path / "tiny" / "quick") in line and "--out" in line
    assert (tmp_path / "tiny" / "quick" / "thesis.tex").read_text() == "years of work"


def test_no_space_left_is_one_line_and_the_run_resumes_later(finished, tmp_path):
    folder, words, _ = finished
    changed = [str(tmp_path) if word == folder.parent else str(word) for word in words]
    # Small files pass, the trained weights do not.
    done = call(*changed, max_file_bytes=1_000_000)
    assert done.returncode == 2, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("dreambench:")]
    assert str(tmp_path / "tiny" / "quick" / "train" / "dog") in line
    assert "run the same command again" in line
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.glob("tiny/quick/train/dog"))
    invoke(*changed)
    assert tree(tmp_path / "tiny" / "quick" / "images") == tree(folder / "quick" / "images")


@pytest.fixture
def own_dataset(tmp_path):
    """A private copy of mini's subjects, and a protocol and words that use it."""
    source = find_dataset("mini")
    folder = shutil.copytree(source.photos_dir, tmp_path / "photos")
    text = TINY_PROTOCOL.replace('dataset = "mini"', f'dataset = "{folder}"')
    (tmp_path / "own.toml").write_text(text)
    words = (
        "run", "--protocol", tmp_path / "own.toml", "--method", "copy-reference",
        "--alongside", "", "--out", tmp_path / "runs",
    )  # fmt: skip
    return folder, words


def replace_pinned(folder, photo, content):
    """Gives a photo other bytes and pins these."""
    pins = []
    for version in (photo.read_bytes(), content):
        pins.append(f"{hashlib.sha256(version).hexdigest()},{len(version)},")
    photo.write_bytes(content)
    index = folder / "images.csv"
    assert pins[0] in index.read_text()
    index.write_text(index.read_text().replace(*pins))


def test_photo_with_other_bytes_than_pinned_is_named(own_dataset, shared_cache):
    folder, words = own_dataset
    photo = folder / "dog" / "00.png"
    photo.write_bytes(photo.read_bytes() + b"x")
    mask = folder / "mug" / "01-mask.png"
    mask.unlink()
    line = refused(*words, "--cache", shared_cache)
    assert "dog/00.png has 4306 bytes, not 4305" in line
    assert "mug/01-mask.png is missing" in line


def test_unreadable_photo_is_named(own_dataset, shared_cache):
    folder, words = own_dataset
    photo = folder / "dog" / "00.png"
    replace_pinned(folder, photo, b"no picture")
    assert str(photo) in refused(*words, "--cache", shared_cache)


@pytest.mark.parametrize("first_run", [(), ("--subjects", "dog")], ids=["whole", "narrowed"])
def test_other_photos_under_an_old_folder_are_refused(own_dataset, shared_cache, first_run):
    folder, words = own_dataset
    invoke(*words, *first_run, "--cache", shared_cache)
    run_dir = words[-1] / "own" / "copy-reference"
    before = tree(run_dir)
    replace_pinned(folder, folder / "dog" / "00.png", (folder / "dog" / "01.png").read_bytes())
    line = refused(*words, "--cache", shared_cache)
    assert str(run_dir) in line
    assert "digests.data: " in line
    for command in (("score", run_dir), ("summarise", run_dir), ("report", run_dir)):
        assert str(run_dir) in refused(*command)
    assert tree(run_dir) == before


def test_report_refuses_runs_of_two_protocols(finished, tmp_path, shared_cache):
    text = TINY_PROTOCOL.replace("guidance_scale = 3.0", "guidance_scale = 2.0")
    (tmp_path / "other.toml").write_text(text)
    invoke(
        "run", "--protocol", tmp_path / "other.toml", "--method", "copy-reference",
        "--alongside", "", "--out", tmp_path, "--cache", shared_cache,
    )  # fmt: skip
    other = tmp_path / "other" / "copy-reference"
    line = refused("report", finished[0] / "quick", other)
    assert str(other) in line and str(finished[0] / "quick") in line
    assert "protocol" in line


def test_an_unknown_segmenter_is_one_line(tmp_path, shared_cache):
    text = TINY_PROTOCOL.replace('"mini-segmenter"', '"mini-segmenters"')
    (tmp_path / "other.toml").write_text(text)
    line = refused(
        "run", "--protocol", tmp_path / "other.toml", "--method", "copy-reference",
        "--out", tmp_path / "runs", "--cache", shared_cache,
    )  # fmt: skip
    assert "'mini-segmenters'" in line and "'mini-segmenter'" in line
    assert not (tmp_path / "runs").exists()
