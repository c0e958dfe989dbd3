"""Writes that are whole or not there, hashes, JSON."""

import errno
import json

import pytest

from dreambench.errors import UserError, disk_errors
from dreambench.storage import files


def test_json_round_trip_and_no_trace_of_the_making(tmp_path):
    files.write_json(tmp_path / "a" / "b.json", {"x": 1})
    assert files.read_json(tmp_path / "a" / "b.json") == {"x": 1}
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b.json"]


def test_nan_is_refused(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        files.write_json(tmp_path / "x.json", float("nan"))


def test_failed_write_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "x.json"
    files.write_json(path, "old")

    def no_space(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", no_space)
    with pytest.raises(UserError, match="free some space"):
        files.write_json(path, "new")
    assert files.read_json(path) == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["x.json"]


def test_only_the_users_faults_become_user_errors(tmp_path):
    with pytest.raises(OSError, match="odd"), disk_errors(tmp_path):
        raise OSError(errno.EIO, "odd")


@pytest.mark.parametrize("n_moved", [0, 1, 2])
def test_group_that_was_ready_is_finished_after_a_kill(tmp_path, monkeypatch, n_moved):
    targets = {tmp_path / "out" / f"{i}.txt": bytes([i]) for i in range(2)}
    staging = tmp_path / "staging"
    real, calls = files._move_ready, []

    def die_midway(folder, ready):
        for index, relative in list(json.loads((ready / "targets.json").read_text()).items())[
            :n_moved
        ]:
            target = (folder / relative).resolve()
            target.parent.mkdir(parents=True, exist_ok=True)
            (ready / index).replace(target)
        calls.append(ready)
        raise KeyboardInterrupt

    monkeypatch.setattr(files, "_move_ready", die_midway)
    with pytest.raises(KeyboardInterrupt):
        files.write_together(staging, "group", targets)
    monkeypatch.setattr(files, "_move_ready", real)
    files.finish_together(staging)
    assert calls
    assert {path: path.read_bytes() for path in targets} == targets
    assert list(staging.iterdir()) == []


def test_group_that_was_not_ready_is_dropped(tmp_path):
    part = tmp_path / "staging" / "group.part"
    part.mkdir(parents=True)
    (part / "0").write_bytes(b"half")
    files.finish_together(tmp_path / "staging")
    assert list((tmp_path / "staging").iterdir()) == []


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
