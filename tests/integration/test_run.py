"""A run as its user meets it: the whole path, each stage alone, and what its folder holds."""

import gc
import getpass
import json
import re
import shutil
import socket

import pandas as pd
import pytest
from click.testing import CliRunner
from conftest import REPOSITORY, TINY_PROTOCOL, invoke, refused, tree
from diffusers import UNet2DConditionModel
from PIL import Image

from dreambench import cli
from dreambench.benchmark import execution, planning
from dreambench.metrics.conventions import CONVENTIONS
from dreambench.metrics.registry import load_own_metrics
from dreambench.report.formatting import format_number
from dreambench.storage.files import read_json
from dreambench.storage.sums import read_sums

PAPER = ["dino", "clip-i", "clip-t", "div", "pres"]
MEASURED = [
    name
    for name, metric in load_own_metrics().items()
    if metric.takes != "two" and name != "dino-held-out"
]
OTHERS = [name for name in MEASURED if name not in PAPER]


def test_run_prints_the_table_with_intervals_signatures_and_paths(finished):
    folder, _, printed = finished
    for name in ("quick", "class-only", "copy-reference"):
        assert name in printed
        # A mean stands over its interval in the column of its metric.
        for metric in PAPER:
            part = read_json(folder / name / "summary.json")["metrics"][metric]["whole"]
            mean, low, high = (format_number(part[key]) for key in ("mean", "low", "high"))
            assert re.search(rf"│ {re.escape(mean)} ", printed), (name, metric)
            assert f"[{low}, {high}]" in printed, (name, metric)
    for name in PAPER:
        metric = load_own_metrics()[name]
        assert metric.title in printed
        assert f"{metric.title}|v{metric.version}|" in printed
    report = folder / "quick" / "report"
    for name in (
        "index.html", "table.csv", "report.md", "differences.csv", "families.csv", "subjects.csv",
        "metrics.csv", "reference-bounds.csv", "intervals.png", "families.png", "fidelity.png",
        "grid.png", "side-by-side.png", "grids/class-only.png",
    ):  # fmt: skip
        assert str(report / name) in printed
        assert (report / name).stat().st_size > 100
    for name in ("intervals", "families", "fidelity"):
        assert all((report / f"{name}.{form}").is_file() for form in ("pdf", "svg"))
    for name in ("intervals", "families", "fidelity", "grid", "side-by-side"):
        with Image.open(report / f"{name}.png") as image:
            assert min(image.size) > 200


def test_a_report_shows_its_pictures_and_says_what_it_was_made_with(finished):
    folder, _, _ = finished
    report = folder / "quick" / "report"
    text = (report / "report.md").read_text()
    links = re.findall(r"\]\(([^)]+)\)", text)
    files = [link for link in links if "://" not in link]
    assert {"intervals.png", "fidelity.png", "families.png", "grid.png", "table.tex"} <= set(files)
    assert {"intervals.pdf", "intervals.svg", "table.csv"} <= set(files)
    assert not [name for name in files if not (report / name).is_file()]
    session = read_json(folder / "quick" / "run.json")["sessions"][-1]
    assert f"Python {session['python']}, torch {session['packages']['torch']}" in text
    compute = session["compute"]
    assert f"Computed on {compute['device']}, {compute['threads']} thread" in text
    assert f"instructions {compute['cpu']} of {compute['processor']}" in text
    assert "Base seed 0." in text
    assert text.index("intervals.png") < text.index("## Differences") < text.index("Base seed")
    pages = [link.rpartition("/blob/main/")[2] for link in links if "/docs/metrics/" in link]
    assert len(pages) == len(MEASURED)
    assert not [page for page in pages if not (REPOSITORY / page).is_file()]


def test_a_report_keeps_nothing_of_an_earlier_one(finished, tmp_path):
    folder, _, _ = finished
    report = shutil.copytree(folder / "quick", tmp_path / "quick") / "report"
    (report / "mine.txt").write_text("precious")
    assert (report / "side-by-side.png").is_file() and (
        report / "grids" / "class-only.png"
    ).is_file()
    invoke("report", tmp_path / "quick")
    assert not list(report.glob("side-by-side.*")) and not list(report.glob("grids/*"))
    left = {path.relative_to(report).as_posix() for path in report.rglob("*") if path.is_file()}
    assert left == {*read_sums(report), "SHA256SUMS", "mine.txt"}
    assert {"table.tex", "fidelity.pdf", "fidelity.svg", "report.md"} <= left


def test_every_number_carries_its_recipe(finished):
    folder, _, _ = finished
    manifest, summary = (read_json(folder / "quick" / f"{n}.json") for n in ("run", "summary"))
    assert (manifest["format"], manifest["kind"]) == (4, "run")
    assert set(manifest["digests"]) == {
        "protocol",
        "recipe",
        "data",
        "base_model",
        "sampler",
        "plan",
    }
    assert summary["digests"] == {**manifest["digests"], "images": None, "weights": None}
    assert set(manifest["encoders"]) == {"dino", "clip", "perceptual"}
    assert manifest["device"] == "cpu"
    session = manifest["sessions"][-1]
    assert {"torch", "diffusers", "timm", "open_clip_torch"} <= set(session["packages"])
    assert {"version", "commit", "dirty"} == set(session["code"])
    assert list(summary["metrics"])[:5] == PAPER
    for name in PAPER:
        entry = summary["metrics"][name]
        assert entry["info"]["signature"].startswith(load_own_metrics()[name].title)
        assert entry["info"]["listed"] is True
        assert entry["whole"]["low"] < entry["whole"]["mean"] < entry["whole"]["high"]
        assert entry["n_scored"] == entry["n_expected"] > 0
        assert entry["whole"]["n_subjects"] == 2
    assert summary["partial"] is False
    table = pd.read_csv(folder / "quick" / "report" / "table.csv")
    assert set(table["method"]) == {"quick", "class-only", "copy-reference"}
    assert table[["signature", "protocol", "recipe", "data"]].notna().all(axis=None)


def test_csv_tables_hold_the_unrounded_numbers(finished):
    folder = finished[0] / "quick"
    summary = read_json(folder / "summary.json")["metrics"]
    table = pd.read_csv(folder / "report" / "table.csv")
    own = table[table["method"] == "quick"].set_index("metric")
    for name in PAPER:
        row, part = own.loc[load_own_metrics()[name].title], summary[name]["whole"]
        assert [row["mean"], row["low"], row["high"]] == [part["mean"], part["low"], part["high"]]
    rows = pd.read_csv(folder / "report" / "metrics.csv")
    joint = rows[rows["metric"].str.startswith("Joint")].iloc[0]
    part = summary["joint"]["whole"]
    assert [joint["quick"], joint["quick low"], joint["quick high"]] == [
        part["mean"], part["low"], part["high"]
    ]  # fmt: skip


def test_scores_are_tidy_and_whole(finished):
    scores = pd.read_parquet(finished[0] / "quick" / "scores.parquet")
    counts = scores.groupby("metric").size().to_dict()
    # Two subjects, two prompts, two images each; two class images a subject.
    assert {name: counts[name] for name in PAPER} == {
        "dino": 8, "clip-i": 8, "clip-t": 8, "div": 4, "pres": 4
    }  # fmt: skip
    assert set(counts) == set(MEASURED)
    assert scores[scores["metric"].isin(PAPER)]["value"].between(-1, 2).all()
    assert scores["value"].notna().all()
    assert not scores.duplicated(["subject", "prompt_id", "k", "metric"]).any()


def test_copying_earns_more_subject_and_less_prompt_fidelity_than_the_floor(finished):
    found = {
        name: read_json(finished[0] / name / "summary.json")["metrics"]
        for name in ("class-only", "copy-reference")
    }
    means = {name: {m: e["whole"]["mean"] for m, e in one.items()} for name, one in found.items()}
    assert means["copy-reference"]["dino"] > means["class-only"]["dino"] + 0.2
    assert means["copy-reference"]["clip-t"] < means["class-only"]["clip-t"] - 0.2


def test_images_say_that_they_were_generated_and_not_by_whom(finished, shared_cache):
    folder = finished[0] / "quick"
    paths = sorted(folder.glob("images/*/*/*.png"))
    assert len(paths) == 12
    class_images = list(shared_cache.glob("class-images/*/*.png"))
    assert class_images
    for path in class_images:
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
    folder, words, printed = finished
    kept = {n: b for n, b in tree(folder).items() if "run.json" not in n}
    times = {path: path.stat().st_mtime_ns for path in folder.glob("*/images/*/*/*.png")}
    assert len(times) == 3 * 12
    again = invoke(*words)
    assert {n: b for n, b in tree(folder).items() if "run.json" not in n} == kept
    assert {path: path.stat().st_mtime_ns for path in times} == times
    assert again.stdout == printed


def test_each_stage_alone_gives_the_run_of_one_command(copied, shared_cache):
    whole = tree(copied)
    for name in ("scores.parquet", "summary.json"):
        (copied / name).unlink()
    for name in ("train", "images", "report"):
        shutil.rmtree(copied / name)
    assert f"dreambench train {copied}" in refused("generate", copied, "--cache", shared_cache)
    assert f"dreambench score {copied}" in refused("summarise", copied)
    for stage in ("train", "generate", "extract", "score"):
        invoke(stage, copied, "--cache", shared_cache)
    invoke("summarise", copied)
    ours = tree(copied)
    same = [n for n in whole if n.endswith((".safetensors", ".parquet"))]
    same += [n for n in whole if n.startswith("images/") and n.endswith(".png")]
    # Images, weights of two subjects and modules, scores.
    assert len(same) == 12 + 4 + 1
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
    assert found["trained"] == "2 of 2"
    assert (found["scored"], found["summarised"]) == (True, True)
    assert "10 of 12" in invoke("status", copied).stdout
    assert tree(copied) == before


def test_missing_images_are_counted_and_not_averaged_away(copied, shared_cache):
    (copied / "images" / "dog" / "beach" / "0.png").unlink()
    invoke("score", copied, "--cache", shared_cache)
    line = refused("summarise", copied)
    assert str(copied) in line and "1 of 12" in line and "--allow-incomplete" in line
    invoke("summarise", copied, "--allow-incomplete")
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
    assert str(path) in refused("score", copied, "--cache", shared_cache)


def test_mini_is_taken_on_every_machine_and_said_so(monkeypatch):
    # The choice alone: the run itself is stopped where it would be laid out.
    class Chosen(Exception):
        """Carries what was asked for."""

    def stop(folder, request):
        raise Chosen(request.protocol.name, request.device)

    monkeypatch.setattr(planning, "plan_run", stop)
    monkeypatch.setattr(planning, "prepare_encoders", lambda protocol, **_: {})
    for cuda, device in ((False, "cpu"), (True, "cuda")):
        monkeypatch.setattr("torch.cuda.is_available", lambda cuda=cuda: cuda)
        done = CliRunner().invoke(cli.main, ["run", "--method", "dreambooth"])
        assert isinstance(done.exception, Chosen)
        assert done.exception.args == ("mini", device)
        first = done.stderr.splitlines()[0]
        assert "'mini'" in first
        assert "dreambench run --method dreambooth --protocol dreambench" in first


def test_a_method_leaves_no_network_behind_for_the_next(tiny, tmp_path, shared_cache):
    held = []

    def count(*_):
        gc.collect()
        kinds = [type(one) for one in gc.get_objects()]
        held.append(kinds.count(UNet2DConditionModel))

    options = planning.RunOptions(
        methods=(str(tiny[1]), "inpainting"), alongside=(), protocol=str(tiny[0]),
        out=tmp_path / "runs", cache_dir=shared_cache,
    )  # fmt: skip
    count()
    execution.execute_runs(planning.plan_runs(options), options, begin=count)
    count()
    assert held == [held[0]] * 4


def test_list_names_everything():
    done = invoke("list")
    for name in ("dreambooth", "class-only", "copy-reference", "mini", "sd15", "mini-vit"):
        assert name in done.stdout
    for name in load_own_metrics():
        assert f"  {name} " in done.stdout
    assert "mini-vit" not in invoke("list", "methods").stdout


def test_conventions_score_a_run_in_one_pass(copied, shared_cache):
    done = invoke("score", copied, "--cache", shared_cache, "--convention", "all")
    table = pd.read_csv(copied / "conventions.csv")
    assert set(table["convention"]) == set(CONVENTIONS)
    assert set(table["n_images"]) == {8}
    assert all(text in done.stdout for text in table["signature"])
    summary = read_json(copied / "summary.json")
    paper = table[table["convention"] == "paper"].set_index("metric")["mean"]
    for metric in ("dino", "clip-i", "clip-t"):
        mean = summary["metrics"][metric]["whole"]["mean"]
        assert paper[metric] == pytest.approx(mean, abs=1e-9)
    assert "'papr'" in (line := refused("score", copied, "--convention", "papr"))
    assert "'paper'" in line


def test_other_metrics_lie_with_the_papers_and_know_a_copy(finished):
    folder, _, _ = finished
    for method in ("quick", "copy-reference"):
        table = pd.read_parquet(folder / method / "scores.parquet")
        table = table[table["metric"].isin(OTHERS)]
        # Eight images of two subjects and two prompts; none of the class alone.
        assert set(table["metric"]) == set(OTHERS)
        assert (table.groupby("metric").size() == 8).all()
        summary = read_json(folder / method / "summary.json")["metrics"]
        assert list(summary) == MEASURED
        for name in OTHERS:
            assert summary[name]["n_expected"] == summary[name]["n_scored"] == 8
            assert summary[name]["info"]["listed"] is False
            assert summary[name]["info"]["signature"].startswith(load_own_metrics()[name].title)
        rows = table[table["metric"] == "joint"]
        for key, is_property in (("whole", False), ("property", True)):
            chosen = rows[(rows["family"] == "property") == is_property]
            assert len(chosen) == 4
            means = chosen.groupby("subject")["value"].mean()
            assert summary["joint"][key]["mean"] == pytest.approx(means.mean())
    copies = read_json(folder / "copy-reference" / "summary.json")["metrics"]
    for prompts in ("whole", "property"):
        assert copies["copy"][prompts]["mean"] == pytest.approx(1, abs=1e-4)
        assert copies["copy-pixels"][prompts]["mean"] == 1
        assert copies["joint"][prompts]["mean"] < 0.2
    report = (folder / "quick" / "report" / "report.md").read_text()
    assert "| Joint (up)" in report
    assert "quick, property prompts" in report


@pytest.mark.parametrize(
    ("line", "facts"),
    [
        ("", ["the protocol names no segmenter"]),
        ('segmenter = "clipseg"', ["segmenter 'clipseg' is not on this machine", "config.json"]),
    ],
)
def test_without_its_segmenter_a_run_says_what_was_not_measured(
    line, facts, tmp_path, shared_cache, monkeypatch
):
    monkeypatch.setenv("DREAMBENCH_WEIGHTS", str(tmp_path))
    text = TINY_PROTOCOL.replace('segmenter = "mini-segmenter"', line)
    (tmp_path / "other.toml").write_text(text)
    invoke(
        "run", "--protocol", tmp_path / "other.toml", "--method", "copy-reference",
        "--alongside", "", "--out", tmp_path / "runs", "--cache", shared_cache,
    )  # fmt: skip
    folder = tmp_path / "runs" / "other" / "copy-reference"
    summary = read_json(folder / "summary.json")["metrics"]
    assert (summary["joint"]["whole"]["mean"], summary["joint"]["n_scored"]) == (None, 0)
    assert summary["joint"]["info"]["signature"] is None
    why = summary["joint"]["info"]["not_measured"]
    assert all(fact in why for fact in facts)
    assert summary["dino-lro"]["whole"]["mean"] > 0
    scores = pd.read_parquet(folder / "scores.parquet")
    assert "joint" not in set(scores["metric"])
    assert f"Joint: not measured: {why}" in (folder / "report" / "report.md").read_text()


def test_reference_bounds_are_stored_alongside_the_scores(finished):
    folder, _, _ = finished
    summary = read_json(folder / "quick" / "summary.json")
    bounds = pd.read_csv(folder / "quick" / "reference-bounds.csv")
    assert len(bounds) == 4
    for metric in ("dino", "clip-i"):
        chosen = bounds[bounds["metric"] == metric]
        stored = summary["reference_bounds"][metric]
        assert stored["copy_bound"] == pytest.approx(chosen["copy_bound"].mean())
        assert stored["faithful_bound"] == pytest.approx(chosen["faithful_bound"].mean())
        assert stored["faithful_bound"] < stored["copy_bound"]
    # Pasting photos back earns the copy bound, but for which photo is drawn.
    copies = read_json(folder / "copy-reference" / "summary.json")
    for metric in ("dino", "clip-i"):
        mean = copies["metrics"][metric]["whole"]["mean"]
        gap = mean - summary["reference_bounds"][metric]["copy_bound"]
        assert abs(gap) < 0.1
    report = (folder / "quick" / "report" / "report.md").read_text()
    assert "copy bound" in report and "faithful bound" in report
    assert "class-only: no personalization, the floor" in report


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
        "run", "--protocol", tmp_path / "less.toml", "--method", "copy-reference",
        "--alongside", "", "--out", tmp_path, "--cache", shared_cache,
    )  # fmt: skip
    summary = read_json(tmp_path / "less" / "copy-reference" / "summary.json")
    assert set(summary["encoders"]) == {"dino", "hash"}
    listed = {name for name, entry in summary["metrics"].items() if entry["info"]["listed"]}
    assert listed == {"dino"}
    assert not {"clip-i", "clip-t", "div", "pres", "joint"} & set(summary["metrics"])
    assert summary["n_images_expected"] == 8


def test_beside_is_alongside_by_another_name(tmp_path, shared_cache, tiny):
    words = (
        "run", "--protocol", tiny[0], "--method", "copy-reference", "--out", tmp_path / "runs",
        "--cache", shared_cache, "--beside", "class-only", "--subjects", "mug",
    )  # fmt: skip
    invoke(*words)
    assert {path.name for path in (tmp_path / "runs" / "tiny").iterdir()} == {
        "copy-reference", "class-only"
    }  # fmt: skip
