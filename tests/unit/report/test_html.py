"""Pages: what strangers wrote is text, whatever it says; intervals are drawn where they lie."""

import json
import re
from html.parser import HTMLParser

import pytest

from dreambench.report.html.pages import render_page
from dreambench.report.html.tables import make_sections, show_table
from dreambench.report.model import (
    Bullets,
    Document,
    Figure,
    Heading,
    Interval,
    Paragraph,
    PValue,
    Table,
)

HOSTILE = [
    "<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "</script><script>alert(1)//",
    "<b>", "{{ 7 * 7 }}", "javascript:alert(1)", "&lt;i&gt;", "' onfocus='alert(1)",
]  # fmt: skip


def render(*blocks, data=None):
    title, sections = make_sections(Document([Heading("page", 1), *blocks]))
    return render_page("document.html", {"title": title, "sections": sections}, data=data)


class Elements(HTMLParser):
    """The elements of a page with the names of their attributes, and the page's text."""

    def __init__(self, page):
        super().__init__()
        self.found, self.text = [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, [name for name, _ in attrs]))

    def handle_data(self, data):
        self.text.append(data)


def render_everywhere(text):
    interval = Interval(0.5, 0.4, 0.6, text)
    table = Table("t", [text, "DINO (up)"], [{text: text, "DINO (up)": interval}])
    blocks = (Heading(text), Paragraph(text), Bullets([text]), Bullets([text], is_code=True), table)
    return render(*blocks, Figure("steps.png", text), data={"cells": {text: [text]}})


@pytest.mark.parametrize("text", HOSTILE)
def test_text_of_strangers_is_text_wherever_it_stands(text):
    page = render_everywhere(text)
    found = Elements(page)
    assert found.found == Elements(render_everywhere("harmless")).found
    assert "".join(found.text).count(text) >= 6
    stored = re.search(r'<script type="application/json" id="cells">(.*?)</script>', page)[1]
    assert json.loads(stored) == {text: [text]}


def test_what_no_eye_could_see_is_spelled_in_text_and_data():
    page = render(
        Paragraph("a\u202eb\x1b[2Jc\ud800"), data={"d": {"e\u202e": ["f\x07", None, 1.5]}}
    )
    assert "a\\u202eb\\x1b[2Jc" in page
    assert "\u202e" not in page and "\\u202e" in page and "\x07" not in page
    assert page.encode()


def test_numbers_that_json_lacks_are_refused_in_data():
    with pytest.raises(ValueError):
        render(data={"d": [float("nan")]})


def test_policy_lets_the_packages_own_scripts_run_and_nothing_else():
    page = render(Paragraph("text"))
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)[1]
    rules = dict(part.split(" ", 1) for part in policy.replace("&#39;", "'").split("; "))
    assert rules["default-src"] == "'none'" and "unsafe" not in policy
    assert rules["script-src"].startswith("'sha256-") and rules["style-src"].startswith("'sha256-")
    assert "http" not in policy


def test_intervals_of_a_column_lie_on_one_scale_and_those_of_metrics_on_one_a_row():
    rows = [
        {"method": "a", "x": Interval(0.0, -1.0, 1.0)},
        {"method": "b", "x": Interval(3.0, 2.0, 4.0)},
    ]
    shown = show_table(Table("t", ["method", "x"], rows), "c")
    first, second = (row[1].drawn for row in shown.rows)
    assert first.low < first.mean < first.high < second.low < second.mean < second.high
    assert first.zero == first.mean == second.zero
    assert second.low - first.high == pytest.approx((first.high - first.low) / 2)
    rows = [
        {"metric": "a", "x": Interval(0.5, 0.4, 0.6)},
        {"metric": "b", "x": Interval(50, 40, 60)},
    ]
    shown = show_table(Table("t", ["metric", "x"], rows), "c")
    assert shown.rows[0][1].drawn == shown.rows[1][1].drawn


def test_cells_have_what_they_are_sorted_by_unrounded_and_nothing_for_nothing():
    row = {"m": "a", "i": Interval(0.12345678, None, None), "p": PValue(0.0001), "n": None, "k": 7}
    cells = show_table(Table("t", list(row), [row]), "c").rows[0]
    assert [cell.key for cell in cells] == ["a", 0.12345678, 0.0001, None, 7.0]
    assert cells[1].drawn is None and cells[1].interval == "[-, -]"
    assert [cell.text for cell in cells] == ["a", ".123", "<.001", "-", "7"]


def test_second_table_under_a_heading_is_called_as_the_words_before_it():
    table = Table("t", ["a"], [{"a": 1}])
    _, sections = make_sections(Document([Heading("h"), table, Paragraph("Others:"), table]))
    captions = [block.caption for kind, block in sections[1].blocks if kind == "table"]
    assert captions == ["h", "h: Others"]
