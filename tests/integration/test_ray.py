"""Units on a Ray cluster of two nodes: the bits of one process, and nodes and drivers that die."""

import os

import pandas as pd
import psutil
import pytest
from conftest import refused
from processes import call, start
from test_workers import PROTOCOL, SLOW, SUBJECTS, count, images_in, read_notes, wait_for

from dreambench.artifacts.failures import read_failures
from dreambench.runs.executors.ray import Needs, share_of

ray = pytest.importorskip("ray")

# Means of colours; each image that it sees is written down.
COUNTING = """
import hashlib, os
from pathlib import Path
from dreambench import Encoder
from dreambench.encoders.preprocessing import Pixels

class Counting(Encoder):
    roles = ("dino",)
    pixels = Pixels(64, 64, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))

    def forward(self, batch):
        seen = {hashlib.sha256(one.numpy().tobytes()).hexdigest() for one in batch}
        with Path("NOTES").open("a") as notes:
            notes.write("".join(f"see {name} {os.getpid()}\\n" for name in sorted(seen)))
        return batch.mean((2, 3)) + 2
"""


@pytest.fixture(scope="module")
def cluster():
    """A head without room for workers, and two nodes with room for one each."""
    from ray.cluster_utils import Cluster  # noqa: PLC0415  (slow import)

    made = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 0, "include_dashboard": False},
    )
    for _ in range(2):
        made.add_node(num_cpus=1)
    yield made
    made.shutdown()


@pytest.fixture
def slow(tmp_path):
    """The words of a run of a method that takes its time, and the file of its notes."""
    (tmp_path / "four.toml").write_text(PROTOCOL)
    # A cluster's processes have the environment that it was started in.
    code = SLOW.replace('os.environ["NOTES"]', f'"{tmp_path}/notes"')
    (tmp_path / "slow.py").write_text(code.replace('os.environ.get("SECONDS", 0.5)', "2"))
    (tmp_path / "own.py").write_text(COUNTING.replace("NOTES", f"{tmp_path}/seen"))
    words = (
        "run", "--protocol", tmp_path / "four.toml", "--method", f"{tmp_path / 'slow.py'}:Slow",
        "--encoder", f"dino={tmp_path / 'own.py'}:Counting", "--alongside", "", "--cache",
        tmp_path / "cache", "--out",
    )  # fmt: skip
    return words, tmp_path / "notes"


def on(cluster, *more):
    return ("--executor", "ray", "--address", cluster.address, *more)


@pytest.mark.campaign
def test_a_worker_and_a_node_that_are_killed_change_no_bit(cluster, slow, tmp_path):
    words, notes = slow
    node = cluster.add_node(num_cpus=1)
    run = (*words, tmp_path / "runs", *on(cluster, "--workers", 3))
    process = start(*run, folder=tmp_path)
    wait_for(lambda: len(read_notes(notes)) >= 3, 180)
    begun = [(subject, int(pid)) for _, subject, pid in read_notes(notes)]
    raylet = node.all_processes["raylet"][0].process
    on_node = {child.pid for child in psutil.Process(raylet.pid).children(recursive=True)}
    subject, pid = next(one for one in begun if one[1] not in on_node)
    assert any(one[1] in on_node for one in begun)
    os.kill(pid, 9)
    raylet.kill()
    for one in on_node:  # A machine that goes takes all that is on it along.
        os.kill(one, 9)
    process.join(400)
    printed = (tmp_path / "stderr").read_text()
    assert process.exitcode == 0, printed
    assert f"slow, {subject}: lost its worker: " in printed
    assert printed.count("lost its worker") >= 2
    assert "slow: images: 24 of 24" in printed
    assert count(notes, "fit") == count(notes, "generate") == dict.fromkeys(SUBJECTS, 1)
    run_dir = tmp_path / "runs" / "four" / "slow"
    assert read_failures(run_dir) == []
    seen = read_notes(tmp_path / "seen")
    assert len({pid for _, _, pid in seen}) >= 2
    (tmp_path / "seen").unlink()
    alone = call(*words[:-2], tmp_path / "another", "--out", tmp_path / "alone")
    assert alone.returncode == 0
    assert images_in(run_dir) == images_in(tmp_path / "alone" / "four" / "slow")
    # Nothing is scored twice, and nothing otherwise.
    by_one = read_notes(tmp_path / "seen")
    assert sorted(name for _, name, _ in seen) == sorted(name for _, name, _ in by_one)
    scores = [
        folder / "four" / "slow" / "scores.parquet"
        for folder in (tmp_path / "runs", tmp_path / "alone")
    ]
    pd.testing.assert_frame_equal(*map(pd.read_parquet, scores))


@pytest.mark.campaign
def test_a_driver_with_a_disk_of_its_own_dies_and_comes_back(cluster, slow, tmp_path):
    words, notes = slow
    run = (*words, tmp_path / "runs", *on(cluster, "--workers", 2, "--storage", "driver"))
    process = start(*run)
    wait_for(lambda: sum(count(notes, "fit").values()) >= 1, 180)
    process.kill()
    process.join()
    done = call(*run)
    assert done.returncode == 0, done.stderr
    # No more is lost than what was not sent when it died.
    assert sum(count(notes, "begin").values()) <= len(SUBJECTS) + 3
    run_dir = tmp_path / "runs" / "four" / "slow"
    assert len(images_in(run_dir)) == 24
    assert (run_dir / "train" / "dog" / "colour.bin").is_file()
    assert not list(run_dir.rglob(".staging"))
    assert call("verify", run_dir).returncode == 0


def test_a_cluster_that_is_not_there_is_refused(slow, tmp_path):
    words, _ = slow
    line = refused(*words, tmp_path / "runs", "--executor", "ray", "--address", "127.0.0.1:1")
    assert "there is no Ray cluster at 127.0.0.1:1" in line
    assert not (tmp_path / "runs").exists()


def test_workers_are_counted_by_what_they_need():
    needs = Needs(n_cpus=2, memory_bytes=10, gpu_share=0.5)
    assert needs.count({"CPU": 8, "memory": 100, "GPU": 1}) == 2
    assert needs.count({"CPU": 3, "memory": 100, "GPU": 4}) == 1
    assert needs.count({"CPU": 8, "memory": 100}) == 0
    assert Needs(n_cpus=1, memory_bytes=10).count({"CPU": 3, "memory": 25}) == 2
    shares = [share_of(80, 24), share_of(80, 80), share_of(80, 200)]
    assert shares == [0.3333, 1.0, 1.0]
