"""Writes that are whole or not there, hashes, JSON."""

import errno

import pytest

from dreambench.errors import DiskError, UserError
from dreambench.storage import files


def test_json_round_trip_and_no_trace_of_the_making(tmp_path):
    files.write_json(tmp_path / "a" / "b.json", {"x": 1})
    assert files.read_json(tmp_path / "a" / "b.json") == {"x": 1}
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b.json"]


def test_nan_is_refused(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        files.write_json(tmp_path / "x.json", float("nan"))


@pytest.mark.parametrize(
    "content",
    [
        None,
        b"",
        b"{",
        b"\xff",
        b"[" * 100_000,
        b"9" * 6_000,
        b"[NaN]",
        b"-Infinity",
        b'{"x": 1e999}',
    ],
    ids=[
        "none",
        "empty",
        "cut",
        "not UTF-8",
        "deep",
        "long number",
        "NaN",
        "infinity",
        "too large",
    ],
)
def test_what_is_not_json_is_one_line(tmp_path, content):
    path = tmp_path / "x.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        files.read_json(path)
    assert caught.value.code == ("missing-file" if content is None else "unreadable-file")
    assert str(path) in caught.value.problem


def test_failed_write_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "x.json"
    files.write_json(path, "old")

    def no_space(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", no_space)
    with pytest.raises(DiskError) as caught:
        files.write_json(path, "new")
    assert caught.value.code == "disk"
    assert caught.value.is_full
    assert str(path) in caught.value.problem
    assert files.read_json(path) == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["x.json"]


def test_digest_sees_content_and_not_key_order():
    assert files.digest({"a": 1, "b": 2}) == files.digest({"b": 2, "a": 1})
    assert files.digest({"a": 1}) != files.digest({"a": 2})


def test_folder_digest_sees_names_and_contents(tmp_path):
    (tmp_path / "a.json").write_text("1")
    first = files.digest_folder(tmp_path, suffixes=(".json",))
    (tmp_path / "note.txt").write_text("not a weight")
    assert files.digest_folder(tmp_path, suffixes=(".json",)) == first
    (tmp_path / "a.json").write_text("2")
    assert files.digest_folder(tmp_path, suffixes=(".json",)) != first
