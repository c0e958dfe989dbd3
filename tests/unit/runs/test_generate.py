"""Images of a batch are written beside the next batch, and none is lost or counted too early."""

import signal
import threading
from types import SimpleNamespace

import pytest
from PIL import Image

from dreambench.artifacts.plan import ImageUnit
from dreambench.errors import DiskError
from dreambench.methods.calls import Calls
from dreambench.methods.guard import Guard
from dreambench.runs import generate
from dreambench.runs.failures import FailureLog
from dreambench.storage.sums import read_sums

UNITS = [
    ImageUnit(
        subject="dog", prompt_id=f"p{index}", family="art", k=0, prompt="a {subject}",
        clip_text="a dog", seed=index, batch=index // 2,
    )
    for index in range(6)
]  # fmt: skip


class Method:
    """Generates a grey image a prompt, and says in `begun` which batches it began."""

    def __init__(self):
        self.begun, self.begins = 0, threading.Condition()

    def load(self, subject, folder):
        return self

    def generate(self, prompts, seeds):
        with self.begins:
            self.begun += 1
            self.begins.notify_all()
        return [Image.new("RGB", (8, 8), (seed, seed, seed)) for seed in seeds]

    def wait_for(self, n_batches, seconds):
        with self.begins:
            return self.begins.wait_for(lambda: self.begun >= n_batches, seconds)


@pytest.fixture
def run(tmp_path):
    """A run of three batches of two images, without networks."""
    images = tmp_path / "images" / "dog"
    digests = SimpleNamespace(recipe="r", base_model="b")
    return SimpleNamespace(
        folder=tmp_path, name="mine", subject=lambda _: None, train_dir=lambda _: tmp_path,
        missing_of=lambda _: [u for u in UNITS if not (images / u.path_of_subject).exists()],
        plan=SimpleNamespace(images=UNITS), images_dir=lambda _: images,
        staging_of=lambda _: tmp_path / "staging", protocol=SimpleNamespace(name="p", version=1),
        manifest=SimpleNamespace(sampler=SimpleNamespace(size_px=8), digests=digests),
    )  # fmt: skip


def draw(run, method, calls, told):
    return generate.generate_subject(
        run, method, "dog", failures=FailureLog(run, "dog"), calls=calls, progress=told.append
    )


@pytest.mark.parametrize("is_watched", [False, True])
def test_a_batch_is_written_beside_the_next_unless_files_are_watched(run, monkeypatch, is_watched):
    method, told, overlaps = Method(), [], []
    write_products = generate.write_products

    def write(staging, name, *arguments):
        if name == "0":
            overlaps.append(method.wait_for(2, 0.2 if is_watched else 10))
        assert sum(told) == 2 * int(name)
        return write_products(staging, name, *arguments)

    monkeypatch.setattr(generate, "write_products", write)
    calls = Calls(files=Guard(run.folder, ()) if is_watched else None)
    assert draw(run, method, calls, told) == UNITS
    assert overlaps == [not is_watched]
    assert told == [2, 2, 2]
    assert len(read_sums(run.images_dir("dog"))) == 6


@pytest.mark.parametrize("full_at", [0, 1, 2])
def test_a_full_disk_ends_it_and_keeps_what_is_written(run, monkeypatch, full_at):
    told = []
    write_products = generate.write_products

    def write(staging, name, *arguments):
        if int(name) == full_at:
            raise DiskError("no space left", hint="free some", is_full=True)
        return write_products(staging, name, *arguments)

    monkeypatch.setattr(generate, "write_products", write)
    with pytest.raises(DiskError, match="no space left"):
        draw(run, Method(), Calls(), told)
    assert told == [2] * full_at
    assert len(read_sums(run.images_dir("dog"))) == 2 * full_at


def test_what_is_drawn_is_written_where_the_user_stops_a_later_batch(run):
    method, told = Method(), []

    def stop(prompts, seeds):
        if method.begun == 2:
            signal.raise_signal(signal.SIGINT)
        return Method.generate(method, prompts, seeds)

    method.generate = stop
    with pytest.raises(KeyboardInterrupt):
        draw(run, method, Calls(), told)
    assert len(read_sums(run.images_dir("dog"))) == 4
