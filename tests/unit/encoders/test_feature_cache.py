"""The cache of features: digests that stand for files, damage, and the bound on its size."""

import errno
import fcntl
import os
import random
import time

import numpy as np
import pytest
from small_cache import database, n_rows, run

from dreambench.datasets.index import find_dataset
from dreambench.datasets.subjects import load_subjects
from dreambench.encoders import feature_cache as cache_module
from dreambench.encoders.feature_cache import FILE_NAME, FeatureCache, read_max_bytes
from dreambench.encoders.registry import load_encoder
from dreambench.errors import UserError
from dreambench.storage.files import sha256_file


@pytest.fixture(scope="module")
def photos():
    return [path for s in load_subjects(find_dataset("mini")) for path in s.photos]


@pytest.fixture(scope="module")
def vit():
    return load_encoder("mini-vit", "dino")


# Digests that stand for files.


def count_hashing(monkeypatch):
    seen = []
    monkeypatch.setattr(
        cache_module, "sha256_file", lambda path: seen.append(path) or sha256_file(path)
    )
    return seen


def hash_one(root, path):
    with FeatureCache(root) as cache:
        return cache.hash_files([path], n_threads=1)[path][0]


def test_settled_file_is_hashed_once(tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_bytes(b"one")
    hashed = count_hashing(monkeypatch)
    later = time.time_ns() + 60_000_000_000
    monkeypatch.setattr(cache_module.time, "time_ns", lambda: later)
    assert hash_one(tmp_path, path) == hash_one(tmp_path, path) == sha256_file(path)
    assert hashed == [path]
    # Another content of the same length with the old time of modification: ctime tells.
    seen = path.stat()
    time.sleep(0.02)
    path.write_bytes(b"two")
    os.utime(path, ns=(seen.st_atime_ns, seen.st_mtime_ns))
    assert hash_one(tmp_path, path) == sha256_file(path)
    assert hashed == [path, path]


def test_racy_file_is_not_trusted(tmp_path, monkeypatch):
    # Hashed within the resolution of its times: a change in the same tick could not be seen.
    path = tmp_path / "file"
    path.write_bytes(b"one")
    hashed = count_hashing(monkeypatch)
    stat = cache_module.read_stat(path)
    monkeypatch.setattr(cache_module, "read_stat", lambda _: stat)  # Times that do not move.
    assert hash_one(tmp_path, path) == sha256_file(path)
    path.write_bytes(b"two")
    assert hash_one(tmp_path, path) == sha256_file(path)
    assert hashed == [path, path]


# Damage.


def damage_content(db):
    db.execute("UPDATE contents SET content = zeroblob(length(content))")


def damage_length(db):
    db.execute("UPDATE contents SET content = substr(content, 1, 8)")


def damage_type(db):
    db.execute("UPDATE contents SET content = 'text'")


def damage_link(db):
    db.execute("DELETE FROM contents")


def damage_order(db):
    # Whole rows, but of other files.
    db.execute("UPDATE contents SET id = -id")
    db.execute("UPDATE contents SET id = (SELECT MAX(id) FROM entries) + 1 + id")


@pytest.mark.parametrize(
    "damage", [damage_content, damage_length, damage_type, damage_link, damage_order]
)
def test_damaged_rows_are_made_again(damage, photos, vit, tmp_path, decoded):
    (rows,) = run(photos[:6], [vit], tmp_path)
    db = database(tmp_path)
    damage(db)
    db.close()
    for _ in range(2):
        (again,) = run(photos[:6], [vit], tmp_path)
        assert np.array_equal(again, rows)
    assert sorted(decoded) == sorted(photos[:6] * 2)


def spoil_start(content):
    return b"\0" * 200 + content[200:]


def spoil_pages(content):
    return content[:4096] + random.Random(0).randbytes(len(content) - 4096)


def cut_short(content):
    return content[: len(content) // 2]


def empty(content):
    return b""


def other_content(content):
    return b"no database" * 1000


@pytest.mark.parametrize("spoil", [spoil_start, spoil_pages, cut_short, empty, other_content])
def test_damaged_file_counts_as_none(spoil, photos, vit, tmp_path):
    (rows,) = run(photos, [vit], tmp_path)
    path = tmp_path / "embeddings" / FILE_NAME
    path.write_bytes(spoil(path.read_bytes()))
    for _ in range(2):
        (again,) = run(photos, [vit], tmp_path)
        assert np.array_equal(again, rows)
    db = database(tmp_path)
    assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    db.close()
    assert n_rows(tmp_path) == {(vit.identity, "image"): len(photos)}


def test_damaged_file_stays_while_another_has_it_open(photos, vit, tmp_path):
    (rows,) = run(photos, [vit], tmp_path)
    path = tmp_path / "embeddings" / FILE_NAME
    with FeatureCache(tmp_path):
        path.write_bytes(spoil_start(path.read_bytes()))
        inode = path.stat().st_ino
        (again,) = run(photos, [vit], tmp_path)
        assert np.array_equal(again, rows)
        assert path.stat().st_ino == inode
    run(photos, [vit], tmp_path)
    assert n_rows(tmp_path) == {(vit.identity, "image"): len(photos)}


# The bound.


def fill(cache, identity, n, n_numbers=2000):
    rng = np.random.default_rng(0)
    rows = {f"{identity}-{i}": rng.normal(size=n_numbers) for i in range(n)}
    cache.write(identity, "image", rows)


def test_least_recently_used_go_first_and_the_bound_is_kept(tmp_path):
    with FeatureCache(tmp_path) as cache:
        for name in ("old", "middle", "new"):
            fill(cache, name, 200)
            time.sleep(0.01)
        assert len(cache.read("old", "image", [f"old-{i}" for i in range(100)])) == 100
        full = cache.n_bytes
        assert cache.prune(full) == 0
        bound = int(full * 0.6)
        freed = cache.prune(bound)
        assert bound * 0.9 < cache.n_bytes <= bound
        assert cache.path.stat().st_size == cache.n_bytes == full - freed
        left = {held.identity: held.n_rows for held in cache.describe()}
        # Half of `old` was read last of all; the other half was the first to go.
        assert left["new"] == 200
        assert len(cache.read("old", "image", [f"old-{i}" for i in range(200)])) == 100
        assert 0 < left["middle"] < 100
        cache.prune(0)
        assert cache.describe() == []


def test_what_a_running_job_uses_is_not_pruned(tmp_path):
    with FeatureCache(tmp_path) as cache:
        fill(cache, "before", 50)
        fill(cache, "read", 50)
    with FeatureCache(tmp_path) as running, FeatureCache(tmp_path) as other:
        fill(running, "written", 50)
        running.read("read", "image", [f"read-{i}" for i in range(50)])
        other.prune(0)
        assert {held.identity: held.n_rows for held in other.describe()} == {
            "read": 50, "written": 50,
        }  # fmt: skip
    with FeatureCache(tmp_path) as cache:
        cache.prune(0)
        assert cache.describe() == []


def test_bound_of_the_environment(monkeypatch):
    monkeypatch.delenv("DREAMBENCH_CACHE_MAX", raising=False)
    assert read_max_bytes() == 2_000_000_000
    monkeypatch.setenv("DREAMBENCH_CACHE_MAX", "30 MB")
    assert read_max_bytes() == 30_000_000
    assert read_max_bytes("1GiB") == 2**30
    monkeypatch.setenv("DREAMBENCH_CACHE_MAX", "much")
    with pytest.raises(UserError, match="DREAMBENCH_CACHE_MAX: 'much'") as caught:
        read_max_bytes()
    assert caught.value.code == "invalid-value"


def test_file_in_the_way_is_one_line(photos, vit, tmp_path):
    (tmp_path / "embeddings").write_text("a file")
    with pytest.raises(UserError, match="embeddings"):
        run(photos[:1], [vit], tmp_path)


# Links and files of others.


def test_what_others_put_among_the_sessions_stays(tmp_path):
    with FeatureCache(tmp_path):
        pass
    sessions = tmp_path / "embeddings" / "sessions"
    left = sessions / f"1.000-{'0' * 32}"
    left.write_text("")
    (sessions / "thesis.txt").write_text("precious")
    (tmp_path / "precious").write_text("precious")
    (sessions / f"2.000-{'0' * 32}").symlink_to(tmp_path / "precious")
    with FeatureCache(tmp_path) as cache:
        cache.prune(0)
    assert not left.exists()
    assert (sessions / "thesis.txt").read_text() == "precious"
    assert (tmp_path / "precious").read_text() == "precious"


@pytest.mark.parametrize("place", ["", "sessions", FILE_NAME, f"{FILE_NAME}-journal", "lock"])
@pytest.mark.parametrize("target", ["there", "not there"])
def test_links_in_the_cache_are_not_followed(tmp_path, place, target):
    root, folder = tmp_path / "cache", tmp_path / "cache" / "embeddings"
    (folder if place else root).mkdir(parents=True)
    if place in ("", "sessions"):
        (tmp_path / "there").mkdir()
        (tmp_path / "there" / "thesis.txt").write_text("precious")
    else:
        (tmp_path / "there").write_text("precious")
    (folder / place).symlink_to(tmp_path / target)
    with pytest.raises(UserError) as caught, FeatureCache(root):
        pass
    assert caught.value.code == "unsafe-path"
    assert f"{folder / place} is a link" in caught.value.problem
    assert not (tmp_path / "not there").exists()
    kept = list((tmp_path / "there").iterdir()) if place in ("", "sessions") else []
    assert [path.name for path in kept] == (["thesis.txt"] if kept else [])
    # The user's own link to the cache is fine.
    (tmp_path / "good").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "good")
    with FeatureCache(tmp_path / "link"):
        pass


def test_a_disk_without_locks_is_one_line(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(UserError) as caught, FeatureCache(tmp_path):
        pass
    assert caught.value.code == "unusable-cache"
    assert os.strerror(errno.ENOLCK) in caught.value.problem
