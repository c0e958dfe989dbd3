"""Photos fetched from archives and folders of this machine, good and hostile."""

import zipfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_photos import GOOD_ZIP, PHOTOS, make_jpeg, make_zip, quiet, read_folder, write_index

from dreambench.datasets import fetch
from dreambench.datasets.subjects import load_subjects
from dreambench.errors import UserError


@pytest.fixture
def dataset(tmp_path, monkeypatch):
    """A dataset of four photos, none of them here yet; a cache of its own."""
    monkeypatch.setenv("DREAMBENCH_CACHE", str(tmp_path / "cache"))
    return write_index(tmp_path)


def fetch_from(dataset, source):
    return fetch.fetch_photos(dataset, source=str(source), progress=quiet)


RENAMED = {f"x-{index}": content for index, content in enumerate(PHOTOS.values())}


def write_zip(path):
    path.write_bytes(make_zip(RENAMED, zipfile.ZIP_DEFLATED))


def write_folder(path):
    path.mkdir()
    for name, content in RENAMED.items():
        (path / name).write_bytes(content)


def write_parquet(path):
    path.mkdir()
    rows = [{"bytes": content, "path": name} for name, content in RENAMED.items()]
    pq.write_table(pa.table({"image": rows, "n": [1] * len(rows)}), path / "t.parquet")


@pytest.mark.parametrize("write", [write_zip, write_folder, write_parquet])
def test_any_layout_is_accepted_since_files_are_identified_by_content(dataset, tmp_path, write):
    write(tmp_path / "source")
    assert fetch_from(dataset, tmp_path / "source") == 4
    assert read_folder(dataset.photos_dir) == PHOTOS
    assert [s.name for s in load_subjects(dataset)] == ["a", "b"]
    assert not list(tmp_path.glob(".*"))


def test_a_damaged_photo_is_fetched_again_and_the_others_stay(dataset, tmp_path):
    source = tmp_path / "a.zip"
    source.write_bytes(GOOD_ZIP)
    assert fetch_from(dataset, source) == 4
    kept = dataset.photos_dir / "a" / "00.jpg"
    stamp = kept.stat().st_mtime_ns
    (dataset.photos_dir / "b" / "01.jpg").write_bytes(b"half")
    assert fetch_from(dataset, source) == 1
    assert read_folder(dataset.photos_dir) == PHOTOS
    assert kept.stat().st_mtime_ns == stamp
    assert fetch_from(dataset, "not even looked at") == 0


REFUSED = {
    "incomplete": (make_zip({**PHOTOS, "a/01.jpg": make_jpeg(5)}), "incomplete-source", "1 of 3"),
    "not an archive": (b"<html>busy</html>" * 100, "unreadable-archive", "archive"),
    "leads out": (make_zip({"../a/00.jpg": b"", **PHOTOS}), "unsafe-archive", "../a/00.jpg"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_source_that_is_refused_changes_nothing(dataset, tmp_path, name):
    content, code, fact = REFUSED[name]
    mine = {"a/00.jpg": b"mine", "b/00.jpg": PHOTOS["b/00.jpg"], "notes.txt": b"keep"}
    for file, bytes_ in mine.items():
        path = dataset.photos_dir / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes_)
    source = tmp_path / "archive"
    source.write_bytes(content)
    with pytest.raises(UserError) as caught:
        fetch_from(dataset, source)
    assert caught.value.code == code
    assert fact in caught.value.problem
    assert "\n" not in str(caught.value)
    assert read_folder(dataset.photos_dir) == mine
    assert not list(tmp_path.glob(".*"))


def test_a_damaged_parquet_file_and_a_source_that_is_none_are_one_line(dataset, tmp_path):
    with pytest.raises(UserError) as caught:
        fetch_from(dataset, "/nowhere/at/all")
    assert caught.value.code == "invalid-value"
    assert "/nowhere/at/all" in caught.value.problem
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "x.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(UserError) as caught:
        fetch_from(dataset, tmp_path / "source")
    assert caught.value.code == "unreadable-file"
    assert "x.parquet" in caught.value.problem


def test_a_file_left_half_written_in_the_staging_folder_is_not_trusted(dataset, tmp_path):
    source = tmp_path / "a.zip"
    source.write_bytes(GOOD_ZIP)
    staging = tmp_path / ".photos.incoming"
    staging.mkdir()
    for line in (dataset.index_dir / "images.csv").read_text().splitlines()[1:]:
        (staging / line.split(",")[2]).write_bytes(b"half")
    assert fetch_from(dataset, source) == 4
    assert read_folder(dataset.photos_dir) == PHOTOS


@pytest.mark.parametrize("place", ["staging", "subject"])
def test_photos_are_not_written_through_links(dataset, tmp_path, place):
    source = tmp_path / "a.zip"
    source.write_bytes(GOOD_ZIP)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "thesis.txt").write_text("precious")
    photos = dataset.photos_dir
    link = photos.parent / f".{photos.name}.incoming" if place == "staging" else photos / "a"
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(elsewhere)
    with pytest.raises(UserError) as caught:
        fetch_from(dataset, source)
    assert caught.value.code == "unsafe-path"
    assert str(link) in caught.value.problem
    assert [path.name for path in elsewhere.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("content", [GOOD_ZIP, b"no archive"])
def test_of_a_folder_with_the_name_of_staging_nothing_else_is_removed(dataset, tmp_path, content):
    source = tmp_path / "a.zip"
    source.write_bytes(content)
    staging = dataset.photos_dir.parent / f".{dataset.photos_dir.name}.incoming"
    staging.mkdir(parents=True)
    (staging / "thesis.txt").write_text("precious")
    with pytest.raises(UserError) as caught:
        fetch_from(dataset, source)
    assert "thesis.txt" in caught.value.problem
    assert (staging / "thesis.txt").read_text() == "precious"
