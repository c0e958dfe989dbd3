"""A cache of another version is told apart, a damaged one counts as none, and clear fixes both."""

import shutil
import sqlite3

import pytest
from conftest import invoke, refused_at_once

from dreambench.encoders.feature_cache import FILE_NAME, FOLDER, FeatureCache
from dreambench.errors import UserError

ROW = {"key": [1.0, 2.0]}


def sql(*statements):
    def work(folder):
        with sqlite3.connect(folder / FILE_NAME) as db:
            for statement in statements:
                db.execute(statement)
        db.close()

    return work


def put(name, content):
    return lambda folder: (folder / name).write_bytes(content)


def put_folder(name):
    def work(folder):
        path = folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        (path / "inside").mkdir(parents=True)

    return work


def cut(share):
    def work(folder):
        content = (folder / FILE_NAME).read_bytes()
        (folder / FILE_NAME).write_bytes(content[: int(len(content) * share)])

    return work


OTHER = {
    "newer": sql("PRAGMA user_version = 2"),
    "much newer": sql("PRAGMA user_version = 2000000000"),
    "negative": sql("PRAGMA user_version = -1"),
    "newer with other tables": sql("DROP TABLE entries", "PRAGMA user_version = 7"),
}
DAMAGED = {
    "no number": sql("PRAGMA user_version = 0"),
    "no table": sql("DROP TABLE entries"),
    "no tables": sql("DROP TABLE entries", "DROP TABLE contents", "DROP TABLE files"),
    "other columns": sql("ALTER TABLE files ADD COLUMN more TEXT"),
    "other names": sql("ALTER TABLE entries RENAME COLUMN key TO name"),
    "strange table": sql("CREATE TABLE notes (text TEXT)"),
    "empty": put(FILE_NAME, b""),
    "text": put(FILE_NAME, b"hello" * 100),
    "zeros": put(FILE_NAME, b"\0" * 8192),
    "half": cut(0.5),
    "head": cut(0.01),
    "strange journal": put(f"{FILE_NAME}-journal", b"x" * 5000),
    "strange session": put("sessions/what", b"x"),
    "session folder": put_folder("sessions/0-x"),
}
UNUSABLE = {
    "folder": put_folder(FILE_NAME),
    "lock is a folder": put_folder("lock"),
    "sessions is a file": lambda f: (shutil.rmtree(f / "sessions"), put("sessions", b"x")(f)),
}


@pytest.fixture
def cache_dir(tmp_path):
    with FeatureCache(tmp_path) as cache:
        cache.write("encoder", "image", ROW)
    return tmp_path


def check_works(root):
    with FeatureCache(root) as cache:
        cache.write("new", "image", ROW)
        assert cache.read("new", "image", ["key"])["key"].tolist() == [1.0, 2.0]


@pytest.mark.parametrize("name", OTHER)
def test_another_schema_is_told_apart_and_kept(cache_dir, name):
    OTHER[name](cache_dir / FOLDER)
    before = (cache_dir / FOLDER / FILE_NAME).read_bytes()
    with pytest.raises(UserError, match="schema") as caught:
        FeatureCache(cache_dir)
    assert caught.value.code == "other-schema" and "cache clear" in caught.value.hint
    assert (cache_dir / FOLDER / FILE_NAME).read_bytes() == before
    assert not list((cache_dir / FOLDER / "sessions").iterdir())


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_file_counts_as_none(cache_dir, name):
    DAMAGED[name](cache_dir / FOLDER)
    check_works(cache_dir)


@pytest.mark.parametrize("name", UNUSABLE)
def test_what_cannot_be_opened_is_one_line(cache_dir, name):
    UNUSABLE[name](cache_dir / FOLDER)
    assert str(cache_dir) in refused_at_once("cache", "show", "--cache", cache_dir)


@pytest.mark.parametrize("name", [*OTHER, *DAMAGED, *UNUSABLE])
def test_clear_mends_every_state(cache_dir, name):
    {**OTHER, **DAMAGED, **UNUSABLE}[name](cache_dir / FOLDER)
    assert " 0 rows" in invoke("cache", "clear", "--cache", cache_dir).stdout
    check_works(cache_dir)


def test_clear_leaves_what_a_running_job_has_open(cache_dir):
    with FeatureCache(cache_dir) as running:
        running.write("running", "image", ROW)
        invoke("cache", "clear", "--cache", cache_dir)
        assert running.read("running", "image", ["key"])["key"].tolist() == [1.0, 2.0]


def test_clear_takes_parts_of_downloads_too(cache_dir):
    part = cache_dir / "downloads" / ("a" * 16 + ".part")
    part.parent.mkdir()
    part.write_bytes(b"x" * 200_000)
    others = [part.with_name(name) for name in ("thesis.part", "notes.json", "0.file")]
    others.append(cache_dir / FOLDER / "sessions" / "kept" / "thesis.txt")
    for other in others:
        other.parent.mkdir(exist_ok=True)
        other.write_text("precious")
    linked = part.with_name("1" * 16 + ".part")
    linked.symlink_to(others[0])
    assert "0.2 MB of downloads" in invoke("cache", "clear", "--cache", cache_dir).stdout
    assert not part.exists()
    assert [other.read_text() for other in others] == ["precious"] * 4
