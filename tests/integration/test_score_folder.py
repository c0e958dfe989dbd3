"""External images, the whole command: a run's own numbers from any layout, and what is said."""

import getpass
import shutil
import socket

import numpy as np
import pandas as pd
import pytest
from conftest import TINY_PROTOCOL, invoke, refused, tree
from external_images import EVERY_LAYOUT, index_rows, write_index
from PIL import Image

import dreambench
from dreambench.errors import UserError
from dreambench.metrics.conventions import CONVENTIONS
from dreambench.scoring.problems import ImageSetError
from dreambench.storage.files import read_json


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A scored tiny run of the class-only baseline: its folder, and the protocol."""
    root = tmp_path_factory.mktemp("made")
    (root / "tiny.toml").write_text(TINY_PROTOCOL)
    invoke(
        "run", "--protocol", root / "tiny.toml", "--method", "class-only", "--alongside", "",
        "--out", root / "runs", "--cache", root / "cache",
    )  # fmt: skip
    return root / "runs" / "tiny" / "class-only", root / "tiny.toml"


@pytest.fixture
def folder(made, tmp_path):
    """The run's images as <subject>/<prompt>/<k>.png."""
    return shutil.copytree(made[0] / "images", tmp_path / "mine", ignore=lambda *_: [".staging"])


@pytest.fixture
def score(made, tmp_path, shared_cache):
    """`dreambench.score` with this protocol, into a folder of the test."""

    def call(folder, **options):
        usual = {"protocol": str(made[1]), "name": "mine", "out": tmp_path / "scores"}
        return dreambench.score(
            folder, **{**usual, "cache": shared_cache, "device": "cpu", **options}
        )

    return call


def command_for(made, tmp_path, cache, folder, *words):
    """The words of `dreambench score`."""
    return (
        "score", folder, "--protocol", made[1], "--name", "mine", "--out", tmp_path / "scores",
        "--cache", cache, *words,
    )  # fmt: skip


# The run's own numbers


@pytest.mark.parametrize(("lay_out", "layout"), EVERY_LAYOUT)
def test_every_layout_gives_the_runs_numbers_to_the_last_bit(
    made, score, folder, tmp_path, lay_out, layout
):
    theirs = lay_out(folder, tmp_path / "theirs")
    # A cache of its own: nothing that the run computed is taken over.
    found = score(theirs, cache=tmp_path / "cache")
    assert found.manifest.images.layout == layout
    assert found.scores.equals(pd.read_parquet(made[0] / "scores.parquet"))
    assert pd.read_parquet(found.folder / "scores.parquet").equals(found.scores)
    own, external = read_json(made[0] / "summary.json"), read_json(found.folder / "summary.json")
    assert external["metrics"] == own["metrics"]
    assert external["reference_bounds"] == own["reference_bounds"]
    assert external["partial"] is False
    for key in ("protocol", "data"):
        assert external["digests"][key] == own["digests"][key]
    assert set(found.problems["kind"]) <= {"duplicated"}


def test_a_run_folder_with_a_protocol_is_scored_elsewhere_and_left_alone(made, score, tmp_path):
    before = tree(made[0])
    found = score(made[0])
    assert found.folder == tmp_path / "scores" / "tiny" / "mine"
    assert found.manifest.images.layout == "run"
    assert tree(made[0]) == before


def test_every_mode_is_scored_as_the_plain_image(score, folder):
    grey = Image.open(folder / "dog" / "beach" / "0.png").convert("L")
    wide = np.asarray(grey).astype(np.uint16) << 8
    clear = grey.convert("RGBA")
    clear.putpixel((0, 0), (255, 255, 255, 0))
    white = grey.convert("RGB")
    white.putpixel((0, 0), (255, 255, 255))
    versions = {
        "RGB": grey.convert("RGB"), "white": white, "L": grey, "LA": grey.convert("LA"),
        "RGBA": grey.convert("RGBA"), "clear": clear, "16": Image.fromarray(wide),
        "P": grey.convert("P"),
    }  # fmt: skip
    values = {}
    for mode, image in versions.items():
        image.save(folder / "dog" / "beach" / "0.png")
        rows = score(folder, subjects=["dog"], prompts=["beach"]).scores
        values[mode] = rows[rows["k"] == 0].set_index(["metric", "prompt_id"])["value"].to_dict()
    assert ("dino", "beach") in values["RGB"]
    for mode in ("L", "LA", "RGBA", "16", "P"):
        assert values[mode] == values["RGB"], mode
    assert values["clear"] == values["white"] != values["RGB"]


def test_lossless_webp_changes_no_number_and_lossy_files_are_said(made, score, folder):
    for name in ("dog/red/0", "dog/red/1"):
        image = Image.open(folder / f"{name}.png")
        image.load()
        (folder / f"{name}.png").unlink()
        image.save(folder / f"{name}.webp", lossless=True)
    found = score(folder)
    assert found.manifest.images.n_lossy == 0
    assert found.scores.equals(pd.read_parquet(made[0] / "scores.parquet"))
    image.save(folder / "dog" / "red" / "1.webp", quality=90)
    found = score(folder)
    assert found.summary.images.n_lossy == 1
    assert "1 of them with lossy" in (found.folder / "report" / "report.md").read_text()


def test_black_and_doubled_images_are_scored_and_listed(score, folder):
    for path in (folder / "dog" / "red").iterdir():
        Image.new("RGB", (64, 64)).save(path)
    found = score(folder)
    assert found.problems.groupby("kind")["name"].agg(list).to_dict() == {
        "black": ["dog/red/0.png", "dog/red/1.png"],
        "duplicated": ["dog/red/1.png"],
    }
    assert found.summary.partial is False
    assert "2 images black" in (found.folder / "report" / "report.md").read_text()
    assert len(found.scores[found.scores["metric"] == "clip-t"]) == 8
    rows = found.scores[found.scores["metric"] == "div"].set_index(["subject", "prompt_id"])
    assert rows.loc[("dog", "red"), "value"] == 0


# What the command says


def test_a_whole_set_has_no_problems_and_nothing_is_written_into_it(made, folder, tmp_path):
    before = tree(folder)
    times = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    invoke(*command_for(made, tmp_path, tmp_path / "cache", folder))
    assert tree(folder) == before
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == times
    results = tmp_path / "scores" / "tiny" / "mine"
    assert {path.name for path in results.iterdir() if path.name != ".lock"} == {
        "run.json", "scores.parquet", "reference-bounds.csv", "summary.json", "report",
        "SHA256SUMS",
    }  # fmt: skip
    assert read_json(results / "run.json")["problems"] == []
    assert (results / "report" / "grid.png").stat().st_size > 1000


def test_all_problems_are_listed_at_once_by_name_and_count(made, folder, tmp_path, shared_cache):
    (folder / "dog" / "beach" / "1.png").unlink()
    shutil.copy(folder / "dog" / "red" / "0.png", folder / "dog" / "red" / "2.png")
    (folder / "mug" / "red" / "0.png").write_bytes(b"no picture")
    Image.new("RGB", (64, 40)).save(folder / "mug" / "red" / "1.png")
    Image.new("RGB", (64, 64)).save(folder / "mug" / "beach" / "0.png")
    shutil.copy(folder / "mug" / "prior" / "0.png", folder / "mug" / "prior" / "1.png")
    (folder / "backpak" / "beach").mkdir(parents=True)
    shutil.copy(folder / "dog" / "red" / "0.png", folder / "backpak" / "beach" / "0.png")
    done = invoke(*command_for(made, tmp_path, shared_cache, folder), status=2)
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert sum(line.startswith("dreambench:") for line in lines) == 1
    assert any("9 of 12 images" in line for line in lines)
    # Each count stands above the names that it counts.
    for count, name, facts in (
        ("1 missing:", "dog/beach", ["no 1"]),
        ("1 extra:", "dog/red/2.png", ["0 to 1"]),
        ("1 unreadable:", "mug/red/0.png", ["PNG, JPEG or WebP"]),
        ("1 too small:", "mug/red/1.png", ["64 x 40", "64"]),
        ("1 unknown:", "backpak", ["'tiny'", "1 images"]),
        ("1 black:", "mug/beach/0.png", []),
        ("1 duplicated:", "mug/prior/1.png", ["bytes", "mug/prior/0.png"]),
    ):
        line = lines[lines.index(count) + 1]
        assert line.startswith(f"- {name}"), line
        assert all(fact in line for fact in facts), line
    assert "--partial" in lines[-1]
    assert str(tmp_path) not in done.stderr.split("\n", 2)[2]
    assert not (tmp_path / "scores").exists()


def test_a_partial_set_says_so_in_every_table_and_averages_nothing_away(
    made, folder, tmp_path, shared_cache
):
    (folder / "dog" / "beach" / "0.png").write_bytes(b"no picture")
    (folder / "mug" / "red" / "1.png").unlink()
    words = command_for(made, tmp_path, shared_cache, folder, "--convention", "paper")
    assert "10 of 12 images" in invoke(*words, status=2).stderr
    done = invoke(*words, "--partial")
    assert "mine (partial): 1 image missing, the first: mug/red: no 1" in done.stdout
    assert "mine (partial): 1 image unreadable, the first: dog/beach/0.png" in done.stdout
    results = tmp_path / "scores" / "tiny" / "mine"
    summary, manifest = (read_json(results / f"{name}.json") for name in ("summary", "run"))
    assert summary["partial"] is manifest["partial"] is True
    assert summary["metrics"]["clip-t"]["n_scored"] == 6
    assert summary["metrics"]["clip-t"]["n_expected"] == 8
    assert (summary["n_images"], summary["n_images_expected"]) == (10, 12)
    assert summary["images"]["problems"]["missing"] == {"n_images": 1, "names": ["mug/red: no 1"]}
    for name in ("families.csv", "subjects.csv", "report.md"):
        assert "mine (partial)" in (results / "report" / name).read_text(), name
    assert pd.read_csv(results / "report" / "table.csv")["partial"].all()
    assert pd.read_csv(results / "conventions.csv")["partial"].all()
    # The mean is that of what is there, by hand from the run's own rows.
    rows = pd.read_parquet(made[0] / "scores.parquet")
    gone = ((rows["subject"] == "dog") & (rows["prompt_id"] == "beach") & (rows["k"] == 0)) | (
        (rows["subject"] == "mug") & (rows["prompt_id"] == "red") & (rows["k"] == 1)
    )
    kept = rows[(rows["metric"] == "clip-t") & ~gone].groupby("subject")["value"].mean().mean()
    assert summary["metrics"]["clip-t"]["whole"]["mean"] == pytest.approx(kept, abs=1e-6)


def test_without_class_images_pres_is_not_measured_and_the_rest_is_whole(made, folder, tmp_path):
    for subject in ("dog", "mug"):
        shutil.rmtree(folder / subject / "prior")
    cache = tmp_path / "cache"
    done = invoke(*command_for(made, tmp_path, cache, folder))
    assert "mine: PRES not measured: no class images" in done.stdout
    assert "(partial)" not in done.stdout
    results = tmp_path / "scores" / "tiny" / "mine"
    entry = read_json(results / "summary.json")["metrics"]["pres"]
    assert entry["info"]["not_measured"] == "no class images"
    assert entry["whole"]["mean"] is None
    assert entry["n_expected"] == entry["n_scored"] == 0
    own = pd.read_parquet(made[0] / "scores.parquet")
    theirs = pd.read_parquet(results / "scores.parquet")
    own = own[own["metric"] != "pres"].reset_index(drop=True)
    assert len(own) == len(theirs)
    assert (own["value"] - theirs["value"]).abs().max() < 1e-6
    table = invoke("report", results, made[0]).stdout
    assert "class-only" in table
    report = (results / "report" / "report.md").read_text()
    assert "not measured" in report
    assert "nan" not in report
    # Some of them and not all is a fault like any other.
    shutil.copytree(made[0] / "images" / "dog" / "prior", folder / "dog" / "prior")
    done = invoke(*command_for(made, tmp_path, cache, folder), status=2)
    assert "\n2 missing:\n- mug/prior: none" in done.stderr


def test_fewer_images_a_prompt_leave_diversity_without_a_number(score, folder):
    for path in folder.glob("*/*/1.png"):
        path.unlink()
    found = score(folder, partial=True)
    entry = found.summary.metrics["div"]
    assert (entry.whole.mean, entry.n_scored, entry.n_expected) == (None, 0, 4)
    assert np.isnan(found.means.set_index("metric").loc["div", "mean"])
    assert "(0 of 4)" in (found.folder / "report" / "report.md").read_text()


def test_narrowing_marks_the_result_and_scores_no_others(score, folder):
    found = score(folder, subjects=["dog"])
    assert set(found.scores["subject"]) == {"dog"}
    assert found.summary.partial is True
    assert set(score(folder, prompts=["red"]).scores["prompt_id"]) == {"red", "prior"}


def test_conventions_are_those_of_the_run(made, folder, tmp_path):
    cache = tmp_path / "cache"
    invoke("score", made[0], "--convention", "all", "--cache", cache)
    words = command_for(made, tmp_path, cache, folder, "--convention", "all")
    done = invoke(*words)
    own = pd.read_csv(made[0] / "conventions.csv")
    theirs = pd.read_csv(tmp_path / "scores" / "tiny" / "mine" / "conventions.csv")
    assert set(theirs["convention"]) == set(CONVENTIONS)
    assert theirs.equals(own)
    assert "dreambench-plus" in done.stdout
    line = refused(*words[:-1], "papr")
    assert "'papr'" in line and "'paper'" in line


def test_options_that_do_not_go_together_are_refused(made, folder, tmp_path):
    assert "--protocol mini --name my-method" in (line := refused("score", folder))
    assert str(folder) in line
    assert "--name" in refused("score", folder, "--protocol", made[1])
    line = refused("score", made[0], "--partial", "--device", "cpu")
    assert "--partial, --device" in line and "--protocol" in line
    words = ("score", folder, "--protocol", made[1], "--out", tmp_path)
    for name in ("../x", "a/b", ".hidden", ""):
        assert f"'{name}'" in refused(*words, "--name", name)
    line = refused("score", folder, "--protocol", "minni", "--name", "x")
    assert "'minni'" in line and "'mini'" in line
    assert "'tpu9'" in refused(*words, "--name", "x", "--device", "tpu9")


# The results


def test_the_manifest_says_where_the_numbers_come_from_and_not_who_made_them(score, folder):
    found = score(folder)
    text = (found.folder / "run.json").read_text() + (found.folder / "summary.json").read_text()
    manifest = read_json(found.folder / "run.json")
    assert (manifest["format"], manifest["kind"]) == (4, "external")
    assert manifest["name"] == "mine"
    assert set(manifest["encoders"]) == {"dino", "clip", "perceptual"}
    assert set(manifest["digests"]) == {"protocol", "images", "data"}
    session = manifest["sessions"][0]
    assert {"torch", "timm", "pillow"} <= set(session["packages"])
    assert {"version", "commit", "dirty"} == set(session["code"])
    assert str(folder.parent) not in text
    assert socket.gethostname() not in text.replace('"', " ").split()
    assert getpass.getuser() not in text.replace('"', " ").split()
    table = pd.read_csv(found.folder / "report" / "table.csv")
    assert table[["signature", "protocol", "images", "data"]].notna().all(axis=None)


def test_results_stand_alongside_runs_in_a_report(made, score, folder):
    found = score(folder)
    grid = (found.folder / "report" / "grid.png").read_bytes()
    assert "mine" in invoke("report", made[0], found.folder).stdout
    differences = pd.read_csv(made[0] / "report" / "differences.csv")
    assert differences["difference"].tolist() == [
        "class-only - mine", "class-only - mine, property prompts"
    ]  # fmt: skip
    # Both have the same images, so that every difference is nothing.
    numbers = differences.select_dtypes("number").iloc[0].dropna()
    assert len(numbers) >= 5
    assert (numbers == 0).all()
    # Read back, the results know no images; the grid stays.
    assert "grid.png" in invoke("report", found.folder, made[0]).stdout
    assert (found.folder / "report" / "grid.png").read_bytes() == grid
    assert "12 of 12, external" in invoke("status", found.folder).stdout


def test_results_are_not_a_run(score, folder):
    results = score(folder).folder
    before = tree(results)
    for stage in ("train", "generate", "extract", "score", "summarise"):
        line = refused(stage, results)
        assert str(results) in line and "external images" in line
    # Where the images lie is written nowhere, so nobody can count them again.
    assert "external images" in refused("summarise", results, "--allow-incomplete")
    assert before == tree(results)


def test_scoring_again_replaces_results_and_nothing_else(made, score, folder, tmp_path):
    found = score(folder, conventions=["paper"])
    assert (found.folder / "conventions.csv").is_file()
    found = score(folder)
    assert not (found.folder / "conventions.csv").exists()
    other = tmp_path / "scores" / "tiny" / "thesis"
    other.mkdir()
    (other / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError) as caught:
        score(folder, name="thesis")
    assert caught.value.code == "folder-not-empty" and str(other) in str(caught.value)
    assert (other / "thesis.tex").read_text() == "years of work"
    before = tree(made[0])
    with pytest.raises(UserError) as caught:
        score(folder, name=made[0].name, out=made[0].parent.parent)
    assert caught.value.code == "other-run" and str(made[0]) in str(caught.value)
    assert tree(made[0]) == before


def test_results_never_go_into_the_folder_of_the_images(score, folder):
    before = tree(folder)
    with pytest.raises(UserError) as caught:
        score(folder, out=folder / "scores")
    assert caught.value.code == "results-among-images"
    write_index(folder / "index.csv", index_rows(folder))
    with pytest.raises(UserError) as caught:
        score(folder / "index.csv", out=folder / "dog" / "beach")
    assert caught.value.code == "results-among-images"
    (folder / "index.csv").unlink()
    assert tree(folder) == before


def test_a_refused_set_has_all_problems_with_the_error(score, folder):
    (folder / "dog" / "beach" / "1.png").unlink()
    with pytest.raises(ImageSetError) as caught:
        score(folder)
    assert caught.value.code == "wrong-image-set"
    (problem,) = caught.value.problems
    assert (problem.kind, problem.name, problem.n_images) == ("missing", "dog/beach", 1)
