"""Several workers, and several commands, on one run: the same bits, and nothing done twice."""

import json
import os
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest
from conftest import LIGHT_PROTOCOL, TINY_RECIPE, invoke, refused, tree
from processes import call, start

from dreambench.artifacts.failures import read_failures
from dreambench.artifacts.image_set import claim_subject, is_claimed
from dreambench.runs.weights import MAX_KEPT_BYTES

SUBJECTS = ("dog", "dog2", "cat", "mug")
PROTOCOL = LIGHT_PROTOCOL.replace('["dog", "mug"]', json.dumps(SUBJECTS)).replace(
    "n_steps = 3", "n_steps = 2"
)
SLOW = '''
import os, time
from pathlib import Path
from PIL import Image
from dreambench.methods import Method


class Slow(Method):
    """One colour each, in half a second; what is begun and done is written down"""

    tunes = True

    def note(self, what, subject):
        with Path(os.environ["NOTES"]).open("a") as notes:
            notes.write(f"{what} {subject} {os.getpid()}\\n")

    def fit(self, subject, out_dir, *, seed):
        self.note("begin", subject.name)
        time.sleep(float(os.environ.get("SECONDS", 0.5)))
        (out_dir / "colour.bin").write_bytes(bytes([seed % 255]) * 1000)
        self.note("fit", subject.name)

    def load(self, subject, out_dir):
        self.subject, self.colour = subject.name, (out_dir / "colour.bin").read_bytes()[0]
        return self

    def generate(self, prompts, seeds):
        self.note("generate", self.subject)
        side = self.context.sampler.size_px
        return [Image.new("RGB", (side, side), (self.colour, s % 255, len(p)))
                for p, s in zip(prompts, seeds)]
'''


@pytest.fixture
def slow(tmp_path, shared_cache, monkeypatch):
    """The words of a run of a method that takes its time, and the file of its notes."""
    (tmp_path / "four.toml").write_text(PROTOCOL)
    (tmp_path / "slow.py").write_text(SLOW)
    monkeypatch.setenv("NOTES", str(tmp_path / "notes.txt"))
    words = (
        "run", "--protocol", tmp_path / "four.toml", "--method", f"{tmp_path / 'slow.py'}:Slow",
        "--alongside", "", "--cache", shared_cache, "--out",
    )  # fmt: skip
    return words, tmp_path / "notes.txt"


def read_notes(path):
    return [line.split() for line in path.read_text().splitlines()] if path.exists() else []


def count(path, what):
    return Counter(subject for kind, subject, _ in read_notes(path) if kind == what)


def wait_for(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it does not happen"
        time.sleep(0.02)


def images_in(run_dir):
    return {path.relative_to(run_dir): path.read_bytes() for path in run_dir.glob("images/*/*/*")}


@pytest.mark.long
def test_two_workers_make_the_bits_of_one(tmp_path):
    (tmp_path / "two.toml").write_text(LIGHT_PROTOCOL.replace("n_steps = 3", "n_steps = 2"))
    (tmp_path / "quick.toml").write_text(TINY_RECIPE.replace("n_steps = 6", "n_steps = 3"))
    made = []
    for n_workers in (1, 2):
        root = tmp_path / str(n_workers)
        done = call(
            "run", "--protocol", tmp_path / "two.toml", "--method", tmp_path / "quick.toml",
            "--alongside", "class-only", "--workers", n_workers, "--out", root / "runs", "--cache",
            root / "cache",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert "quick: images: 12 of 12" in done.stderr
        assert "class images of dog: 4 of 4" in done.stderr
        kept = (".png", ".safetensors", "losses.json", "scores.parquet")
        made.append({k: v for k, v in tree(root).items() if k.endswith(kept) and "report" not in k})
    assert made[0] == made[1]
    of_class = [Path(name).suffix for name in made[0] if "class-images" in name]
    assert Counter(of_class) == {".png": 2 * 16, ".safetensors": 2}


def test_a_second_command_joins_in_and_nothing_is_done_twice(slow, tmp_path, monkeypatch):
    words, notes = slow
    monkeypatch.setenv("SECONDS", "1.5")
    run_dir = tmp_path / "runs" / "four" / "slow"
    first = start(*words, tmp_path / "runs", "--workers", 1)
    wait_for(lambda: count(notes, "begin"))
    status = json.loads(invoke("status", run_dir, "--json").stdout)
    assert status["working on"] == ["dog"]
    # What needs the folder for itself says who has it.
    assert "making images" in refused("score", run_dir)
    second = call(*words, tmp_path / "runs", "--workers", 1)
    first.join(120)
    assert (first.exitcode, second.returncode) == (0, 0), second.stderr
    assert count(notes, "fit") == count(notes, "begin") == dict.fromkeys(SUBJECTS, 1)
    assert len({pid for *_, pid in read_notes(notes)}) == 2
    status = json.loads(invoke("status", run_dir, "--json").stdout)
    assert (status["images"], status["sessions"], status["summarised"]) == ("24 of 24", 2, True)
    monkeypatch.setenv("SECONDS", "0")
    alone = call(*words, tmp_path / "alone", "--workers", 1)
    assert alone.returncode == 0
    assert images_in(run_dir) == images_in(tmp_path / "alone" / "four" / "slow")


def test_a_worker_that_is_killed_is_replaced_and_its_unit_done_again(slow, tmp_path):
    words, notes = slow
    process = start(*words, tmp_path / "runs", "--workers", 2, folder=tmp_path)
    wait_for(lambda: read_notes(notes))
    _, subject, pid = read_notes(notes)[0]
    os.kill(int(pid), 9)
    process.join(120)
    printed = (tmp_path / "stderr").read_text()
    assert process.exitcode == 0, printed
    assert f"slow, {subject}: lost its worker: its process ended with exit code -9" in printed
    assert count(notes, "fit") == dict.fromkeys(SUBJECTS, 1)
    assert count(notes, "begin")[subject] == 2
    assert read_failures(tmp_path / "runs" / "four" / "slow") == []
    alone = call(*words, tmp_path / "alone")
    assert alone.returncode == 0
    made = [images_in(tmp_path / root / "four" / "slow") for root in ("runs", "alone")]
    assert made[0] == made[1] and len(made[0]) == 24


def test_what_kills_each_worker_is_a_failure_of_its_unit(slow, tmp_path):
    words, notes = slow
    path = tmp_path / "slow.py"
    path.write_text(
        SLOW.replace(
            "        time.sleep", "        if subject.name == 'cat': os.abort()\n        time.sleep"
        )
    )
    done = call(*words, tmp_path / "runs", "--workers", 2)
    assert done.returncode == 1, done.stderr
    assert "slow, cat: fit failed: PlaceLostError: lost 3 workers" in done.stderr
    assert "exit code -6" in done.stderr
    assert count(notes, "fit") == {"dog": 1, "dog2": 1, "mug": 1}
    assert count(notes, "begin")["cat"] == 3
    run_dir = tmp_path / "runs" / "four" / "slow"
    assert [failure.subject for failure in read_failures(run_dir)] == ["cat"]
    assert len(images_in(run_dir)) == 18


def test_all_that_was_started_ends_with_a_command_that_is_killed(slow, tmp_path):
    words, notes = slow
    process = start(*words, tmp_path / "runs", "--workers", 2)
    wait_for(lambda: len(read_notes(notes)) >= 2)
    children = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.join()
    _, alive = psutil.wait_procs(children, timeout=20)
    assert not [one for one in alive if one.status() != psutil.STATUS_ZOMBIE]
    # Their claims went with them.
    run_dir = tmp_path / "runs" / "four" / "slow"
    wait_for(lambda: not is_claimed(run_dir))
    done = call(*words, tmp_path / "runs", "--workers", 2)
    assert done.returncode == 0, done.stderr
    assert len(images_in(run_dir)) == 24


def test_a_claim_keeps_others_off_one_subject_alone(tmp_path):
    with claim_subject(tmp_path, "dog") as first, claim_subject(tmp_path, "dog") as second:
        assert (first, second) == (True, False)
        assert is_claimed(tmp_path, "dog") and not is_claimed(tmp_path, "mug")
        with claim_subject(tmp_path, "mug") as other:
            assert other
    assert not is_claimed(tmp_path)


def test_weights_are_dropped_and_trained_again_where_images_are_wanted(slow, tmp_path):
    words, notes = slow
    run_dir = tmp_path / "runs" / "four" / "slow"
    invoke(*words, tmp_path / "runs", "--subjects", "dog,mug")
    assert (run_dir / "train" / "dog" / "colour.bin").stat().st_size < MAX_KEPT_BYTES
    invoke(*words, tmp_path / "dropped", "--subjects", "dog,mug", "--drop-weights")
    dropped = tmp_path / "dropped" / "four" / "slow"
    assert not (dropped / "train" / "dog" / "colour.bin").exists()
    before = images_in(dropped)
    assert before == images_in(run_dir)
    n_trained = count(notes, "fit")
    # Nothing is trained for images that are there, and the folder is whole.
    invoke(*words, tmp_path / "dropped", "--subjects", "dog,mug", "--drop-weights")
    invoke("verify", dropped)
    assert count(notes, "fit") == n_trained
    (dropped / "images" / "dog" / "beach" / "0.png").unlink()
    invoke(*words, tmp_path / "dropped", "--subjects", "dog,mug", "--keep-weights")
    assert count(notes, "fit") - n_trained == Counter(dog=1)
    assert (dropped / "train" / "dog" / "colour.bin").exists()
    assert images_in(dropped) == before


def test_what_workers_cannot_be_is_refused(slow, tmp_path):
    words, _ = slow
    assert "no device is named" in refused(*words, tmp_path / "runs", "--device", ",")
    line = refused(*words, tmp_path / "runs", "--address", "auto")
    assert "--executor ray" in line
    assert not (tmp_path / "runs").exists()
