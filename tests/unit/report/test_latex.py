"""Tables for papers: they compile, claim no more than is shown, and obey no stranger's text."""

import shutil
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st
from latex_tables import read_tables
from scored_runs import by_subject, frame, info_of, make_scored

from dreambench.analysis.comparison import compare_scored, find_best
from dreambench.analysis.paper_tables import load_paper_table, match_paper_table
from dreambench.report.latex import escape_latex, render_latex
from dreambench.report.latex_pages import make_comparison_latex, make_main_latex, make_paper_latex
from dreambench.report.model import Interval, PValue, Table

HOSTILE = "\\input{/etc/passwd} 100% & $x$ #1 a_b {c} ~^ <|>\"`' -- ,, ?` \x1b 猫 é ß ł \u2028 ]]"
PREAMBLE = "\\documentclass[twocolumn]{article}\\usepackage{booktabs}\\usepackage[T1]{fontenc}\n"
TABLE = Table(
    "values",
    ["method", "DINO (up)", "PRES (down)", "p", "n", "verdict"],
    [
        {
            "method": HOSTILE, "DINO (up)": Interval(-0.1234, -0.2, 0.3, "(3 of 4)"),
            "PRES (down)": "not measured", "p": PValue(0.0001), "n": 7, "verdict": "long " * 20,
        },
        {"method": "b", "DINO (up)": Interval(0.5, None, None), "PRES (down)": None, "n": -3},
        {"method": "[c]*", "PRES (down)": Interval(0.25, 0.2, 0.3, "; p")},
    ],
)  # fmt: skip


def better(name, *means):
    """A run whose eight subjects have these means in DINO, CLIP-T and so on, spread alike."""
    spread = [0.01 * n for n in range(8)]
    names = ("dino", "clip_t", "clip_i")[: len(means)]
    values = {m: [mean + s for s in spread] for m, mean in zip(names, means, strict=True)}
    return by_subject(name, **values)


def render(table=TABLE, **options):
    return render_latex(table, **{"caption": "Of `a@b` & 5 %.", "label": "tab:x", **options})


def test_numbers_are_rounded_intervals_small_and_directions_arrows():
    text = render(bold=[(1, "DINO (up)")], groups={2: "Rest & more"}, comments=[HOSTILE + "\n\\x"])
    ((heading, first, second, group, third),) = read_tables(text)
    assert heading[:3] == [
        "method",
        r"\multicolumn{2}{c}{DINO $\uparrow$}",
        r"\multicolumn{2}{c}{PRES $\downarrow$}",
    ]
    assert first[1:4] == [
        "$-$.123", r"{\scriptsize [$-$.200, .300] (3 of 4)}", r"\multicolumn{2}{c}{not measured}"
    ]  # fmt: skip
    assert first[4:6] == ["$<$.001", "7"] and first[6].startswith(r"\raggedright long")
    assert second[1:4] == [r"\textbf{.500}", r"{\scriptsize [--, --]}", r"\multicolumn{2}{c}{--}"]
    assert group == [r"\multicolumn{8}{@{}l}{\emph{Rest \& more}}"]
    assert third[3] == r"{\scriptsize [.200, .300]; p}"
    assert r"\caption{Of \texttt{a@b} \& 5 \%. {[}--, --]: no interval" in text
    assert text.startswith("% \\input")
    assert sum(line.startswith("%") for line in text.splitlines()) == 1


def test_many_intervals_stand_beneath_their_means():
    names = [f"Metric {n} (up)" for n in range(9)]
    rows = [{"method": m, **{n: Interval(0.5, 0.4, 0.6) for n in names}} for m in ("a", "b")]
    ((_, means, ends, *_),) = read_tables(render(Table("wide", ["method", *names], rows)))
    assert means == ["a", *[".500"] * len(names)]
    assert ends == ["", *[r"{\scriptsize [.400, .600]}"] * len(names)]


@given(st.text(st.characters(codec="utf-8")))
def test_no_text_becomes_a_command_or_ends_a_line(text):
    table = Table("t", ["method", f"{text} (up)"], [{"method": text, f"{text} (up)": 0.5}])
    made = render(table, caption=text, comments=[text], groups={0: f"g{text}"})
    ((heading, group, row),) = read_tables(made)
    assert (len(heading), len(group), len(row)) == (2, 1, 2)
    assert row[1] == ".500"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a--b", "a-{}-b"), ("猫", "{[}U+732B]"), ("é", "é"), ("\\", r"\textbackslash{}"),
        ("50%_&", r"50\%\_\&"), ("a\nb", r"a\textbackslash{}nb"),
        ("[5pt]*", "{[}5pt]{*}"),
    ],
)  # fmt: skip
def test_text_is_shown_as_it_is(text, shown):
    assert escape_latex(text) == shown


def test_the_best_is_bold_where_every_paired_test_shows_it():
    runs = [better("a", 0.5, 0.5), better("b", 0.3, 0.5), better("class-only", 0.9, 0.9)]
    assert find_best(runs) == {"dino": "a"}
    text = make_main_latex(runs)
    assert text.count(r"\textbf") == 1 and r"a & \textbf{.535}" in text
    assert "Bold: better than every other method" in text
    assert text.index("References") < text.index("class-only &")


def test_lower_is_best_where_a_metric_says_so():
    pres = info_of("pres", prompts="all")
    runs = [
        make_scored(
            name,
            frame(*[(f"s{n}", "art", "p", "pres", mean + n / 100) for n in range(8)]),
            infos=[pres],
        )
        for name, mean in (("a", 0.5), ("b", 0.3))
    ]
    assert find_best(runs) == {"pres": "b"}


@pytest.mark.parametrize(
    "runs",
    [
        [better("a", 0.5)],
        [better("a", 0.5), better("class-only", 0.1)],
        [better("a", 0.5), better("b", 0.3), better("c", 0.5)],
        [by_subject("a", dino=[0.5, 0.6, 0.7]), by_subject("b", dino=[0.1, 0.2, 0.3])],
        [by_subject("a", dino=[0.9] * 8, partial=True), better("b", 0.3)],
    ],
    ids=["alone", "reference", "tie", "few subjects", "partial"],
)
def test_nothing_is_bold_that_is_not_shown(runs):
    assert find_best(runs) == {}
    text = make_main_latex(runs)
    assert r"\textbf" not in text and "Bold" not in text
    read_tables(text)


def test_a_caption_says_of_what_the_numbers_are_and_comments_have_the_signatures():
    text = make_main_latex([better("a", 0.5, 0.4), better("b", 0.3, 0.4)])
    caption = text[text.index(r"\caption") :].splitlines()[0]
    for part in ("8 subjects", "95", "p v1", r"\texttt{p0}", r"\texttt{d0}", r"\texttt{b0}"):
        assert part in caption
    assert "\n% S|dino\n" in text and "recipe recipe of b" in text
    assert r"\label{tab:p-v1}" in text


def make_texts():
    runs = [better("a", 0.5, 0.4), better(HOSTILE, 0.3, 0.4), better("class-only", 0.1, 0.5)]
    rows = list(dict.fromkeys(load_paper_table(3)["recipe"]))
    metrics = {m.replace("-", "_"): [0.1, 0.2, 0.4] for m in load_paper_table(3)["metric"]}
    paper = match_paper_table([by_subject(name, **metrics) for name in rows], 3)
    return {
        "main": make_main_latex(runs),
        "comparison": make_comparison_latex(runs, compare_scored(runs, all_pairs=True)),
        "paper": make_paper_latex(paper),
        "table": render(bold=[(1, "DINO (up)")], groups={0: HOSTILE}),
        "letters": render(
            Table("t", ["x"], [{"x": chr(n)} for n in (*range(32, 127), *range(0xA0, 0x250))])
        ),
    }


@pytest.mark.parametrize("name", ["main", "comparison", "paper", "table", "letters"])
def test_every_table_is_whole(name):
    tables = read_tables(make_texts()[name])
    assert len(tables) == (2 if name == "paper" else 1)


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no LaTeX on this machine")
@pytest.mark.parametrize("name", ["main", "comparison", "paper", "table", "letters"])
def test_every_table_compiles(name, tmp_path):
    text = f"{PREAMBLE}\\begin{{document}}\n{make_texts()[name]}\\end{{document}}\n"
    (tmp_path / "page.tex").write_text(text, encoding="utf-8")
    words = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "page.tex"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:]
