"""What a method from outside fails at or may not do: counted, said, tried again, and exit codes."""

import json
import os
import shutil
import time
from pathlib import Path

import pytest
from conftest import invoke, refused
from own_method import N_IMAGES, OWN, images_of, run_own
from PIL import Image
from processes import call

from dreambench.artifacts.results import Summary
from dreambench.storage.files import read_json
from dreambench.text import hide_folders

FAULTS = [
    ("constructor raise", "RuntimeError: no engine in v8.bin", 2 * N_IMAGES),
    ("fit raise", "ValueError: cannot see the dog", N_IMAGES),
    ("load raise", "KeyError: 'weights'", N_IMAGES),
    ("generate raise", "ValueError: out of colour", N_IMAGES),
    ("generate first", "ValueError: no beach", 2),
    ("generate number", "ImagesError: generate() made 1 images for 2 prompts", N_IMAGES),
    ("generate size", "an image of 63 x 63 pixels, not 64 x 64", N_IMAGES),
    ("generate mode", "an image of mode L, not RGB", N_IMAGES),
    ("generate type", "a NoneType and no PIL image", N_IMAGES),
]


@pytest.mark.parametrize(("fault", "reason", "n_failed"), FAULTS, ids=[f[0] for f in FAULTS])
def test_a_failure_is_counted_and_the_rest_goes_on(
    own, tmp_path, monkeypatch, fault, reason, n_failed
):
    stage = fault.split()[0]
    monkeypatch.setenv("FAULT", fault)
    alongside = ("--alongside", "copy-reference") if fault.endswith("raise") else ()
    done = run_own(own, *alongside, status=1)
    run_dir = tmp_path / "runs" / "tiny" / "colours"
    subject = "colours" if stage == "constructor" else "colours, dog"
    said = [line for line in done.stderr.splitlines() if line.startswith(f"dreambench: {subject}")]
    assert f"{stage} failed: " in said[0]
    assert reason in said[0]
    assert str(run_dir / "failures") in done.stderr.splitlines()[-1]
    n_methods = 2 if alongside else 1
    assert f"{n_failed} images of 1 of {n_methods} methods" in done.stderr.splitlines()[-1]
    name = stage if stage == "constructor" else f"{stage}-dog"
    assert "Traceback" in (run_dir / "failures" / f"{name}.txt").read_text()
    if alongside:
        other = read_json(tmp_path / "runs" / "tiny" / "copy-reference" / "summary.json")
        assert (other["partial"], other["n_failed"]) == (False, 0)
    assert len(images_of(run_dir)) == 2 * N_IMAGES - n_failed
    status = json.loads(invoke("status", run_dir, "--json").stdout)
    assert status["images"] == f"{2 * N_IMAGES - n_failed} of {2 * N_IMAGES}"
    assert any(reason in line for line in status["failed"])
    if stage == "constructor":
        assert not (run_dir / "summary.json").exists()
    else:
        summary = read_json(run_dir / "summary.json")
        assert summary["partial"] is True
        assert summary["n_failed"] == n_failed
        (row,) = summary["failures"][stage]
        assert row["subjects"] == ["dog"]
        assert reason in f"{row['error']}: {row['message']}"
        assert str(tmp_path) not in (run_dir / "summary.json").read_text()
        assert reason in (run_dir / "report" / "report.md").read_text()
        assert reason in done.stdout
    # The same command tries what failed, and only that.
    made = {p: (run_dir / p).stat().st_mtime_ns for p in images_of(run_dir)}
    monkeypatch.delenv("FAULT")
    run_own(own)
    assert len(images_of(run_dir)) == 2 * N_IMAGES
    assert {p: (run_dir / p).stat().st_mtime_ns for p in made} == made
    summary = read_json(run_dir / "summary.json")
    assert (summary["partial"], summary["n_failed"], summary["failures"]) == (False, 0, {})
    assert "failed" not in json.loads(invoke("status", run_dir, "--json").stdout)


def test_images_that_are_none_or_repeated_are_listed(own, tmp_path):
    own[0].write_text(OWN.replace("(self.colour, s % 255, len(p))", "(0, 0, 9 * len(prompts[0]))"))
    done = run_own(own)
    run_dir = tmp_path / "runs" / "tiny" / "colours"
    problems = read_json(run_dir / "summary.json")["problems"]
    assert problems["of one colour"]["n_images"] == 2 * N_IMAGES
    # Both images of a prompt, and the other subject's, are the same.
    assert problems["duplicated"]["n_images"] >= N_IMAGES
    line = f"colours: {2 * N_IMAGES} images of one colour, the first: images/dog/beach/0.png"
    assert line in done.stdout
    assert line in (run_dir / "report" / "report.md").read_text()
    own[0].write_text(OWN.replace("(self.colour, s % 255, len(p))", '"black"'))
    done = run_own(own, "--out", tmp_path / "black")
    assert f"colours: {2 * N_IMAGES} images black, the first: " in done.stdout
    # An earlier summary has no such field.
    summary = read_json(run_dir / "summary.json")
    del summary["problems"]
    assert Summary.model_validate(summary).problems == {}


def test_batches_that_fail_alike_leave_the_subject(own, tmp_path, monkeypatch):
    monkeypatch.setenv("FAULT", "generate raise")
    done = run_own(own, "--batch-size", 1, status=1)
    assert done.stderr.count("generate failed: ValueError: out of colour") == 3
    assert "generate not tried for the rest of dog" in done.stderr
    summary = read_json(tmp_path / "runs" / "tiny" / "colours" / "summary.json")
    counts = {row["error"]: row["n_images"] for row in summary["failures"]["generate"]}
    assert counts == {"ValueError": 3, "not tried": N_IMAGES - 3}
    assert summary["n_failed"] == N_IMAGES


def test_a_users_error_in_the_same_words_ends_the_method(own, tmp_path, monkeypatch):
    protocol = own[1][1]
    protocol.write_text(protocol.read_text().replace('["dog", "mug"]', '["dog", "mug", "teapot"]'))
    own[0].write_text(OWN.replace('("", "dog")', '("", "dog", "mug", "teapot")'))
    monkeypatch.setenv("FAULT", "fit !user")
    done = run_own(own, status=1)
    assert done.stderr.count("fit failed: now") == 2
    assert "fit not tried for the rest of teapot: now" in done.stderr
    assert f"{3 * N_IMAGES} images of 1 of 1 methods" in done.stderr


@pytest.mark.parametrize("stage", ["constructor", "fit", "load", "generate"])
def test_a_stop_by_the_user_is_not_swallowed(own, tmp_path, monkeypatch, stage):
    monkeypatch.setenv("FAULT", f"{stage} !ctrl-c")
    done = run_own(own, status=130)
    assert "failed" not in done.stderr
    assert not (tmp_path / "runs" / "tiny" / "colours" / "summary.json").exists()


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("constructor !exit", "ExitError: SystemExit (now)"),
        ("fit !stop", "ExitError: KeyboardInterrupt (now)"),
        ("load !generator", "ExitError: GeneratorExit (now)"),
        ("generate !exit", "ExitError: SystemExit (now)"),
        ("fit !mute", "Mute: (its message cannot be printed)"),
        ("generate !surrogate", r"ValueError: no file caf\xe9.png"),
        ("generate lazy", "OSError: "),
        ("generate odd", "ExitError: SystemExit (0)"),
    ],
)
def test_what_would_end_the_run_is_a_failure_of_the_method_alone(
    own, tmp_path, monkeypatch, fault, reason
):
    monkeypatch.setenv("FAULT", fault)
    done = run_own(own, "--alongside", "copy-reference", status=1)
    stage = fault.split()[0]
    assert f"{stage} failed: {reason}" in done.stderr
    run_dir = tmp_path / "runs" / "tiny" / "colours"
    n_left = 0 if stage == "constructor" else N_IMAGES
    assert len(images_of(run_dir)) == n_left
    # An image that fails when its file is written leaves nothing half done.
    assert not list(run_dir.glob("images/.staging/*"))
    other = read_json(tmp_path / "runs" / "tiny" / "copy-reference" / "summary.json")
    assert (other["partial"], other["n_failed"]) == (False, 0)


def test_a_subject_that_takes_too_long_is_left_and_the_rest_goes_on(own, tmp_path, monkeypatch):
    monkeypatch.setenv("FAULT", "fit !slow")
    started = time.monotonic()
    done = run_own(own, "--unit-timeout", "0.5", status=1)
    assert time.monotonic() - started < 29
    assert "fit failed: TimeLimitError: took longer than 0.5 seconds" in done.stderr
    assert len(images_of(tmp_path / "runs" / "tiny" / "colours")) == N_IMAGES


def test_a_run_does_not_follow_a_method_into_another_folder(own, tmp_path, monkeypatch):
    start, elsewhere = tmp_path / "start", tmp_path / "elsewhere"
    start.mkdir()
    elsewhere.mkdir()
    monkeypatch.chdir(start)
    monkeypatch.setenv("FAULT", "elsewhere")
    monkeypatch.setenv("ELSEWHERE", str(elsewhere))
    run_own(own, "--out", "runs", "--cache", "cache")
    assert len(images_of(start / "runs" / "tiny" / "colours")) == 2 * N_IMAGES
    assert not list(elsewhere.iterdir())
    assert Path.cwd() == start


def test_code_that_exits_when_it_is_read_is_refused(own):
    own[0].write_text(OWN + "\nraise SystemExit(0)\n")
    assert "SystemExit" in refused("run", "--method", f"{own[0]}:Colours", *own[1])


def test_what_a_user_has_to_fix_is_one_line_for_a_method_alone(own, monkeypatch):
    monkeypatch.setenv("FAULT", "constructor !user")
    path, words = own
    done = invoke("run", "--method", f"{path}:Colours", *words, "--alongside", "", status=2)
    assert done.stderr.splitlines()[-1] == "dreambench: now"
    done = run_own(own, "--alongside", "copy-reference", status=1)
    assert "copy-reference" in done.stdout


def test_what_it_writes_into_the_run_folder_is_refused(own, tmp_path, monkeypatch):
    run_dir = tmp_path / "runs" / "tiny" / "colours"
    monkeypatch.setenv("FAULT", f"fit {run_dir / 'scores.parquet'}")
    done = run_own(own, status=1)
    (line,) = [line for line in done.stderr.splitlines() if "WriteOutsideError" in line][:1]
    assert line.startswith("dreambench: colours, dog: fit failed: ")
    assert "scores.parquet" in line
    assert not (run_dir / "failures" / "fit-mug.txt").exists()
    assert len(images_of(run_dir)) == N_IMAGES


def test_writes_of_other_programs_into_the_run_folder_are_found(own, tmp_path, monkeypatch):
    run_dir = tmp_path / "runs" / "tiny" / "colours"
    stray = run_dir / "images" / "dog" / "beach" / "0.png"
    stray.parent.mkdir(parents=True)
    monkeypatch.setenv("FAULT", f"fit native:{stray}")
    path, words = own
    line = refused("run", "--method", f"{path}:Colours", *words, "--alongside", "")
    assert str(run_dir) in line and "--out" in line
    shutil.rmtree(run_dir)
    monkeypatch.setenv("FAULT", "constructor raise")
    run_own(own, status=1)
    stray.parent.mkdir(parents=True)
    monkeypatch.setenv("FAULT", f"fit native:{stray}")
    done = run_own(own, status=1)
    assert "WriteOutsideError" in done.stderr
    assert "images/dog/beach/0.png" in done.stderr
    assert not stray.exists()
    monkeypatch.delenv("FAULT")
    run_own(own)
    with Image.open(stray) as image:
        assert image.size == (64, 64)


def test_the_command_line_ends_with_one_when_something_failed(own):
    words = ["run", "--method", f"{own[0]}:Colours", *own[1], "--alongside", ""]
    done = call(*words, env={**os.environ, "FAULT": "fit raise"})
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("dreambench: 6 images of 1 of 1 methods")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("no file /home/me/work/x.png here", "no file x.png here"),
        ("'/a/b/c'", "'c'"),
        ("3/4 of n/a, and/or https://hub.org/a/b", "3/4 of n/a, and/or https://hub.org/a/b"),
        ("two\nlines", "two lines"),
    ],
)
def test_messages_keep_names_of_files_and_no_folders(text, shown):
    assert hide_folders(text) == shown
