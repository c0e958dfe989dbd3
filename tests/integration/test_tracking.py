"""Losses and images reach a tracker as subjects are done, and no tracker ends a run."""

import pytest
from conftest import invoke, refused

METHOD = '''
import json
from PIL import Image
from dreambench.methods import Method


class Learner(Method):
    """One colour each, with losses"""

    tunes = True

    def fit(self, subject, out_dir, *, seed):
        losses = [{"subject": 1 / step} for step in range(1, 4)]
        (out_dir / "losses.json").write_text(json.dumps(losses))

    def load(self, subject, out_dir):
        return self

    def generate(self, prompts, seeds):
        side = self.context.sampler.size_px
        return [Image.new("RGB", (side, side), (s % 255, 9, len(p)))
                for p, s in zip(prompts, seeds)]
'''
TRACKER = """
from dreambench.runs.tracking import Tracker


class Notes(Tracker):
    def note(self, *words):
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "notes.txt").open("a") as notes:
            print(*words, file=notes)

    def log_losses(self, run, subject, losses):
        self.note(run, subject, len(losses))
        if subject == "mug":
            raise RuntimeError("no connection")

    def log_images(self, run, subject, sheet):
        self.note(run, subject, *sheet.size)

    def close(self):
        self.note("closed")
"""


@pytest.fixture
def words(tiny, tmp_path, shared_cache):
    (tmp_path / "learner.py").write_text(METHOD)
    (tmp_path / "notes.py").write_text(TRACKER)
    return (
        "run", "--protocol", tiny[0], "--method", f"{tmp_path / 'learner.py'}:Learner",
        "--alongside", "", "--out", tmp_path / "runs", "--cache", shared_cache,
    )  # fmt: skip


def test_tensorboard_shows_losses_and_images(words, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import (  # noqa: PLC0415
        EventAccumulator,
    )

    invoke(*words, "--track", "tensorboard")
    found = EventAccumulator(str(tmp_path / "runs" / "tracked" / "tiny-learner")).Reload()
    assert found.Tags()["scalars"] == ["subject loss/dog", "subject loss/mug"]
    steps = [(event.step, event.value) for event in found.Scalars("subject loss/dog")]
    assert steps == [(1, 1.0), (2, 0.5), (3, pytest.approx(1 / 3))]
    (sheet,) = found.Images("mug")
    assert (sheet.width, sheet.height) == (6 * 64, 64)


def test_a_tracker_of_ones_own_that_fails_ends_no_run(words, tmp_path):
    done = invoke(*words, "--track", f"{tmp_path / 'notes.py'}:Notes")
    assert "The tracker failed" in done.stderr and "no connection" in done.stderr
    notes = (tmp_path / "runs" / "tracked" / "notes.txt").read_text().splitlines()
    assert notes == ["tiny-learner dog 3", "tiny-learner dog 384 64", "tiny-learner mug 3"]
    assert (tmp_path / "runs" / "tiny" / "learner" / "summary.json").exists()


def test_what_is_no_tracker_is_refused(words, tmp_path):
    assert "did you mean 'tensorboard'" in refused(*words, "--track", "tensorbord")
    line = refused(*words, "--track", f"{tmp_path / 'learner.py'}:Learner")
    assert "is not a Tracker" in line
    assert not (tmp_path / "runs").exists()
