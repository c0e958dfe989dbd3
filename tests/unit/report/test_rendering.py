"""Tables as CSV, Markdown and on a terminal: nothing is rounded but what people read."""

import csv
import io
import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scored_runs import by_subject, frame, info_of, make_scored

from dreambench.report.csv import render_csv
from dreambench.report.formatting import (
    NO_INTERVAL,
    format_cell,
    format_interval,
    format_number,
    format_p,
)
from dreambench.report.markdown import render_markdown, render_markdown_table
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
from dreambench.report.pages import list_csv_tables, make_run_document
from dreambench.report.tables import make_long_table, make_main_table
from dreambench.report.terminal import print_table
from dreambench.text import make_printable

MEAN, LOW, HIGH = 0.123456789012345, 0.100000000000001, 1.987654321098765
TABLE = Table(
    "values",
    ["method", "DINO (up)", "p", "n"],
    [
        {"method": "a", "DINO (up)": Interval(MEAN, LOW, HIGH, "(3 of 4)"), "p": PValue(0.0312345)},
        {"method": "b", "DINO (up)": Interval(0.5, None, None), "p": PValue(0.00012), "n": 7},
        {"method": "c", "DINO (up)": None, "p": PValue(None), "n": 8},
    ],
)


def read_csv(text):
    return list(csv.DictReader(io.StringIO(text)))


def test_csv_is_unrounded_and_an_interval_has_columns_of_its_own():
    first, second, third = read_csv(render_csv(TABLE))
    assert list(first) == [
        "method", "DINO (up)", "DINO (up) low", "DINO (up) high", "DINO (up) note", "p", "n",
    ]  # fmt: skip
    parts = [first["DINO (up)"], first["DINO (up) low"], first["DINO (up) high"]]
    assert [float(part) for part in parts] == [MEAN, LOW, HIGH]
    assert first["DINO (up) note"] == "(3 of 4)"
    assert (float(first["p"]), float(second["p"]), third["p"]) == (0.0312345, 0.00012, "")
    assert (second["DINO (up)"], second["DINO (up) low"], second["DINO (up) high"]) == (
        "0.5", "", ""
    )  # fmt: skip
    assert set(third.values()) == {"c", "", "8"}


def test_csv_has_no_column_that_is_always_empty():
    rows = [{"a": 1.5, "X": Interval(0.25, 0.0, 1.0)}]
    assert render_csv(Table.from_rows("t", rows)) == "a,X,X low,X high\n1.5,0.25,0.0,1.0\n"
    assert render_csv(Table.from_rows("t", [])) == "\n"


def test_markdown_is_rounded():
    lines = render_markdown_table(TABLE).splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert cells[0] == ["method", "DINO (up)", "p", "n"]
    assert cells[2] == ["a", ".123 [.100, 1.988] (3 of 4)", ".031", "-"]
    assert cells[3] == ["b", ".500 [-, -]", "<.001", "7"]
    assert cells[4] == ["c", "-", "-", "8"]
    assert len({len(line) for line in lines}) == 1


def test_missing_intervals_are_explained_where_there_are_any():
    with_gap = render_markdown(Document([TABLE]))
    assert with_gap.endswith(f"{NO_INTERVAL}\n")
    whole = Table("t", ["X"], [{"X": Interval(0.5, 0.4, 0.6)}, {"X": Interval(None, None, None)}])
    assert not whole.has_no_interval()
    assert NO_INTERVAL not in render_markdown(Document([whole]))


def test_blocks_of_a_document():
    document = Document(
        [
            Heading("One", 1), Heading("Two"), Paragraph("Words."), Bullets(["a", "b"]),
            Bullets(["S|x"], is_code=True), Figure("plot.png", "A plot"),
        ]
    )  # fmt: skip
    assert render_markdown(document) == (
        "# One\n\n## Two\n\nWords.\n\n- a\n- b\n\n- `S|x`\n\n![A plot](plot.png)\n"
    )


def test_numbers_are_rounded_as_papers_print_them():
    assert format_number(0.66849) == ".668"
    assert format_number(-0.1) == "-.100"
    assert format_number(1.25) == "1.250"
    assert format_number(0.0) == ".000"
    assert format_number(None) == format_number(math.nan) == "-"
    assert format_interval(0.5, None, None) == ".500 [-, -]"
    assert format_interval(0.5, -0.25, 1.0) == ".500 [-.250, 1.000]"


@pytest.mark.parametrize(
    ("p", "text"),
    [
        (1.0, "1.000"), (0.05, ".050"), (0.001, ".001"), (0.00099, "<.001"), (0.0, "<.001"),
        (None, "-"), (math.nan, "-"),
    ],
)  # fmt: skip
def test_p_values_are_never_printed_as_nothing(p, text):
    assert format_p(p) == text
    assert format_cell(PValue(p)) == text


def test_a_note_stands_behind_its_number():
    assert format_cell(Interval(0.5, 0.4, 0.6, "(1 of 2)")) == ".500 [.400, .600] (1 of 2)"
    assert format_cell(Interval(0.5, 0.4, 0.6, "; paper .493")) == ".500 [.400, .600]; paper .493"
    assert format_cell(Interval(None, None, None)) == "- [-, -]"


def test_text_stays_as_it_is_and_whole_numbers_have_their_thousands_apart():
    assert [format_cell(cell) for cell in ("not measured", 800, 9310568, None)] == [
        "not measured", "800", "9,310,568", "-"
    ]  # fmt: skip


# No name, note or signature has a bare carriage return, which Python's csv does not quote.
texts = st.text(st.characters(codec="utf-8", exclude_characters="\r"))


@given(st.floats(allow_nan=False, allow_infinity=False), texts)
def test_what_is_read_from_csv_is_what_was_written(number, text):
    table = Table.from_rows("t", [{"name": f"x{text}", "value": number, "last": "end"}])
    lines = list(csv.reader(io.StringIO(render_csv(table), newline="")))
    assert lines[0] == ["name", "value", "last"]
    assert (float(lines[1][1]), lines[1][2]) == (number, "end")
    assert lines[1][0] == make_printable(f"x{text}")


@given(st.floats(-100, 100))
def test_a_printed_number_is_within_half_a_thousandth(number):
    assert abs(float(format_number(number)) - number) <= 0.0005 + 1e-12


def test_the_terminal_prints_what_markdown_does(capsys):
    print_table("Values", TABLE)
    shown = capsys.readouterr().out
    for fact in ("Values", ".123", "[.100, 1.988]", "(3 of 4)", "[-, -]", "<.001", ".031"):
        assert fact in shown


WIDE = Table(
    "wide",
    ["method", *(f"Metric {n} (up)" for n in range(8)), "verdict"],
    [
        {
            "method": name,
            **{
                f"Metric {n} (up)": Interval(n / 10 + 0.012, n / 10, n / 10 + 0.034, "(3 of 4)")
                for n in range(8)
            },
            "verdict": f"better than the other one by more than its replicates are apart, {name}",
        }
        for name in ("copy-reference", "dreambooth+learning_rate=0.0001+n_steps=1000", "[bold]x")
    ],
)


@pytest.mark.parametrize("width", [60, 80, 100, 120, 400])
def test_a_terminal_of_any_width_gets_every_bound(width, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    print_table("Values", WIDE)
    shown = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)
    assert max(map(len, shown.splitlines())) <= width
    assert "…" not in shown
    for n in range(8):
        assert shown.count(f"Metric {n}") == 1
        mean, low, high = (format_number(n / 10 + more) for more in (0.012, 0, 0.034))
        stacked = f"[{low}, {high}]"
        assert shown.count(stacked) >= 3
        assert shown.count(f" {mean} ") >= 3
    assert shown.count("(3 of 4)") == 24
    assert "[bold]x" in shown
    for word in ("copy-reference", "apart,", "replicates"):
        assert word in shown
    assert shown.count("Values") == 1


def test_a_pipe_gets_a_line_a_row(capsys):
    print_table("Values", WIDE)
    lines = capsys.readouterr().out.splitlines()
    for row, cells in zip(WIDE.rows, lines[4:], strict=False):
        for cell in row.values():
            assert f" {format_cell(cell)} " in cells


RUN = make_scored(
    "a",
    frame(
        *[(f"s{i}", "art", "p1", "dino", 0.5 + i / 7) for i in range(3)],
        *[(f"s{i}", "property", "p2", "dino", 0.2 + i / 9) for i in range(3)],
        *[(f"s{i}", "art", "p1", "joint", 0.1 + i / 11) for i in range(3)],
    ),
    infos=[info_of("dino", n_expected=8), info_of("joint")],
)


def test_a_reports_csvs_and_page_are_of_the_same_numbers():
    whole = RUN.summary.metrics["dino"].whole
    assert whole.mean == pytest.approx((0.5 + 0.2 + 1 / 7 + 1 / 9) / 2)
    (row,) = read_csv(render_csv(make_long_table([RUN])))
    assert [float(row[key]) for key in ("mean", "low", "high")] == [
        whole.mean, whole.low, whole.high
    ]  # fmt: skip
    assert (row["metric"], row["signature"], row["n_scored"], row["n_expected"]) == (
        "DINO", "S|dino", "6", "8"
    )  # fmt: skip
    text = render_markdown(make_run_document([RUN]))
    assert format_interval(whole.mean, whole.low, whole.high) in text
    assert "(6 of 8)" in text
    tables = {table.name: read_csv(render_csv(table)) for table in list_csv_tables([RUN])}
    assert set(tables) == {
        "reference-bounds", "differences", "families", "kinds", "subjects", "metrics"
    }  # fmt: skip
    values = {(r["subject"], r["prompts"]): float(r["DINO (up)"]) for r in tables["subjects"]}
    assert values["s1", "property"] == pytest.approx(0.2 + 1 / 9, abs=1e-15)
    joint = tables["metrics"][0]
    assert float(joint["a"]) == RUN.summary.metrics["joint"].whole.mean
    assert joint["metric"] == "Joint (up)"


def test_a_page_shows_and_links_only_files_that_are_there():
    text = render_markdown(make_run_document([RUN], files=["fidelity.png", "table.tex", "a b.csv"]))
    assert "](fidelity.png)" in text and "intervals.png" not in text
    assert "[table.tex](table.tex)" in text and "(a%20b.csv)" in text
    assert text.index("](fidelity.png)") < text.index("## By subject") < text.index("Signatures:")


def test_the_main_table_has_property_prompts_and_partial_runs_apart():
    part = by_subject("b", partial=True, dino=[0.1, 0.2, 0.4])
    table = make_main_table([RUN, part])
    assert [row["method"] for row in table.rows] == ["a", "a, property prompts", "b (partial)"]
    assert table.rows[0]["DINO (up)"].note == "(6 of 8)"
    assert table.rows[1]["DINO (up)"].mean == RUN.summary.metrics["dino"].property.mean
    assert table.columns == ["method", "DINO (up)"]
