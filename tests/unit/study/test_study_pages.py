"""Pages of a study: blind, small, and text of strangers does nothing in them."""

import json
import re

import pytest
from PIL import Image
from study_runs import make_runs

from dreambench.artifacts.study import FILE_NAME, read_study
from dreambench.errors import UserError
from dreambench.storage.csv_files import read_csv
from dreambench.study.pages import LINK_COLUMNS, render_questionnaire, write_study_folder
from dreambench.study.plan import make_study

METHODS = ("secret-one", "secret-two")
HOSTILE = "<img src=x onerror=alert(1)>\u202e</script><script>alert(2)</script>"


@pytest.fixture(scope="module")
def planned(tmp_path_factory):
    runs = make_runs(tmp_path_factory.mktemp("runs"), METHODS)
    return make_study(runs, n_comparisons=8, n_raters=6, n_questions=4, contact="Lab & Co")


@pytest.fixture(scope="module")
def folder(planned, tmp_path_factory):
    out = tmp_path_factory.mktemp("study")
    write_study_folder(*planned, out, address="https://example.org/s/")
    return out


def test_nothing_that_people_see_names_a_method_or_says_what_is_a_check(folder):
    seen = sorted((folder / "questionnaires").rglob("*.*"))
    assert len([path for path in seen if path.suffix == ".html"]) == 2
    for path in seen:
        content = path.read_bytes()
        for word in (b"secret", b"runs/", b"k001", b"c0001", b"images/dog", b"beach/0"):
            assert word not in content, (path, word)
        assert len(content) < 300_000
    names = [path.stem for path in seen if path.suffix == ".png"]
    assert names and all(re.fullmatch("[0-9a-f]{16}", name) for name in names)


def test_pictures_keep_their_pixels_and_say_no_more_than_that_they_are_generated(folder, planned):
    study, pictures = planned
    one = study.comparisons[0]
    copy = folder / "questionnaires" / "images" / f"{one.first_image.file}.png"
    source = pictures.sources[one.first_image.file].path
    with Image.open(copy) as shown, Image.open(source) as made:
        assert shown.convert("RGB").tobytes() == made.convert("RGB").tobytes()
        assert json.loads(shown.info.pop("dreambench")) == {"generated": True}
        assert set(shown.info) == {"Comment"}


def test_page_has_each_question_with_its_pictures_on_the_planned_sides(folder, planned):
    study, _ = planned
    shown = {one.id: one for one in (*study.comparisons, *study.checks)}
    text = (folder / "questionnaires" / "002.html").read_text()
    data = json.loads(re.search(r'id="questionnaire">(.*?)</script>', text)[1])
    assert data["study"] == study.digest() and data["questionnaire"] == 2
    assert "Lab &amp; Co" in text
    for asked, question in zip(data["questions"], study.questionnaires[1].questions, strict=True):
        one = shown[question.of]
        files = [f"images/{image.file}.png" for image in (one.first_image, one.second_image)]
        assert asked["images"] == (files if question.first_is_left else files[::-1])
        assert set(asked) == {
            "id",
            "asks",
            "images",
            "photos" if asked["asks"] == "subject" else "text",
        }
        assert all((folder / "questionnaires" / name).is_file() for name in asked["images"])


def test_links_are_for_those_who_recruit(folder):
    rows = read_csv(folder / "links.csv", LINK_COLUMNS)
    assert [row["questionnaire"] for row in rows] == ["001", "002"]
    assert rows[1]["n_raters"] == "3" and rows[1]["link"] == "https://example.org/s/002.html"
    assert rows[1]["prolific_link"] == "https://example.org/s/002.html?code={{%PROLIFIC_PID%}}"


def test_a_study_is_not_written_over_another_and_addresses_are_of_the_web(
    folder, planned, tmp_path
):
    before = (folder / FILE_NAME).read_bytes()
    with pytest.raises(UserError) as found:
        write_study_folder(*planned, folder)
    assert found.value.code == "name-taken" and (folder / FILE_NAME).read_bytes() == before
    with pytest.raises(UserError) as found:
        write_study_folder(*planned, tmp_path / "new", address="javascript:alert(1)")
    assert found.value.code == "invalid-value" and not (tmp_path / "new").exists()


def test_damaged_plan_is_refused_by_its_place(folder, tmp_path):
    content = json.loads((folder / FILE_NAME).read_text())
    content["questionnaires"][0]["questions"][0]["of"] = "nowhere"
    (tmp_path / FILE_NAME).write_text(json.dumps(content))
    with pytest.raises(UserError, match="questionnaire 1") as found:
        read_study(tmp_path)
    assert found.value.code == "damaged-file"
    (tmp_path / FILE_NAME).write_text('{"format": 99}')
    with pytest.raises(UserError) as found:
        read_study(tmp_path)
    assert found.value.code == "old-format"


def test_text_of_strangers_is_escaped(planned):
    study, _ = planned
    comparisons = [one.model_copy(update={"text": HOSTILE}) for one in study.comparisons]
    hostile = study.model_copy(update={"comparisons": comparisons, "contact": HOSTILE})
    files = {
        picture.file: "images/x.png"
        for one in (*study.comparisons, *study.checks)
        for picture in (one.first_image, one.second_image)
    } | {photo.file: "images/y.png" for one in study.subjects for photo in one.photos}
    text = render_questionnaire(hostile, study.questionnaires[0], files=files, digest="0" * 16)
    assert "<img src=x" not in text and "<script>alert" not in text and "\u202e" not in text
