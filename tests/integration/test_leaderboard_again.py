"""Records measured again: images scored, recipes run; and what a pull request is told."""

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import yaml
from conftest import REPOSITORY, invoke, refused
from forged_records import FORGERIES, Forged, copy_record, list_outcomes
from markdown_it import MarkdownIt
from PIL import Image

from dreambench.artifacts.record import read_record
from dreambench.leaderboard.checks import check_paths

WORKFLOW = REPOSITORY / ".github" / "workflows" / "records.yml"


@pytest.fixture
def one(board, tmp_path):
    """A copy of the record of the trained method."""
    (folder,) = board.glob("tiny/quick/*")
    return copy_record(folder, tmp_path / "records")


@pytest.fixture
def images(finished, tmp_path):
    """A copy of its images."""
    return shutil.copytree(finished[0] / "quick" / "images", tmp_path / "images")


def check_images(folder, images, finished, *words, status=0):
    done = invoke(
        "leaderboard", "check", folder, "--images", images, "--protocol", finished[1][2],
        "--device", "cpu", "--json", *words, status=status,
    )  # fmt: skip
    (record,) = json.loads(done.stdout)["records"]
    return {found["what"]: found for found in record["checks"]}


def test_images_that_are_scored_again_give_the_numbers_of_the_record(
    one, images, finished, protocol
):
    before = read_record(one.folder)
    found = check_images(one.folder, images, finished, "--write")
    assert found["re-scored"]["outcome"] == found["images"]["outcome"] == "passed"
    record = read_record(one.folder)
    assert record.status == "re-scored" and record.re_scored.largest_difference < 1e-5
    assert record.re_scored.n_images == before.n_images
    assert record.model_copy(update={"status": "submitted", "re_scored": None}) == before
    (checked,) = check_paths([one.folder], protocol=protocol)
    assert checked.passed and list_outcomes(checked.found)["status"] == "flagged"


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_images_may_be_an_archive(one, images, finished, tmp_path, kind):
    path = tmp_path / f"images.{kind}"
    if kind == "zip":
        shutil.make_archive(str(tmp_path / "images"), "zip", images)
    else:
        with tarfile.open(path, "w:gz") as archive:
            archive.add(images, "of-quick/images")
    assert check_images(one.folder, path, finished)["re-scored"]["outcome"] == "passed"
    assert read_record(one.folder).status == "submitted"


@pytest.mark.parametrize("form", ["index", "dreambench-plus"])
def test_images_may_lie_as_score_takes_them(one, images, finished, tmp_path, form):
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    rows = ["file,subject,prompt,index"]
    for path in sorted(images.glob("*/*/*.png")):
        subject, prompt, k = path.relative_to(images).with_suffix("").parts
        copied = folder / "tgt_image" / subject / prompt / f"{k}.png"
        if form == "index":
            copied = folder / f"image {len(rows)}.png"
            rows.append(f"{copied.name},{subject},{prompt},{k}")
        copied.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copied)
    words = ["--layout", "dreambench-plus"]
    if form == "index":
        folder, words = folder / "index.csv", []
        folder.write_text("\n".join(rows))
    found = check_images(one.folder, folder, finished, *words)
    assert found["re-scored"]["outcome"] == "passed"


@pytest.mark.parametrize(
    "forgery", [one for one in FORGERIES if one.sees == "--images"], ids=lambda one: one.name
)
def test_what_a_record_cannot_show_its_images_do(one, images, finished, forgery):
    forgery.forge(one)
    found = check_images(one.folder, images, finished, status=1)
    assert "failed" in {found[name]["outcome"] for name in ("images", "re-scored") if name in found}


def test_an_image_that_was_swapped_or_is_gone_is_named(one, images, finished):
    Image.new("RGB", (64, 64), "red").save(images / "dog" / "beach" / "0.png")
    (images / "mug" / "red" / "1.png").unlink()
    found = check_images(one.folder, images, finished, status=1)
    lines = " ".join(found["images"]["lines"])
    assert "images/dog/beach/0.png" in lines and "images/mug/red/1.png" in lines
    assert "re-scored" not in found


def test_nothing_is_read_because_a_record_names_it(one, images, board):
    line = refused("leaderboard", "check", one.folder, "--images", images)
    assert "--protocol" in line
    for unused in (["--write"], ["--layout", "uno"]):
        assert "--images" in refused("leaderboard", "check", one.folder, *unused)
    assert "3 records" in refused("leaderboard", "check", board, "--images", images)


def rerun(folder, out, finished, shared_cache, *words):
    return invoke(
        "rerun", folder, "--out", out, "--protocol", finished[1][2], "--cache", shared_cache,
        "--device", "cpu", "--json", *words,
    )  # fmt: skip


def test_a_recipe_that_is_run_again_gives_the_same_bits(
    one, finished, tmp_path, shared_cache, protocol
):
    shown = json.loads(
        rerun(one.folder, tmp_path / "again", finished, shared_cache, "--write").stdout
    )
    assert shown["n_same"] == shown["n_images"] == read_record(one.folder).n_images
    assert all(one["recorded"] == pytest.approx(one["again"]) for one in shown["differences"])
    record = read_record(one.folder)
    assert record.status == "re-run" and record.re_run.largest_difference < 1e-9
    (checked,) = check_paths([one.folder], protocol=protocol)
    assert checked.passed


def test_a_recipe_that_was_not_run_gives_other_images(one, finished, tmp_path, shared_cache):
    (forgery,) = [one for one in FORGERIES if one.name == "a recipe of its own that it did not run"]
    forgery.forge(one)
    again = rerun(one.folder, tmp_path / "again", finished, shared_cache)
    shown = json.loads(again.stdout)
    assert shown["n_same"] == 0
    assert max(abs(one["recorded"] - one["again"]) for one in shown["differences"]) > 1e-3
    assert read_record(one.folder).status == "submitted"


def test_replicates_say_how_far_runs_lie_apart(one, finished, tmp_path, shared_cache):
    (forgery,) = [one for one in FORGERIES if one.name == "a replicate that is made up"]
    forgery.forge(one)
    shutil.copytree(finished[0] / "quick", tmp_path / "again" / "tiny" / "quick")
    shown = json.loads(rerun(one.folder, tmp_path / "again", finished, shared_cache).stdout)
    # All is done already, and resumed.
    assert shown["n_same"] == shown["n_images"] and shown["n_replicates"] == 2
    assert all(one["sd"] == 0 for one in shown["differences"])


def test_a_record_whose_digests_are_not_those_here_is_not_run(one, finished, tmp_path):
    one.content["digests"]["recipe"] = "0123456789abcdef"
    one.write()
    words = ("--out", tmp_path / "again", "--protocol", finished[1][2])
    assert "recipe" in refused("rerun", one.folder, *words)
    assert not (tmp_path / "again").exists()


def test_no_code_is_taken_from_a_record(own, tmp_path):
    path, words = own
    invoke("run", "--method", f"{path}:Colours", "--alongside", "", *words)
    (run,) = (tmp_path / "runs" / "tiny").iterdir()
    invoke("submit", run, "--out", tmp_path / "records", "--sample", "0")
    (folder,) = (tmp_path / "records").glob("*/*/*")
    asked = ("rerun", folder, "--out", tmp_path / "again", *words[:2])
    assert "--method" in refused(*asked)
    other = tmp_path / "other.py"
    other.write_text(f"{path.read_text()}\n# more\n")
    assert "code" in refused(*asked, "--method", f"{other}:Colours")
    done = invoke(*asked, "--method", f"{path}:Colours", "--json")
    shown = json.loads(done.stdout)
    assert shown["n_same"] == shown["n_images"] > 0


def test_a_comment_shows_new_rows_beside_the_baselines(board, tmp_path, finished):
    before = tmp_path / "before"
    shutil.copytree(board, before)
    shutil.rmtree(before / "tiny" / "quick")
    words = ("leaderboard", "comment", board, "--records", before, "--protocol", finished[1][2])
    text = invoke(*words).stdout
    assert "tiny/quick" in text and "quick - class-only" in text
    assert "quick - copy-reference" in text and "| class-only " in text
    assert "No record is new" in invoke(*words[:3], "--records", board, *words[5:]).stdout


def test_words_of_strangers_are_no_markup(board, one, tmp_path, finished):
    title = "<img src=x onerror=alert(1)> [x](javascript:alert(1)) @all\n# `x` | \x1b[2J"
    one.content["method"]["title"] = one.content["recipe"]["title"] = title
    one.write()
    text = invoke("leaderboard", "comment", one.folder, "--records", board).stdout
    assert "\x1b" not in text
    rendered = MarkdownIt("commonmark").enable("table").render(text)
    assert "<img" not in rendered and "<a " not in rendered and rendered.count("<h1>") == 1


def git(folder, *words):
    subprocess.run(["git", "-C", folder, *words], check=True, capture_output=True)


@pytest.fixture
def checkout(board, tmp_path):
    """A clone of a repository whose board has two records; and a way to open pull request 1."""
    origin, clone = tmp_path / "origin", tmp_path / "clone"
    records = origin / "reports" / "records"
    shutil.copytree(board, records)
    (new,) = (records / "tiny" / "quick").iterdir()
    kept = shutil.move(new, tmp_path / new.name)
    (records / "tiny" / "quick").rmdir()
    git(tmp_path, "init", "-q", "-b", "main", origin)
    git(origin, "config", "user.email", "tests@example.org")
    git(origin, "config", "user.name", "tests")
    git(origin, "add", "-A")
    git(origin, "commit", "-q", "-m", "board")
    git(tmp_path, "clone", "-q", origin, clone)

    def propose(change):
        target = records / "tiny" / "quick" / kept.name
        shutil.copytree(kept, target)
        change(Forged(target))
        git(origin, "checkout", "-q", "-b", "proposed")
        git(origin, "add", "-A")
        git(origin, "commit", "-q", "-m", "a record")
        git(origin, "update-ref", "refs/pull/1/merge", "HEAD")
        git(origin, "checkout", "-q", "main")
        return clone

    kept = Path(kept)
    return propose


def run_workflow(folder, tmp_path):
    """Run the steps of the workflow as a runner does, but for what it installs; by name."""
    job = yaml.safe_load(WORKFLOW.read_text())["jobs"]["check"]
    tools = tmp_path / "tools"
    tools.mkdir()
    command = tools / "dreambench"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m dreambench "$@"\n')
    command.chmod(0o755)
    summary = tmp_path / "summary.md"
    (tmp_path / "runner").mkdir()
    environment = {
        **os.environ, **job["env"], "NUMBER": "1", "RUNNER_TEMP": str(tmp_path / "runner"),
        "GITHUB_STEP_SUMMARY": str(summary), "PATH": f"{tools}:{os.environ['PATH']}",
        "PYTHONPATH": str(REPOSITORY),
    }  # fmt: skip
    codes = {}
    for step in job["steps"]:
        if "run" not in step or step["run"].startswith("pip install"):
            continue
        words = ["bash", "-eo", "pipefail", "-c", step["run"]]
        done = subprocess.run(
            words, cwd=folder, env=environment, capture_output=True, text=True, check=False
        )
        codes[step["name"]] = done.returncode
        assert done.returncode in (0, 1), done.stderr
    return codes, summary.read_text()


def test_the_workflow_passes_a_true_record_and_shows_its_row(checkout, tmp_path):
    folder = checkout(lambda one: None)
    codes, summary = run_workflow(folder, tmp_path)
    assert len(codes) == 3 and set(codes.values()) == {0}
    assert "tiny/quick" in summary and "no check failed" in summary


def test_the_workflow_fails_a_forged_record_and_says_why(checkout, tmp_path):
    (forgery,) = [one for one in FORGERIES if one.name == "a mean is raised"]
    folder = checkout(forgery.forge)
    codes, summary = run_workflow(folder, tmp_path)
    assert codes["Check the records"] == 1
    assert "failed, means" in summary


def test_the_workflow_trusts_nothing_of_a_pull_request():
    text = WORKFLOW.read_text()
    content = yaml.safe_load(text)
    # YAML 1.1 reads the key `on` as true.
    assert list(content[True]) == ["pull_request"] and content["permissions"] == {}
    (job,) = content["jobs"].values()
    assert job["permissions"] == {"contents": "read"}
    steps = job["steps"]
    uses = [step["uses"] for step in steps if "uses" in step]
    assert uses and all(re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", one) for one in uses)
    assert all("${{" not in step["run"] for step in steps if "run" in step)
    assert "base.sha" in steps[0]["with"]["ref"]
    assert steps[0]["with"]["persist-credentials"] is False
