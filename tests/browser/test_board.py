"""A leaderboard's pages in a real browser: rank, sort, filter, open."""

import re

import pytest
from board_records import make_record
from playwright.sync_api import expect

from dreambench.artifacts.record import BaseModelPart
from dreambench.leaderboard.site import render_site

METHODS = {"good": 0.8, "fair": 0.6, "fairer": 0.6, "poor": 0.2}
HOSTILE = "<img src=x onerror=alert(1)>\u202e\x1b[31m</script><script>alert(2)</script>{{7*7}}"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site of four ranked methods on two base models, and of one that is partial."""
    root = tmp_path_factory.mktemp("board")
    for name, quality in METHODS.items():
        model = BaseModelPart(name="sd15" if "fair" in name else "sdxl", identity="e")
        make_record(root / "records", name, quality, base_model=model)
    make_record(root / "records", "half", 0.9, missing=[("s0", "beach", 0)])
    render_site(root / "records", root / "site")
    return root / "site"


def names(page):
    return [
        text.split(" · ")[0]
        for text in page.locator("#board tbody tr:visible .who").all_inner_texts()
    ]


def ranks(page):
    return [int(text) for text in page.locator("#board tbody td.rank").all_inner_texts()]


def test_first_screen_says_what_is_ranked_by_what_and_how_sure(watched, site):
    page = watched.open(site / "index.html")
    lead = page.locator(".lead").inner_text()
    assert "Ranked by Joint" in lead and "5 of 6 pairs of methods are shown to differ" in lead
    assert "no test shows which of them is better" in lead and "6 subjects" in lead
    assert page.locator("#board").bounding_box()["y"] < 500
    assert names(page)[0] == "good" and names(page)[-1] == "poor" and ranks(page) == [1, 2, 2, 4]
    assert page.locator("#board tbody svg.range").count() == 4 * 5


def test_another_metric_ranks_by_its_own_tests(watched, site):
    page = watched.open(site / "index.html")
    page.get_by_label("Rank by").select_option(label="Pixel match")
    assert names(page)[0] == "poor" and ranks(page) == [1, 2, 2, 4]
    assert "Ranked by Pixel match" in page.locator(".lead").inner_text()
    expect(page.locator("#board thead th.chosen")).to_contain_text("Pixel match")
    assert page.locator("#board tbody td.chosen .interval").first.is_visible()
    again = watched.open(site.joinpath("index.html").as_uri() + "#by=pixel-match")
    assert (
        names(again)[0] == "poor" and again.get_by_label("Rank by").input_value() == "pixel-match"
    )
    odd = watched.open(site.joinpath("index.html").as_uri() + "#by=__proto__")
    assert names(odd)[0] == "good"


def test_rows_are_sorted_by_any_column(watched, site):
    page = watched.open(site / "index.html")
    page.get_by_role("button", name="CLIP-T").click()
    heading = page.locator("#board thead th", has_text="CLIP-T")
    assert heading.get_attribute("aria-sort") == "descending" and names(page)[-1] == "poor"
    heading.get_by_role("button").press("Enter")
    assert names(page)[0] == "poor"
    page.get_by_role("button", name="Method").click()
    assert names(page) == ["fair", "fairer", "good", "poor"]


def test_rows_are_filtered_by_text_track_and_base_model(watched, site):
    page = watched.open(site / "index.html")
    page.get_by_label("Filter rows").fill("FAIR")
    assert sorted(names(page)) == ["fair", "fairer"]
    expect(page.locator(".tools output")).to_have_text("2 of 4 rows")
    page.get_by_label("Filter rows").fill("")
    page.get_by_label("Base model").select_option("sdxl")
    assert names(page) == ["good", "poor"]
    page.get_by_label("Base model").select_option(label="all")
    expect(page.locator(".tools output")).to_have_text("4 rows")
    assert page.get_by_label("Status").count() == 0  # All have the same.


def test_a_row_opens_and_leads_back(watched, site):
    page = watched.open(site / "index.html")
    page.get_by_role("link", name="The method good", exact=True).click()
    expect(page.locator("h1")).to_have_text("The method good")
    assert "Rank 1 of 4 on tiny by Joint" in page.locator(".lead").inner_text()
    strip = page.locator("figure.strip img")
    assert strip.evaluate("image => image.naturalWidth") == 120
    page.locator(".back a").click()
    expect(page.locator("h1")).to_contain_text("Leaderboard")
    page.get_by_role("link", name="The method half").click()
    expect(page.locator(".badge.warn")).to_contain_text("23 of 24 images")


def test_every_link_and_file_is_there(watched, site):
    for path in site.rglob("*.html"):
        for target in re.findall(r'(?:href|src)="([^"#]+)"', path.read_text()):
            if not target.startswith(("http", "data:")):
                assert (path.parent / target).is_file(), (path.name, target)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_pages_are_accessible_and_no_wider_than_the_window(
    watched, site, find_violations, scheme, width
):
    row = next((site / "rows").glob("*.html"))
    for path in (site / "index.html", row, site / "published.html"):
        page = watched.open(path, width=width, scheme=scheme)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert find_violations(page) == []
    wide = watched.open(site / "index.html", width=width).locator("svg.wide-plane")
    assert wide.is_visible() == (width == 1280)


def test_names_in_the_plane_do_not_lie_on_each_other(watched, site):
    for width, name in ((1280, "wide"), (390, "narrow")):
        page = watched.open(site / "index.html", width=width)
        found = page.locator(f"svg.{name}-plane text.label, svg.{name}-plane text.bound")
        boxes = [found.nth(n).bounding_box() for n in range(found.count())]
        assert len(boxes) >= 4
        for n, a in enumerate(boxes):
            for b in boxes[:n]:
                across = min(a["x"] + a["width"], b["x"] + b["width"]) - max(a["x"], b["x"])
                down = min(a["y"] + a["height"], b["y"] + b["height"]) - max(a["y"], b["y"])
                assert across <= 1 or down <= 3


def test_pages_print_and_work_without_a_script(watched, site):
    page = watched.open(site / "index.html", java_script_enabled=False)
    assert names(page)[0] == "good" and page.locator(".tools").count() == 0
    page = watched.open(site / "index.html")
    page.emulate_media(media="print")
    page.set_viewport_size({"width": 1030, "height": 720})
    assert page.evaluate("document.documentElement.scrollWidth") <= 1030
    assert not page.locator(".tools").first.is_visible()


def test_text_of_strangers_does_nothing(watched, tmp_path, find_violations):
    records, model = tmp_path / "records", BaseModelPart(name=HOSTILE, identity=HOSTILE)
    folder = make_record(
        records, "evil", 0.9, title=HOSTILE, source=HOSTILE, track=HOSTILE, licence=HOSTILE,
        base_model=model,
        paper_url="https://example.org/\"onmouseover=alert(3)'<b>",
    )  # fmt: skip
    make_record(
        records, "long", 0.2, title="W" * 250_000, track="x " * 60_000, source="\u202e" * 99
    )
    make_record(records, "gone", 0.2, status="withdrawn", withdrawn=HOSTILE * 50)
    make_record(records, "other", 0.4, version=HOSTILE)
    make_record(records, "plain", 0.4, title="javascript:alert(1)", track="")
    render_site(records, tmp_path / "site")
    paths = sorted((tmp_path / "site").rglob("*.html"))
    assert len(paths) == 5 + 2 + 1
    for path in paths:
        assert path.stat().st_size < 400_000
        page = watched.open(path, width=390)
        assert page.locator("img[src=x], a[href^=javascript], [onmouseover], b b").count() == 0
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        text = page.locator("body").inner_text()
        assert (
            "\u202e" not in text and "\x1b" not in text and "49" not in re.findall(r"\b49\b", text)
        )
    page = watched.open(tmp_path / "site" / "rows" / f"{folder.name}.html")
    assert "<img src=x onerror=alert(1)>" in page.locator("h1").inner_text()
    assert find_violations(page) == []
    page = watched.open(tmp_path / "site" / "index.html")
    if page.get_by_label("Track").count():
        page.get_by_label("Track").select_option(index=1)
