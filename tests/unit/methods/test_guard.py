"""The write guard: what a method's code changed outside of its folder is found and taken back."""

import shutil

import pytest

from dreambench.methods.guard import Guard, WriteOutsideError


@pytest.fixture
def run_dir(tmp_path):
    for name in ("train/dog/weights.bin", "train/mug.part/half.bin", "images/dog/beach/0.png"):
        path = tmp_path / "run" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"done")
    (tmp_path / "run" / "run.json").write_bytes(b"{}")
    (tmp_path / "photo.png").write_bytes(b"a photo")
    return tmp_path / "run"


@pytest.fixture
def guard(run_dir, tmp_path):
    return Guard(run_dir, [tmp_path / "photo.png"])


def test_its_own_folder_and_places_elsewhere_are_a_methods_to_write(guard, run_dir, tmp_path):
    with guard.watch(run_dir / "train" / "mug.part"):
        (run_dir / "train" / "mug.part" / "half.bin").write_bytes(b"whole")
        (tmp_path / "scratch.txt").write_bytes(b"")
    assert (run_dir / "train" / "mug.part" / "half.bin").read_bytes() == b"whole"
    assert (tmp_path / "scratch.txt").exists()


@pytest.mark.parametrize(
    ("name", "is_left"),
    [
        ("new.txt", False),
        ("images/dog/beach/0.png", False),  # To be made again.
        ("images/dog/beach/1.png", False),
        ("train/dog/weights.bin", False),
        ("run.json", True),  # The run writes it itself.
    ],
)
def test_what_changed_in_the_run_folder_is_named_and_taken_away(guard, run_dir, name, is_left):
    with pytest.raises(WriteOutsideError, match=name), guard.watch():
        (run_dir / name).write_bytes(b"stray content")
    assert (run_dir / name).exists() is is_left


def test_a_photo_is_put_back(guard, tmp_path):
    for spoil in (lambda photo: photo.write_bytes(b"cropped"), lambda photo: photo.unlink()):
        with pytest.raises(WriteOutsideError, match=r"photo\.png"), guard.watch():
            spoil(tmp_path / "photo.png")
        assert (tmp_path / "photo.png").read_bytes() == b"a photo"


def test_an_error_of_the_method_stays_the_error_and_says_what_it_wrote(guard, run_dir):
    with pytest.raises(ValueError, match="no dog") as caught, guard.watch():
        (run_dir / "stray.txt").write_bytes(b"")
        raise ValueError("no dog")
    assert "stray.txt" in caught.value.__notes__[0]
    assert not (run_dir / "stray.txt").exists()


@pytest.mark.parametrize("place", ["report", "train", "train/dog", "images/dog", "images/mug"])
def test_a_link_in_the_run_folder_is_taken_away_and_its_target_stays(
    guard, run_dir, tmp_path, place
):
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "dog").mkdir(parents=True)
    (elsewhere / "weights.bin").write_text("precious")
    (elsewhere / "dog" / "weights.bin").write_text("precious")
    with pytest.raises(WriteOutsideError, match=place), guard.watch():
        shutil.rmtree(run_dir / place, ignore_errors=True)
        (run_dir / place).symlink_to(elsewhere)
    assert not (run_dir / place).is_symlink()
    assert len([path for path in elsewhere.rglob("*") if path.is_file()]) == 2
