"""What a method leaves in its process reaches no score, whether its own or anybody's."""

import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import psutil
import pytest
from conftest import invoke, tree

from dreambench.artifacts.image_set import read_image_set
from dreambench.encoders.feature_cache import FILE_NAME, FOLDER
from dreambench.encoders.pace import Pace
from dreambench.errors import DiskError, UserError
from dreambench.machine import child_process
from dreambench.progress import no_progress
from dreambench.scoring import process
from dreambench.scoring.process import (
    ScoreRequest,
    extract_on_all,
    score_apart,
    score_here,
    stop_scoring,
)

SPOILER = '''
import os

import numpy as np
import torch
from PIL import Image

from dreambench import Method


class Spoiler(Method):
    """Generates grey squares, and leaves the process as a careless author would."""

    name = "spoiler"

    def fit(self, subject, out_dir, *, seed):
        pass

    def load(self, subject, train_dir):
        torch.nn.modules.module.register_module_forward_hook(
            lambda module, inputs, output: output * 0.5 if torch.is_tensor(output) else output
        )
        torch.nn.functional.scaled_dot_product_attention = lambda q, k, v, **_: v
        np.asarray(0)
        os.environ["OMP_NUM_THREADS"] = "3"
        return self

    def generate(self, prompts, seeds):
        return [Image.new("RGB", (64, 64), (seed % 256, 9, 9)) for seed in seeds]
'''


@pytest.fixture
def unhooked():
    """Takes away what the spoiler leaves, for the tests that come after."""
    import torch  # noqa: PLC0415

    attention = torch.nn.functional.scaled_dot_product_attention
    hooks = dict(torch.nn.modules.module._global_forward_hooks)
    yield
    torch.nn.functional.scaled_dot_product_attention = attention
    torch.nn.modules.module._global_forward_hooks.clear()
    torch.nn.modules.module._global_forward_hooks.update(hooks)


@pytest.mark.usefixtures("unhooked")
def test_hooks_and_patches_of_a_method_change_no_score(finished, tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", os.environ["OMP_NUM_THREADS"])
    (tmp_path / "spoiler.py").write_text(SPOILER)
    cache = tmp_path / "cache"
    invoke(
        "run", "--method", f"{tmp_path / 'spoiler.py'}:Spoiler", "--protocol", tiny[0],
        "--alongside", "copy-reference", "--out", tmp_path / "runs", "--cache", cache,
        "--batch-size", 4,
    )  # fmt: skip
    found, known = (
        pd.read_parquet(folder / "copy-reference" / "scores.parquet")
        for folder in (tmp_path / "runs" / "tiny", finished[0])
    )
    pd.testing.assert_frame_equal(found, known, check_exact=True)
    # Its own are those of its images, and the cache holds nothing else.
    found = tmp_path / "runs" / "tiny" / "spoiler"
    process.stop_scoring()
    for folder in (cache, tmp_path / "clean"):
        images = read_image_set(found)
        before = pd.read_parquet(images.scores_path)
        score_apart(images, ScoreRequest(cache_dir=folder), progress=no_progress)
        pd.testing.assert_frame_equal(pd.read_parquet(images.scores_path), before)


def test_the_process_gives_what_this_one_gives(copied, shared_cache, tmp_path):
    images = read_image_set(copied)
    before = tree(copied)
    request = ScoreRequest(cache_dir=tmp_path / "cache", conventions=("paper",))
    steps = []
    score_apart(images, request, progress=lambda *words: steps.append(words))
    assert steps[-1][1] == steps[-1][2] > 0
    apart = tree(copied)
    assert {name for name in apart if apart[name] != before.get(name)} == {
        "conventions.csv", "SHA256SUMS",
    }  # fmt: skip
    score_here(images, request, progress=no_progress)
    assert tree(copied) == apart


def test_one_process_serves_many_calls_and_ends_when_it_is_told_to(copied, shared_cache):
    images, request = read_image_set(copied), ScoreRequest(cache_dir=shared_cache)
    score_apart(images, request, progress=no_progress)
    child = process._child.process
    score_apart(images, request, progress=no_progress)
    assert process._child.process is child
    stop_scoring()
    assert not child.is_alive()


def read_features(folder):
    """All rows of a cache by encoder, kind and file."""
    with sqlite3.connect(folder / FOLDER / FILE_NAME) as db:
        rows = db.execute(
            "SELECT encoders.identity, kind, key, content FROM entries JOIN contents USING (id) "
            "JOIN encoders ON encoders.id = encoder"
        ).fetchall()
    return {tuple(row[:3]): row[3] for row in rows}


def test_several_processes_extract_the_bits_of_one(copied, tmp_path):
    images, found, counts = read_image_set(copied), [], []
    for n_workers in (1, 3):
        request = ScoreRequest(
            cache_dir=tmp_path / str(n_workers),
            pace=Pace(batch_size=4),
            conventions=["paper", "oft"],
        )
        if n_workers > 1:
            extract_on_all(
                images, request, n_workers=n_workers,
                progress=lambda _, done, total: counts.append((done, total)),
            )  # fmt: skip
            before = read_features(request.cache_dir)
        score_here(images, request, progress=no_progress)
        found.append(read_features(request.cache_dir))
    assert found[0] == found[1]
    # What is left to this process are texts, and distances between files of two shards.
    left = {key[1] for key in found[1].keys() - before.keys()}
    assert left <= {"text", "distance"}
    assert counts[-1][0] == counts[-1][1] >= len(images.plan.images)


def test_a_process_that_extracts_and_is_killed_is_one_line_and_ends_the_others(copied, tmp_path):
    images, request = read_image_set(copied), ScoreRequest(cache_dir=tmp_path / "cache")
    me = psutil.Process()
    before = set(me.children(recursive=True))

    def kill(*_):
        working = [one for one in set(me.children(recursive=True)) - before if not one.children()]
        working[0].kill()

    with pytest.raises(UserError) as caught:
        extract_on_all(images, request, n_workers=2, progress=kill)
    assert caught.value.code == "scoring-ended"
    extract_on_all(images, request, n_workers=2, progress=no_progress)


def test_what_is_wrong_there_is_said_here(copied, shared_cache):
    (copied / "images" / "dog" / "beach" / "0.png").write_bytes(b"no picture")
    images, request = read_image_set(copied), ScoreRequest(cache_dir=shared_cache)
    with pytest.raises(UserError) as apart:
        score_apart(images, request, progress=no_progress)
    with pytest.raises(UserError) as here:
        score_here(images, request, progress=no_progress)
    assert str(apart.value) == str(here.value) and apart.value.code == here.value.code


def test_a_process_that_is_killed_is_one_line_and_the_next_call_has_another(copied, tmp_path):
    images, request = read_image_set(copied), ScoreRequest(cache_dir=tmp_path / "cache")

    def kill(*_):
        os.kill(process._child.process.pid, signal.SIGKILL)

    before = tree(copied)
    with pytest.raises(UserError) as caught:
        score_apart(images, request, progress=kill)
    assert caught.value.code == "scoring-ended" and "-9" in caught.value.problem
    assert tree(copied) == before
    score_apart(images, request, progress=no_progress)


@pytest.mark.parametrize(
    "error",
    [PermissionError(1, "Operation not permitted", "x.png"), OSError(28, "No space left", "x.png")],
)
def test_what_the_system_refuses_there_is_one_line_here(error):
    with pytest.raises(DiskError) as caught:
        raise child_process.make_error(child_process.describe_error(error))
    assert "x.png" in str(caught.value) and caught.value.is_full == (error.errno == 28)


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="no /proc here")
def test_nothing_is_left_when_the_caller_goes():
    code = (
        "from dreambench.scoring import process; process.start_scoring('cpu');"
        "print(process._child.process.pid, flush=True); import time; time.sleep(60)"
    )
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        pid = int(parent.stdout.readline())
        parent.kill()
    for _ in range(600):
        status = Path(f"/proc/{pid}/status")
        if not status.exists() or "State:\tZ" in status.read_text():
            return
        time.sleep(0.1)
    os.kill(pid, signal.SIGKILL)
    raise AssertionError("the scoring process outlives its caller")
