"""Names, paths and links of strangers: refused by the check, by each writer and by each deleter."""

import os
import re
import socket
import threading

import pytest

from dreambench.errors import UserError
from dreambench.storage import files, paths

BAD_NAMES = (
    "", ".", "..", "/", "/etc/passwd", "a/b", "../a", "a/../../b", "a\\b", "..\\a", "C:", "C:a",
    "a\0b", "a\nb", "a\x1b[2Jb", "\ud800", "\u202edog", "x" * 300, "\u72d7" * 80, "CON", "nul",
    "com1.txt", "aux.", ".hidden", ".staging", " a", "a ", "a.", "dog.part", "dog.READY", "a|b",
)  # fmt: skip
GOOD_NAMES = (
    "dog",
    "my_dog-2",
    "dreambooth+n_steps=3",
    "a b",
    "\u5c0f\u72d7",
    "x" * 200,
    "console",
)


@pytest.fixture
def ours(tmp_path):
    """A folder of ours, reached through a link of the user's, beside one of someone else."""
    real = tmp_path / "real"
    real.mkdir()
    (tmp_path / "ours").symlink_to(real)
    victim = tmp_path / "victim"
    (victim / "inner.part").mkdir(parents=True)
    for path in ("a.txt", "inner.part/0", "inner.part/targets.json", ".b.txt.7.part"):
        (victim / path).write_text("precious")
    return tmp_path / "ours"


@pytest.fixture
def victim(ours):
    """The folder of someone else; whatever was done, it is as it was."""
    folder = ours.parent / "victim"
    before = read_all(folder)
    yield folder
    assert read_all(folder) == before
    assert {path.name for path in ours.parent.iterdir()} == {"real", "ours", "victim"}


def read_all(folder):
    found = sorted(folder.rglob("*"))
    return {str(path): path.read_text() if path.is_file() else None for path in found}


def refused(function, *arguments, **options):
    with pytest.raises(UserError) as caught:
        function(*arguments, **options)
    assert len(str(caught.value).splitlines()) == 1
    assert caught.value.hint
    return caught.value


@pytest.mark.parametrize("name", BAD_NAMES)
def test_what_cannot_name_a_file_or_folder(name):
    assert paths.find_name_fault(name)


@pytest.mark.parametrize("name", GOOD_NAMES)
def test_what_can_name_a_file_or_folder(name, tmp_path):
    assert paths.find_name_fault(name) is None
    files.write_bytes(tmp_path / name, b"x")
    assert [path.name for path in tmp_path.iterdir()] == [name]


def lead_out(ours, victim):
    """Makes links in a folder of ours; returns paths that are not in it, or only through one."""
    (ours / "link").symlink_to(victim, target_is_directory=True)
    (ours / "file").symlink_to(victim / "a.txt")
    (ours / "dangling").symlink_to(victim / "new")
    (ours / "round").symlink_to(ours / "round")
    (ours / "deep").mkdir()
    (ours / "deep" / "up").symlink_to("../..")
    return [
        victim / "x", victim, ours / ".." / "victim" / "x", ours / ".." / "real" / "x",
        ours / "deep" / ".." / ".." / "victim" / "x", ours / "link", ours / "link" / "x",
        ours / "link" / "a.txt", ours / "file", ours / "dangling", ours / "dangling" / "x",
        ours / "round" / "x", ours / "deep" / "up" / "victim" / "x", ours / "a\0b",
        ours / "\ud800" / "x", ours / ("x" * 300), ours.parent, ours.parent / "oursx",
    ]  # fmt: skip


def together(path, inside):
    files.write_together(inside / "staging", "group", {path: b"x"})


WRITERS = {
    "bytes": lambda path, inside: files.write_bytes(path, b"x", inside=inside),
    "json": lambda path, inside: files.write_json(path, {}, inside=inside),
    "make_dir": lambda path, inside: files.make_dir(path, inside=inside),
    "together": together,
    "check": lambda path, inside: paths.check_inside(path, folder=inside),
    "listed": lambda path, inside: paths.remove_listed(path, re.compile(".*"), inside=inside),
}
PLACES = range(18)


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("place", PLACES)
def test_nothing_is_written_or_deleted_out_of_the_folder(ours, victim, writer, place):
    hostile = lead_out(ours, victim)
    assert len(hostile) == len(PLACES)
    before = sorted(ours.rglob("*"))
    error = refused(WRITERS[writer], hostile[place], inside=ours)
    assert error.code == "unsafe-path"
    assert sorted(ours.rglob("*")) == before


@pytest.mark.parametrize("writer", WRITERS)
def test_the_users_own_link_to_the_folder_is_followed(ours, victim, writer):
    WRITERS[writer](ours / "a" / "b", inside=ours)
    WRITERS[writer](ours / "a" / "b", inside=ours.resolve().parent / "ours")


def test_a_path_may_be_relative_to_where_one_stands(ours, victim, monkeypatch):
    (ours / "sub").mkdir()
    monkeypatch.chdir(ours / "sub")
    for folder in ("..", "../../real", "./../sub/.."):
        inside = paths.Path(folder)
        files.write_bytes(inside / "x" / "y", b"1", inside=inside)
        assert refused(files.write_bytes, inside / ".." / "y", b"1", inside=inside)
    assert (ours / "x" / "y").read_bytes() == b"1"


def test_a_link_in_the_place_of_a_file_is_replaced_and_its_target_stays(ours, victim):
    for target in (victim / "a.txt", victim / "not there"):
        (ours / "x.txt").symlink_to(target)
        files.write_bytes(ours / "x.txt", b"new")
        assert not (ours / "x.txt").is_symlink()
        assert (ours / "x.txt").read_bytes() == b"new"
        (ours / "x.txt").unlink()


def test_a_link_in_the_place_of_an_unfinished_file_is_not_written_through(ours, victim):
    (ours / f".x.txt.{os.getpid()}.part").symlink_to(victim / "a.txt")
    files.write_bytes(ours / "x.txt", b"new")
    assert {path.name for path in ours.iterdir()} == {"x.txt"}


def test_trees_are_removed_and_links_in_them_are_not_followed(ours, victim):
    (ours / "old" / "deep").mkdir(parents=True)
    (ours / "old" / "deep" / "link").symlink_to(victim)
    paths.remove_tree(ours / "old", inside=ours)
    paths.remove_tree(ours / "not there", inside=ours)
    (ours / "old").symlink_to(victim)
    paths.remove_tree(ours / "old", inside=ours)
    assert list(ours.iterdir()) == []


@pytest.mark.parametrize("place", ["victim", "..", "link/inner.part", ".", "deep/../../victim"])
def test_trees_elsewhere_are_not_removed(ours, victim, place):
    (ours / "link").symlink_to(victim)
    path = victim if place == "victim" else ours / place
    if place == ".":
        path = ours.parent
    assert refused(paths.remove_tree, path, inside=ours).code == "unsafe-path"


def test_of_a_folder_only_what_is_listed_is_removed(ours, victim):
    folder = ours / "staging" / "group.part"
    folder.mkdir(parents=True)
    for name in ("0", "targets.json", ".1.99.part"):
        (folder / name).write_text("ours")
    for name, make in (
        ("notes.txt", lambda path: path.write_text("mine")),
        ("1", lambda path: path.symlink_to(victim / "a.txt")),
        ("2", lambda path: path.mkdir()),
    ):
        make(folder / name)
        error = refused(files.finish_together, ours / "staging")
        assert name in error.problem
        assert len(list(folder.iterdir())) == 4
        (folder / name).rmdir() if (folder / name).is_dir() else (folder / name).unlink()
    files.finish_together(ours / "staging")
    assert list((ours / "staging").iterdir()) == []


@pytest.mark.parametrize("place", ["staging", "staging/inner.part", "staging/inner.ready"])
def test_a_staging_folder_that_is_a_link_is_not_touched(ours, victim, place):
    (ours / place).parent.mkdir(exist_ok=True)
    (ours / place).symlink_to(victim if place == "staging" else victim / "inner.part")
    assert refused(files.finish_together, ours / "staging").code == "unsafe-path"
    new = {ours / "fine": b"x"}
    assert refused(files.write_together, ours / "staging", "inner", new).code == "unsafe-path"
    assert not (ours / "fine").exists()


@pytest.mark.parametrize(
    "targets",
    [
        '{"0": "../../victim/a.txt"}', '{"0": "../../../../../../../../../../tmp/a.txt"}',
        '{"0": "VICTIM/a.txt"}', '{"0": "../link/a.txt"}', '{"0": "../link"}', '{"0": ""}',
        '{"0": "\\u0000"}', '{"0": "../\\ud800"}', '{"../1": "../fine"}', '{"0": 3}', "[]", "{",
        '{"0": ["../fine"]}', '"0"', '{"0": "../fine", "1": "../../victim/a.txt"}',
    ],
)  # fmt: skip
def test_leftovers_of_a_stranger_move_nothing_out(ours, victim, targets):
    (ours / "link").symlink_to(victim)
    ready = ours / "staging" / "group.ready"
    ready.mkdir(parents=True)
    (ready / "0").write_text("hostile")
    (ready / "1").write_text("hostile")
    (ready / "targets.json").write_text(targets.replace("VICTIM", str(victim)))
    error = refused(files.finish_together, ours / "staging")
    assert str(ready) in str(error)
    assert {path.name for path in ours.iterdir()} == {"link", "staging"}


def test_unfinished_files_are_removed_below_a_folder_and_nothing_else(ours, victim):
    (ours / "a" / "b").mkdir(parents=True)
    for name in (".x.png.12.part", "a/.y.json.3.part", "a/b/.a b.csv.9.part"):
        (ours / name).write_text("torn")
    for name in ("x.part", "a/.x.part", ".12.part", "a/b/y.png.12.part"):
        (ours / name).write_text("not ours")
    (ours / ".dir.1.part").mkdir()
    (ours / ".link.1.part").symlink_to(victim / "a.txt")
    (ours / "link").symlink_to(victim)
    paths.remove_leftovers(ours)
    left = {path.relative_to(ours).as_posix() for path in ours.rglob("*")}
    assert left == {
        "a", "a/b", "x.part", "a/.x.part", ".12.part", "a/b/y.png.12.part", ".dir.1.part",
        ".link.1.part", "link",
    }  # fmt: skip


def make_socket(path, keep):
    keep.append(socket.socket(socket.AF_UNIX))
    keep[-1].bind(str(path))


@pytest.mark.parametrize("kind", ["file", "folder", "dangling", "fifo", "socket"])
def test_a_tree_with_links_or_devices_is_refused(ours, victim, kind, monkeypatch):
    (ours / "a" / "b").mkdir(parents=True)
    (ours / "a" / "fine.txt").write_text("fine")
    paths.check_tree(ours)
    paths.check_tree(ours / "not there")
    keep = []
    monkeypatch.chdir(ours / "a" / "b")  # Names of sockets are short.
    {
        "file": lambda path: path.symlink_to(victim / "a.txt"),
        "folder": lambda path: path.symlink_to(victim),
        "dangling": lambda path: path.symlink_to(victim / "not there"),
        "fifo": os.mkfifo,
        "socket": lambda path: make_socket(path, keep),
    }[kind](paths.Path("odd"))
    error = refused(paths.check_tree, ours)
    assert error.code == "unsafe-path"
    assert str(ours / "a" / "b" / "odd") in error.problem
    for one in keep:
        one.close()


def test_names_are_on_the_disk_before_a_write_returns(ours, monkeypatch):
    order, replace, sync = [], os.replace, os.fsync

    def fsync(descriptor):
        order.append(str(paths.Path(f"/proc/self/fd/{descriptor}").readlink()))
        sync(descriptor)

    monkeypatch.setattr(files.os, "fsync", fsync)
    monkeypatch.setattr(
        paths.Path, "replace", lambda self, target: (order.append("move"), replace(self, target))
    )
    real = str(ours.resolve())
    files.write_bytes(ours / "x", b"1")
    assert order == [f"{real}/.x.{os.getpid()}.part", "move", real]
    order.clear()
    (ours / "a.part").mkdir()
    files.move_dir(ours / "a.part", ours / "a")
    assert order == ["move", real]
    order.clear()
    files.write_together(ours / "s", "g", {ours / "out" / "y": b"2"})
    assert order.index(f"{real}/s") < len(order) - 1 - order[::-1].index("move")
    assert order[-1] == f"{real}/out"


def test_a_write_while_others_write_the_same_file_is_whole(ours):
    threads = [
        threading.Thread(target=files.write_bytes, args=(ours / f"{i}", b"x" * 1000))
        for i in range(8)
    ]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert sorted(path.name for path in ours.iterdir()) == [str(i) for i in range(8)]
