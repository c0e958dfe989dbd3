"""What the operating system refuses is one line, whatever its number and wherever it comes up."""

import errno
import os

import pytest
from conftest import invoke, refused

from dreambench.cli.shared import user_errors
from dreambench.errors import (
    MAX_LINE,
    DiskError,
    UserError,
    disk_errors,
    explain_os_error,
    raise_if_disk,
)
from dreambench.storage import files

NUMBERS = [*sorted(errno.errorcode), 4242]


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("reads", [False, True])
def test_every_number_is_one_line_with_file_reason_and_next_step(tmp_path, number, reads):
    with pytest.raises(DiskError) as caught, disk_errors(tmp_path / "x", reads=reads):
        raise OSError(number, os.strerror(number))
    error = caught.value
    assert str(tmp_path / "x") in error.problem
    assert os.strerror(number) in error.problem
    assert error.hint and "\n" not in str(error)
    assert error.is_full == (number in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT))
    codes = ("missing-file", "unreadable-file") if reads else ("disk",)
    assert error.code in codes


def test_the_next_step_is_that_of_the_number():
    facts = {
        errno.ENAMETOOLONG: "shorter", errno.ELOOP: "link", errno.EISDIR: "folder",
        errno.EXDEV: "two disks", errno.EMFILE: "ulimit", errno.ENOLCK: "locks",
        errno.ENOSPC: "space", errno.EIO: "disk", errno.EBUSY: "another program",
    }  # fmt: skip
    for number, fact in facts.items():
        assert fact in explain_os_error(OSError(number, "x"), "y").hint


def test_an_error_without_a_number_keeps_the_first_line_of_its_text():
    error = explain_os_error(OSError("no such config\nlong advice"))
    assert error.problem == "no such config"
    assert explain_os_error(OSError()).problem == "OSError"


def test_an_error_that_names_its_file_needs_no_other(tmp_path):
    try:
        (tmp_path / "x").read_bytes()
    except OSError as error:
        assert str(tmp_path / "x") in explain_os_error(error).problem
    name = os.fsencode(tmp_path) + b"/caf\xe9"
    assert "caf" in explain_os_error(OSError(errno.EIO, "odd", name)).problem


def test_a_command_ends_in_one_line_whatever_the_system_says(monkeypatch):
    import click  # noqa: PLC0415
    from click.testing import CliRunner  # noqa: PLC0415

    @click.command()
    @user_errors
    def command():
        raise OSError(errno.ESTALE, "Stale file handle", "/far/away")

    done = CliRunner().invoke(command)
    assert done.exit_code == 2
    assert done.stderr.startswith("dreambench: cannot use /far/away: Stale file handle; ")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("word", ["status", "report", "compare", "summarise", "score"])
def test_a_path_that_is_too_long_is_one_line_in_every_command(word):
    assert "too long" in refused(word, "x" * 5000).lower()


def test_a_folder_in_the_place_of_a_manifest_is_no_traceback(tmp_path):
    (tmp_path / "run" / "run.json").mkdir(parents=True)
    assert str(tmp_path / "run") in refused("report", tmp_path / "run")


@pytest.mark.parametrize("content", ["[" * 100_000, "9" * 6000, '{"format": ' + "9" * 5000 + "}"])
def test_a_manifest_that_json_cannot_take_is_one_line(tmp_path, content):
    (tmp_path / "run.json").write_text(content)
    line = refused("report", tmp_path)
    assert str(tmp_path / "run.json") in line and len(line) < 500


def test_a_file_that_may_not_be_read_is_named(tmp_path, monkeypatch):
    path = tmp_path / "run.json"
    path.write_text("{}")

    def forbid(self, *words, **options):
        raise PermissionError(errno.EACCES, "Permission denied", str(self))

    monkeypatch.setattr(type(path), "read_text", forbid)
    with pytest.raises(DiskError, match="Permission denied") as caught:
        files.read_json(path)
    assert caught.value.code == "unreadable-file" and "permissions" in caught.value.hint


def test_a_reader_that_has_enough_ends_the_command_without_a_word(monkeypatch):
    from dreambench.datasets import subjects  # noqa: PLC0415

    def stop(*words, **options):
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    monkeypatch.setattr(subjects, "list_subjects", stop)
    assert invoke("data", "list", "--dataset", "mini", status=1).stderr == ""


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EIO])
def test_a_disk_that_refuses_is_not_a_hub_that_cannot_be_reached(number, monkeypatch):
    import huggingface_hub  # noqa: PLC0415

    from dreambench.encoders.registry import ENCODERS  # noqa: PLC0415

    def fail(*words, **options):
        raise OSError(number, os.strerror(number), "/cache/blobs")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
    with pytest.raises(DiskError, match=os.strerror(number)):
        ENCODERS["dino-vits16"]._download_from_hub("some/hub")


@pytest.mark.parametrize(
    "error",
    [
        OSError("offline"), ConnectionRefusedError(111, "refused"), OSError(-3, "no such name"),
        OSError(errno.ENETUNREACH, "unreachable"), TimeoutError(110, "late"), ValueError("x"),
    ],
)  # fmt: skip
def test_a_network_that_fails_is_no_fault_of_the_disk(error):
    raise_if_disk(error)


def test_a_megabyte_of_a_strangers_text_does_not_hide_what_is_said_of_it():
    error = UserError(f"the digest {'a' * 10**6} is not that of the run", hint="restore it")
    assert len(str(error)) < MAX_LINE + 100
    assert str(error).startswith("the digest aaa")
    assert str(error).endswith("is not that of the run; restore it")


def test_of_many_problems_the_first_are_listed_once_each():
    same = UserError.listed(["x is no y"] * 3000, hint="write y")
    assert str(same) == "x is no y; write y"
    many = str(UserError.listed([f"{n} is no y" for n in range(3000)], hint="write y"))
    lines = many.splitlines()
    assert len(lines) == 101 and lines[0] == "0 is no y"
    assert lines[-1] == "and 2900 more; write y"
