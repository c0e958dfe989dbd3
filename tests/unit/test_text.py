"""Text of strangers through every output: nothing that a terminal obeys or no eye can see."""

import csv
import html
import io
import json
import logging
import re
import sys
import unicodedata
import warnings
from types import SimpleNamespace
from xml.etree import ElementTree

import click
import pandas as pd
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from PIL import Image
from scored_runs import by_subject, info_of, make_scored

from dreambench import api, cli
from dreambench.artifacts.failures import read_failures
from dreambench.artifacts.results import write_table
from dreambench.cli.display import Display, set_up_logging
from dreambench.cli.shared import print_json, say
from dreambench.config.toml_files import read_toml
from dreambench.datasets.custom_subjects import add_subject, load_photos
from dreambench.errors import UserError
from dreambench.report.csv import render_csv
from dreambench.report.figures import (
    plot_families,
    plot_fidelity,
    plot_intervals,
)
from dreambench.report.markdown import render_markdown
from dreambench.report.model import Bullets, Document, Heading, Interval, Paragraph, Table
from dreambench.report.pictures import GridBlock, plot_grid, plot_sheet
from dreambench.report.terminal import print_table
from dreambench.runs.failures import FailureLog
from dreambench.storage.csv_files import read_csv, write_csv
from dreambench.storage.files import digest, read_json, write_json
from dreambench.text import make_lines_printable, make_printable

HOSTILE = {
    "escape sequence": "\x1b[2J\x1b]8;;http://e.vil\x07dog\x1b]8;;\x07",
    "C1 control": "dog\x9b31m",
    "backspaces": "cat\b\b\bdog",
    "carriage return": "real name\rdog",
    "line feed": "dog\ndreambench: all is well",
    "other line ends": "dog\x0b\x0c\x85\u2028\u2029end",
    "tab": "a\tb",
    "NUL": "a\0b",
    "right-to-left override": "gnp.\u202egod",
    "isolates": "a\u2067b\u2069\u061c",
    "invisible letters": "a\u200bb\u2060\ufeff\u00ad\u3164\u2800\U000e0041",
    "lone surrogate": "a\ud800b",
    "bytes of a file name": "caf\udce9",
    "bytes that make a control": "a\udcc2\udc9bb",
    "HTML": "<script>alert(1)</script><img src=x onerror=alert(1)><!-- & &lt;b&gt;",
    "pipe": "a | b || c",
    "Markdown": "# *a* **b** __c__ _d_ ~~e~~ `f` ``g`` \\ \\* {: .x }",
    "links": "[a](http://e.vil) [b][c] <http://e.vil> http://e.vil www.e.vil",
    "image": "![a](http://e.vil/a.png)",
    "definition": "[a]: http://e.vil",
    "list": "1. a",
    "fence": "``` a",
    "rich": "[bold red]dog[/bold red] [link=http://e.vil]x[/link] [/] :skull:",
    "formula": '=HYPERLINK("http://e.vil")',
    "sum": "+1+cmd|' /C calc'!A0",
    "minus": "-1+1",
    "at": "@SUM(A1)",
    "wide formula": "\uff1d1+1",
    "mathematics": "$\\foo$ a_b$",
    "format": "%s %d {0} {subject}",
}
SPELLED = {
    "escape sequence": r"\x1b[2J\x1b]8;;http://e.vil\x07dog\x1b]8;;\x07",
    "C1 control": r"dog\x9b31m",
    "line feed": r"dog\ndreambench: all is well",
    "right-to-left override": r"gnp.\u202egod",
    "lone surrogate": r"a\ud800b",
    "bytes of a file name": r"caf\xe9",
    "bytes that make a control": r"a\x9bb",
    "HTML": HOSTILE["HTML"],
    "Markdown": HOSTILE["Markdown"],
}
# What a file of UTF-8, and so a run's record, can hold.
recorded = pytest.mark.parametrize(
    "text", [pytest.param(t, id=n) for n, t in HOSTILE.items() if "\\ud" not in ascii(t)]
)
hostile = pytest.mark.parametrize("text", [pytest.param(t, id=n) for n, t in HOSTILE.items()])
# Everything of the table at once, in every order, and any other text.
texts = st.lists(st.sampled_from(list(HOSTILE.values())) | st.text(max_size=4), max_size=4).map(
    "".join
)
shared_folder = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60
)
UNSEEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


def is_harmless(output, *, lines=True):
    """Whether no letter of an output moves, hides or turns anything round."""
    kept = "\n" if lines else ""
    return not [c for c in output if unicodedata.category(c) in UNSEEN and c not in kept]


def words(text):
    """A text without the blanks that a renderer folds."""
    return " ".join(text.split())


@pytest.mark.parametrize("name", SPELLED)
def test_what_is_not_seen_is_spelled(name):
    assert make_printable(HOSTILE[name]) == SPELLED[name]


@pytest.mark.parametrize(
    "text",
    [
        "Д\u200c‰", "\u0424\u200c\u0673", "丐\u200d丑", "\u200d", "می\u200c", "\u200cروم",
        "🐕\u200dж", "\u202e\u200c\u202e", "می\u200c\u200dروم",
    ],
)  # fmt: skip
def test_a_joiner_that_joins_nothing_is_spelled(text):
    assert not re.search("[\u200c\u200d]", make_printable(text))


@given(texts)
def test_printable_text_is_one_line_that_utf_8_has_and_stays_as_it_is(text):
    shown = make_printable(text)
    shown.encode()
    assert make_printable(shown) == shown
    assert shown.splitlines() in ([shown], [])
    assert is_harmless(re.sub("[\u200c\u200d]", "", shown), lines=False)
    lines = text.split("\n")
    assert make_lines_printable(text).split("\n") == [make_printable(line) for line in lines]


@pytest.mark.parametrize(
    "text",
    [
        "dog", "小狗", "Šárka Řezníčková", "می\u200cروم", "क्\u200dष",
        "\N{WOMAN}\u200d\N{STAFF OF AESCULAPIUS}\ufe0f", "a\u00a0b", "株式\u3000会社",
        "C:\\photos\\dog", "",
    ],
)  # fmt: skip
def test_names_of_people_and_places_stay(text):
    assert make_printable(text) == text


@hostile
def test_errors_are_one_line(text, tmp_path):
    error = UserError(f"no subject named '{text}'", hint=text, code="x")
    assert is_harmless(str(error), lines=False)
    both = UserError.listed([text, f"{text} again"], hint=text, code="x")
    assert str(both).count("\n") == 1
    assert is_harmless(str(both))
    path = tmp_path / "a.toml"
    path.write_text(f'"{text}" = [', errors="replace")
    with pytest.raises(UserError) as caught:
        read_toml(path)
    assert is_harmless(str(caught.value), lines=False)


@hostile
def test_lines_on_a_terminal(text, capsys):
    say(f"{text}!")
    say(text, err=True)
    set_up_logging(quiet=False, verbose=False)
    logging.getLogger("dreambench.x").warning("Left out: %s", text)
    display = Display(quiet=False)
    display(text, 1, 1)
    display.begin(text, 0, 2)
    done = capsys.readouterr()
    assert done.out == f"{make_printable(text)}!\n"
    assert is_harmless(done.out + done.err)
    shown = make_printable(text)
    assert done.err.splitlines() == [
        shown, f"Left out: {shown}", f"{shown}: 1 of 1", f"method 1 of 2: {shown}"
    ]  # fmt: skip


def test_the_log_of_an_error_keeps_its_traceback(capsys):
    set_up_logging(quiet=False, verbose=False)
    try:
        raise ValueError("\x1b[2J")
    except ValueError:
        logging.getLogger("dreambench.x").exception("at\nthe end")
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == r"at\nthe end"
    assert lines[1].startswith("Traceback")
    assert lines[-1] == r"ValueError: \x1b[2J"


@hostile
def test_bars_on_a_terminal(text, monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr(stream, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "400")
    display = Display(quiet=False)
    with display.bars:
        display.begin(text, 0, 2)
        display(text, 1, 3)
    # What is left of rich's own sequences, which begin a line or colour it.
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|[\r\n]", "", stream.getvalue())
    assert is_harmless(plain)
    assert make_printable(text).rstrip() in plain


@hostile
def test_what_click_says_of_an_argument(text):
    @cli.main.command("probe", hidden=True)
    @click.option("--n", type=int)
    def probe(n):
        pass

    try:
        for given_words in (["probe", "--n", text], ["probe", text], [text.lstrip("-")]):
            done = CliRunner().invoke(cli.main, given_words)
            assert done.exit_code == 2
            assert is_harmless(done.stderr)
    finally:
        del cli.main.commands["probe"]


@hostile
def test_json_for_programs_is_exact_and_ascii(text, capsys, tmp_path):
    print_json({text: text})
    shown = capsys.readouterr().out
    assert shown.isascii()
    assert is_harmless(shown)
    assert json.loads(shown) == {text: text}
    write_json(tmp_path / "a.json", {"a": text})
    assert read_json(tmp_path / "a.json") == {"a": text}
    assert len(digest({"a": text})) == 16


@hostile
def test_tables_on_a_terminal(text, capsys):
    table = Table.from_rows("t", [{text: text, "n": 0.25}, {text: "x", "n": Interval(0.5, 0.4, 1)}])
    print_table(text, table)
    shown = capsys.readouterr().out
    assert is_harmless(re.sub("[─━│┃┏┓┗┛┡┩└┘├┤┬┴┼╇┳╈]", "", shown))
    part = make_printable(text).split(" [")[0].split(" (")[0].split(" - ")[0]
    assert shown.count(words(part)) >= 3
    assert ".500" in shown


def cells_of(page):
    found = re.findall(r"<t[dh](?: [^>]*)?>(.*?)</t[dh]>", page)
    return [words(html.unescape(re.sub("<[^>]*>", "", cell))) for cell in found]


@settings(max_examples=200)
@given(texts)
@example(HOSTILE["Markdown"])
def test_a_page_shows_text_as_it_is(text):
    page = render_markdown(
        Document(
            [
                Heading(text), Paragraph(f"P {text}"), Paragraph(text), Bullets([text, "z"]),
                Bullets([text], is_code=True),
                Table.from_rows("t", [{"a": text, text: "x"}, {"a": f"x{text}", text: text}]),
                Paragraph("end"),
            ]
        )
    )  # fmt: skip
    assert is_harmless(re.sub("[\u200c\u200d]", "", page))
    rendered = MarkdownIt("commonmark").enable(["table", "strikethrough"]).render(page)
    tags = set(re.findall(r"<(\w+)", rendered))
    assert tags <= {
        "h2", "p", "ul", "li", "code", "table", "thead", "tbody", "tr", "th", "td"
    }  # fmt: skip
    assert (rendered.count("<li>"), rendered.count("<tr>")) == (3, 3)
    shown = words(make_printable(text))
    heading = re.search(r"<h2>(.*?)</h2>", rendered)
    assert heading is None or words(html.unescape(heading[1])).rstrip("# ") == shown.rstrip("# ")
    if text not in ("a", ""):
        prefixed = words("x" + make_printable(text))
        assert cells_of(rendered) == ["a", shown, shown, "x", prefixed, shown]
    # In words, `code` between backticks is meant; there the backticks alone go.
    listed = re.findall(r"<li>\s*(?:<p>)?(.*?)(?:</p>)?\s*</li>", rendered, re.DOTALL)
    plain = words(html.unescape(re.sub("</?code>", "", listed[0])))
    assert plain.replace("`", "").replace(" ", "") == shown.replace("`", "").replace(" ", "")
    code = re.search("<code>(.*)</code>", listed[2])
    assert code is None or words(html.unescape(code[1])) == shown


def test_links_and_addresses_are_no_links():
    page = render_markdown(Document([Paragraph(HOSTILE["links"]), Bullets([HOSTILE["links"]])]))
    assert not re.search(r"(?<!\\)\]\(", page)
    assert "://" not in page
    assert "www." not in page


@given(texts, st.floats(allow_nan=False, allow_infinity=False))
def test_no_cell_of_a_reports_csv_is_a_formula_and_numbers_stay_numbers(text, number):
    table = Table("t", [text, "n n"], [{text: text, "n n": number}, {text: -3, "n n": None}])
    shown = render_csv(table)
    assert is_harmless(re.sub("[\u200c\u200d]", "", shown))
    head, first, second = csv.reader(io.StringIO(shown, newline=""))
    for cell in (head[0], first[0]):
        assert cell.removeprefix("'").lstrip("'") == make_printable(text).lstrip("'")
        assert not re.match(r"[=+@\-\uff1d].*[^0-9.eE+-]", cell)
    assert (float(first[1]), second) == (number, ["-3", ""])


def test_frames_are_written_as_tables_are(tmp_path):
    names = [text for text in HOSTILE.values() if "\\ud" not in ascii(text)]
    rows = {"name": names, "value": -0.5, "n": 3, "whole": True, "=a": None}
    write_table(tmp_path / "t.csv", pd.DataFrame(rows, index=range(len(names))))
    text = (tmp_path / "t.csv").read_text()
    assert is_harmless(text)
    head, *lines = csv.reader(io.StringIO(text))
    assert head == ["name", "value", "n", "whole", "'=a"]
    assert all(line[1:] == ["-0.5", "3", "True", ""] for line in lines)
    assert not [line for line in lines if line[0][0] in "=+-@\uff1d"]


@shared_folder
@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")))
@example("=1+1")
@example("'=1+1")
@example("''-a")
@example("-5")
@example("-")
def test_a_table_that_is_read_again_gives_back_formulas(tmp_path, text):
    rows = [{"a": f"{sign}{text}", "b": "-0.5"} for sign in ("", "=", "-", "'", "'=")]
    rows = [row for row in rows if row["a"] == row["a"].strip()]
    write_csv(tmp_path / "t.csv", ["a", "b"], rows)
    assert read_csv(tmp_path / "t.csv", ["a", "b"]) == rows
    for line in csv.reader(io.StringIO((tmp_path / "t.csv").read_text(encoding="utf-8"))):
        assert not re.match(r"[=+@\-\uff1d].*[^0-9.eE+-]", line[0], re.DOTALL)


@recorded
def test_a_notebooks_page(text):
    runs = [by_subject(name, dino=[0.1, 0.2]) for name in ("a", "b")]
    infos = [info_of("dino", title=text)]
    scored = [make_scored(text, run.scores.frame, infos=infos) for run in runs]
    comparison = api.Comparison(
        table=api.compare_scored(scored), runs=[text, text], notes=[text], scored=scored
    )
    page = comparison._repr_html_()
    assert is_harmless(page)
    assert set(re.findall(r"<(\w+)", page)) <= {
        "table", "thead", "tbody", "tr", "th", "td", "ul", "li", "small"
    }  # fmt: skip


def test_plots(tmp_path):
    texts = [text for text in HOSTILE.values() if "\\ud" not in ascii(text)]
    row = {"family": "art", "mean": 0.5, "low": 0.4, "high": 0.6}
    both = [{**row, "method": t, "metric": m} for t in texts for m in ("dino", "clip-t")]
    infos = {f"m{n}": info_of("dino", title=text) for n, text in enumerate(texts)}
    titled = pd.DataFrame([{**row, "method": "a", "metric": name} for name in infos])
    families = pd.DataFrame([{**row, "method": "a", "metric": "dino", "family": t} for t in texts])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        drawn = plot_fidelity(pd.DataFrame(both), tmp_path / "a")
        drawn += plot_intervals(titled, tmp_path / "b", infos=infos)
        drawn += plot_families(families, tmp_path / "c", infos={"dino": info_of("dino")})
        photo = tmp_path / "photo.png"
        rows = [(text, [], [photo]) for text in texts]
        drawn.append(plot_grid([GridBlock(texts, rows)], tmp_path / "d.png", n_references=0))
        cells = [(text, drawn[0]) for text in texts]
        drawn.append(plot_sheet("".join(texts), cells, tmp_path / "e.png"))
    assert all(path.stat().st_size > 1000 for path in drawn)
    for path in drawn:
        if path.suffix == ".svg":
            tags = {one.tag.rpartition("}")[2] for one in ElementTree.parse(path).iter() if one.tag}
            assert not tags & {"script", "a", "image", "foreignObject"}


@hostile
def test_failures_of_a_method(text, tmp_path, caplog):
    log = FailureLog(SimpleNamespace(folder=tmp_path, name="a"), "dog")
    log.record("generate", ValueError(text), n_images=1)
    assert is_harmless(caplog.text)
    trace = (tmp_path / "failures" / "generate-dog.txt").read_text(encoding="utf-8")
    assert is_harmless(trace)
    assert trace.startswith("ValueError: ")
    assert read_failures(tmp_path)[0].n_images == 1


@pytest.mark.parametrize("place", ["class_name", "credit", "names"])
@pytest.mark.parametrize("name", ["escape sequence", "line feed", "bytes of a file name"])
def test_data_add_refuses_what_cannot_be_seen_before_it_writes(place, name, tmp_path, small_photo):
    words_of = {"class_name": "dog", "credit": "me", "names": ["a.png"]}
    words_of[place] = [HOSTILE[name]] if place == "names" else HOSTILE[name]
    photos = load_photos([small_photo], min_side_px=16)
    with pytest.raises(UserError) as caught:
        add_subject(tmp_path / "own", "my_dog", photos=photos, kind="live", **words_of)
    assert caught.value.code == "unprintable-text"
    assert SPELLED[name].split("\\n")[0] in str(caught.value)
    assert not (tmp_path / "own").exists()


@pytest.fixture
def small_photo(tmp_path):
    path = tmp_path / "a.png"
    Image.linear_gradient("L").convert("RGB").save(path)
    return path
