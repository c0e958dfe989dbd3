"""kill -9 at random moments: nothing is lost, nothing repeated, and the same bits at the end."""

import json
import random
import time

import pandas as pd
import pytest
from conftest import LIGHT_PROTOCOL, TINY_RECIPE
from processes import call, start

N_KILLS = 5
N_KILLS_WITH_WORK = 3


def words(tiny, root):
    """What is killed: every product of the tiny run, each with few steps."""
    protocol, recipe = tiny
    protocol.write_text(LIGHT_PROTOCOL.replace("n_steps = 3", "n_steps = 2"))
    recipe.write_text(TINY_RECIPE.replace("n_steps = 6", "n_steps = 3"))
    return (
        "run", "--protocol", protocol, "--method", recipe, "--alongside", "", "--batch-size", 3,
        "--out", root / "runs", "--cache", root / "cache",
    )  # fmt: skip


def products(root):
    """Every finished file of a run that must come out the same, with its bytes."""
    run_dir = root / "runs" / "tiny" / "quick"
    files = [*run_dir.glob("images/*/*/*.png"), *run_dir.glob("train/*/*.safetensors")]
    files += [*run_dir.glob("train/*/losses.json"), *root.glob("cache/class-images/*/*.png")]
    return {path.relative_to(root): path.read_bytes() for path in files if ".part" not in str(path)}


def fingerprints(root):
    """What tells whether a finished file was made again."""
    return {path: (root / path).stat().st_ino for path in products(root)}


def n_sessions(root):
    path = root / "runs" / "tiny" / "quick" / "run.json"
    return len(json.loads(path.read_text())["sessions"]) if path.exists() else 0


def assert_same_end(broken, whole):
    assert products(broken) == products(whole)
    runs = [root / "runs" / "tiny" / "quick" for root in (whole, broken)]
    frames = [pd.read_parquet(run / "scores.parquet") for run in runs]
    pd.testing.assert_frame_equal(*frames, check_exact=True)
    summaries = [json.loads((run / "summary.json").read_text()) for run in runs]
    assert summaries[0]["metrics"] == summaries[1]["metrics"]
    assert not list(broken.glob("runs/tiny/quick/**/*.part"))


@pytest.mark.long
@pytest.mark.timeout(900)
def test_killed_run_ends_like_an_unbroken_one(tiny, tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken-0"
    done = call(*words(tiny, whole))
    assert done.returncode == 0, done.stderr
    # Kills fall anywhere between the opening of the folder and the end, on a slow machine too.
    opened = (whole / "runs" / "tiny" / "quick" / "run.json").stat().st_mtime
    work_seconds = (whole / "runs" / "tiny" / "quick" / "summary.json").stat().st_mtime - opened

    rng = random.Random(7)
    n_kills, n_with_work_done, n_whole, finished = 0, 0, 0, {}
    # A slow machine may be killed before it finishes anything: such kills prove too little.
    while n_kills < N_KILLS or n_with_work_done < N_KILLS_WITH_WORK:
        before = n_sessions(broken)
        process = start(*words(tiny, broken))
        # The clock starts when the run folder is open: imports are not work to interrupt.
        while n_sessions(broken) == before and process.is_alive():
            time.sleep(0.02)
        time.sleep(rng.uniform(0.0, work_seconds))
        process.kill()
        process.join()
        killed = process.exitcode == -9
        after = fingerprints(broken)
        redone = {path for path, inode in finished.items() if after.get(path) != inode}
        assert not redone, f"made again or lost: {redone}"
        finished = after
        n_kills += killed
        n_with_work_done += killed and bool(finished)
        if not finished:  # The machine is slower now than it was for the unbroken run.
            work_seconds *= 1.3
        if not killed:  # It was through before the kill: check it, and kill the next one.
            assert_same_end(broken, whole)
            work_seconds /= 1.3
            n_whole += 1
            broken, finished = tmp_path / f"broken-{n_whole}", {}
    done = call(*words(tiny, broken))
    assert done.returncode == 0, done.stderr
    assert finished.items() <= fingerprints(broken).items()
    assert_same_end(broken, whole)
