"""`dreambench data`: what each command prints, writes and refuses."""

import hashlib
import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from conftest import REAL_PHOTOS, invoke, refused
from PIL import Image
from small_photos import PHOTOS, make_zip

from dreambench import cli
from dreambench.datasets.export import export_dataset
from dreambench.datasets.index import find_dataset
from dreambench.datasets.subjects import load_subjects
from dreambench.errors import UserError

COMMANDS = ("add", "export", "fetch", "list", "show", "verify")


def code_of(*words):
    """Return the code of the mistake that a refused command is about."""
    done = CliRunner().invoke(cli.main, [str(word) for word in words], standalone_mode=False)
    assert isinstance(done.exception.__cause__, UserError), done.output
    assert done.exception.exit_code == 2
    return done.exception.__cause__.code


def test_help_says_what_each_command_does_in_a_line_that_is_not_cut():
    lines = invoke("data", "--help").stdout.splitlines()
    listed = lines[lines.index("Commands:") + 1 :]
    assert [line.split()[0] for line in listed] == list(COMMANDS)
    assert all(line.endswith(".") and "..." not in line and len(line) <= 80 for line in listed)


@pytest.mark.skipif(not REAL_PHOTOS.is_dir(), reason="needs the real photos")
def test_the_real_photos_are_the_pinned_ones():
    assert "158 of 158" in invoke("data", "verify", "--data", REAL_PHOTOS).stdout
    listed = invoke("data", "list", "--data", REAL_PHOTOS).stdout.splitlines()
    assert len(listed) == 31
    assert sum(int(line.split()[-1]) for line in listed[1:]) == 158


def test_verify_reports_all_faults_at_once(tmp_path):
    done = invoke("data", "verify", "--data", tmp_path, status=2)
    assert len(done.stdout.splitlines()) == 158
    assert "0 of 158" in done.stderr
    assert "dreambench data fetch" in done.stderr
    done = invoke("data", "verify", "--data", tmp_path, "--json", status=2)
    content = json.loads(done.stdout)
    assert (content["dataset"], content["n_files"], content["n_valid"]) == ("dreambooth", 158, 0)
    assert content["photos_dir"] == str(tmp_path)
    assert len(content["faults"]) == 158
    assert content["faults"][0]["file"] in content["faults"][0]["problem"]
    content = json.loads(invoke("data", "verify", "--dataset", "mini", "--json").stdout)
    assert content["n_valid"] == content["n_files"] > 0
    assert content["faults"] == []


def test_list_counts_what_is_here(tmp_path):
    (tmp_path / "dog").mkdir()
    (tmp_path / "dog" / "00.jpg").write_bytes(b"x")
    rows = json.loads(invoke("data", "list", "--data", tmp_path, "--json").stdout)
    assert len(rows) == 30
    assert sum(row["n_photos"] for row in rows) == 158
    assert {row["subject"]: row["n_here"] for row in rows if row["n_here"]} == {"dog": 1}
    assert rows[0].keys() == {"subject", "class_name", "kind", "n_photos", "n_here"}
    lines = invoke("data", "list", "--data", tmp_path).stdout.splitlines()
    assert [line.split()[0] for line in lines[1:]] == [row["subject"] for row in rows]
    assert [int(line.split()[-1]) for line in lines[1:]] == [row["n_here"] for row in rows]


def test_fetch_refuses_a_source_without_the_photos(tmp_path, monkeypatch):
    monkeypatch.setenv("DREAMBENCH_CACHE", str(tmp_path / "cache"))
    (tmp_path / "a.zip").write_bytes(make_zip(PHOTOS))
    line = refused("data", "fetch", "--from", tmp_path / "a.zip", "--data", tmp_path / "photos")
    assert "158 of 158" in line
    assert not (tmp_path / "photos").exists()


@pytest.mark.skipif(not REAL_PHOTOS.is_dir(), reason="needs the real photos")
def test_fetch_takes_the_real_photos_from_a_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("DREAMBENCH_CACHE", str(tmp_path / "cache"))
    words = ("data", "fetch", "--from", REAL_PHOTOS, "--data", tmp_path / "photos")
    assert "(158 new)" in invoke(*words).stdout
    assert "(0 new)" in invoke(*words).stdout


def test_a_contact_sheet_is_plotted(tmp_path):
    invoke("data", "show", "mug", "--dataset", "mini", "--out", tmp_path / "mug.png")
    with Image.open(tmp_path / "mug.png") as sheet:
        assert sheet.width > 1000
    assert code_of("data", "show", "mugg", "--dataset", "mini") == "unknown-name"
    words = ("data", "show", "mug", "--dataset", "mini", "--out", tmp_path / "mug.jpg")
    assert code_of(*words) == "invalid-value"


def write_photo(path, *, size=(300, 300), seed=0, exif=b"", mode="RGB"):
    """Write a smooth photo, so that perceptual hashes mean something."""
    small = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    image = Image.fromarray(small).resize(size, Image.Resampling.BICUBIC).convert(mode)
    image.save(path, exif=exif)
    return path


def test_custom_photos_become_a_dataset(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    files = [
        write_photo(tmp_path / "one.jpg", seed=1),
        write_photo(tmp_path / "two.jpg", seed=2, size=(400, 300), exif=exif.tobytes()),
        write_photo(tmp_path / "grey.png", seed=3, mode="L"),
        write_photo(tmp_path / "again.jpg", seed=1, size=(320, 320)),
    ]
    folder = tmp_path / "own"
    done = invoke("data", "add", "my_dog", *files, "--class", "dog", "--to", folder)
    assert "one.jpg and again.jpg are nearly the same picture" in done.stdout
    assert "two.jpg is not square" in done.stdout
    (mine,) = load_subjects(find_dataset(str(folder)))
    assert (mine.name, mine.class_name, mine.kind, len(mine.photos)) == ("my_dog", "dog", "live", 4)
    images = [Image.open(path) for path in mine.photos]
    assert images[1].size == (300, 400)
    assert {image.mode for image in images} == {"RGB"}
    # A second one joins it; a taken name, and a noun of unknown kind, are refused.
    words = ["data", "add", "thing", files[0], "--to", folder, "--class"]
    assert code_of(*words, "gizmo") == "unknown-name"
    assert "3 to 6" in invoke(*words, "gizmo", "--kind", "object").stdout
    assert len(load_subjects(find_dataset(str(folder)))) == 2
    assert code_of(*words, "toy") == "name-taken"


def test_photos_that_cannot_be_used_are_all_named_and_nothing_is_written(tmp_path):
    small = write_photo(tmp_path / "small.jpg", size=(90, 90))
    (tmp_path / "text.jpg").write_text("not an image")
    photos = [small, tmp_path / "text.jpg", tmp_path / "gone.jpg"]
    words = ("--class", "dog", "--to", tmp_path / "own")
    line = refused("data", "add", "x", *photos, *words)
    assert all(str(path) in line for path in photos)
    good = write_photo(tmp_path / "a.jpg")
    assert code_of("data", "add", "../x", good, *words) == "invalid-value"
    assert not (tmp_path / "own").exists()


def test_class_auto_prints_five_nouns_with_probabilities(tmp_path):
    photos = load_subjects(find_dataset("mini"), names=["mug"])[0].photos
    words = ["--class", "auto", "--encoder", "mini-clip", "--min-side-px", 64]
    done = invoke("data", "add", "cup", *photos, *words, "--to", tmp_path)
    assert sum("%" in line for line in done.stdout.splitlines()) == 5


def test_export_keeps_the_bytes_and_describes_itself(tmp_path):
    import datasets  # noqa: PLC0415  (slow import)
    import mlcroissant  # noqa: PLC0415

    source, out = find_dataset("mini"), tmp_path / "out"
    assert export_dataset(source, out) == [
        out / "images", out / "photos.parquet", out / "croissant.json",
    ]  # fmt: skip
    photos = [path for subject in load_subjects(source) for path in subject.photos]
    pinned = [hashlib.sha256(path.read_bytes()).hexdigest() for path in photos]
    rows = pq.read_table(out / "photos.parquet").to_pylist()
    assert [row["sha256"] for row in rows] == pinned
    assert [hashlib.sha256(row["image"]["bytes"]).hexdigest() for row in rows] == pinned
    folder = datasets.load_dataset(
        "imagefolder", data_dir=str(out / "images"), cache_dir=str(tmp_path / "c")
    )["train"]
    assert sorted(folder["sha256"]) == sorted(pinned)
    assert folder.features["image"].__class__.__name__ == "Image"
    described = mlcroissant.Dataset(str(out / "croissant.json"))
    assert not described.metadata.issues.errors
    first = next(iter(described.records("photos")))
    assert first["photos/subject"] == b"dog"
    assert first["photos/image"].size == (64, 64)
    assert code_of("data", "export", "--dataset", "mini", "--to", out) == "folder-not-empty"


def test_an_upload_without_a_hub_is_one_line(tmp_path):
    words = ("data", "export", "--dataset", "mini")
    assert "nobody/nothing" in refused(*words, "--push", "nobody/nothing")
    assert code_of(*words) == "usage"
    assert code_of(*words, "--push", "nobody/nothing", "--to", tmp_path / "x") == "usage"
    assert not (tmp_path / "x").exists()
