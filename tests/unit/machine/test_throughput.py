"""Speeds of earlier runs: no run stops for them, whatever became of their file."""

import pytest

from dreambench.machine.throughput import Setting, note_speed, read_speed, tidy_speeds

SETTING = Setting("cpu", "mini", 64, "fp32")


@pytest.mark.parametrize(
    "content",
    [
        b"", b"{", b'{"training_image": 0.', b"[]", b"3", b"\xff\xfe", b"\0" * 50, b"[" * 100_000,
        b'{"training_image": "fast"}', b'{"training_image": NaN}', b'{"training_image": -1}',
        b'{"training_image": 1e400}', b'{"training_image": ' + b"9" * 5000 + b"}", None,
    ],
)  # fmt: skip
def test_a_damaged_file_counts_as_none_and_is_written_anew(tmp_path, content):
    path = SETTING.path(tmp_path)
    path.parent.mkdir()
    path.mkdir() if content is None else path.write_bytes(content)
    assert read_speed(tmp_path, SETTING, "training_image") is None
    note_speed(tmp_path, SETTING, "training_image", seconds_per_unit=0.5)
    if content is not None:
        assert read_speed(tmp_path, SETTING, "training_image") == 0.5


def test_speeds_of_two_kinds_of_work_are_kept_side_by_side(tmp_path):
    note_speed(tmp_path, SETTING, "training_image", seconds_per_unit=0.5)
    note_speed(tmp_path, SETTING, "network_call", seconds_per_unit=0.25)
    assert read_speed(tmp_path, SETTING, "training_image") == 0.5
    assert read_speed(tmp_path, SETTING, "network_call") == 0.25


def test_a_folder_that_cannot_be_written_stops_nothing(tmp_path):
    (tmp_path / "throughput").write_text("a file")
    note_speed(tmp_path, SETTING, "network_call", seconds_per_unit=0.25)
    assert read_speed(tmp_path, SETTING, "network_call") is None


def test_what_a_kill_left_among_the_speeds_goes_with_the_next_run(tmp_path):
    note_speed(tmp_path, SETTING, "network_call", seconds_per_unit=1.0)
    path = SETTING.path(tmp_path)
    part = path.with_name(f".{path.name}.12.part")
    part.write_text("{")
    tidy_speeds(tmp_path)
    assert not part.exists()
    assert read_speed(tmp_path, SETTING, "network_call") == 1.0
