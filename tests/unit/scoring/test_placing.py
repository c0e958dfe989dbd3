"""Which file of a folder is which image of a protocol."""

import shutil

import pytest
from external_images import PROMPTS, draw_images, index_rows, kinds, read_folder, write_index

from dreambench.config.protocol import load_protocol
from dreambench.errors import UserError
from dreambench.scoring.layouts import LAYOUTS
from dreambench.scoring.problems import ImageSetError


@pytest.fixture
def folder(tmp_path):
    """The tiny protocol's images as <subject>/<prompt>/<k>.png."""
    return draw_images(tmp_path / "mine")


@pytest.fixture
def read(tiny, tmp_path):
    """Reads a folder by the tiny protocol, or another."""

    def call(folder, *, protocol=tiny[0], **options):
        return read_folder(folder, protocol=protocol, out=tmp_path / "out", **options)

    return call


def refusal_of(read, folder, **options):
    """The error with the problems for which a folder is refused."""
    with pytest.raises(ImageSetError) as caught:
        read(folder, **options)
    assert caught.value.code == "wrong-image-set"
    return caught.value


def placed_names(found, folder):
    """Path inside the folder of each image, by subject, prompt and number."""
    return {
        (unit.subject, unit.prompt_id, unit.k): path.relative_to(folder).as_posix()
        for unit, path in found.files.items()
    }


def test_a_folder_with_nothing_right_is_refused_even_when_partial(read, tmp_path):
    (tmp_path / "empty").mkdir()
    error = refusal_of(read, tmp_path / "empty", partial=True)
    assert all(layout in error.hint for layout in LAYOUTS.values())
    assert kinds(error.problems) == {"missing": ["dog", "mug"]}
    assert [problem.n_images for problem in error.problems] == [4, 4]  # Without class images.


def test_subject_names_match_exactly(read, folder):
    (folder / "dog").rename(folder / "backpack_dog")
    error = refusal_of(read, folder)
    assert kinds(error.problems) == {"missing": ["dog"], "unknown": ["backpack_dog"]}
    assert {p.kind: p.n_images for p in error.problems} == {"missing": 6, "unknown": 6}
    (folder / "backpack_dog").rename(folder / "Dog")
    (unknown,) = [p for p in refusal_of(read, folder).problems if p.kind == "unknown"]
    assert (unknown.name, unknown.n_images) == ("Dog", 6)
    assert "'dog'" in unknown.detail


def test_unknown_prompts_suggest_and_a_prompt_of_the_other_kind_is_none(read, folder, tmp_path):
    (folder / "dog" / "beach").rename(folder / "dog" / "beech")
    error = refusal_of(read, folder)
    assert kinds(error.problems) == {"missing": ["dog/beach"], "unknown": ["dog/beech"]}
    assert "'beach'" in str(error)
    mini = {prompt.id: prompt for prompt in load_protocol("mini").prompts}
    assert mini["snow"].kinds == ("object",)
    shutil.copytree(folder / "mug" / "red", tmp_path / "mini" / "dog" / "snow")
    error = refusal_of(read, tmp_path / "mini", protocol="mini")
    assert kinds(error.problems)["unknown"] == ["dog/snow"]


def test_two_files_for_one_image_are_refused(read, folder):
    shutil.copy(folder / "dog" / "red" / "0.png", folder / "dog" / "red" / "00.png")
    (folder / "dog" / "red" / "1.png").unlink()
    error = refusal_of(read, folder)
    assert kinds(error.problems) == {"missing": ["dog/red"], "extra": ["dog/red/00.png"]}
    (extra,) = [p for p in error.problems if p.kind == "extra"]
    assert "dog/red/0.png is image 0 of dog/red" in extra.detail


def test_many_images_too_many_are_counted_and_the_list_is_cut(read, folder):
    for index in range(2, 500):
        shutil.copy(folder / "dog" / "red" / "0.png", folder / "dog" / "red" / f"{index}.png")
    error = refusal_of(read, folder)
    assert len(kinds(error.problems)["extra"]) == 498
    assert "498 extra:" in str(error)
    assert "and 478 more" in str(error)
    assert len(str(error).splitlines()) < 50


def test_files_are_numbered_in_the_order_of_their_names_where_these_are_other_numbers(read, folder):
    for k, name in enumerate(("img-2.png", "img-10.png")):
        (folder / "dog" / "red" / f"{k}.png").rename(folder / "dog" / "red" / name)
    for k, name in enumerate(("01.png", "00.png")):
        (folder / "mug" / "red" / f"{k}.png").rename(folder / "mug" / "red" / name)
    found = read(folder)
    names = placed_names(found, folder)
    assert [names["dog", "red", k] for k in (0, 1)] == ["dog/red/img-2.png", "dog/red/img-10.png"]
    assert [names["mug", "red", k] for k in (0, 1)] == ["mug/red/00.png", "mug/red/01.png"]
    (note,) = found.manifest.images.notes
    assert "dog/red" in note and "mug/red" not in note


def test_fewer_images_a_prompt_than_the_protocol_are_missing_images(read, folder):
    for path in folder.glob("*/*/1.png"):
        path.unlink()
    problems = refusal_of(read, folder).problems
    assert kinds(problems)["missing"] == [
        f"{subject}/{prompt}" for subject in ("dog", "mug") for prompt in PROMPTS
    ]
    assert {(problem.n_images, problem.detail) for problem in problems} == {(1, "no 1")}
    found = read(folder, partial=True)
    assert found.manifest.partial is True
    assert (found.manifest.images.n_scored, found.manifest.images.n_expected) == (6, 12)


def test_narrowing_leaves_the_others_out_and_marks_the_set(read, folder):
    (folder / "mug" / "beach" / "1.png").unlink()
    found = read(folder, subjects=["dog"])
    assert {unit.subject for unit in found.files} == {"dog"}
    assert found.manifest.partial is True
    assert found.manifest.problems == []
    (note,) = found.manifest.images.notes
    assert note.startswith("5 ")
    for narrowed in ({"families": ["property"]}, {"prompts": ["red"]}):
        found = read(folder, **narrowed)
        assert {unit.prompt_id for unit in found.files} == {"red", "prior"}
        assert found.manifest.prompts == ["red"]
        assert found.manifest.partial is True
    for narrowed, name, suggested in (
        ({"prompts": ["redd"]}, "'redd'", "'red'"),
        ({"subjects": ["cat"]}, "'cat'", "dog, mug"),
        ({"families": ["propert"]}, "'propert'", "'property'"),
    ):
        with pytest.raises(UserError) as caught:
            read(folder, **narrowed)
        assert caught.value.code == "unknown-name"
        assert name in str(caught.value) and suggested in str(caught.value)


def test_class_images_are_all_there_or_none(read, folder):
    kept = shutil.copytree(folder / "dog" / "prior", folder.parent / "kept")
    for subject in ("dog", "mug"):
        shutil.rmtree(folder / subject / "prior")
    found = read(folder)
    assert set(found.manifest.not_measured) == {"pres"}
    assert found.manifest.partial is False
    assert len(found.plan.images) == len(found.files) == 8
    # Some of them and not all is a fault like any other.
    shutil.copytree(kept, folder / "dog" / "prior")
    assert kinds(refusal_of(read, folder).problems) == {"missing": ["mug/prior"]}


def test_two_words_for_one_identifier_are_not_guessed_about(read, folder):
    rows = index_rows(folder)
    rows[0][2], rows[1][2] = "a sks dog on the beach", "A sks dog on the Beach."
    write_index(folder / "index.csv", rows)
    (note,) = read(folder / "index.csv").manifest.images.notes
    assert "'sks'" in note and "identifier" in note
    rows[1][2] = "a happy dog on the beach"
    write_index(folder / "index.csv", rows)
    found = kinds(refusal_of(read, folder / "index.csv").problems)
    assert found["unknown"] == ["dog/a sks dog on the beach", "dog/a happy dog on the beach"]
