"""The cache of features between processes, through kills, and from the command line."""

import json
import os
import random
import time

import numpy as np
import pandas as pd
import pytest
from conftest import TINY_PROTOCOL
from PIL import Image
from processes import FORKS, call
from small_cache import database, n_rows

from dreambench.artifacts.image_set import read_image_set
from dreambench.encoders import extraction
from dreambench.encoders.base import Encoder
from dreambench.encoders.extraction import extract_files
from dreambench.encoders.feature_cache import FILE_NAME, FeatureCache
from dreambench.encoders.pace import Pace
from dreambench.encoders.registry import load_encoder
from dreambench.progress import no_progress
from dreambench.scoring.scorer import Scorer
from dreambench.storage.files import sha256_file

# Several processes, and kills.


def write_rows(root, seed, out, paths, ready, go):
    """What a process does: loads two networks, waits for the word, and makes all rows."""
    extraction.COMMIT_SECONDS = 0.0
    readers = [load_encoder("mini-vit", "dino"), load_encoder("mini-clip", "clip")]
    assert readers[0].model and readers[1].model
    if seed is not None:
        random.Random(seed).shuffle(paths)
    ready.set()
    go.wait()
    rows = extract_files(
        paths, readers, cache_dir=root, progress=no_progress, pace=Pace(batch_size=4)
    )
    np.savez(out, *rows, paths=np.array(list(map(str, paths))))


def start_writer(root, seed, out, paths):
    """A process that has loaded its networks, and what lets it go on."""
    ready, go = FORKS.Event(), FORKS.Event()
    process = FORKS.Process(target=write_rows, args=(root, seed, out, paths, ready, go))
    process.start()
    assert ready.wait(100)
    return process, go


def finish(process, go):
    go.set()
    process.join()
    assert process.exitcode == 0


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
    finish(*start_writer(folder / "cache", None, folder / "whole.npz", paths))
    return paths, read_result(folder / "whole.npz")


def test_several_writers_at_once(many, tmp_path):
    paths, whole = many
    writers = [
        start_writer(tmp_path / "cache", seed, tmp_path / f"{seed}.npz", paths[:150])
        for seed in range(3)
    ]
    for _, go in writers:
        go.set()
    for writer in writers:
        finish(*writer)
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
        process, go = start_writer(root, None, out, paths)
        go.set()
        time.sleep(stretch * rng.uniform(0.02, 0.25))
        process.kill()
        process.join()
        rows = sum(n_rows(root).values())
        assert rows >= kept, "finished rows were lost"
        kept = rows
        n_midway += 0 < kept < 2 * len(paths)
        stretch *= 2 if kept == 0 else 1  # A slow machine.
        if kept == 2 * len(paths):
            kept, root = 0, tmp_path / f"cache-{rng.random()}"
    assert n_midway >= 1, "no kill fell into the work"
    finish(*start_writer(root, None, out, paths))
    assert_same(read_result(out), whole)
    # The locks of those that were killed are gone with the next pruning.
    with FeatureCache(root) as cache:
        cache.prune(10**9)
        assert len(list((root / "embeddings" / "sessions").iterdir())) == 1


# Runs and the command line.


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    """A run of `copy-reference`, which needs no training, and its cache."""
    root = tmp_path_factory.mktemp("scored")
    # Parts of photos that have masks, as mini's do, are not kept.
    (root / "tiny.toml").write_text(TINY_PROTOCOL.replace('segmenter = "mini-segmenter"', ""))
    words = ["--protocol", root / "tiny.toml", "--method", "copy-reference", "--alongside", ""]
    done = call("run", *words, "--out", root / "runs", "--cache", root / "cache")
    assert done.returncode == 0, done.stderr
    return root, root / "runs" / "tiny" / "copy-reference"


def test_scoring_decodes_each_file_once_and_later_none(scored, tmp_path, decoded, monkeypatch):
    _, run_dir = scored
    found = read_image_set(run_dir)
    images = [path for subject in found.subjects for _, path in found.made_images(subject.name)]
    photos = [path for subject in found.subjects for path in subject.photos]
    first = Scorer(found, cache_dir=tmp_path, progress=no_progress).score()
    # Its images are copies of photos.
    distinct = {sha256_file(path) for path in photos + images}
    assert sorted(sha256_file(path) for path in decoded) == sorted(distinct)
    decoded.clear()
    monkeypatch.setattr(Encoder, "encode_pixels", None)
    monkeypatch.setattr(Encoder, "encode_texts", None)
    again = Scorer(found, cache_dir=tmp_path, progress=no_progress).score()
    assert decoded == []
    pd.testing.assert_frame_equal(again.frame, first.frame, check_exact=True)


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
        ("image", "look|v1"), ("text", "open_clip"), ("distance", "timm"),
    }  # fmt: skip
    assert found["folders"]["class-images"] == 1000
    before = (run_dir / "scores.parquet").read_bytes()
    done = call("cache", "prune", *cache, "--max-size", "a lot")
    assert done.returncode == 2
    assert "--max-size: 'a lot' is not a size" in done.stderr
    done = call("cache", "prune", *cache, "--max-size", "1 GB")
    assert done.stdout.startswith("0.0 MB freed")
    done = call("cache", "clear", *cache)
    assert "; 0 rows" in done.stdout
    assert json.loads(call("cache", "show", *cache, "--json").stdout)["rows"] == []
    assert (root / "cache" / "class-images" / "x" / "0.png").exists()
    done = call(
        "score", run_dir, *cache, "--workers", 2, "--decoding-threads", 3, "--batch-size", 4
    )
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
