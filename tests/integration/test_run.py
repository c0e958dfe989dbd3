"""A run as its user meets it: the whole path, each stage alone, and what gets refused."""

import getpass
import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys

import pandas as pd
import pytest
from click.testing import CliRunner
from conftest import TINY_PROTOCOL, TINY_RECIPE, call, invoke, refused
from dreambench.metrics.measures import MEASURES
from dreambench.metrics.metrics import METRICS
from PIL import Image

from dreambench import cli
from dreambench.cli import runs
from dreambench.datasets.subjects import find_dataset
from dreambench.metrics.conventions import CONVENTIONS
from dreambench.runs.run_folder import hold_run
from dreambench.storage.files import read_json


def tree(folder):
    """Every file of a folder with its bytes, but for the lock."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != ".lock"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def finished(tmp_path_factory, shared_cache):
    """A whole tiny run with both companions: (folder of runs, words of the command, its result)."""
    root = tmp_path_factory.mktemp("finished")
    (root / "tiny.toml").write_text(TINY_PROTOCOL)
    (root / "quick.toml").write_text(TINY_RECIPE)
    words = (
        "run", "--protocol", root / "tiny.toml", "--method", root / "quick.toml",
        "--out", root / "runs", "--cache", shared_cache, "--batch-size", 4,
    )  # fmt: skip
    return root / "runs" / "tiny", words, invoke(*words)


@pytest.fixture
def copied(finished, tmp_path):
    """A private copy of the finished run's folder."""
    return shutil.copytree(finished[0] / "quick", tmp_path / "quick")


def test_run_prints_the_table_with_intervals_signatures_and_paths(finished):
    folder, _, done = finished
    for name in ("quick", "class-only", "copy-reference"):
        assert name in done.stdout
    for metric in METRICS.values():
        assert metric.title in done.stdout
        assert f"{metric.title}|v{metric.version}|" in done.stdout
    assert "[" in done.stdout
    report = folder / "quick" / "report"
    for name in (
        "table.csv", "report.md", "differences.csv", "families.csv", "subjects.csv",
        "intervals.png", "families.png", "fidelity.png", "grid.png", "side-by-side.png",
        "grids/class-only.png",
    ):  # fmt: skip
        assert str(report / name) in done.stdout
        assert (report / name).stat().st_size > 100
    for name in ("intervals", "families", "fidelity", "grid", "side-by-side"):
        with Image.open(report / f"{name}.png") as image:
            assert min(image.size) > 200


def test_every_number_carries_its_recipe(finished):
    folder, _, _ = finished
    manifest, summary = (read_json(folder / "quick" / f"{n}.json") for n in ("run", "summary"))
    assert set(manifest["digests"]) == {"protocol", "recipe", "data", "base_model", "plan"}
    assert set(manifest["encoders"]) == {"dino", "clip", "perceptual"}
    assert manifest["device"] == "cpu"
    session = manifest["sessions"][-1]
    assert {"torch", "diffusers", "timm", "open_clip_torch"} <= set(session["packages"])
    assert {"version", "commit", "dirty"} == set(session["code"])
    for name, entry in summary["metrics"].items():
        assert entry["signature"].startswith(METRICS[name].title)
        assert entry["low"] < entry["mean"] < entry["high"]
        assert entry["n_scored"] == entry["n_expected"] > 0
        assert entry["n_subjects"] == 2
    assert summary["partial"] is False
    table = pd.read_csv(folder / "quick" / "report" / "table.csv")
    assert set(table["method"]) == {"quick", "class-only", "copy-reference"}
    assert table[["signature", "protocol", "recipe", "data"]].notna().all(axis=None)


def test_scores_are_tidy_and_whole(finished):
    scores = pd.read_parquet(finished[0] / "quick" / "scores.parquet")
    counts = scores.groupby("metric").size().to_dict()
    # Two subjects, two prompts, two images each; two images of the plain class a subject.
    assert counts == {"dino": 8, "clip-i": 8, "clip-t": 8, "div": 4, "pres": 4}
    assert scores["value"].between(-1, 2).all()
    assert not scores.duplicated(["subject", "prompt_id", "k", "metric"]).any()


def test_copying_earns_more_subject_and_less_prompt_fidelity_than_the_floor(finished):
    runs = {
        n: read_json(finished[0] / n / "summary.json") for n in ("class-only", "copy-reference")
    }
    means = {n: {m: e["mean"] for m, e in r["metrics"].items()} for n, r in runs.items()}
    assert means["copy-reference"]["dino"] > means["class-only"]["dino"] + 0.2


def test_pictures_say_that_they_were_generated_and_not_by_whom(finished, shared_cache):
    folder = finished[0] / "quick"
    paths = sorted(folder.glob("images/*/*/*.png"))
    assert len(paths) == 12
    for path in shared_cache.glob("class-images/*/*.png"):
        with Image.open(path) as image:
            note = json.loads(image.info["dreambench"])
        assert note["generated"] is True
        assert note["prompt"] == f"a {note['class_name']}"
    for path in paths:
        with Image.open(path) as image:
            note = json.loads(image.info["dreambench"])
            text = " ".join(str(value) for value in image.info.values())
        assert image.size == (64, 64)
        assert note["generated"] is True
        assert note["method"] == "quick"
        assert note["recipe"] == read_json(folder / "run.json")["digests"]["recipe"]
        assert [note["subject"], note["prompt_id"], f"{note['k']}.png"] == list(path.parts[-3:])
        assert note["prompt"]
        assert isinstance(note["seed"], int)
        assert "/" not in text.replace("mini:folder@", "")
        for secret in (str(folder), socket.gethostname(), getpass.getuser()):
            assert secret not in text.split()


def test_second_start_does_nothing_again(finished):
    folder, words, first = finished
    kept = {n: b for n, b in tree(folder).items() if "run.json" not in n}
    times = {path: path.stat().st_mtime_ns for path in folder.glob("*/images/*/*/*.png")}
    again = invoke(*words)
    assert {n: b for n, b in tree(folder).items() if "run.json" not in n} == kept
    assert {path: path.stat().st_mtime_ns for path in times} == times
    assert again.stdout == first.stdout


def test_each_stage_alone_gives_the_run_of_one_command(copied, shared_cache):
    whole = tree(copied)
    for name in ("scores.parquet", "summary.json"):
        (copied / name).unlink()
    for name in ("train", "images", "report"):
        shutil.rmtree(copied / name)
    assert "first: dreambench train" in refused("generate", copied, "--cache", shared_cache)
    assert "first: dreambench score" in refused("aggregate", copied)
    for stage in ("train", "generate", "embed", "score"):
        invoke(stage, copied, "--cache", shared_cache)
    invoke("aggregate", copied)
    ours = tree(copied)
    same = [n for n in whole if n.startswith("images/") or n.endswith((".safetensors", ".parquet"))]
    # Images, weights of two subjects and modules, scores and measures.
    assert len(same) == 12 + 4 + 2
    assert all(ours[name] == whole[name] for name in same)
    numbers = [json.loads(files["summary.json"])["metrics"] for files in (ours, whole)]
    assert numbers[0] == numbers[1]
    assert "quick" in invoke("report", copied).stdout


def test_status_counts_what_is_done_and_changes_nothing(copied):
    for path in list(copied.glob("images/dog/beach/*.png")):
        path.unlink()
    before = tree(copied)
    found = json.loads(invoke("status", copied, "--json").stdout)
    assert found["images"] == "10 of 12"
    assert found["tuned"] == "2 of 2"
    assert "10 of 12" in invoke("status", copied).stdout
    assert tree(copied) == before


def test_missing_images_are_counted_and_not_averaged_away(copied, shared_cache):
    (copied / "images" / "dog" / "beach" / "0.png").unlink()
    invoke("score", copied, "--cache", shared_cache)
    assert "1 of 12 images are missing" in refused("aggregate", copied)
    invoke("aggregate", copied, "--allow-incomplete")
    summary = read_json(copied / "summary.json")
    assert summary["partial"] is True
    assert summary["metrics"]["clip-t"]["n_scored"] == 7
    assert summary["metrics"]["clip-t"]["n_expected"] == 8
    done = invoke("report", copied)
    assert "(partial)" in done.stdout
    assert "(7 of 8)" in (copied / "report" / "report.md").read_text()


def test_broken_image_is_named(copied, shared_cache):
    path = copied / "images" / "dog" / "beach" / "0.png"
    path.write_bytes(path.read_bytes()[:200])
    line = refused("score", copied, "--cache", shared_cache)
    assert str(path) in line
    assert "replace the file" in line


@pytest.mark.parametrize(
    ("file", "old", "new", "complaint"),
    [
        ("tiny.toml", "guidance_scale = 3.0", "guidance_scale = 3.5", "guidance_scale"),
        ("tiny.toml", "a red {subject}", "a blue {subject}", "prompts"),
        ("quick.toml", "n_steps = 6", "n_steps = 7", "n_steps"),
    ],
)
def test_another_protocol_or_recipe_under_an_old_folder_is_refused(
    finished, tmp_path, shared_cache, file, old, new, complaint
):
    root = finished[0].parent.parent
    for name in ("tiny.toml", "quick.toml"):
        text = (root / name).read_text()
        (tmp_path / name).write_text(text.replace(old, new) if name == file else text)
    before = tree(finished[0])
    line = refused(
        "run", "--protocol", tmp_path / "tiny.toml", "--method", tmp_path / "quick.toml",
        "--out", root / "runs", "--cache", shared_cache, "--batch-size", 4,
    )  # fmt: skip
    assert "holds a run of something else" in line
    assert complaint in line
    assert "--out" in line
    assert tree(finished[0]) == before


def test_another_batch_size_under_an_old_folder_is_refused(finished):
    _, words, _ = finished
    assert "batch_size: 4 -> 3" in refused(*words[:-1], 3)


def test_second_process_on_a_folder_is_refused(finished):
    folder, words, _ = finished
    with hold_run(folder / "quick"):
        done = call(*words)
    assert done.returncode == 2
    assert "another dreambench is working on" in done.stderr
    assert "Traceback" not in done.stderr


def test_unknown_names_suggest_and_leave_nothing(tmp_path):
    out = ("--out", tmp_path / "runs")
    assert "did you mean 'dreambooth'" in refused("run", "--method", "dreamboth", *out)
    words = ("run", "--method", "class-only", "--beside", "", *out)
    assert "did you mean 'mini'" in refused(*words, "--protocol", "minni")
    line = refused(*words, "--protocol", "mini", "--subjects", "dgo")
    assert "no subject named 'dgo'" in line
    assert "'dog'" in line
    assert "no base model" in refused(*words, "--protocol", "mini", "--base-model", "sd99")
    assert "no device 'tpu9'" in refused(*words, "--protocol", "mini", "--device", "tpu9")
    assert not (tmp_path / "runs").exists()


def test_paper_protocol_without_photos_says_what_to_bring(tmp_path):
    done = call(
        "run", "--method", "class-only", "--protocol", "dreambench", "--out", tmp_path / "runs",
        env={**os.environ, "DREAMBENCH_CACHE": str(tmp_path), "DREAMBENCH_DATA": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "put it at" in done.stderr or "put the photos there" in done.stderr


def test_file_in_the_way_is_one_line(tmp_path, shared_cache):
    (tmp_path / "runs").write_text("a file")
    line = refused(
        "run", "--method", "class-only", "--protocol", "mini", "--out", tmp_path / "runs",
        "--cache", shared_cache,
    )  # fmt: skip
    assert "a file is in the way" in line
    assert (tmp_path / "runs").read_text() == "a file"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_folder_that_may_not_be_written_is_one_line(tmp_path, shared_cache):
    (tmp_path / "closed").mkdir(mode=0o555)
    line = refused(
        "run", "--method", "class-only", "--protocol", "mini", "--out", tmp_path / "closed",
        "--cache", shared_cache,
    )  # fmt: skip
    assert "may write" in line


def test_folder_with_other_things_is_left_alone(finished, tmp_path, shared_cache):
    _, words, _ = finished
    (tmp_path / "tiny" / "quick").mkdir(parents=True)
    (tmp_path / "tiny" / "quick" / "thesis.tex").write_text("years of work")
    changed = [tmp_path if word == finished[0].parent else word for word in words]
    assert "is not empty and holds no run" in refused(*changed)
    assert (tmp_path / "tiny" / "quick" / "thesis.tex").read_text() == "years of work"


FULL_DISK = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), resource.RLIM_INFINITY))
from dreambench.cli import main
main(sys.argv[2:])
"""


def test_no_space_left_is_one_line_and_the_run_goes_on_later(finished, tmp_path, shared_cache):
    folder, words, _ = finished
    changed = [str(tmp_path) if word == folder.parent else str(word) for word in words]
    # A limit on the size of files is what an unprivileged test can have instead of a full disk:
    # small files pass, the tuned weights do not.
    limited = [sys.executable, "-c", FULL_DISK, "1000000", *changed]
    done = subprocess.run(limited, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert "cannot write" in done.stderr
    assert "what is done is kept" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.glob("tiny/quick/train/dog"))
    invoke(*changed)
    assert tree(tmp_path / "tiny" / "quick" / "images") == tree(folder / "quick" / "images")


@pytest.fixture
def own_dataset(tmp_path):
    """A private copy of mini's subjects, and a protocol and words that use it."""
    source = find_dataset("mini")
    folder = shutil.copytree(source.photos_dir, tmp_path / "photos")
    text = TINY_PROTOCOL.replace('dataset = "mini"', f'dataset = "{folder}"')
    (tmp_path / "own.toml").write_text(text)
    words = (
        "run", "--protocol", tmp_path / "own.toml", "--method", "copy-reference", "--beside", "",
        "--out", tmp_path / "runs",
    )  # fmt: skip
    return folder, words


def replace_pinned(folder, photo, content):
    """Gives a photo other bytes and pins these."""
    pins = []
    for version in (photo.read_bytes(), content):
        pins.append(f"{hashlib.sha256(version).hexdigest()},{len(version)},")
    photo.write_bytes(content)
    index = folder / "images.csv"
    assert pins[0] in index.read_text()
    index.write_text(index.read_text().replace(*pins))


def test_photo_with_other_bytes_than_pinned_is_named(own_dataset, shared_cache):
    folder, words = own_dataset
    photo = folder / "dog" / "00.png"
    photo.write_bytes(photo.read_bytes() + b"x")
    mask = folder / "mug" / "01-mask.png"
    mask.unlink()
    line = refused(*words, "--cache", shared_cache)
    assert "dog/00.png has 4306 bytes, not 4305" in line
    assert "mug/01-mask.png is missing" in line


def test_unreadable_photo_is_named(own_dataset, shared_cache):
    folder, words = own_dataset
    photo = folder / "dog" / "00.png"
    replace_pinned(folder, photo, b"no picture")
    line = refused(*words, "--cache", shared_cache)
    assert f"{photo} cannot be read as an image" in line
    assert "replace the file" in line


def test_other_photos_under_an_old_folder_are_refused(own_dataset, shared_cache):
    folder, words = own_dataset
    invoke(*words, "--cache", shared_cache)
    first, second = folder / "dog" / "00.png", folder / "dog" / "01.png"
    replace_pinned(folder, first, second.read_bytes())
    line = refused(*words, "--cache", shared_cache)
    assert "holds a run of something else" in line
    assert "digests.data" in line


def test_subjects_narrow_a_run_and_mark_it(tmp_path, shared_cache, tiny):
    done = invoke(
        "run", "--protocol", tiny[0], "--method", "copy-reference", "--beside", "", "--subjects",
        "mug", "--out", tmp_path, "--cache", shared_cache,
    )  # fmt: skip
    assert "(partial)" in done.stdout
    assert "[-, -]" in done.stdout  # One subject has no interval.
    summary = read_json(tmp_path / "tiny" / "copy-reference" / "summary.json")
    assert summary["partial"] is True


def test_report_refuses_runs_of_two_protocols(finished, tmp_path, shared_cache):
    text = TINY_PROTOCOL.replace("guidance_scale = 3.0", "guidance_scale = 2.0")
    (tmp_path / "other.toml").write_text(text)
    invoke(
        "run", "--protocol", tmp_path / "other.toml", "--method", "copy-reference", "--beside", "",
        "--out", tmp_path, "--cache", shared_cache,
    )  # fmt: skip
    line = refused("report", finished[0] / "quick", tmp_path / "other" / "copy-reference")
    assert "has another protocol" in line


def test_mini_is_taken_without_a_gpu_and_said_so(monkeypatch):
    # The choice alone: the run itself is stopped where it would open its folder.
    class Chosen(Exception):
        """Carries what was asked for."""

    def stop(methods, protocol, narrowing, base_model, options, progress):
        raise Chosen(protocol, options["device"])

    monkeypatch.setattr(runs, "_make_requests", stop)
    for cuda, wanted in ((False, ("mini", "cpu")), (True, ("dreambench", "cuda"))):
        monkeypatch.setattr("torch.cuda.is_available", lambda cuda=cuda: cuda)
        done = CliRunner().invoke(cli.main, ["run", "--method", "dreambooth"])
        assert isinstance(done.exception, Chosen)
        assert done.exception.args == wanted
        first = done.stdout.splitlines()[:1]
        if not cuda:
            assert "'mini'" in first[0]
            assert "dreambench run --method dreambooth --protocol dreambench" in first[0]
        else:
            assert first == []


def test_list_names_everything():
    done = invoke("list")
    for name in ("dreambooth", "class-only", "copy-reference", "mini", "sd15", "mini-vit"):
        assert name in done.stdout
    assert "mini-vit" not in invoke("list", "methods").stdout


def test_conventions_score_a_run_in_one_pass(copied, shared_cache):
    done = invoke("score", copied, "--cache", shared_cache, "--convention", "all")
    table = pd.read_csv(copied / "conventions.csv")
    assert set(table["convention"]) == set(CONVENTIONS)
    assert set(table["n_images"]) == {8}
    assert all(text in done.stdout for text in table["signature"])
    summary = json.loads((copied / "summary.json").read_text())
    paper = table[table["convention"] == "paper"].set_index("metric")["mean"]
    for metric in ("dino", "clip-i", "clip-t"):
        assert paper[metric] == pytest.approx(summary["metrics"][metric]["mean"], abs=1e-9)
    line = refused("score", copied, "--convention", "papr")
    assert "did you mean 'paper'" in line


def test_measures_stand_beside_the_scores_and_know_a_copy(finished):
    folder, _, _ = finished
    for method in ("quick", "copy-reference"):
        table = pd.read_parquet(folder / method / "measures.parquet")
        # Eight images of two subjects and two prompts; none of the plain class.
        assert set(table["metric"]) == set(MEASURES)
        assert (table.groupby("metric").size() == 8).all()
        summary = read_json(folder / method / "summary.json")["measures"]
        assert set(summary) == set(MEASURES)
        for name, entry in summary.items():
            assert entry["n_expected"] == 8
            assert entry["signature"].startswith(MEASURES[name].title)
        rows = table[table["metric"] == "joint"]
        for key, is_property in (("other prompts", False), ("property prompts", True)):
            chosen = rows[(rows["family"] == "property") == is_property]
            assert len(chosen) == 4
            means = chosen.groupby("subject")["value"].mean()
            assert summary["joint"][key]["mean"] == pytest.approx(means.mean())
    copies = read_json(folder / "copy-reference" / "summary.json")["measures"]
    for prompts in ("other prompts", "property prompts"):
        assert copies["copy"][prompts]["mean"] == pytest.approx(1, abs=1e-4)
        assert copies["copy-pixels"][prompts]["mean"] == 1
        assert copies["joint"][prompts]["mean"] < 0.2
    report = (folder / "quick" / "report" / "report.md").read_text()
    assert "| Joint (up)" in report
    assert "quick, property prompts" in report


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("", "the protocol names no segmenter"),
        (
            'segmenter = "clipseg"',
            "segmenter 'clipseg' is not on this machine and could not be downloaded; "
            "download config.json",
        ),
    ],
)
def test_without_its_segmenter_a_run_says_what_was_not_measured(
    line, why, tmp_path, shared_cache, monkeypatch
):
    monkeypatch.setenv("DREAMBENCH_WEIGHTS", str(tmp_path))
    text = TINY_PROTOCOL.replace('segmenter = "mini-segmenter"', line)
    (tmp_path / "other.toml").write_text(text)
    invoke(
        "run", "--protocol", tmp_path / "other.toml", "--method", "copy-reference", "--beside", "",
        "--out", tmp_path / "runs", "--cache", shared_cache,
    )  # fmt: skip
    folder = tmp_path / "runs" / "other" / "copy-reference"
    summary = read_json(folder / "summary.json")["measures"]
    assert summary["joint"]["other prompts"] is None
    assert summary["joint"]["not_measured"].startswith(why)
    assert summary["dino-lro"]["other prompts"]["mean"] > 0
    assert f"Joint: not measured: {why}" in (folder / "report" / "report.md").read_text()


def test_an_unknown_segmenter_is_one_line(tmp_path, shared_cache):
    text = TINY_PROTOCOL.replace('"mini-segmenter"', '"mini-segmenters"')
    (tmp_path / "other.toml").write_text(text)
    line = refused(
        "run", "--protocol", tmp_path / "other.toml", "--method", "copy-reference",
        "--out", tmp_path / "runs", "--cache", shared_cache,
    )  # fmt: skip
    assert "no segmenter named 'mini-segmenters'; did you mean 'mini-segmenter'" in line
    assert not (tmp_path / "runs").exists()


def test_oracles_are_stored_beside_the_scores(finished):
    folder, _, _ = finished
    summary = json.loads((folder / "quick" / "summary.json").read_text())
    oracles = pd.read_csv(folder / "quick" / "oracles.csv")
    assert len(oracles) == 4
    for metric in ("dino", "clip-i"):
        chosen = oracles[oracles["metric"] == metric]
        stored = summary["oracles"][metric]
        assert stored["copy_bound"] == pytest.approx(chosen["copy_bound"].mean())
        assert stored["faithful_bound"] < stored["copy_bound"]
    # Pasting photos back earns what the oracle with self-pairs says, but for which photo is drawn.
    copies = json.loads((folder / "copy-reference" / "summary.json").read_text())
    for metric in ("dino", "clip-i"):
        gap = copies["metrics"][metric]["mean"] - summary["oracles"][metric]["copy_bound"]
        assert abs(gap) < 0.1
    report = (folder / "quick" / "report" / "report.md").read_text()
    assert "what pasting a photo back earns" in report
    assert "class-only: no personalization, the floor" in report


def test_narrowing_by_family_marks_the_run_partial(tmp_path, shared_cache, tiny):
    words = (
        "run", "--protocol", tiny[0], "--method", "copy-reference", "--beside", "",
        "--out", tmp_path, "--cache", shared_cache,
    )  # fmt: skip
    done = invoke(*words, "--family", "property")
    assert "(partial)" in done.stdout
    images = {path.parent.name for path in tmp_path.glob("tiny/copy-reference/images/*/*/*.png")}
    assert images == {"red", "prior"}
    assert "prompts.0" in refused(*words, "--prompts", "beach")
    assert "no prompt named 'beech'; did you mean 'beach'?" in refused(*words, "--prompts", "beech")


def test_speed_of_a_run_lets_the_plan_say_hours(finished, shared_cache, monkeypatch):
    monkeypatch.setenv("DREAMBENCH_CACHE", str(shared_cache))
    protocol = finished[0].parent.parent / "tiny.toml"
    recipe = finished[0].parent.parent / "quick.toml"
    done = invoke("plan", "--method", recipe, "--protocol", protocol, "--device", "cpu")
    assert done.stdout.count("hours") == 2


def test_a_protocol_without_clip_and_diversity_needs_only_dino(tmp_path, shared_cache):
    text = TINY_PROTOCOL.replace('["dino", "clip-i", "clip-t", "div", "pres"]', '["dino"]')
    (tmp_path / "less.toml").write_text(text)
    invoke(
        "run", "--protocol", tmp_path / "less.toml", "--method", "copy-reference", "--beside", "",
        "--out", tmp_path, "--cache", shared_cache,
    )  # fmt: skip
    summary = json.loads((tmp_path / "less" / "copy-reference" / "summary.json").read_text())
    assert set(summary["metrics"]) == set(summary["encoders"]) == {"dino"}
    assert summary["n_images_expected"] == 8
