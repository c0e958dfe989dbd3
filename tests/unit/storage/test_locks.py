"""Locks, on disks that have them and on disks that do not."""

import errno
import fcntl
import os

import pytest

from dreambench.artifacts.image_set import hold_folder
from dreambench.errors import UserError
from dreambench.storage.locks import acquire_lock, locked


@pytest.fixture(params=["flock", "no flock"])
def lock(tmp_path, request, monkeypatch):
    """The path of a lock that was used on a disk with flock, on a disk of either kind."""
    with locked(tmp_path / ".lock"):
        pass
    assert (tmp_path / ".lock").is_file()
    if request.param == "no flock":
        refuse_locks(monkeypatch, errno.ENOSYS)
    return tmp_path / ".lock"


def refuse_locks(monkeypatch, number):
    def flock(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)


def test_what_ended_locks_left_keeps_nobody_off(lock):
    for _ in range(2):
        with hold_folder(lock.parent):
            pass
        with locked(lock, timeout=0):
            pass


def test_a_held_folder_is_said_to_be_in_use_and_is_free_afterwards(lock):
    with hold_folder(lock.parent):
        with pytest.raises(UserError) as caught, hold_folder(lock.parent):
            pass
        assert caught.value.code == "folder-in-use"
        assert str(lock.parent) in caught.value.problem
    acquire_lock(lock, 0).release()


def test_a_lock_ends_with_the_process_that_was_killed(lock):
    child = os.fork()
    if child == 0:
        acquire_lock(lock, 0)
        os._exit(9)
    os.waitpid(child, 0)
    with hold_folder(lock.parent):
        pass


def test_a_holder_on_another_machine_is_named_with_its_file(tmp_path, monkeypatch):
    refuse_locks(monkeypatch, errno.EOPNOTSUPP)
    (tmp_path / ".lock.holder").write_text("77\nanother-machine\n")
    with pytest.raises(UserError) as caught:
        acquire_lock(tmp_path / ".lock", 0)
    assert caught.value.code == "folder-in-use"
    assert str(tmp_path / ".lock.holder") in caught.value.hint


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EIO, errno.EROFS, errno.ESTALE])
def test_a_disk_that_refuses_locks_is_one_line(tmp_path, monkeypatch, number):
    refuse_locks(monkeypatch, number)
    with pytest.raises(UserError) as caught, hold_folder(tmp_path):
        pass
    assert caught.value.code == "no-lock"
    assert os.strerror(number) in caught.value.problem
    assert str(tmp_path) in caught.value.problem


@pytest.mark.parametrize("target", ["there", "not there"])
def test_a_lock_that_is_a_link_is_not_followed(tmp_path, target):
    folder, precious = tmp_path / "run", tmp_path / "there"
    folder.mkdir()
    precious.write_text("precious")
    (folder / ".lock").symlink_to(tmp_path / target)
    with pytest.raises(UserError) as caught, hold_folder(folder):
        pass
    assert caught.value.code == "unsafe-path"
    with pytest.raises(UserError) as caught, locked(folder / ".lock", timeout=0):
        pass
    assert caught.value.code == "no-lock"
    assert precious.read_text() == "precious"
    assert not (tmp_path / "not there").exists()


def test_who_holds_a_run_removes_what_killed_writes_left(tmp_path):
    for name in ("train/dog", "images/.staging"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / ".x.csv.41.part").write_text("torn")
    with hold_folder(tmp_path):  # It is not known to be a run.
        assert len(list(tmp_path.rglob("*.part"))) == 2
    (tmp_path / "run.json").write_text("{}")
    with hold_folder(tmp_path):
        assert list(tmp_path.rglob("*.part")) == []
