"""`dreambench study` on real runs: scores go into the plan, and results into the report."""

import json
import os
import shutil
import signal
import subprocess
import sys
import urllib.request

import pytest
from conftest import invoke, refused_at_once
from simulated_raters import World, simulate

from dreambench.artifacts.study import read_study


@pytest.fixture(scope="module")
def made(finished, tmp_path_factory):
    """A study of two real runs: (its folder, the runs, what was printed)."""
    root = tmp_path_factory.mktemp("study")
    out = root / "s"
    # Copies, since a test writes their reports again.
    runs = [
        shutil.copytree(finished[0] / name, root / name) for name in ("quick", "copy-reference")
    ]
    numbers = ("--comparisons", 8, "--questions", 4, "--raters", 6)
    return out, runs, invoke("study", "make", *runs, *numbers, "--out", out).stdout


def test_plan_has_the_scores_and_digests_of_the_very_images(made):
    folder, runs, printed = made
    study = read_study(folder)
    assert study.digest() in printed and [m.name for m in study.methods] == [r.name for r in runs]
    names = {info.name for info in study.metrics}
    assert {"dino", "clip-t", "joint"} <= names
    from dreambench.artifacts.image_set import read_image_set  # noqa: PLC0415
    from dreambench.artifacts.results import read_scores  # noqa: PLC0415

    table = read_scores(read_image_set(runs[0])).frame
    for one in study.comparisons:
        image = one.first_image
        k = int(image.path.split("/")[-1].removesuffix(".png"))
        is_own = (table["subject"] == one.subject) & (table["prompt_id"] == one.prompt_id)
        rows = table[is_own & (table["k"] == k) & (table["metric"] == "dino")]
        assert rows["value"].tolist() == [image.scores["dino"]]


def test_what_was_said_goes_into_the_report_of_its_runs_and_of_no_other(made, finished, tmp_path):
    folder, runs, _ = made
    study = read_study(folder)
    world = World({"quick": 1.0, "copy-reference": -1.0})
    for one in simulate(study, world, seed=0):
        (tmp_path / f"{one.rater}.json").write_text(one.model_dump_json())
    done = invoke("study", "analyse", folder, tmp_path, "--out", tmp_path / "out")
    assert "simulated raters" in done.stdout and "Joint" in done.stdout
    said = tmp_path / "out" / "study-results.json"
    assert json.loads(said.read_text())["simulated"] is True
    invoke("report", runs[0], runs[1], "--study", said)
    page = (runs[0] / "report" / "report.md").read_text()
    assert "## Simulated raters: user study" in page and "which metric follows them" in page.lower()
    line = refused_at_once("report", finished[0] / "class-only", "--study", said)
    assert "had no images of this run" in line
    invoke("report", runs[0], runs[1])
    assert "user study" not in (runs[0] / "report" / "report.md").read_text()


def test_answers_are_collected_until_it_is_interrupted(made):
    folder = made[0]
    words = [sys.executable, "-m", "dreambench", "study", "serve", str(folder), "--no-browser"]
    with subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    ) as process:  # fmt: skip
        try:
            url = process.stdout.readline().strip()
            with urllib.request.urlopen(url, timeout=20) as answer:
                assert answer.url.endswith("/questionnaires/001.html")
            sheet = simulate(read_study(folder), World({"quick": 0, "copy-reference": 0}), seed=1)[
                0
            ]
            content = json.dumps({**sheet.model_dump(mode="json"), "simulated": False}).encode()
            asked = urllib.request.Request(
                f"{url}answers", content, {"Content-Type": "application/json"}
            )
            with urllib.request.urlopen(asked, timeout=20) as answer:
                assert json.load(answer) == {"stored": True}
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=20)
        finally:
            process.kill()
    assert process.returncode == 0
    assert said.splitlines()[-1] == f"{folder / 'answers.sqlite'} has the answers of 1 person."
