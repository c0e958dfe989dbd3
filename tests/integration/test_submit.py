"""`dreambench submit`: a record holds all that its numbers follow from, and nothing private."""

import getpass
import json
import shutil
import socket
from dataclasses import replace
from pathlib import Path
from typing import get_args

import jsonschema
import pytest
from conftest import find_refusal, invoke, refused, refused_at_once, tree
from local_hub import REPOSITORY, TOKEN, Hub, point_to
from PIL import Image

from dreambench import cli
from dreambench.artifacts.cells import list_images, make_scores
from dreambench.artifacts.image_set import read_image_set
from dreambench.artifacts.record import (
    MAX_BYTES,
    Evaluator,
    find_digest,
    make_json_schema,
    read_cells,
    read_record,
)
from dreambench.artifacts.results import read_scores, read_summary
from dreambench.leaderboard.numbers import compute_metrics
from dreambench.leaderboard.submission import About, make_submission
from dreambench.storage.files import sha256_file

NO_PIXELS = ("--sample", "0")


@pytest.fixture
def runs(finished, tmp_path):
    """A private copy of the finished run with the methods alongside it."""
    return shutil.copytree(finished[0], tmp_path / "runs" / "tiny")


def submit(folder, out, *words):
    invoke("submit", folder, "--out", out, *NO_PIXELS, *words)
    (path,) = out.glob("*/*/*")
    return path


def test_a_record_holds_what_its_numbers_follow_from(runs, tmp_path):
    before = tree(runs)
    folder = submit(runs / "quick", tmp_path / "records", "--paper", "https://example.org/paper")
    assert tree(runs) == before
    record = read_record(folder)
    cells = read_cells(folder, record)
    images = read_image_set(runs / "quick")
    summary, table = read_summary(images), read_scores(images)
    assert folder.relative_to(tmp_path / "records") == record.path
    assert find_digest(record, cells) == record.digest
    assert list_images(cells) == table.images
    scores = make_scores(cells, list(record.metrics))
    infos = [entry.info for entry in record.metrics.values()]
    assert compute_metrics(scores, infos) == record.metrics
    for name, entry in summary.metrics.items():
        assert record.metrics[name].whole == entry.whole
    assert record.status == "submitted" and not record.partial
    assert record.floor.name == "class-only"
    assert record.recipe == images.manifest.recipe
    assert record.paper_url == "https://example.org/paper"
    for name, known in record.files.items():
        assert sha256_file(folder / name) == known
        assert (folder / name).stat().st_size <= MAX_BYTES[name]
    assert {unit.seed for unit in images.plan.images} == set(cells["seed"].dropna())


def test_the_same_run_gives_the_same_bytes(runs, tmp_path):
    first = submit(runs / "quick", tmp_path / "a")
    second = submit(runs / "quick", tmp_path / "b")
    assert tree(first) == tree(second)
    assert submit(runs / "quick", tmp_path / "a") == first


def test_thumbnails_say_that_they_were_generated(runs, tmp_path):
    folder = submit(runs / "quick", tmp_path / "records")
    with Image.open(folder / "thumbnails.webp") as strip:
        assert strip.format == "WEBP" and min(strip.size) > 64
        about = strip.info["xmp"].decode()
    assert "trainedAlgorithmicMedia" in about and read_record(folder).digest in about


def test_the_schema_that_is_shipped_is_that_of_records(runs, tmp_path):
    import dreambench.artifacts.record as module  # noqa: PLC0415

    shipped = json.loads(module.SCHEMA_PATH.read_text())
    assert shipped == make_json_schema()
    folder = submit(runs / "quick", tmp_path / "records")
    content = json.loads((folder / "record.json").read_text())
    jsonschema.validate(content, shipped)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(content | {"mine": 1}, shipped)


def test_what_does_not_verify_gives_no_record(runs, tmp_path):
    path = next((runs / "quick" / "images" / "dog").rglob("0.png"))
    Image.new("RGB", Image.open(path).size, "red").save(path)
    line = refused("submit", runs / "quick", "--out", tmp_path / "records", *NO_PIXELS)
    assert "verify" in line and "images" in line
    assert not (tmp_path / "records").exists()


def test_pixels_are_scored_again_before_a_record_is_made(runs, tmp_path, shared_cache):
    done = invoke("submit", runs / "quick", "--out", tmp_path / "records", "--sample", "5 %")
    assert "leaderboard check" in done.stdout


def test_a_dry_run_shows_all_and_writes_nothing(runs, tmp_path):
    words = ("submit", runs / "quick", "--out", tmp_path / "records", "--dry-run", *NO_PIXELS)
    assert "would hold" in invoke(*words).stdout
    shown = json.loads(invoke(*words, "--json").stdout)
    assert shown["record"]["method"]["name"] == "quick" and not shown["written"]
    assert not (tmp_path / "records").exists()


def test_missing_images_are_counted_and_named_and_make_it_partial(runs, tmp_path):
    run = runs / "quick"
    for name in ("images/dog/beach/0.png",):
        (run / name).unlink()
    sums = run / "images" / "dog" / "SHA256SUMS"
    kept = [line for line in sums.read_text().splitlines() if "beach/0.png" not in line]
    sums.write_text("".join(f"{line}\n" for line in kept))
    invoke("score", run)
    invoke("summarise", run, "--allow-incomplete")
    done = invoke("submit", run, "--out", tmp_path / "records", *NO_PIXELS)
    assert "partial" in done.stdout
    (folder,) = (tmp_path / "records").glob("*/*/*")
    record = read_record(folder)
    assert record.partial and record.missing == ["images/dog/beach/0.png"]
    assert record.n_images == record.n_images_expected - 1
    assert list_images(read_cells(folder, record))["images/dog/beach/0.png"] is None


def test_a_run_says_itself_what_it_is(runs, tmp_path):
    assert "recipe" in refused("submit", runs / "quick", "--title", "x", *NO_PIXELS)
    line = refused("submit", runs / "quick", "--code", "file:///etc/passwd", *NO_PIXELS)
    assert "code" in line and "https://" in line


def test_no_name_of_the_machine_goes_out(runs, monkeypatch):
    images = read_image_set(runs / "quick")
    for module, name in ((socket, "gethostname"), (getpass, "getuser")):
        monkeypatch.setattr(module, name, lambda: "tiny")
        with pytest.raises(Exception, match="by whom"):
            make_submission(images, About())
        monkeypatch.undo()


@pytest.mark.parametrize("text", ["/home/ann/photos", "~/photos/dog", "C:\\Users\\ann\\photos"])
def test_no_path_goes_out(runs, text):
    images = read_image_set(runs / "quick")
    source = images.manifest.recipe.model_copy(update={"source": f"see {text}"})
    images = replace(images, manifest=images.manifest.model_copy(update={"recipe": source}))
    with pytest.raises(Exception, match="where"):
        make_submission(images, About())


def test_external_images_are_described_by_who_submits_them(finished, tmp_path, shared_cache):
    root = tmp_path / "mine"
    for path in (finished[0] / "class-only" / "images").rglob("*.png"):
        target = root / path.relative_to(finished[0] / "class-only" / "images")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    protocol = Path(finished[1][2])
    invoke(
        "score", root, "--protocol", protocol, "--name", "mine", "--out", tmp_path / "scores",
        "--cache", shared_cache,
    )  # fmt: skip
    folder = submit(
        tmp_path / "scores" / "tiny" / "mine", tmp_path / "records", "--images-dir", root,
        "--title", "Mine", "--base-model", "sd15", "--track", "tuning-free, 1 photo",
        "--evaluator", "third-party",
    )  # fmt: skip
    record = read_record(folder)
    assert record.origin == "external" and record.evaluator == "third-party"
    assert record.method.title == "Mine" and record.recipe is None
    assert record.method.base_model.licence == "creativeml-openrail-m"
    assert (folder / "thumbnails.webp").is_file()


def test_push_opens_a_pull_request_with_what_was_written(runs, tmp_path, monkeypatch):
    hub = Hub()
    point_to(monkeypatch, hub.url)
    out = tmp_path / "records"
    words = ("submit", runs / "quick", "--out", out, *NO_PIXELS, "--push", REPOSITORY)
    shown = invoke(*words, "--dry-run").stdout
    assert not hub.asked and not out.exists()
    done = invoke(*words)
    (folder,) = out.glob("*/*/*")
    path = folder.relative_to(out).as_posix()
    assert path in shown and REPOSITORY in shown
    assert f"{hub.url}/datasets/{REPOSITORY}/discussions/7" in done.stdout
    # What goes out is shown before it does.
    assert done.stdout.index("cells.parquet") < done.stdout.index("discussions/7")
    assert hub.read_files() == {f"records/{path}/{name}": b for name, b in tree(folder).items()}


def test_record_stays_when_it_cannot_be_pushed(runs, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    out = tmp_path / "records"
    words = ("submit", runs / "quick", "--out", out, *NO_PIXELS, "--json", "--push", REPOSITORY)
    line = find_refusal(invoke(*words, status=2))
    assert TOKEN not in line
    (folder,) = out.glob("*/*/*")
    assert "HF_HUB_OFFLINE" in line and str(folder) in line and "git clone" in line
    assert read_record(folder).path == folder.relative_to(out)


def test_repository_is_checked_before_anything_is_verified(runs, tmp_path):
    for name in ("records", "https://github.com/a/b"):
        words = ("submit", runs / "quick", "--out", tmp_path / "out", "--push", name)
        assert "--push" in refused_at_once(*words)
    assert not (tmp_path / "out").exists()


def test_the_options_of_the_command_are_those_of_the_record():
    choices = {option.name: option.type for option in cli.main.commands["submit"].params}
    assert tuple(choices["evaluator"].choices) == get_args(Evaluator)
