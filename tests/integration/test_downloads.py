"""Photos from a server that cuts, changes, refuses or lies, and from a call that is killed."""

import os
import subprocess
import sys

import pytest
from small_photos import GOOD_ZIP, PHOTOS, make_zip, quiet, read_folder, write_index

from dreambench.datasets import fetch
from dreambench.datasets.subjects import load_subjects
from dreambench.errors import UserError
from dreambench.storage import downloads


@pytest.fixture
def dataset(tmp_path, monkeypatch):
    """A dataset of four photos, none of them here yet; a cache of its own."""
    monkeypatch.setenv("DREAMBENCH_CACHE", str(tmp_path / "cache"))
    return write_index(tmp_path)


def fetch_from(dataset, source):
    return fetch.fetch_photos(dataset, source=str(source), progress=quiet)


def test_photos_come_from_an_address_and_nothing_else_stays(dataset, server, tmp_path):
    server.files["/a.zip"] = GOOD_ZIP
    assert fetch_from(dataset, f"{server.url}/a.zip") == 4
    assert read_folder(dataset.photos_dir) == PHOTOS
    assert [s.name for s in load_subjects(dataset)] == ["a", "b"]
    left = {path.suffix for path in (tmp_path / "cache" / "downloads").iterdir()}
    assert left == {".lock"}
    # All are here: nothing is asked for again.
    assert fetch_from(dataset, f"{server.url}/a.zip") == 0
    assert len(server.asked) == 1


def test_a_cut_download_resumes_where_it_stopped(dataset, server):
    server.files["/a.zip"] = GOOD_ZIP
    third = len(GOOD_ZIP) // 3
    server.cut_after = [third, third]
    fetch_from(dataset, f"{server.url}/a.zip")
    assert server.asked == [None, f"bytes={third}-", f"bytes={2 * third}-"]
    assert server.n_sent == len(GOOD_ZIP)
    assert read_folder(dataset.photos_dir) == PHOTOS


def test_a_later_call_resumes_what_an_earlier_one_has(dataset, server, monkeypatch):
    server.files["/a.zip"] = GOOD_ZIP
    monkeypatch.setattr(downloads, "N_ATTEMPTS", 1)
    server.cut_after = [1000]
    with pytest.raises(UserError) as caught:
        fetch_from(dataset, f"{server.url}/a.zip")
    assert caught.value.code == "download-failed"
    assert "0.0 MB" in caught.value.problem
    assert not dataset.photos_dir.exists()
    fetch_from(dataset, f"{server.url}/a.zip")
    assert server.asked == [None, "bytes=1000-"]
    assert read_folder(dataset.photos_dir) == PHOTOS


def test_a_file_that_changed_meanwhile_is_downloaded_anew(dataset, server, monkeypatch):
    monkeypatch.setattr(downloads, "N_ATTEMPTS", 1)
    server.files["/a.zip"] = make_zip({"other": b"x" * 5000})
    server.cut_after = [3000]
    with pytest.raises(UserError):
        fetch_from(dataset, f"{server.url}/a.zip")
    server.files["/a.zip"] = GOOD_ZIP
    fetch_from(dataset, f"{server.url}/a.zip")
    assert server.asked == [None, "bytes=3000-"]
    assert read_folder(dataset.photos_dir) == PHOTOS


def test_a_server_without_ranges_is_enough(dataset, server):
    server.files["/a.zip"], server.ranges = GOOD_ZIP, False
    server.cut_after = [1000]
    fetch_from(dataset, f"{server.url}/a.zip")
    assert read_folder(dataset.photos_dir) == PHOTOS


REFUSED = {
    "incomplete": (make_zip({"a/00.jpg": PHOTOS["a/00.jpg"]}), "incomplete-source"),
    "not an archive": (b"<html>busy</html>" * 100, "unreadable-archive"),
    "leads out": (make_zip({"../a/00.jpg": b"", **PHOTOS}), "unsafe-archive"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_of_no_use_is_named_by_address_and_not_kept(dataset, server, tmp_path, name):
    server.files["/a"], code = REFUSED[name]
    url = f"{server.url}/a"
    with pytest.raises(UserError) as caught:
        fetch_from(dataset, url)
    assert caught.value.code == code
    assert url in caught.value.problem
    assert str(tmp_path) not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not dataset.photos_dir.exists()
    assert {path.suffix for path in (tmp_path / "cache").rglob("*.*")} == {".lock"}


def test_404_and_no_server_are_one_line(dataset, server):
    with pytest.raises(UserError) as caught:
        fetch_from(dataset, f"{server.url}/nothing.zip")
    assert caught.value.code == "download-failed"
    assert "HTTP 404" in caught.value.problem
    server.server.shutdown()
    server.server.server_close()
    with pytest.raises(UserError) as caught:
        fetch_from(dataset, f"{server.url}/a.zip")
    assert caught.value.code == "download-failed"
    assert "no connection" in caught.value.problem


@pytest.mark.parametrize("ranges", [True, False])
def test_a_download_beyond_the_limit_is_refused(dataset, server, monkeypatch, ranges):
    server.files["/a.zip"], server.ranges = GOOD_ZIP, ranges
    monkeypatch.setattr(fetch, "MAX_ARCHIVE_BYTES", 1000)
    with pytest.raises(UserError) as caught:
        fetch_from(dataset, f"{server.url}/a.zip")
    assert caught.value.code == "too-large"


def test_when_all_sources_fail_each_one_is_named(dataset, server, monkeypatch):
    monkeypatch.setattr(fetch, "GITHUB_ARCHIVE", f"{server.url}/gone.zip")
    with pytest.raises(UserError) as caught:
        fetch.fetch_photos(dataset, source=None, progress=quiet)
    assert caught.value.code == "download-failed"
    for fact in ("HTTP 404", f"{server.url}/gone.zip", "google/dreambooth"):
        assert fact in caught.value.problem
    assert "--from" in caught.value.hint


def test_when_the_first_source_fails_the_second_is_used(dataset, server, monkeypatch, tmp_path):
    hub = tmp_path / "snapshot"
    for name, content in PHOTOS.items():
        (hub / name).parent.mkdir(parents=True, exist_ok=True)
        (hub / name).write_bytes(content)
    monkeypatch.setattr(fetch, "GITHUB_ARCHIVE", f"{server.url}/gone.zip")
    monkeypatch.setattr(fetch, "_download_from_hub", lambda: hub)
    assert fetch.fetch_photos(dataset, source=None, progress=quiet) == 4
    assert read_folder(dataset.photos_dir) == PHOTOS


KILLED = """
import sys, time
from pathlib import Path
from dreambench.datasets import fetch
from dreambench.datasets.index import Dataset
write = fetch.write_bytes
def slow(path, content):
    write(path, content)
    print(path, flush=True)
    time.sleep(60)
fetch.write_bytes = slow
index, photos, source = map(Path, sys.argv[1:])
fetch.fetch_photos(Dataset("small", index, photos), source=str(source), progress=print)
"""


def test_a_killed_fetch_leaves_nothing_half_written_and_resumes(dataset, tmp_path):
    source = tmp_path / "a.zip"
    source.write_bytes(GOOD_ZIP)
    words = [sys.executable, "-c", KILLED, dataset.index_dir, dataset.photos_dir, source]
    process = subprocess.Popen(list(map(str, words)), stdout=subprocess.PIPE, env=os.environ)
    process.stdout.readline()
    process.kill()
    process.communicate()
    assert not dataset.photos_dir.exists()
    assert fetch_from(dataset, source) == 4
    assert read_folder(dataset.photos_dir) == PHOTOS
    assert not list(tmp_path.glob(".*"))
