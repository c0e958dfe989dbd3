"""The page of a report in a real browser: sorts, filters, shows images, and harms nobody."""

import json
import re

import pytest
from conftest import TINY_PROTOCOL
from playwright.sync_api import expect
from report_pages import make_run, make_subjects

from dreambench.artifacts.failures import FailureGroup
from dreambench.report.pages import make_run_document
from dreambench.report.run_page import render_run_page, write_run_page
from dreambench.report.serving import ReportServer

GONE = ("mug", "red", 1)
REASON = "RuntimeError: out of <b>memory</b>"
HOSTILE = "<img src=x onerror=alert(1)>\u202e</script><script>alert(2)</script>"


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """Two runs of two subjects side by side; of the second an image is missing."""
    root = tmp_path_factory.mktemp("page")
    (root / "tiny.toml").write_text(TINY_PROTOCOL)
    subjects = make_subjects(root / "photos", {"dog": "dog", "mug": "cup"})
    failures = {
        "generate": [FailureGroup(
            error="RuntimeError", message="out of <b>memory</b>", subjects=["mug"], n_images=1
        )]
    }  # fmt: skip
    return [
        make_run(root / "runs" / "good", root / "tiny.toml", subjects, quality=0.6),
        make_run(
            root / "runs" / "poor one", root / "tiny.toml", subjects, quality=0.2,
            missing={GONE}, failures=failures,
        ),
    ]  # fmt: skip


@pytest.fixture(scope="module")
def page_path(shown):
    """The page of the runs, beside their images."""
    out_dir = shown[0][1].report_dir
    path, thumbnails = write_run_page(make_run_document([run for run, _ in shown]), shown, out_dir)
    assert len(thumbnails) == 12 + 11 + 6
    (shown[0][1].folder / "run.json").write_text("{}")
    (shown[1][1].folder / "run.json").write_text("{}")
    return path


def choose(page, **options):
    for name, label in options.items():
        page.locator(f"select[name={name}]").select_option(label=label)


def texts(page, selector):
    """Texts as they are in the page: what is out of sight need not be drawn yet."""
    return page.locator(selector).all_text_contents()


def read_data(path):
    found = re.search(r'id="images-data">(.*?)</script>', path.read_text())
    return json.loads(found[1])


def test_tables_are_sorted_by_their_numbers_best_first(watched, page_path):
    page = watched.open(page_path)
    table = page.locator("table.sortable").first
    heading = table.locator("th", has_text="DINO").first
    rows = table.locator("tbody th")
    before = rows.all_inner_texts()
    heading.get_by_role("button").click()
    assert heading.get_attribute("aria-sort") == "descending"
    values = [float(v) for v in table.locator("tbody td:nth-child(2) .number").all_inner_texts()]
    assert values == sorted(values, reverse=True) and len(values) == 4
    heading.get_by_role("button").press("Enter")
    assert heading.get_attribute("aria-sort") == "ascending"
    assert sorted(rows.all_inner_texts()) == sorted(before)


def test_rows_of_long_tables_are_filtered_by_words(watched, page_path):
    page = watched.open(page_path)
    tools = page.locator("#numbers .tools").first
    table = tools.locator("xpath=following-sibling::div[1]//table")
    n_rows = table.locator("tbody tr").count()
    tools.get_by_label("Filter rows").fill("poor object")
    left = table.locator("tbody tr:visible").all_inner_texts()
    assert 0 < len(left) < n_rows and all("poor" in row and "object" in row for row in left)
    assert tools.locator("output").inner_text() == f"{len(left)} of {n_rows} rows"


def test_images_are_chosen_by_subject_prompt_category_and_method(watched, page_path):
    page = watched.open(page_path)
    page.get_by_role("link", name="Images").click()
    count = page.locator("#image-count")
    assert count.inner_text() == "24 images"
    choose(page, subject="dog")
    assert count.inner_text() == "12 images"
    choose(page, family="property")
    assert count.inner_text() == "4 images"
    choose(page, method="poor one")
    assert texts(page, "#shots .prompt") == ["dog: a red dog"] * 2
    assert set(texts(page, "#shots .about b")) == {"poor one"}
    choose(page, prompt="beach")
    assert count.inner_text() == "0 images"
    # What is chosen is in the address, and back from it.
    choose(page, prompt="red")
    page.reload()
    assert count.inner_text() == "2 images"
    page.get_by_role("button", name="Reset").click()
    expect(count).to_have_text("24 images")


@pytest.mark.parametrize(("title", "is_up"), [("CLIP-T ↑", True), ("Copy index ↓", False)])
def test_images_are_sorted_worst_first_and_best_first(watched, page_path, title, is_up):
    page = watched.open(page_path.as_uri() + "#images")
    choose(page, sort=title)
    shown_values = [
        -9 if text.endswith("-") else float(text.split()[-1])
        for text in texts(page, "#shots .scores .by")
    ]
    # The missing image is last, as are the class images, which have no such score.
    values = [value for value in shown_values if value != -9]
    assert shown_values == values + [-9] * (len(shown_values) - len(values)) and len(values) > 10
    assert values == sorted(values, reverse=not is_up)
    choose(page, order="best first")
    assert float(texts(page, "#shots .scores .by")[0].split()[-1]) == values[len(values) - 1]


def test_an_image_opens_with_its_prompt_seed_nearest_photo_and_scores(watched, page_path, shown):
    page = watched.open(page_path.as_uri() + "#images&subject=0")
    page.get_by_role("button", name="good, dog: a red dog, image 2").click()
    viewer = page.get_by_role("dialog")
    unit = next(
        u for u in shown[0][1].plan.images if (u.subject, u.prompt_id, u.k) == ("dog", "red", 1)
    )
    facts = viewer.locator("dl").inner_text()
    assert str(unit.seed) in facts and "red, property" in facts
    assert viewer.locator(".nearest img").get_attribute("alt") == "photo 1.png"
    assert "CLIP-T" in viewer.locator("table").inner_text()
    large = viewer.locator(".large")
    assert large.get_attribute("src") == "../images/dog/red/1.png"
    expect(large).to_have_js_property("naturalWidth", 32)
    # The same cell of the other method, and from there the file that lies beside this run.
    viewer.get_by_role("button", name="poor one, dog: a red dog, image 2").click()
    assert large.get_attribute("src") == "../../poor%20one/images/dog/red/1.png"
    expect(large).to_have_js_property("naturalWidth", 32)
    title = page.locator("#viewer-title")
    assert title.inner_text() == "dog: a red dog"
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    assert title.inner_text() == "dog: a dog on the beach"
    page.keyboard.press("Escape")
    assert not viewer.is_visible()


def test_methods_stand_side_by_side_cell_by_cell(watched, page_path):
    page = watched.open(page_path.as_uri() + "#images")
    choose(page, layout="side by side", sort="DINO ↑", subject="dog")
    assert page.locator("#image-count").inner_text() == "6 cells, by DINO of good"
    row = page.locator("#shots > li").first
    expect(row.locator(".about b")).to_have_text(["a photo", "good", "poor one"])
    row.get_by_role("button", name="poor one").click()
    assert page.get_by_role("dialog").locator("figcaption").inner_text().startswith("poor one")


def test_missing_images_are_listed_with_their_reason(watched, page_path):
    page = watched.open(page_path.as_uri() + "#images")
    choose(page, show="only what is missing")
    assert page.locator("#image-count").inner_text() == "1 missing images"
    assert texts(page, "#shots .none") == [f"generate failed: {REASON}"]
    assert texts(page, "#shots .prompt") == ["mug: a red cup"]


def test_page_is_served_with_the_images_of_the_folders_that_were_named(watched, page_path, shown):
    import threading  # noqa: PLC0415

    with ReportServer([images.folder for _, images in shown]) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        page = watched.open(f"{server.url}#images")
        page.get_by_role("button", name="poor one, dog: a red dog, image 2").click()
        expect(page.locator(".large")).to_have_js_property("naturalWidth", 32)
        watched.contexts.pop().close()
        server.shutdown()


def test_only_what_is_looked_at_is_made(watched, page_path, shown, tmp_path):
    data, times = read_data(page_path), 100
    for columns in (data["cells"], *data["methods"]):
        for name, column in columns.items():
            if isinstance(column, list):
                columns[name] = column * times
    for method in data["methods"]:
        method["scores"] = {name: column * times for name, column in method["scores"].items()}
    path = page_path.with_name("long.html")
    path.write_text(render_run_page(make_run_document([shown[0][0]]), data))
    page = watched.open(path.as_uri() + "#images")
    assert page.locator("#image-count").inner_text() == "2,400 images"
    assert page.locator("#shots > li").count() == 120
    page.mouse.wheel(0, 100_000)
    expect(page.locator("#shots > li").nth(239)).to_be_attached()


def test_what_strangers_wrote_does_nothing(watched, page_path, shown):
    data = json.loads(json.dumps(read_data(page_path)))
    for holders, key in (
        (data["subjects"], "name"), (data["subjects"], "noun"), (data["prompts"], "id"),
        (data["prompts"], "family"), (data["metrics"], "title"), (data["methods"], "name"),
    ):  # fmt: skip
        for number, holder in enumerate(holders):
            holder[key] = f"{HOSTILE}{number}"
    data["texts"] = [f"{HOSTILE}{number}" for number in range(len(data["texts"]))]
    data["methods"][1]["reasons"] = {"": HOSTILE}
    for method in data["methods"]:
        method["folder"] = None  # No file has such a name.
    run = shown[0][0]
    hostile = type(run)(HOSTILE, run.scores, run.summary)
    path = page_path.with_name("hostile.html")
    path.write_text(render_run_page(make_run_document([hostile]), data))
    page = watched.open(path)
    spelled = HOSTILE.replace("\u202e", "\\u202e")
    assert page.locator("h1:visible").inner_text().startswith(spelled)
    page.get_by_role("link", name="Images").click()
    expect(page.locator("#shots .about b").first).to_contain_text(spelled)
    choose(page, layout="side by side", sort=f"{spelled}0 ↑")
    page.locator(".shot").first.click()
    assert spelled in page.locator("#viewer-title").inner_text()
    page.keyboard.press("Escape")
    choose(page, layout="one by one", show="only what is missing")
    expect(page.locator("#shots .none").first).to_contain_text(spelled)
    assert page.locator("img[onerror]").count() == 0
    # Not even what is put into the page runs: its policy knows its own scripts alone.
    page.evaluate(
        "document.body.append(Object.assign(document.createElement('script'),"
        "{textContent: 'window.ran = 1'}))"
    )
    assert page.evaluate("window.ran") is None
    assert "Content Security Policy" in watched.faults.pop() and not watched.faults


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_page_is_accessible_and_no_wider_than_its_window(
    watched, page_path, find_violations, width, scheme
):
    page = watched.open(page_path, width=width, scheme=scheme)
    too_wide = "document.documentElement.scrollWidth > innerWidth"
    for part in ("#numbers", "#images", "#images&layout=beside"):
        page.goto(page_path.as_uri() + part)
        assert find_violations(page) == [] and not page.evaluate(too_wide)
    page.locator(".shot").first.click()
    assert find_violations(page) == [] and not page.evaluate(too_wide)


def test_page_says_what_it_can_without_scripts_and_on_paper(watched, page_path):
    page = watched.open(page_path, java_script_enabled=False)
    assert page.locator("#numbers table").first.is_visible()
    assert "let this page run its scripts" in page.locator("noscript").inner_text()
    paper = watched.open(page_path)
    paper.emulate_media(media="print")
    assert paper.locator("#numbers table").first.is_visible()
    assert (
        not paper.locator(".tabs").is_visible() and not paper.locator(".tools").first.is_visible()
    )
