"""What other workers write in a run folder is theirs, and nothing that a method did."""

import os

import pytest

from dreambench.artifacts.image_set import claim_subject, is_claimed
from dreambench.methods.guard import Guard, WriteOutsideError

OTHERS = (
    "images/mug/beach/0.png", "train/mug.part/unet.bin", "failures/fit-mug.txt",
    "device-time/mug.json",
)  # fmt: skip


def write(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("theirs")


@pytest.fixture
def guard(tmp_path):
    names = ("mug", "cat")
    return Guard(
        tmp_path, [], list_others=lambda: {name for name in names if is_claimed(tmp_path, name)}
    )


def test_what_is_written_of_a_claimed_subject_is_left(guard, tmp_path):
    with claim_subject(tmp_path, "mug"), guard.watch():
        write(tmp_path, *OTHERS, "run.json")
    assert all((tmp_path / name).exists() for name in OTHERS)


def test_also_where_the_claim_came_and_went_meanwhile(guard, tmp_path):
    with claim_subject(tmp_path, "mug"):
        os.utime(tmp_path / ".claims" / "mug.lock", ns=(0, 0))
    with guard.watch(), claim_subject(tmp_path, "mug"):
        write(tmp_path, *OTHERS)
    assert all((tmp_path / name).exists() for name in OTHERS)


def test_what_goes_while_it_is_looked_at_is_no_failure(guard, tmp_path, monkeypatch):
    unfinished = tmp_path / "images" / "mug" / ".2.8853.part"
    write(tmp_path, unfinished.relative_to(tmp_path))
    walk = os.walk

    def walk_and_lose(folder):
        for listed in walk(folder):
            if unfinished.name in listed[2]:
                unfinished.unlink()
            yield listed

    monkeypatch.setattr(os, "walk", walk_and_lose)
    with claim_subject(tmp_path, "mug"), guard.watch():
        pass
    assert not unfinished.exists()


@pytest.mark.parametrize("name", ["images/cat/beach/0.png", "train/cat/unet.bin", "scores.parquet"])
def test_what_is_nobody_elses_is_taken_away(guard, tmp_path, name):
    with claim_subject(tmp_path, "mug"), pytest.raises(WriteOutsideError), guard.watch():
        write(tmp_path, name)
    assert not (tmp_path / name).exists()


def test_without_others_a_changed_manifest_is_found(guard, tmp_path):
    write(tmp_path, "run.json")
    with pytest.raises(WriteOutsideError), guard.watch():
        (tmp_path / "run.json").write_text("changed!")
