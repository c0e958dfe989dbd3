"""Features: each file once, the same bits however the work was cut, and a cache to rely on."""

import gc
import json
import os
import random
import sqlite3
import subprocess
import sys
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import call
from PIL import Image

from dreambench.datasets.subjects import find_dataset, load_subjects
from dreambench.encoders import extraction as extraction_module
from dreambench.encoders import feature_cache as cache_module
from dreambench.encoders.base import Encoder
from dreambench.encoders.extraction import (
    Distances,
    Pace,
    Rows,
    extract,
    extract_files,
    extract_texts,
)
from dreambench.encoders.feature_cache import FILE_NAME, FeatureCache, key_of_pair, read_max_bytes
from dreambench.encoders.parts import BlackDetector, PartsExtractor
from dreambench.encoders.preprocessing import Pixels
from dreambench.encoders.registry import find_encoder, load_encoder, make_encoder
from dreambench.encoders.segmentation import load_segmenter
from dreambench.errors import UserError
from dreambench.progress import no_progress
from dreambench.runs.pipeline import Job
from dreambench.runs.run_folder import read_run
from dreambench.storage.files import sha256_file
from dreambench.storage.images import load_image

ROLES = {"dino": "mini-vit", "clip": "mini-clip", "perceptual": "mini-vit-patches"}


@pytest.fixture(scope="module")
def photos():
    return [path for s in load_subjects(find_dataset("mini")) for path in s.photos]


@pytest.fixture(scope="module")
def vit():
    return load_encoder("mini-vit", "dino")


@pytest.fixture(scope="module")
def clip():
    return load_encoder("mini-clip", "clip")


@pytest.fixture(scope="module")
def patches():
    return load_encoder("mini-vit-patches", "perceptual")


def run(paths, readers, root, **pace):
    return extract_files(paths, readers, cache_dir=root, progress=no_progress, pace=Pace(**pace))


def database(root):
    return sqlite3.connect(root / "embeddings" / FILE_NAME, isolation_level=None)


def n_rows(root):
    with FeatureCache(root) as cache:
        return {(held.identity, held.kind): held.n_rows for held in cache.describe()}


@pytest.fixture
def decoded(monkeypatch):
    """The paths that are decoded, in the order in which that is begun."""
    seen = []
    monkeypatch.setattr(
        extraction_module, "load_image", lambda path: seen.append(path) or load_image(path)
    )
    return seen


def test_memory_is_given_back_while_rows_are_made(photos, vit, tmp_path, monkeypatch):
    plain = run(photos, [vit], tmp_path / "plain")
    given_back = []
    trim = extraction_module._trim_heap
    monkeypatch.setattr(extraction_module, "_trim_heap", lambda: given_back.append(trim()))
    monkeypatch.setattr(extraction_module, "TRIM_SECONDS", 0.0)
    trimmed = run(photos, [vit], tmp_path / "trimmed")
    assert len(given_back) >= len(photos) // 2
    assert np.array_equal(plain[0], trimmed[0])


def test_decoded_images_do_not_wait_for_the_garbage_collector(
    photos, vit, clip, tmp_path, monkeypatch
):
    seen = []

    def load(path):
        image = load_image(path)
        seen.append(weakref.ref(image))
        return image

    monkeypatch.setattr(extraction_module, "load_image", load)
    parts = PartsExtractor(vit, clip, load_segmenter("mini-segmenter"), class_name="dog")
    gc.disable()
    try:
        run(photos, [vit, parts], tmp_path)
        n_alive = sum(one() is not None for one in seen)
    finally:
        gc.enable()
    assert (len(seen), n_alive) == (len(photos), 0)


# What is made, and how often.


def test_cache_is_by_content_and_encoder(photos, vit, clip, tmp_path):
    copy = tmp_path / "copy.png"
    copy.write_bytes(photos[0].read_bytes())
    root = tmp_path / "cache"
    (rows,) = run(photos[:2], [vit], root)
    assert n_rows(root) == {(vit.identity, "image"): 2}
    (again,) = run([copy], [vit], root)
    assert np.array_equal(again[0], rows[0])
    assert n_rows(root) == {(vit.identity, "image"): 2}
    run([copy], [clip], root)
    assert n_rows(root) == {(vit.identity, "image"): 2, (clip.identity, "image"): 1}


def test_files_are_decoded_once_for_all_that_is_asked(
    photos, vit, clip, patches, tmp_path, decoded
):
    black, copy = tmp_path / "black.png", tmp_path / "copy.png"
    Image.new("RGB", (64, 64)).save(black)
    copy.write_bytes(photos[3].read_bytes())
    paths = [*photos[:9], black, copy]
    asks = [Rows(vit, paths), Rows(clip, paths[:4]), Rows(BlackDetector(), paths)]
    groups = [paths[:3], paths[3:6], [paths[3], copy], paths[9:10]]
    for _ in range(2):
        with FeatureCache(tmp_path / "cache") as cache:
            rows, gaps = extract(
                asks, [Distances(patches, groups)], cache=cache, progress=no_progress,
                pace=Pace(batch_size=4),
            )  # fmt: skip
        # The second round finds all of it; the copy has the content of another.
        assert sorted(decoded) == sorted(paths[:-1])
    for ask, found in zip(asks[:2], rows[:2], strict=True):
        wanted = ask.extractor.encode_images([load_image(path) for path in ask.paths])
        assert np.abs(np.stack([found[path] for path in ask.paths]) - wanted).max() < 1e-6
    assert [path for path in paths if rows[2][path][0]] == [black]
    assert gaps[0][photos[3], copy] == 0
    assert len(gaps[0]) == 3 + 3 + 1


def test_pixels_that_several_readers_need_are_made_once(photos, vit, clip, tmp_path, monkeypatch):
    made = []
    plain = Pixels.prepare
    monkeypatch.setattr(
        Pixels, "prepare", lambda self, image: made.append(str(self)) or plain(self, image)
    )
    parts = PartsExtractor(vit, clip, load_segmenter("mini-segmenter"), class_name="dog")
    found = run(photos[:3], [vit, clip, parts], tmp_path)[2]
    # The two encoders take the same pixels; the segmenter's are others.
    assert len(made) == 2 * 3
    assert len(set(made)) == 2
    monkeypatch.undo()
    wanted = parts.encode_images([load_image(path) for path in photos[:3]])
    assert np.abs(found - wanted).max() < 1e-6


def test_distances_are_those_of_the_rows(photos, patches, tmp_path):
    groups = [photos[i : i + 3] for i in range(0, 12, 3)]
    with FeatureCache(tmp_path) as cache:
        rows, gaps = extract(
            [Rows(patches, photos[:12])], [Distances(patches, groups)], cache=cache,
            progress=no_progress,
        )  # fmt: skip
    for group in groups:
        features = np.stack([rows[0][path] for path in group]).astype(np.float64)
        first, second = np.triu_indices(len(group), k=1)
        wanted = ((features[first] - features[second]) ** 2).sum(axis=1)
        assert [gaps[0][pair] for pair in combinations(group, 2)] == wanted.tolist()


def test_only_what_distances_lack_is_made_again(photos, patches, tmp_path, decoded):
    def measure(groups):
        decoded.clear()
        with FeatureCache(tmp_path) as cache:
            asks = [Distances(patches, groups)]
            pace = Pace(batch_size=1)
            return extract([], asks, cache=cache, progress=no_progress, pace=pace)[1][0]

    before = measure([photos[:3]])
    names = [sha256_file(path) for path in photos[:3]]
    db = database(tmp_path)
    db.execute("DELETE FROM entries WHERE key = ?", (key_of_pair(names[0], names[2]),))
    db.close()
    assert measure([photos[:3], photos[3:5], photos[5:6]]).items() >= before.items()
    assert sorted(decoded) == sorted([photos[0], photos[2], photos[3], photos[4]])


def test_texts_are_embedded_once(clip, tmp_path, monkeypatch):
    texts = [f"a {word} on the beach" for word in ("dog", "mug", "boat", "hat", "car", "cup")]
    asked = []
    plain = clip.encode_texts
    monkeypatch.setattr(clip, "encode_texts", lambda some: asked.append(list(some)) or plain(some))
    with FeatureCache(tmp_path) as cache:
        first = extract_texts([*texts[:3], texts[0]], clip, cache=cache)
        assert list(first) == sorted(texts[:3])
        extract_texts(texts[:3], clip, cache=cache)
        assert len(asked) == 1
        both = extract_texts(texts, clip, cache=cache)
        assert len(asked) == 2
    assert all(np.array_equal(both[text], first[text]) for text in texts[:3])
    wanted = plain(texts)
    assert all(np.abs(both[text] - wanted[i]).max() < 1e-6 for i, text in enumerate(texts))


def test_no_network_is_read_where_the_cache_has_all(photos, tmp_path):
    specs = [find_encoder(name, role) for role, name in list(ROLES.items())[:2]]
    before = run(photos[:5], [make_encoder(spec) for spec in specs], tmp_path)
    later = [make_encoder(spec) for spec in specs]
    after = run(photos[:5], later, tmp_path)
    assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))
    assert not any("model" in vars(encoder) for encoder in later)
    assert later[0].model is not None
    assert "model" in vars(later[0])


# The same bits.


@pytest.mark.parametrize("role", ROLES)
def test_no_bit_depends_on_workers_order_neighbours_or_interruption(role, photos, tmp_path):
    encoder = load_encoder(ROLES[role], role)
    (whole,) = run(photos, [encoder], tmp_path / "whole")
    rng = random.Random(0)
    for index, pace in enumerate([{"n_workers": 1}, {"n_workers": 7}, {"batch_size": 4}]):
        root = tmp_path / str(index)
        order = rng.sample(range(len(photos)), len(photos))
        # First a few of them alone, as when a run was interrupted.
        run([photos[i] for i in order[:13]], [encoder], root, **pace)
        (rows,) = run([photos[i] for i in order], [encoder], root, **pace)
        assert np.array_equal(rows, whole[order])
    (single,) = run(photos, [encoder], tmp_path / "single", batch_size=1)
    assert np.abs(single - whole).max() < 1e-6


def test_every_pass_has_the_same_number_of_images(photos, vit, tmp_path, monkeypatch):
    sizes = []
    plain = vit.encode_pixels
    monkeypatch.setattr(
        vit, "encode_pixels", lambda batch: sizes.append(len(batch)) or plain(batch)
    )
    run(photos[:7], [vit], tmp_path, batch_size=3)
    assert sizes == [3, 3, 3]
    # One more is in the batch that was not full: that batch is made whole, the others are not.
    run(photos[:8], [vit], tmp_path, batch_size=3)
    assert sizes == [3] * 4


def test_file_that_changes_meanwhile_is_refused(photos, vit, tmp_path, monkeypatch):
    path = tmp_path / "image.png"
    path.write_bytes(photos[0].read_bytes())

    def change(path):
        image = load_image(path)
        path.write_bytes(photos[1].read_bytes())
        return image

    monkeypatch.setattr(extraction_module, "load_image", change)
    with pytest.raises(UserError, match=r"image\.png changed while it was read"):
        run([path], [vit], tmp_path / "cache")
    monkeypatch.undo()
    (rows,) = run([path], [vit], tmp_path / "cache")
    assert np.array_equal(rows, run([photos[1]], [vit], tmp_path / "other")[0])


def test_what_was_made_before_an_error_is_kept(photos, vit, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(photos[0].read_bytes()[:200])
    with pytest.raises(UserError, match=r"broken\.png cannot be read"):
        run([*photos[:8], broken], [vit], tmp_path / "cache", batch_size=4)
    assert n_rows(tmp_path / "cache") == {(vit.identity, "image"): 8}


# Digests that stand for files.


def count_hashing(monkeypatch):
    seen = []
    monkeypatch.setattr(
        cache_module, "sha256_file", lambda path: seen.append(path) or sha256_file(path)
    )
    return seen


def hash_one(root, path):
    with FeatureCache(root) as cache:
        return cache.hash_files([path], n_workers=1)[path][0]


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


# Several processes, and kills.

WRITER = """
import sys, random
from pathlib import Path
import numpy as np
from dreambench.encoders import extraction as embed
from dreambench.encoders.extraction import Pace, extract_files
from dreambench.encoders.registry import load_encoder
from dreambench.runs.pipeline import Job
from dreambench.progress import no_progress
from dreambench.encoders.parts import PartsExtractor
from dreambench.runs.run_folder import read_run
from dreambench.encoders.segmentation import load_segmenter
root, seed, out, *paths = sys.argv[1:]
embed.COMMIT_SECONDS = 0.0
readers = [load_encoder("mini-vit", "dino"), load_encoder("mini-clip", "clip")]
readers[0].model, readers[1].model
if seed != "-":
    random.Random(int(seed)).shuffle(paths)
print("ready", flush=True)
sys.stdin.readline()
rows = extract_files([Path(path) for path in paths], readers, cache_dir=Path(root),
                   progress=no_progress, pace=Pace(batch_size=4))
np.savez(out, *rows, paths=np.array(paths))
"""


def start_writer(root, seed, out, paths):
    words = [sys.executable, "-c", WRITER, root, seed, out, *paths]
    # One thread each: several networks at once would wait for each other's.
    process = subprocess.Popen(
        [str(word) for word in words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert process.stdout.readline() == "ready\n"
    return process


def read_result(path):
    found = np.load(path)
    return {
        name: (a, b)
        for name, a, b in zip(found["paths"], found["arr_0"], found["arr_1"], strict=True)
    }


def assert_same(found, wanted):
    assert found.keys() == wanted.keys()
    for name, rows in wanted.items():
        assert all(np.array_equal(a, b) for a, b in zip(found[name], rows, strict=True))


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """160 small images, and what one process alone makes of them."""
    folder = tmp_path_factory.mktemp("many")
    rng = np.random.default_rng(0)
    paths = [folder / f"{index}.png" for index in range(160)]
    for path in paths:
        Image.fromarray(rng.integers(0, 256, (64, 64, 3), np.uint8)).save(path)
    process = start_writer(folder / "cache", "-", folder / "whole.npz", paths)
    process.communicate("go\n")
    assert process.returncode == 0
    return paths, read_result(folder / "whole.npz")


def test_several_writers_at_once(many, tmp_path):
    paths, whole = many
    writers = [
        start_writer(tmp_path / "cache", seed, tmp_path / f"{seed}.npz", paths[:150])
        for seed in range(3)
    ]
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda writer: writer.communicate("go\n"), writers))
    assert [writer.returncode for writer in writers] == [0, 0, 0]
    wanted = {str(path): whole[str(path)] for path in paths[:150]}
    for seed in range(3):
        assert_same(read_result(tmp_path / f"{seed}.npz"), wanted)
    db = database(tmp_path / "cache")
    assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    assert db.execute("SELECT COUNT(*), COUNT(DISTINCT id) FROM contents").fetchone() == (300, 300)
    assert db.execute("SELECT COUNT(*) FROM entries").fetchone() == (300,)
    db.close()


def test_killed_writers_lose_nothing_finished(many, tmp_path):
    paths, whole = many
    root, out = tmp_path / "cache", tmp_path / "end.npz"
    rng = random.Random(3)
    kept, n_midway, stretch = 0, 0, 1.0
    for _ in range(8):
        process = start_writer(root, "-", out, paths)
        process.stdin.write("go\n")
        process.stdin.flush()
        time.sleep(stretch * rng.uniform(0.02, 0.25))
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()
        rows = sum(n_rows(root).values())
        assert rows >= kept, "finished rows were lost"
        kept = rows
        n_midway += 0 < kept < 2 * len(paths)
        stretch *= 2 if kept == 0 else 1  # A slow machine.
        if kept == 2 * len(paths):
            kept, root = 0, tmp_path / f"cache-{rng.random()}"
    assert n_midway >= 1, "no kill fell into the work"
    process = start_writer(root, "-", out, paths)
    process.communicate("go\n")
    assert process.returncode == 0
    assert_same(read_result(out), whole)
    # The locks of those that were killed are gone with the next pruning.
    with FeatureCache(root) as cache:
        cache.prune(10**9)
        assert len(list((root / "embeddings" / "sessions").iterdir())) == 1


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
    with pytest.raises(UserError, match="DREAMBENCH_CACHE_MAX: 'much' is no size"):
        read_max_bytes()


def test_file_in_the_way_is_one_line(photos, vit, tmp_path):
    (tmp_path / "embeddings").write_text("a file")
    with pytest.raises(UserError, match="embeddings"):
        run(photos[:1], [vit], tmp_path)


# Runs and the command line.


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    """A run of `copy-reference`, which needs no training, and its cache."""
    from conftest import TINY_PROTOCOL  # noqa: PLC0415

    root = tmp_path_factory.mktemp("scored")
    # Parts of photos that have masks, as mini's do, are not kept.
    (root / "tiny.toml").write_text(TINY_PROTOCOL.replace('segmenter = "mini-segmenter"', ""))
    words = ["--protocol", root / "tiny.toml", "--method", "copy-reference", "--beside", ""]
    done = call("run", *words, "--out", root / "runs", "--cache", root / "cache", "--workers", 2)
    assert done.returncode == 0, done.stderr
    return root, root / "runs" / "tiny" / "copy-reference"


def test_scoring_decodes_each_file_once_and_later_none(scored, tmp_path, decoded, monkeypatch):
    _, run_dir = scored
    run = read_run(run_dir)
    images = [path for subject in run.subjects for _, path in run.made_images(subject.name)]
    photos = [path for subject in run.subjects for path in subject.photos]
    first = Job(run, cache_dir=tmp_path, progress=no_progress).score()
    # Its images are copies of photos.
    distinct = {sha256_file(path) for path in photos + images}
    assert sorted(sha256_file(path) for path in decoded) == sorted(distinct)
    decoded.clear()
    monkeypatch.setattr(Encoder, "encode_pixels", None)
    monkeypatch.setattr(Encoder, "encode_texts", None)
    again = Job(run, cache_dir=tmp_path, progress=no_progress).score()
    assert decoded == []
    pd.testing.assert_frame_equal(again, first, check_exact=True)


def test_cache_command_shows_prunes_and_clears(scored):
    root, run_dir = scored
    cache = ["--cache", root / "cache"]
    (root / "cache" / "class-images" / "x").mkdir(parents=True)
    (root / "cache" / "class-images" / "x" / "0.png").write_bytes(b"0" * 1000)
    shown = call("cache", "show", *cache)
    assert shown.returncode == 0, shown.stderr
    assert "of at most 2,000 MB" in shown.stdout
    assert "class-images" in shown.stdout
    found = json.loads(call("cache", "show", *cache, "--json").stdout)
    kinds = {(row["kind"], row["identity"].split(":")[0]) for row in found["rows"]}
    assert kinds == {
        ("image", "timm"), ("image", "open_clip"), ("image", "phash64|imagehash|mirrored-too"),
        ("text", "open_clip"), ("distance", "timm"),
    }  # fmt: skip
    assert found["folders"]["class-images"] == 1000
    before = (run_dir / "scores.parquet").read_bytes()
    done = call("cache", "prune", *cache, "--max-size", "a lot")
    assert done.returncode == 2
    assert "--max-size: 'a lot' is no size" in done.stderr
    done = call("cache", "prune", *cache, "--max-size", "1 GB")
    assert done.stdout.startswith("0.0 MB freed")
    done = call("cache", "clear", *cache)
    assert "; 0 rows" in done.stdout
    assert json.loads(call("cache", "show", *cache, "--json").stdout)["rows"] == []
    assert (root / "cache" / "class-images" / "x" / "0.png").exists()
    done = call("score", run_dir, *cache, "--workers", 3, "--batch-size", 4)
    assert done.returncode == 0, done.stderr
    assert (run_dir / "scores.parquet").read_bytes() == before


def test_bound_is_kept_without_asking(scored, tmp_path):
    _, run_dir = scored
    environment = {**os.environ, "DREAMBENCH_CACHE_MAX": "100 kB"}
    before = (run_dir / "scores.parquet").read_bytes()
    for _ in range(2):
        done = call("score", run_dir, "--cache", tmp_path, env=environment)
        assert done.returncode == 0, done.stderr
        assert (tmp_path / "embeddings" / FILE_NAME).stat().st_size <= 100_000
        assert (run_dir / "scores.parquet").read_bytes() == before
    environment["DREAMBENCH_CACHE_MAX"] = "big"
    done = call("score", run_dir, "--cache", tmp_path, env=environment)
    assert done.returncode == 2
    assert done.stderr.strip().endswith("write it like 500 MB or 20 GB")


def test_a_texts_row_does_not_depend_on_the_others_or_on_padding(clip):
    short, long = "a dog", "a red dog wearing a hat and a scarf on the beach in the sunset"
    alone = clip.encode_texts([short])[0]
    together = clip.encode_texts([long, short, *(f"a {word}" for word in "abcdefghij")])
    assert np.array_equal(together[1], alone)
    tokens = clip.tokenizer([short, long])
    assert len(set(clip._text_lengths(tokens))) == 2
    with torch.inference_mode():
        padded = torch.nn.functional.normalize(clip.model.encode_text(tokens), dim=-1).numpy()
    assert np.abs(padded - np.stack([alone, together[0]])).max() < 1e-6
