"""A questionnaire in a real browser, from the first question to the table of its answers."""

import json
import threading

import pytest
from conftest import invoke
from playwright.sync_api import expect
from study_runs import make_runs

from dreambench.study.pages import write_study_folder
from dreambench.study.plan import N_CHECKS, make_study
from dreambench.study.serving import StudyServer

HOSTILE = "<img src=x onerror=alert(1)>\u202e</script><script>alert(2)</script>"
N_EACH = 4 + N_CHECKS


@pytest.fixture(scope="module")
def planned(tmp_path_factory):
    """A small study of two methods: its folder and plan."""
    root = tmp_path_factory.mktemp("study")
    study, pictures = make_study(
        make_runs(root), n_comparisons=8, n_raters=2, n_questions=4, contact="Ada, ada@example.org"
    )
    write_study_folder(study, pictures, root / "study")
    return root / "study", study


def list_sides(study, number):
    """By question which side shows the first method, or what is right."""
    questions = study.questionnaires[number - 1].questions
    return {q.id: "left" if q.first_is_left else "right" for q in questions}


def answer_by_keyboard(page, study, number):
    """Go through a questionnaire with keys alone; the first method is always preferred."""
    keys = {"left": "1", "right": "2"}
    page.keyboard.press("Tab")  # The link that skips to the content.
    page.get_by_role("button", name="I agree: start").focus()
    page.keyboard.press("Enter")
    for place, (name, side) in enumerate(list_sides(study, number).items()):
        if place % N_EACH == 0:
            expect(page.locator("#part-title")).to_be_focused()
            page.get_by_role("button", name="Continue").focus()
            page.keyboard.press("Enter")
        expect(page.locator("#count")).to_have_text(f"Question {place + 1} of {2 * N_EACH}")
        expect(page.locator("#question")).to_be_focused()
        page.keyboard.press(keys[side])
        assert page.evaluate("document.activeElement.value") == side, name
        page.keyboard.press("Enter")
    expect(page.locator("#end-title")).to_be_focused()


def test_answers_go_from_the_keyboard_to_the_table(watched, planned, find_violations, tmp_path):
    folder, study = planned
    paths = []
    for number in (1, 2):
        page = watched.open(folder / "questionnaires" / f"00{number}.html", accept_downloads=True)
        assert "Ada, ada@example.org" in page.locator("#start").inner_text()
        answer_by_keyboard(page, study, number)
        code = page.locator("#end .code").inner_text()
        with page.expect_download() as saved:
            page.get_by_role("button", name="Save my answers").click()
        assert saved.value.suggested_filename == f"answers-00{number}-{code}.json"
        paths.append(tmp_path / saved.value.suggested_filename)
        saved.value.save_as(paths[-1])
    content = json.loads(paths[0].read_text())
    assert content["answers"] == list_sides(study, 1) and content["study"] == study.digest()
    assert set(content) == {
        "format", "kind", "study", "questionnaire", "rater", "simulated", "answers"
    }  # fmt: skip
    done = invoke("study", "analyse", folder, *paths, "--out", tmp_path / "out", "--json")
    results = json.loads(done.stdout)
    assert results["simulated"] is False and results["everyone"]["n_answers"] == 16
    for row in results["everyone"]["pairs"]:
        assert row["prefers_first"]["mean"] == 1.0 and row["first"] == "good"
    assert [row["passed"] for row in results["raters"]] == [True, True]
    shown = watched.open(tmp_path / "out" / "index.html", width=390)
    assert find_violations(shown) == []
    assert shown.evaluate("document.documentElement.scrollWidth") <= 390
    table = shown.locator("table").first.inner_text()
    assert "good" in table and "1.000" in table and "2 people" in shown.locator("main").inner_text()


def test_answers_survive_a_reload_can_be_changed_and_deleted(watched, planned):
    page = watched.open(planned[0] / "questionnaires" / "001.html")
    page.get_by_role("button", name="I agree").click()
    code = page.locator("#end .code").text_content()
    page.get_by_role("button", name="Continue").click()
    page.get_by_role("button", name="Photo 2 of the reference item").click()
    expect(page.get_by_role("dialog").get_by_alt_text("Photo 2")).to_be_visible()
    page.keyboard.press("1")  # Nothing is chosen behind it.
    page.keyboard.press("Escape")
    assert page.locator("input:checked").count() == 0
    page.get_by_label("Right image").check()
    page.get_by_role("button", name="Next").click()
    page.reload()
    expect(page.locator("#count")).to_have_text(f"Question 2 of {2 * N_EACH}")
    assert page.locator("#end .code").text_content() == code
    page.get_by_role("button", name="Next").click()  # Nothing is chosen: the browser says so.
    expect(page.locator("#count")).to_have_text(f"Question 2 of {2 * N_EACH}")
    page.locator("#back").click()
    assert page.get_by_label("Right image").is_checked()
    page.get_by_label("Cannot Determine / Both Equally").check()
    page.get_by_role("button", name="Stop and delete").click()
    page.get_by_role("button", name="Keep them").click()
    assert page.evaluate("localStorage.length") == 1
    page.get_by_role("button", name="Stop and delete").click()
    page.get_by_role("button", name="Delete them").click()
    expect(page.locator("#deleted-title")).to_be_focused()
    assert page.evaluate("localStorage.length") == 0
    page.reload()
    assert page.get_by_role("button", name="I agree").is_visible()
    assert page.locator("#end .code").text_content() != code


def test_damaged_memory_and_codes_of_strangers_begin_again(watched, planned):
    address = (planned[0] / "questionnaires" / "001.html").as_uri()
    page = watched.open(address + "?code=participant-7")
    assert page.locator("#start .code").inner_text() == "participant-7"
    key = f"dreambench-study:{planned[1].digest()}:1"
    for kept in ("{", "[]", '{"rater": "<b>", "at": 1, "answers": {}}',
                 '{"rater": "x", "at": 99, "answers": {"s01": "left"}}'):  # fmt: skip
        page.evaluate("([key, kept]) => localStorage.setItem(key, kept)", [key, kept])
        page.goto(address + "?code=<script>")
        assert page.get_by_role("button", name="I agree").is_visible()
        assert "<" not in page.locator("#start .code").inner_text()


def test_answers_are_sent_to_the_lab_that_serves_the_page(watched, planned, tmp_path):
    folder, study = planned
    with StudyServer(folder) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        page = watched.open(server.url)
        assert "computer that runs this study" in page.locator("#start").inner_text()
        assert not page.get_by_text("save them as a small file").is_visible()
        answer_by_keyboard(page, study, 1)
        page.get_by_role("button", name="Send my answers").click()
        expect(page.locator("#said")).to_contain_text("have arrived")
        assert server.store.count() == {1: 1, 2: 0}
        assert page.evaluate("localStorage.length") == 0
        page.get_by_role("link", name="Start as another person").click()
        expect(page.locator(".brand")).to_contain_text("Questionnaire 2")
        watched.contexts.pop().close()
        server.shutdown()
    done = invoke("study", "analyse", folder, server.store.path, "--out", tmp_path, "--json")
    assert json.loads(done.stdout)["everyone"]["n_raters"] == 1


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 360])
def test_every_screen_is_accessible_and_no_wider_than_its_window(
    watched, planned, find_violations, width, scheme
):
    page = watched.open(planned[0] / "questionnaires" / "001.html", width=width, scheme=scheme)
    too_wide = "document.documentElement.scrollWidth > innerWidth"

    def look():
        assert find_violations(page) == [] and not page.evaluate(too_wide)

    look()
    page.get_by_role("button", name="I agree").click()
    look()
    for _ in range(2):
        page.get_by_role("button", name="Continue").click()
        look()
        if page.locator("#photos").is_visible():
            page.get_by_role("button", name="Photo 1").click()
            look()
            page.get_by_role("button", name="Close").click()
        for _ in range(N_EACH):
            page.get_by_label("Left image").check()
            page.get_by_role("button", name="Next").click()
    look()
    page.get_by_role("button", name="Stop and delete").click()
    look()


def test_text_of_strangers_does_nothing(watched, planned, tmp_path):
    study = planned[1]
    comparisons = [one.model_copy(update={"text": HOSTILE}) for one in study.comparisons]
    hostile = study.model_copy(update={"comparisons": comparisons, "contact": HOSTILE})
    runs = make_runs(tmp_path)
    _, pictures = make_study(runs, n_comparisons=8, n_raters=2, n_questions=4)
    write_study_folder(hostile, pictures, tmp_path / "study")
    page = watched.open(tmp_path / "study" / "questionnaires" / "002.html")  # Begins with texts.
    assert HOSTILE.replace("\u202e", "\\u202e") in page.locator("#start").inner_text()
    page.get_by_role("button", name="I agree").click()
    page.get_by_role("button", name="Continue").click()
    for _ in range(N_EACH):
        assert page.locator("img[onerror], img[src=x]").count() == 0
        page.get_by_label("Left image").check()
        page.get_by_role("button", name="Next").click()
