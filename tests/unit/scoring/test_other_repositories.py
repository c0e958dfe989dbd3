"""Folders as UNO and PatchDPO write them: told from others, and read as data of strangers."""

import json
import os
import shutil
import unicodedata

import pytest
from conftest import TINY_PROTOCOL
from external_images import (
    KEYS,
    draw_images,
    index_rows,
    kinds,
    list_images,
    problems_of,
    read_folder,
    to_uno,
    write_index,
    write_patchdpo,
    write_uno,
)
from PIL import Image

from dreambench.artifacts.plan import make_plan
from dreambench.config.protocol import load_protocol
from dreambench.datasets.subjects import Subject
from dreambench.errors import UserError
from dreambench.scoring.placing import Wanted, place_images
from dreambench.scoring.problems import ImageSetError
from dreambench.storage.csv_files import read_csv
from dreambench.storage.shipped import shipped_path

ONE_EACH = TINY_PROTOCOL.replace("n_images_per_prompt = 2", "n_images_per_prompt = 1")
FIRST = [(subject, prompt, k) for subject, prompt, k in KEYS if k == 0 and prompt != "prior"]


@pytest.fixture
def images(tmp_path):
    """The tiny protocol's images as <subject>/<prompt>/<k>.png."""
    return draw_images(tmp_path / "mine")


@pytest.fixture
def uno(images, tmp_path):
    """The same as UNO writes them: entries 0 to 2 are the dog's beach, red and class images."""
    return to_uno(images, tmp_path / "inference")


@pytest.fixture
def patchdpo(images, tmp_path):
    """The first image of each prompt as PatchDPO writes it."""
    return write_patchdpo(tmp_path / "exp1_eval", list_images(images, FIRST))


@pytest.fixture
def read(tmp_path):
    """Reads a folder by the tiny protocol, with two images a prompt or with one."""

    def call(folder, *, protocol=TINY_PROTOCOL, **options):
        (tmp_path / "tiny.toml").write_text(protocol)
        return read_folder(folder, protocol=tmp_path / "tiny.toml", out=tmp_path / "out", **options)

    return call


def change(folder, name, **values):
    """Write other values into the JSON of an image."""
    note = json.loads((folder / f"{name}.json").read_text())
    (folder / f"{name}.json").write_text(json.dumps({**note, **values}))


def the_papers_images(folder, n):
    """Every subject and prompt of the paper with n images, in the order of its lists."""
    protocol = load_protocol("dreambench")
    rows = read_csv(shipped_path("dataset", "subjects.csv"), ("subject", "class_name", "kind"))
    subjects = [Subject(row["subject"], row["class_name"], row["kind"], (), ()) for row in rows]
    plan = make_plan(protocol, subjects, batch_size=1)
    (folder / "x.png").write_bytes(b"")
    images = [
        (s.name, prompt.text.replace("{subject}", s.class_name), k, folder / "x.png")
        for s in subjects
        for prompt in protocol.prompts_for(s.kind)
        for k in range(n)
    ]
    return Wanted(protocol, subjects, [s.name for s in subjects], plan.images), images


# The paper's prompts


def test_each_of_the_papers_images_has_its_place_in_unos_folder(tmp_path):
    wanted, images = the_papers_images(tmp_path, 4)
    found = place_images(write_uno(tmp_path / "inference", images), wanted)
    assert (found.layout, len(found.files), found.problems, found.notes) == ("uno", 3000, [], [])
    plan = [unit for unit in wanted.units if unit.prompt_id != "prior"]
    for index, unit in enumerate(plan):
        assert found.names[unit] == f"{index // 4}_{index % 4}.png"


def test_patchdpo_has_one_image_of_four_for_each_of_the_papers_prompts(tmp_path):
    wanted, images = the_papers_images(tmp_path, 1)
    found = place_images(write_patchdpo(tmp_path / "exp1_eval", images), wanted)
    assert (found.layout, len(found.files)) == ("patchdpo", 750)
    assert {unit.k for unit in found.files} == {0}
    texts = {f"{subject}/{text}.png" for subject, text, *_ in images}
    assert set(found.names.values()) == texts
    assert {problem.kind for problem in found.problems} == {"missing"}
    assert sum(problem.n_images for problem in found.problems) == 2250


# UNO


def test_what_unos_json_says_counts_and_not_the_number_of_the_entry(read, uno):
    wanted = {unit: path.read_bytes() for unit, path in read(uno).files.items()}
    for name in ("0_0", "0_1", "1_0", "1_1"):  # As lists of two processes that share a folder.
        for suffix in (".png", ".json"):
            (uno / (name + suffix)).rename(uno / f"9{name}{suffix}")
    (uno / "grid.png").write_bytes(b"")
    found = read(uno)
    assert {unit: path.read_bytes() for unit, path in found.files.items()} == wanted
    assert found.manifest.images.notes == ["1 other files and folders were not looked at"]


@pytest.mark.parametrize(
    "paths",
    [
        ["C:\\photos\\dog\\00.jpg"],
        ["/data/dog/00.jpg", "../../dog/01.jpg"],
        ["dog/00.jpg", ""],
    ],
)
def test_photos_of_one_folder_name_the_subject(read, uno, paths):
    wanted = read(uno).files
    change(uno, "0_0", image_paths=paths)
    assert read(uno).files == wanted


@pytest.mark.parametrize(
    ("values", "fact"),
    [
        ({"image_paths": ["dog/00.jpg", "mug/00.jpg"]}, "dog+mug"),
        ({"image_paths": ["dog/0.jpg", "mug/0.jpg", "cat/0.jpg"]}, "dog, mug, cat"),
        ({"image_paths": []}, "image_paths"),
        ({"image_paths": ["dog.jpg"]}, "image_paths"),
        ({"image_paths": ["../../etc/passwd"]}, "no subject"),
        ({"image_paths": ["dog/../00.jpg"]}, "no subject"),
        ({"image_paths": "dog/00.jpg"}, "image_paths: "),
        ({"image_paths": ["dog/00.jpg", 1]}, "image_paths.1: "),
        ({"image_paths": ["x" * 2000 + "/00.jpg"]}, "image_paths.0: "),
        ({"image_paths": None}, "image_paths: "),
        ({"prompt": None}, "prompt: "),
        ({"prompt": ["a dog on the beach"]}, "prompt: "),
        ({"prompt": "a dog " * 1000}, "prompt: "),
        ({"prompt": "a dog in a box"}, "no prompt"),
        ({"prompt": "a mug on the beach"}, "no prompt"),
        ({"concat_refs": True}, "concat_refs"),
        ({"concat_refs": "no"}, "concat_refs: "),
        ({"padding": "x" * 60_000}, "50,000"),
    ],
)
def test_an_image_whose_json_gives_it_no_place_is_named_and_missing(read, uno, values, fact):
    change(uno, "0_0", **values)
    problems = problems_of(read, uno)
    assert [(p.kind, p.n_images) for p in problems] == [("missing", 1), ("unknown", 1)]
    assert str(problems[0]).startswith("dog/beach: no 0")
    assert fact in str(problems[1]) and "\n" not in str(problems[1])
    assert len(read(uno, partial=True).files) == 11


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"null", b"{", b"\xff\xfe\x00", b"[" * 40_000, b'{"prompt": "\\ud800"}',
     b'{"prompt": "x", "image_paths": [], "seed": ' + b"9" * 6000 + b"}"],
)  # fmt: skip
def test_what_is_no_json_of_uno_is_one_line(read, uno, content):
    (uno / "0_0.json").write_bytes(content)
    missing, unknown = problems_of(read, uno)
    assert (missing.kind, unknown.kind, unknown.name) == ("missing", "unknown", "0_0.png")
    assert "0_0.json" in unknown.detail and "\n" not in unknown.detail


def test_a_json_that_is_missing_or_a_pipe_or_outside_is_not_read(read, uno, tmp_path):
    (uno / "0_0.json").rename(tmp_path / "secret.json")
    assert kinds(problems_of(read, uno))["unknown"] == ["0_0.png"]
    (uno / "0_0.json").symlink_to(tmp_path / "secret.json")
    assert kinds(problems_of(read, uno)) == {"missing": ["dog/beach"], "outside": ["0_0.json"]}
    (uno / "0_0.json").unlink()
    os.mkfifo(uno / "0_0.json")
    assert kinds(problems_of(read, uno))["unknown"] == ["0_0.png"]
    (uno / "0_0.json").unlink()
    (uno / "0_0.json").mkdir()
    assert kinds(problems_of(read, uno))["unknown"] == ["0_0.png"]
    (uno / "0_0.json").rmdir()
    shutil.copy(tmp_path / "secret.json", uno / "0_0.json")
    (uno / "0_0.png").rename(tmp_path / "secret.png")
    (uno / "0_0.png").symlink_to(tmp_path / "secret.png")
    assert kinds(problems_of(read, uno)) == {"missing": ["dog/beach"], "outside": ["0_0.png"]}


def test_two_entries_of_one_prompt_are_refused_also_where_their_numbers_differ(read, uno):
    for suffix in (".png", ".json"):
        (uno / f"0_1{suffix}").rename(uno / f"10_1{suffix}")
    missing, extra = problems_of(read, uno)
    assert (str(missing), extra.kind, extra.name) == ("dog/beach: no 1", "extra", "10_1.png")
    assert "0_0.png" in extra.detail
    # An entry's image that another one's is already: the first of the two is kept.
    for suffix in (".png", ".json"):
        shutil.copy(uno / f"0_0{suffix}", uno / f"11_0{suffix}")
        (uno / f"10_1{suffix}").rename(uno / f"0_1{suffix}")
    assert kinds(problems_of(read, uno)) == {"extra": ["11_0.png"]}


def test_an_images_number_is_never_another(read, uno):
    for suffix in (".png", ".json"):
        (uno / f"0_1{suffix}").rename(uno / f"0_5{suffix}")
    missing, extra = problems_of(read, uno)
    assert (str(missing), extra.kind, extra.name) == ("dog/beach: no 1", "extra", "0_5.png")
    for suffix in (".png", ".json"):
        (uno / f"0_5{suffix}").rename(uno / f"00_1{suffix}")
    (missing,) = problems_of(read, uno)
    assert str(missing) == "dog/beach: no 1"


def test_images_of_more_than_one_run_are_said_to_be_so(read, uno):
    assert read(uno).manifest.images.notes == []
    change(uno, "1_1", num_steps=50, save_path="elsewhere")
    change(uno, "4_0", seed={"\x1b": []})
    (note,) = read(uno).manifest.images.notes
    assert "num_steps, seed" in note and "save_path" not in note


# PatchDPO


def test_patchdpos_folder_is_read_by_the_texts_that_its_files_are_called(read, images, patchdpo):
    found = read(patchdpo, protocol=ONE_EACH)
    assert found.manifest.images.layout == "patchdpo"
    assert [(u.subject, u.prompt_id, u.k) for u in found.files] == FIRST
    for unit, path in found.files.items():
        source = images / unit.subject / unit.prompt_id / "0.png"
        assert path.read_bytes() == source.read_bytes()
    assert found.manifest.problems == []
    # Of two images of each prompt, it is the first.
    problems = problems_of(read, patchdpo)
    assert [str(problem) for problem in problems] == [
        f"{subject}/{prompt}: no 1" for subject, prompt, _ in FIRST
    ]


def test_names_of_files_are_texts_of_prompts_or_named(read, patchdpo):
    rename = {
        "dog/a dog on the beach.png": "dog/A sks dog on the beach..PNG",
        "dog/a red dog.png": "dog/a_red_sks_dog.png",
    }
    for old, new in rename.items():
        (patchdpo / old).rename(patchdpo / new)
    found = read(patchdpo, protocol=ONE_EACH)
    assert len(found.files) == 4
    assert found.manifest.images.notes[0].count("'sks'") == 1
    strange = ["a blue mug", "a red dog", "..", "\x1b[2J", os.fsdecode(b"caf\xe9"), "0"]
    for name in strange:
        shutil.copy(patchdpo / "mug" / "a red mug.png", patchdpo / "mug" / f"{name}.png")
    (patchdpo / "mug" / "a red mug.png").unlink()
    with pytest.raises(ImageSetError) as caught:
        read(patchdpo, protocol=ONE_EACH)
    found = kinds(caught.value.problems)
    assert found["missing"] == ["mug/red"]
    # What starts with a dot is hidden, as in every layout.
    assert sorted(found["unknown"]) == sorted(
        ["mug/a blue mug", "mug/a red dog", r"mug/\x1b[2J", r"mug/caf\xe9", "mug/0"]
    )
    assert "\x1b" not in str(caught.value)


def test_two_files_for_one_prompt_are_refused(read, patchdpo):
    shutil.copy(patchdpo / "dog" / "a red dog.png", patchdpo / "dog" / "a_red dog.jpg")
    (extra,) = problems_of(read, patchdpo, protocol=ONE_EACH)
    assert (extra.kind, extra.name) == ("extra", "dog/a_red dog.jpg")


def test_links_in_patchdpos_folder_stay_inside(read, patchdpo, tmp_path):
    (patchdpo / "dog" / "a red dog.png").rename(tmp_path / "secret.png")
    (patchdpo / "dog" / "a red dog.png").symlink_to(tmp_path / "secret.png")
    (patchdpo / "mug").rename(tmp_path / "secret")
    (patchdpo / "mug").symlink_to(tmp_path / "secret", target_is_directory=True)
    found = kinds(problems_of(read, patchdpo, protocol=ONE_EACH))
    assert found == {"missing": ["dog/red", "mug"], "outside": ["dog/a red dog.png", "mug"]}


def test_accents_of_another_system_are_the_same_letters(read, patchdpo):
    protocol = ONE_EACH.replace("on the beach", "in a café")
    for subject in ("dog", "mug"):
        name = unicodedata.normalize("NFD", f"a {subject} in a café.png")
        assert len(name) > len(f"a {subject} in a café.png")
        (patchdpo / subject / f"a {subject} on the beach.png").rename(patchdpo / subject / name)
    assert len(read(patchdpo, protocol=protocol).files) == 4


# Which of them it is


def test_images_beside_folders_of_prompts_do_not_make_it_patchdpos(read, images):
    for subject in ("dog", "mug"):
        Image.new("RGB", (64, 64)).save(images / subject / "a red dog.png")
    found = read(images)
    assert found.manifest.images.layout == "subject/prompt"
    assert found.manifest.images.notes == ["2 other files and folders were not looked at"]


def test_a_folder_with_two_layouts_is_not_guessed_about(read, images, uno):
    for path in uno.iterdir():
        path.rename(images / path.name)
    with pytest.raises(UserError) as caught:
        read(images)
    assert caught.value.code == "unclear-layout"
    assert "--layout uno" in str(caught.value) and "--layout subject/prompt" in str(caught.value)
    for layout in ("uno", "subject/prompt"):
        found = read(images, layout=layout)
        assert (found.manifest.images.layout, len(found.files)) == (layout, 12)


def test_a_layout_that_is_said_is_taken_or_refused(read, images, patchdpo):
    (patchdpo / "dog" / "old").mkdir()
    assert {p.kind for p in problems_of(read, patchdpo, protocol=ONE_EACH)} == {"missing"}
    found = read(patchdpo, protocol=ONE_EACH, layout="patchdpo")
    assert (found.manifest.images.layout, len(found.files)) == ("patchdpo", 4)
    assert {p.kind for p in problems_of(read, images, layout="uno")} == {"missing"}
    for layout in ("patch-dpo", "index"):
        with pytest.raises(UserError) as caught:
            read(images, layout=layout)
        assert caught.value.code == "unknown-name"
        assert f"'{layout}'" in str(caught.value)
    write_index(images / "index.csv", index_rows(images))
    with pytest.raises(UserError) as caught:
        read(images / "index.csv", layout="uno")
    assert caught.value.code == "layout-of-an-index"
