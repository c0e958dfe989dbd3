"""Images made elsewhere: every layout, everything that can be wrong, and the run's own numbers."""

import csv
import getpass
import json
import os
import re
import shutil
import socket
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from conftest import REPOSITORY, TINY_PROTOCOL, invoke, refused
from dreambench.metrics.measures import MEASURES
from PIL import Image
from test_files import png_chunk
from test_run import tree

import dreambench
from dreambench.config.protocol import load_protocol
from dreambench.errors import UserError
from dreambench.metrics.conventions import CONVENTIONS
from dreambench.scoring import layouts
from dreambench.scoring.layouts import ImageSetError
from dreambench.storage.files import read_json

PROMPTS = {"beach": "a {subject} on the beach", "red": "a red {subject}", "prior": "a {class}"}
KEYS = [(s, p, k) for s in ("dog", "mug") for p in PROMPTS for k in (0, 1)]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A scored tiny run of the class-only baseline: its folder, and the protocol."""
    root = tmp_path_factory.mktemp("made")
    (root / "tiny.toml").write_text(TINY_PROTOCOL)
    invoke(
        "run", "--protocol", root / "tiny.toml", "--method", "class-only", "--beside", "",
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


def kinds(problems):
    """Names by kind of problem."""
    found = {}
    for problem in problems:
        found.setdefault(problem.kind, []).append(problem.name)
    return found


def problems_of(score, folder, **options):
    """The problems for which a folder is refused."""
    with pytest.raises(ImageSetError) as caught:
        score(folder, **options)
    return caught.value


# Layouts


def to_run(source, target):
    shutil.copytree(source.parent, target)
    return target


def to_subject_prompt(source, target):
    shutil.copytree(source, target, ignore=lambda *_: [".staging"])
    return target


def to_other_names(source, target):
    """Numbers from 1 with zeros before them, and folders named by the prompt's text."""
    for subject, prompt, k in KEYS:
        text = "prior" if prompt == "prior" else PROMPTS[prompt].format(subject=f"sks {subject}")
        text = text.replace(" ", "_") if subject == "dog" else text
        path = target / subject / text / f"{9 + k:04d}.PNG"
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source / subject / prompt / f"{k}.png", path)
    return target


def to_dreambench_plus(source, target):
    for subject, prompt, k in KEYS:
        text = PROMPTS[prompt].format_map({"subject": f"{subject}", "class": subject}).capitalize()
        name = f"{list(PROMPTS).index(prompt)}_{k}"
        for part in ("tgt_image", "text", "src_image"):
            (target / part / subject).mkdir(parents=True, exist_ok=True)
        shutil.copy(
            source / subject / prompt / f"{k}.png", target / "tgt_image" / subject / f"{name}.png"
        )
        (target / "text" / subject / f"{name}.txt").write_text(f"{text}\n")
        Image.new("RGB", (64, 64)).save(target / "src_image" / subject / f"{name}.png")
    (target / "negative_prompt.txt").write_text("")
    return target


def to_dreambench_plus_with_prior(source, target):
    to_dreambench_plus(source, target)
    for path in (target / "tgt_image").glob("*/2_*.png"):
        (path.parent / "prior").mkdir(exist_ok=True)
        path.rename(path.parent / "prior" / path.name)
    return target


def to_index(source, target):
    shutil.copytree(source, target / "pictures", ignore=lambda *_: [".staging"])
    rows = []
    for subject, prompt, k in KEYS:
        text = {"beach": "a [V] dog on the beach", "red": "red", "prior": f"a {subject}"}[prompt]
        text = PROMPTS["beach"] if (subject, prompt) == ("mug", "beach") else text
        rows.append([f"pictures/{subject}/{prompt}/{k}.png", subject, text, k])
    write_index(target / "index.csv", rows[::-1])
    return target / "index.csv"


def write_index(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["file", "subject", "prompt", "index"])
        writer.writerows(rows)


@pytest.mark.parametrize(
    ("lay_out", "layout"),
    [
        (to_run, "run"),
        (to_subject_prompt, "subject/prompt"),
        (to_other_names, "subject/prompt"),
        (to_dreambench_plus, "dreambench-plus"),
        (to_dreambench_plus_with_prior, "dreambench-plus"),
        (to_index, "index"),
    ],
)
def test_every_layout_gives_the_runs_numbers_to_the_last_bit(
    made, score, tmp_path, lay_out, layout
):
    folder = lay_out(made[0] / "images", tmp_path / "theirs")
    # A cache of its own: nothing that the run computed is taken over.
    found = score(folder, cache=tmp_path / "cache")
    assert found.manifest["images"]["layout"] == layout
    assert found.scores.equals(pd.read_parquet(made[0] / "scores.parquet"))
    assert pd.read_parquet(found.folder / "scores.parquet").equals(found.scores)
    ours, theirs = read_json(made[0] / "summary.json"), read_json(found.folder / "summary.json")
    assert theirs["metrics"] == ours["metrics"]
    assert theirs["oracles"] == ours["oracles"]
    assert theirs["partial"] is False
    for key in ("protocol", "data"):
        assert theirs["digests"][key] == ours["digests"][key]
    assert set(found.problems["kind"]) <= {"duplicated"}


def test_layouts_of_the_same_images_have_the_same_digest(made, score, folder, tmp_path):
    first = score(folder).manifest["digests"]["images"]
    index = to_index(made[0] / "images", tmp_path / "theirs")
    assert score(index, name="index").manifest["digests"]["images"] == first
    path = folder / "dog" / "beach" / "0.png"
    Image.open(path).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(path)
    assert score(folder).manifest["digests"]["images"] != first


def test_a_run_folder_with_a_protocol_is_scored_elsewhere_and_left_alone(made, score, tmp_path):
    before = tree(made[0])
    found = score(made[0])
    assert found.folder == tmp_path / "scores" / "tiny" / "mine"
    assert tree(made[0]) == before


# What is wrong with a folder


def test_a_whole_set_has_no_problems_and_nothing_is_written_into_it(made, folder, tmp_path):
    before = tree(folder)
    times = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    invoke(*command_for(made, tmp_path, tmp_path / "cache", folder))
    assert tree(folder) == before
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == times
    results = tmp_path / "scores" / "tiny" / "mine"
    assert {path.name for path in results.iterdir() if path.name != ".lock"} == {
        "run.json", "scores.parquet", "measures.parquet", "oracles.csv", "summary.json", "report",
    }  # fmt: skip
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
    for line in (
        "9 of 12 images can be scored",
        "1 missing:", "- dog/beach: no 1",
        "1 extra:", "- dog/red/2.png: dog/red has images 0 to 1 and no more",
        "1 unreadable:", "- mug/red/0.png: cannot be read as an image",
        "1 too small:", "- mug/red/1.png: 64 x 40 px, below 64",
        "1 unknown:", "- backpak: no subject of 'tiny' has this name (1 images)",
        "1 black:", "- mug/beach/0.png",
        "1 duplicated:", "- mug/prior/1.png: the bytes of mug/prior/0.png",
        "--partial",
    ):  # fmt: skip
        assert line in done.stderr, line
    assert str(tmp_path) not in done.stderr.split("\n", 2)[2]
    assert not (tmp_path / "scores").exists()


def test_a_partial_set_says_so_in_every_table_and_averages_nothing_away(
    made, folder, tmp_path, shared_cache
):
    (folder / "dog" / "beach" / "0.png").write_bytes(b"no picture")
    (folder / "mug" / "red" / "1.png").unlink()
    words = command_for(made, tmp_path, shared_cache, folder, "--convention", "paper")
    assert "10 of 12 images can be scored" in invoke(*words, status=2).stderr
    done = invoke(*words, "--partial")
    assert "(partial)" in done.stdout
    assert "mine (partial): 1 missing: mug/red: no 1" in done.stdout
    assert "mine (partial): 1 unreadable: dog/beach/0.png" in done.stdout
    results = tmp_path / "scores" / "tiny" / "mine"
    summary, manifest = (read_json(results / f"{name}.json") for name in ("summary", "run"))
    assert summary["partial"] is manifest["partial"] is True
    assert summary["metrics"]["clip-t"]["n_scored"] == 6
    assert summary["metrics"]["clip-t"]["n_expected"] == 8
    assert (summary["n_images"], summary["n_images_expected"]) == (10, 12)
    assert summary["images"]["problems"]["missing"] == {"n_images": 1, "names": ["mug/red: no 1"]}
    for name in ("table.csv", "families.csv", "subjects.csv", "report.md"):
        text = (results / "report" / name).read_text()
        assert "(partial)" in text or "True" in text, name
    assert pd.read_csv(results / "report" / "table.csv")["partial"].all()
    assert pd.read_csv(results / "conventions.csv")["partial"].all()
    # The mean is that of what is there, by hand from the run's own rows.
    rows = pd.read_parquet(made[0] / "scores.parquet")
    gone = ((rows["subject"] == "dog") & (rows["prompt_id"] == "beach") & (rows["k"] == 0)) | (
        (rows["subject"] == "mug") & (rows["prompt_id"] == "red") & (rows["k"] == 1)
    )
    kept = rows[(rows["metric"] == "clip-t") & ~gone].groupby("subject")["value"].mean().mean()
    assert summary["metrics"]["clip-t"]["mean"] == pytest.approx(kept, abs=1e-6)


def test_a_folder_with_nothing_right_is_refused_even_when_partial(score, tmp_path):
    (tmp_path / "empty").mkdir()
    error = problems_of(score, tmp_path / "empty", partial=True)
    assert "<subject>/<prompt id>/<k>.png" in error.hint
    assert kinds(error.problems) == {"missing": ["dog", "mug"]}
    with pytest.raises(UserError, match="is no folder"):
        score(tmp_path / "nowhere")


def test_subject_names_match_exactly(score, folder):
    (folder / "dog").rename(folder / "backpack_dog")
    error = problems_of(score, folder)
    assert kinds(error.problems) == {"missing": ["dog"], "unknown": ["backpack_dog"]}
    assert {p.kind: p.n_images for p in error.problems} == {"missing": 6, "unknown": 6}
    (folder / "backpack_dog").rename(folder / "Dog")
    details = [str(problem) for problem in problems_of(score, folder).problems]
    assert any("did you mean 'dog'?" in detail for detail in details)


def test_unknown_prompts_suggest_and_a_prompt_of_the_other_kind_is_none(score, folder, tmp_path):
    (folder / "dog" / "beach").rename(folder / "dog" / "beech")
    error = problems_of(score, folder)
    assert kinds(error.problems) == {"missing": ["dog/beach"], "unknown": ["dog/beech"]}
    assert "did you mean 'beach'?" in str(error)
    mini = {prompt.id: prompt for prompt in load_protocol("mini").prompts}
    assert mini["snow"].kinds == ("object",)
    shutil.copytree(folder / "mug" / "red", tmp_path / "mini" / "dog" / "snow")
    with pytest.raises(ImageSetError) as caught:
        score(tmp_path / "mini", protocol="mini")
    assert kinds(caught.value.problems)["unknown"] == ["dog/snow"]


def test_two_files_for_one_image_are_refused(score, folder):
    shutil.copy(folder / "dog" / "red" / "0.png", folder / "dog" / "red" / "00.png")
    (folder / "dog" / "red" / "1.png").unlink()
    found = kinds(problems_of(score, folder).problems)
    assert set(found) == {"missing", "extra"}
    assert found["missing"] == ["dog/red"]


def test_black_and_doubled_images_are_scored_and_listed(score, folder):
    for path in (folder / "dog" / "red").iterdir():
        Image.new("RGB", (64, 64)).save(path)
    Image.open(folder / "mug" / "red" / "0.png").save(
        folder / "mug" / "red" / "1.png", optimize=True
    )
    found = score(folder)
    assert found.problems.groupby("kind")["name"].agg(list).to_dict() == {
        "black": ["dog/red/0.png", "dog/red/1.png"],
        "duplicated": ["dog/red/1.png", "mug/red/1.png"],
    }
    assert found.problems["detail"].iloc[-1].endswith("the pixels of mug/red/0.png")
    assert found.summary["partial"] is False
    assert "2 black" in (found.folder / "report" / "report.md").read_text()
    assert len(found.scores[found.scores["metric"] == "clip-t"]) == 8
    rows = found.scores[found.scores["metric"] == "div"].set_index(["subject", "prompt_id"])
    assert rows.loc[("dog", "red"), "value"] == 0


def test_ten_thousand_stray_files_are_counted(score, folder):
    for index in range(10_000):
        (folder / ("dog" if index % 2 else ".") / f"stray-{index}.log").write_bytes(b"")
    for index in range(300):
        (folder / f"run-{index}").mkdir()
    found = score(folder)
    assert found.problems.empty
    assert "10000 other files and folders were not looked at" in found.manifest["images"]["notes"]
    assert len(json.dumps(found.manifest)) < 20_000


def test_many_images_too_many_are_counted_and_the_list_is_cut(score, folder):
    for index in range(2, 500):
        shutil.copy(folder / "dog" / "red" / "0.png", folder / "dog" / "red" / f"{index}.png")
    error = problems_of(score, folder)
    assert len(kinds(error.problems)["extra"]) == 498
    assert "498 extra:" in str(error)
    assert "and 478 more" in str(error)
    assert len(str(error).splitlines()) < 50


def test_more_files_than_any_set_has_are_refused(score, folder, monkeypatch):
    monkeypatch.setattr(layouts, "MAX_ENTRIES", 10)
    with pytest.raises(UserError, match="holds over 10 files"):
        score(folder)


def test_links_out_of_the_folder_are_not_followed(score, folder, tmp_path):
    secret = tmp_path / "secret"
    shutil.copytree(folder / "mug", secret)
    (folder / "dog" / "beach" / "0.png").unlink()
    (folder / "dog" / "beach" / "0.png").symlink_to(secret / "beach" / "0.png")
    shutil.rmtree(folder / "mug")
    (folder / "mug").symlink_to(secret, target_is_directory=True)
    found = kinds(problems_of(score, folder).problems)
    assert found == {"missing": ["dog/beach", "mug"], "outside": ["dog/beach/0.png", "mug"]}
    # A link that stays inside is a file like others.
    (folder / "mug").unlink()
    shutil.copytree(secret, folder / "mug")
    (folder / "dog" / "beach" / "0.png").unlink()
    (folder / "dog" / "beach" / "0.png").symlink_to(folder / "mug" / "beach" / "0.png")
    (row,) = score(folder).problems.itertuples()
    assert (row.kind, row.name, row.n_images) == ("duplicated", "mug/beach/0.png", 1)


def test_loops_and_pipes_do_not_hang(score, folder):
    (folder / "dog" / "beach" / "again").symlink_to(folder / "dog", target_is_directory=True)
    (folder / "round").symlink_to(folder / "round")
    os.mkfifo(folder / "dog" / "red" / "3.png")
    assert score(folder).summary["partial"] is False


def test_names_that_a_terminal_would_obey_are_shown_harmless(score, folder):
    (folder / "dog" / "red" / "\x1b[2J.png").write_bytes(b"x")
    (folder / os.fsdecode(b"caf\xe9") / "red").mkdir(parents=True)
    shutil.copy(
        folder / "dog" / "red" / "0.png", folder / os.fsdecode(b"caf\xe9") / "red" / "0.png"
    )
    text = str(problems_of(score, folder))
    assert "\x1b" not in text
    assert "dog/red/?[2J.png" in text
    found = score(folder, partial=True)
    assert json.loads((found.folder / "run.json").read_text())["problems"]


# The index


def index_rows(folder):
    return [[f"{s}/{p}/{k}.png", s, p, k] for s, p, k in KEYS if (folder / s / p).is_dir()]


@pytest.mark.parametrize(
    "file", ["../secret.png", "/etc/passwd", "dog/../../secret.png", "..\\secret.png", "a\0b.png"]
)
def test_paths_out_of_the_indexs_folder_are_not_read(score, folder, file):
    Image.new("RGB", (64, 64), "red").save(folder.parent / "secret.png")
    rows = index_rows(folder)
    rows[0][0] = file
    write_index(folder / "index.csv", rows)
    found = kinds(problems_of(score, folder / "index.csv").problems)
    assert found["missing"] == ["dog/beach"]
    assert len(found["outside"]) == 1
    assert found["outside"][0].startswith("line 2, ")


def test_a_link_out_of_the_indexs_folder_is_not_read(score, folder):
    (folder / "dog" / "beach" / "0.png").rename(folder.parent / "secret.png")
    (folder / "dog" / "beach" / "0.png").symlink_to(folder.parent / "secret.png")
    write_index(folder / "index.csv", index_rows(folder))
    found = kinds(problems_of(score, folder / "index.csv").problems)
    assert found == {"missing": ["dog/beach"], "outside": ["dog/beach/0.png"]}


def test_rows_that_say_nothing_right_are_named(score, folder):
    rows = index_rows(folder)
    rows[0][0] = "dog/beach/7.png"
    rows[1][1] = "cat9"
    rows[2][2] = "a red"
    rows[3][2] = ""
    write_index(folder / "index.csv", rows)
    found = kinds(problems_of(score, folder / "index.csv").problems)
    assert found["unreadable"] == ["dog/beach/7.png"]
    assert found["unknown"] == ["line 5, dog/red/1.png", "dog/a red", "cat9"]
    assert found["missing"] == ["dog/beach", "dog/red"]


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"file,subject,prompt\n", "lacks the column index"),
        (b"", "lacks the column file, subject, prompt, index"),
        (b"file,subject,prompt,index\n\xff\xfe", "is not UTF-8 text"),
        (b'file,subject,prompt,index\n"a"b,dog,red,0\n', "is no CSV"),
    ],
)
def test_an_index_that_is_none_is_one_line(score, folder, content, complaint):
    (folder / "index.csv").write_bytes(content)
    with pytest.raises(UserError, match=complaint):
        score(folder / "index.csv")
    with pytest.raises(UserError, match="cannot read"):
        score(folder, index=folder / "none.csv")
    with pytest.raises(UserError, match="name one of them"):
        score(folder / "index.csv", index=folder / "index.csv")


def test_images_that_the_index_does_not_name_are_counted(made, score, folder):
    shutil.copy(folder / "dog" / "red" / "0.png", folder / "unlisted.png")
    write_index(folder / "index.csv", index_rows(folder))
    found = score(folder, index=folder / "index.csv")
    assert "1 images of the folder are not in the index" in found.manifest["images"]["notes"]
    assert found.scores.equals(pd.read_parquet(made[0] / "scores.parquet"))


def test_two_words_for_one_identifier_are_not_guessed_about(score, folder):
    rows = index_rows(folder)
    rows[0][2], rows[1][2] = "a sks dog on the beach", "A sks dog on the Beach."
    write_index(folder / "index.csv", rows)
    found = score(folder / "index.csv")
    notes = found.manifest["images"]["notes"]
    assert "before the class noun, 'sks' was taken for the identifier" in notes
    rows[1][2] = "a happy dog on the beach"
    write_index(folder / "index.csv", rows)
    found = kinds(problems_of(score, folder / "index.csv").problems)
    assert found["unknown"] == ["dog/a sks dog on the beach", "dog/a happy dog on the beach"]


# Image files of all kinds


def apng(path):
    frames = [Image.new("RGB", (64, 64), color) for color in ("red", "blue")]
    frames[0].save(path, save_all=True, append_images=frames[1:])


def animated_webp(path):
    frames = [Image.new("RGB", (64, 64), color) for color in ("red", "blue")]
    frames[0].save(path.with_suffix(".webp"), save_all=True, append_images=frames[1:])
    path.unlink()


def bomb(path):
    header = (60000).to_bytes(4, "big") * 2 + bytes([8, 2, 0, 0, 0])
    chunks = [(b"IHDR", header), (b"IDAT", b""), (b"IEND", b"")]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*chunk) for chunk in chunks))


def other_format(path):
    Image.new("RGB", (64, 64)).save(path.with_suffix(".bmp"))
    path.unlink()


def cut(path):
    path.write_bytes(path.read_bytes()[:-200])


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (apng, "is animated (2 frames)"),
        (animated_webp, "is animated (2 frames)"),
        (bomb, "pixels"),
        (other_format, "it is no PNG, JPEG or WebP"),
        (cut, "cannot be read as an image"),
    ],
)
def test_files_that_hold_no_one_image_are_named(score, folder, spoil, complaint):
    spoil(folder / "dog" / "red" / "1.png")
    (problem,) = problems_of(score, folder).problems
    assert problem.kind == "unreadable"
    assert problem.name.startswith("dog/red/1.")
    assert complaint in problem.detail
    assert "/" not in problem.detail


def test_every_mode_is_scored_as_the_plain_image(score, folder):
    grey = Image.open(folder / "dog" / "beach" / "0.png").convert("L")
    wide = np.asarray(grey).astype(np.uint16) << 8
    clear = grey.convert("RGBA")
    clear.putpixel((0, 0), (255, 255, 255, 0))
    white = grey.convert("RGB")
    white.putpixel((0, 0), (255, 255, 255))
    versions = {
        "L": grey, "LA": grey.convert("LA"), "RGBA": grey.convert("RGBA"), "clear": clear,
        "16": Image.fromarray(wide), "P": grey.convert("P"),
    }  # fmt: skip
    values = {}
    for index, (mode, image) in enumerate(
        {"RGB": grey.convert("RGB"), "white": white, **versions}.items()
    ):
        image.save(folder / "dog" / "beach" / "0.png")
        rows = score(folder, name=f"m{index}").scores
        chosen = (rows["subject"] == "dog") & (rows["prompt_id"] == "beach") & (rows["k"] == 0)
        values[mode] = rows[chosen]["value"].tolist()
    assert (
        values["L"]
        == values["LA"]
        == values["RGBA"]
        == values["16"]
        == values["P"]
        == values["RGB"]
    )
    assert values["clear"] == values["white"] != values["RGB"]


def test_lossy_files_are_counted_and_lossless_webp_is_not(made, score, folder):
    for name in ("dog/red/0", "dog/red/1"):
        image = Image.open(folder / f"{name}.png")
        (folder / f"{name}.png").unlink()
        image.save(folder / f"{name}.webp", lossless=True)
    found = score(folder)
    assert found.manifest["images"]["n_lossy"] == 0
    assert found.scores.equals(pd.read_parquet(made[0] / "scores.parquet"))
    image.save(folder / "dog" / "red" / "1.webp", quality=90)
    for name in ("mug/red/0", "mug/red/1"):
        Image.open(folder / f"{name}.png").save(folder / f"{name}.jpg")
        (folder / f"{name}.png").unlink()
    found = score(folder)
    assert found.summary["images"]["n_lossy"] == 3
    assert "3 of them compressed with loss" in (found.folder / "report" / "report.md").read_text()


# What is measured, and of what


def test_without_images_of_the_plain_class_pres_is_not_measured_and_the_rest_is_whole(
    made, folder, tmp_path
):
    for subject in ("dog", "mug"):
        shutil.rmtree(folder / subject / "prior")
    cache = tmp_path / "cache"
    done = invoke(*command_for(made, tmp_path, cache, folder))
    assert "mine: PRES not measured: no images of the plain class" in done.stdout
    assert "not measured" in done.stdout
    assert "(partial)" not in done.stdout
    results = tmp_path / "scores" / "tiny" / "mine"
    entry = read_json(results / "summary.json")["metrics"]["pres"]
    assert entry["not_measured"] == "no images of the plain class"
    assert entry["mean"] is None
    assert entry["n_expected"] == entry["n_scored"] == 0
    ours = pd.read_parquet(made[0] / "scores.parquet")
    theirs = pd.read_parquet(results / "scores.parquet")
    ours = ours[ours["metric"] != "pres"].reset_index(drop=True)
    assert (ours["value"] - theirs["value"]).abs().max() < 1e-6
    table = invoke("report", results, made[0]).stdout
    assert "class-only" in table
    assert "not measured" in (results / "report" / "report.md").read_text()
    assert "nan" not in (results / "report" / "report.md").read_text()
    # Some of them and not all is a fault like any other.
    shutil.copytree(made[0] / "images" / "dog" / "prior", folder / "dog" / "prior")
    done = invoke(*command_for(made, tmp_path, cache, folder), status=2)
    assert "- mug/prior: none" in done.stderr


def test_fewer_images_a_prompt_than_the_protocol_are_missing_images(score, folder):
    for path in folder.glob("*/*/1.png"):
        path.unlink()
    assert kinds(problems_of(score, folder).problems)["missing"] == [
        f"{subject}/{prompt}" for subject in ("dog", "mug") for prompt in PROMPTS
    ]
    found = score(folder, partial=True)
    entry = found.summary["metrics"]["div"]
    assert (entry["mean"], entry["n_scored"], entry["n_expected"]) == (None, 0, 4)
    assert found.means.set_index("metric").loc["div", "mean"] != 0
    assert "(0 of 4)" in (found.folder / "report" / "report.md").read_text()


def test_narrowing_leaves_the_others_out_and_marks_the_result(score, folder):
    (folder / "mug" / "beach" / "1.png").unlink()
    found = score(folder, subjects=["dog"])
    assert set(found.scores["subject"]) == {"dog"}
    assert found.summary["partial"] is True
    assert found.problems.empty
    assert (
        "5 images of other subjects and prompts were left out" in found.manifest["images"]["notes"]
    )
    found = score(folder, families=["property"])
    assert set(found.scores["prompt_id"]) == {"red", "prior"}
    found = score(folder, prompts=["red"])
    assert set(found.scores["prompt_id"]) == {"red", "prior"}
    with pytest.raises(UserError, match="did you mean 'red'"):
        score(folder, prompts=["redd"])
    with pytest.raises(UserError, match="no subject of 'tiny' named 'cat'"):
        score(folder, subjects=["cat"])


def test_conventions_are_those_of_the_run(made, folder, tmp_path):
    cache = tmp_path / "cache"
    invoke("score", made[0], "--convention", "all", "--cache", cache)
    words = command_for(made, tmp_path, cache, folder, "--convention", "all")
    done = invoke(*words)
    ours = pd.read_csv(made[0] / "conventions.csv")
    theirs = pd.read_csv(tmp_path / "scores" / "tiny" / "mine" / "conventions.csv")
    assert set(theirs["convention"]) == set(CONVENTIONS)
    assert theirs.equals(ours)
    assert "dreambench-plus" in done.stdout
    assert "did you mean 'paper'" in refused(*words[:-1], "papr")


# The results


def test_the_manifest_says_where_the_numbers_come_from_and_not_who_made_them(score, folder):
    found = score(folder)
    text = (found.folder / "run.json").read_text() + (found.folder / "summary.json").read_text()
    manifest = json.loads((found.folder / "run.json").read_text())
    assert manifest["name"] == "mine"
    assert set(manifest["encoders"]) == {"dino", "clip", "perceptual"}
    assert all(manifest["digests"][key] for key in ("protocol", "images", "data"))
    session = manifest["sessions"][0]
    assert {"torch", "timm", "pillow"} <= set(session["packages"])
    assert {"version", "commit", "dirty"} == set(session["code"])
    assert str(folder.parent) not in text
    assert socket.gethostname() not in text.replace('"', " ").split()
    assert getpass.getuser() not in text.replace('"', " ").split()
    table = pd.read_csv(found.folder / "report" / "table.csv")
    assert table[["signature", "protocol", "images", "data"]].notna().all(axis=None)


def test_results_stand_beside_runs_in_a_report(made, score, folder):
    found = score(folder)
    grid = (found.folder / "report" / "grid.png").read_bytes()
    assert "mine" in invoke("report", made[0], found.folder).stdout
    differences = pd.read_csv(made[0] / "report" / "differences.csv")
    assert differences["difference"].tolist() == [
        "class-only - mine", "class-only - mine, property prompts"
    ]  # fmt: skip
    # Both have the same images, so that every difference is nothing.
    assert differences.drop(columns="difference").iloc[0].str.startswith(".000").all()
    # Read back, the results know no images; the grid stays.
    assert "grid.png" in invoke("report", found.folder, made[0]).stdout
    assert (found.folder / "report" / "grid.png").read_bytes() == grid
    status = invoke("status", found.folder).stdout
    assert "12 of 12, made elsewhere" in status


def test_results_are_no_run(score, folder):
    results = score(folder).folder
    before = tree(results)
    for stage in ("train", "generate", "embed", "score", "aggregate"):
        assert "made elsewhere and no run" in refused(stage, results)
    assert before == tree(results)


def test_scoring_again_replaces_results_and_nothing_else(made, score, folder, tmp_path):
    found = score(folder, conventions=["paper"])
    assert (found.folder / "conventions.csv").is_file()
    found = score(folder)
    assert not (found.folder / "conventions.csv").exists()
    other = tmp_path / "scores" / "tiny" / "thesis"
    other.mkdir()
    (other / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match="is not empty and holds no scores"):
        score(folder, name="thesis")
    assert (other / "thesis.tex").read_text() == "years of work"
    with pytest.raises(UserError, match="holds a run"):
        score(folder, name=made[0].name, out=made[0].parent.parent)


def test_files_that_were_seen_before_are_not_opened_again(score, folder, tmp_path, monkeypatch):
    first = score(folder, cache=tmp_path / "cache")
    monkeypatch.setattr(layouts, "load_image", None)
    again = score(folder, cache=tmp_path / "cache")
    assert again.manifest["images"] == first.manifest["images"]
    pd.testing.assert_frame_equal(again.scores, first.scores, check_exact=True)


def test_results_never_go_into_the_folder_of_the_images(score, folder):
    before = tree(folder)
    with pytest.raises(UserError, match="which nothing is written to"):
        score(folder, out=folder / "scores")
    write_index(folder / "index.csv", index_rows(folder))
    with pytest.raises(UserError, match="which nothing is written to"):
        score(folder / "index.csv", out=folder / "dog" / "beach")
    (folder / "index.csv").unlink()
    assert tree(folder) == before


def test_options_that_do_not_go_together_are_refused(made, folder, tmp_path):
    assert "add --protocol mini --name my-method" in refused("score", folder)
    assert "need a --name" in refused("score", folder, "--protocol", made[1])
    line = refused("score", made[0], "--partial", "--device", "cpu")
    assert "--partial, --device is for images made elsewhere" in line
    words = ("score", folder, "--protocol", made[1], "--out", tmp_path)
    for name in ("../x", "a/b", ".hidden", ""):
        assert "cannot name a row" in refused(*words, "--name", name)
    assert "did you mean 'mini'" in refused("score", folder, "--protocol", "minni", "--name", "x")
    assert "no device 'tpu9'" in refused(*words, "--name", "x", "--device", "tpu9")


def test_python_gives_data_frames(made, score, folder):
    found = score(folder)
    ours = read_json(made[0] / "summary.json")["metrics"]
    means = found.means.set_index("metric")
    for metric, entry in ours.items():
        assert means.loc[metric, ["mean", "low", "high"]].tolist() == [
            entry["mean"], entry["low"], entry["high"],
        ]  # fmt: skip
        assert means.loc[metric, "signature"] == entry["signature"]
    assert set(found.by_subject.columns) == {"metric", "subject", "value"}
    assert set(found.measures["metric"]) == set(MEASURES)
    parts = found.measure_means.set_index(["metric", "prompts"])
    assert len(parts) == 2 * len(MEASURES)
    for (name, prompts), row in parts.iterrows():
        own = found.summary["measures"][name]
        # What the JSON has as null, where there is no interval, is NaN in a frame.
        expected = np.array([own[prompts][key] for key in ("mean", "low", "high")], float)
        assert row[["mean", "low", "high"]].tolist() == pytest.approx(expected, nan_ok=True)
        assert (row["signature"], row["n_scored"]) == (own["signature"], own["n_scored"])
    dino = found.by_subject[found.by_subject["metric"] == "dino"]["value"]
    assert dino.mean() == pytest.approx(ours["dino"]["mean"])
    assert found.problems.empty
    assert list(found.problems.columns) == ["kind", "name", "n_images", "detail"]
    assert found.conventions is None


def test_the_package_imports_nothing_slow_before_it_scores():
    code = (
        "import sys, dreambench\n"
        "assert 'torch' not in sys.modules and 'pandas' not in sys.modules\n"
        "assert callable(dreambench.score)\n"
        "import dreambench.scoring\n"
        "assert callable(dreambench.score)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with pytest.raises(AttributeError, match="no attribute 'scor'"):
        dreambench.scor  # noqa: B018


def test_the_page_on_scoring_a_folder_runs_as_written(tmp_path, shared_cache):
    text = (REPOSITORY / "docs" / "how-to" / "score-a-folder.md").read_text()
    blocks = re.findall(r"^```\w+\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    commands = [line for line in lines if line.startswith(("dreambench ", "cp "))]
    table = [line for line in lines if line.startswith(("file,subject", "my-images/"))]
    python = [line for line in lines if line.startswith(("import ", "found = ", "print("))]
    assert (len(commands), len(table), len(python)) == (7, 3, 5)
    place = {**os.environ, "DREAMBENCH_CACHE": str(shared_cache)}
    first = commands.index("dreambench score my-images.csv --protocol mini --name my-method")
    function = f'dreambench() {{ "{sys.executable}" -m dreambench "$@"; }}; set -e\n'

    def shell(script):
        done = subprocess.run(
            ["bash", "-c", function + script], cwd=tmp_path, env=place, capture_output=True,
            text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    shell("\n".join(commands[:first]))
    # The index of the page, written on to its end.
    images = sorted((tmp_path / "my-images").glob("*/*/*.png"))
    rows = [
        [path.relative_to(tmp_path).as_posix(), *path.parts[-3:-1], path.stem] for path in images
    ]
    write_index(tmp_path / "my-images.csv", rows)
    with (tmp_path / "my-images.csv").open() as stream:
        written = {line.strip() for line in stream}
    assert {table[0], table[1]} <= written
    changed = table[2].replace("a sks dog on the beach", "beach")
    assert changed in written
    content = (tmp_path / "my-images.csv").read_text().replace(changed, table[2])
    (tmp_path / "my-images.csv").write_text(content)
    printed = shell("\n".join(commands[first:]))
    assert "'sks' was taken for the identifier" in printed
    assert "copy-reference" in printed
    assert "my-dogs (partial)" in printed
    assert "customconcept101" in printed
    code = "\n".join(python)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=place, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    theirs = pd.read_parquet(tmp_path / "scores" / "mini" / "my-method" / "scores.parquet")
    ours = pd.read_parquet(tmp_path / "runs" / "mini" / "copy-reference" / "scores.parquet")
    assert theirs.equals(ours)
    summary = read_json(tmp_path / "scores" / "mini" / "my-method" / "summary.json")
    for entry in summary["metrics"].values():
        assert entry["info"]["signature"] in done.stdout
        assert f"{entry['whole']['mean']:.6f}" in done.stdout
