"""SHA256SUMS: what was written is told from what was changed, and no name leads out."""

import shutil
import subprocess

import pytest

from dreambench.errors import UserError
from dreambench.storage.sums import (
    FILE_NAME,
    find_changed,
    read_sums,
    write_products,
    write_sums,
)

COMMAND = ["sha256sum", "-c", FILE_NAME]


@pytest.fixture
def folder(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    write_products(tmp_path / "staging", "one", out, {"a/0.png": b"one", "b.txt": b"two"})
    return out


def test_products_are_listed_as_they_are_written(folder):
    assert list(read_sums(folder)) == ["a/0.png", "b.txt"]
    assert find_changed(folder) == []


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="no sha256sum here")
def test_sha256sum_reads_the_list(folder):
    done = subprocess.run(COMMAND, check=False, cwd=folder, capture_output=True)
    assert done.returncode == 0 and b"a/0.png: OK" in done.stdout
    (folder / "b.txt").write_bytes(b"other")
    assert subprocess.run(COMMAND, check=False, cwd=folder).returncode == 1


@pytest.mark.parametrize("change", [lambda p: p.unlink(), lambda p: p.write_bytes(b"onf")])
def test_what_is_missing_or_changed_is_named(folder, change):
    change(folder / "a" / "0.png")
    assert find_changed(folder) == ["a/0.png"]


def test_more_products_join_the_list_and_dropped_ones_leave_it(folder, tmp_path):
    write_products(tmp_path / "staging", "two", folder, {"c": b"c", "b.txt": b"new"}, dropped=["x"])
    assert list(read_sums(folder)) == ["a/0.png", "b.txt", "c"] and find_changed(folder) == []
    write_products(tmp_path / "staging", "three", folder, {"d": b"d"}, dropped=["a/0.png"])
    assert list(read_sums(folder)) == ["b.txt", "c", "d"]


def test_a_folder_that_is_whole_is_listed_at_once(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "weights").write_bytes(b"w")
    write_sums(tmp_path)
    assert list(read_sums(tmp_path)) == ["deep/weights"]


@pytest.mark.parametrize(
    "line",
    [
        "0" * 64 + "  ../secret", "0" * 64 + "  /etc/passwd", "0" * 64 + "  a/../../b",
        "0" * 64 + "  a//b", "0" * 63 + "  a", "0" * 64 + " a", "Z" * 64 + "  a", "", "\x00",
        "0" * 64 + "  a\\b", "0" * 64 + "  .",
    ],
)  # fmt: skip
def test_a_list_that_is_no_list_of_ours_is_one_line(folder, line):
    path = folder / FILE_NAME
    path.write_text(path.read_text() + line + "\n")
    for read in (read_sums, find_changed):
        with pytest.raises(UserError) as caught:
            read(folder)
        assert caught.value.code == "damaged-file" and f"{path}:3" in str(caught.value)
