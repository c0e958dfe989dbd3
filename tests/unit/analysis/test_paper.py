"""Runs against the paper's tables: its numbers, and verdicts that follow the intervals."""

import pytest
from scored_runs import by_subject

from dreambench.analysis.paper_tables import (
    compare_directions,
    judge_direction,
    load_paper_table,
    match_paper_table,
)
from dreambench.config.recipe import list_recipes
from dreambench.errors import UserError
from dreambench.metrics.registry import load_own_metrics
from dreambench.report.paper_page import make_paper_document, write_paper_table

ALL = ("dino", "clip_i", "clip_t", "div")
WITH = by_subject(
    "dreambooth", pres=[0.2, 0.3, 0.1, 0.2], **{name: [0.4, 0.5, 0.4, 0.5] for name in ALL}
)
WITHOUT = by_subject(
    "dreambooth-no-prior", pres=[0.6, 0.8, 0.5, 0.7], dino=[0.3, 0.4, 0.2, 0.4],
    clip_i=[0.4, 0.5, 0.4, 0.6], clip_t=[0.5, 0.4, 0.4, 0.5], div=[0.1, 0.2, 0.2, 0.2],
)  # fmt: skip


def test_verdicts_follow_sign_and_interval():
    table = compare_directions(match_paper_table([WITH, WITHOUT], 3)).set_index("metric")
    # The paper: PRES lower, DIV higher, DINO lower with prior preservation.
    assert table["direction"].to_dict() == {
        "pres": "holds", "div": "holds", "dino": "reversed", "clip-i": "not shown",
        "clip-t": "not shown",
    }  # fmt: skip
    assert table["paper"]["pres"] == pytest.approx(-0.171)
    assert table["paper"]["div"] == pytest.approx(0.020)
    # Ours: PRES .2, .3, .1, .2 against .6, .8, .5, .7.
    assert table["mean"]["pres"] == pytest.approx(-0.45)
    assert table["low"]["pres"] < -0.45 < table["high"]["pres"] < 0


@pytest.mark.parametrize(
    ("paper", "low", "high", "direction"),
    [
        (0.1, 0.2, 0.3, "holds"), (-0.1, -0.3, -0.2, "holds"), (0.1, -0.3, -0.2, "reversed"),
        (-0.1, 0.2, 0.3, "reversed"), (0.1, -0.1, 0.3, "not shown"),
        (0.1, float("nan"), float("nan"), "not shown"),
    ],
)  # fmt: skip
def test_a_direction_needs_an_interval_that_leaves_zero_out(paper, low, high, direction):
    assert judge_direction(paper, low, high) == direction


def test_values_stand_next_to_the_papers(tmp_path):
    values, directions = make_paper_document(match_paper_table([WITH, WITHOUT], 3)).tables()
    first, second = values.rows
    assert (first["method"], second["method"]) == ("dreambooth", "dreambooth-no-prior")
    assert first["PRES (down)"].mean == pytest.approx(0.2)
    assert first["PRES (down)"].note.endswith(" .493")
    assert second["DINO (up)"].note.endswith(" .712")
    assert {row["direction"] for row in directions.rows} == {"holds", "reversed", "not shown"}
    paths = write_paper_table([WITH, WITHOUT], 3, tmp_path)
    assert paths == [tmp_path / f"paper-table-3.{form}" for form in ("md", "tex")]
    text = paths[0].read_text()
    for fact in ("; paper .493", "reversed", "S|pres", "p0", "d0", "b0", "recipe of dreambooth"):
        assert fact in text


def test_recipes_of_a_table_that_were_not_run_are_named():
    recipes = list(dict.fromkeys(load_paper_table(4)["recipe"]))
    runs = [by_subject(name, dino=[0.1, 0.2], clip_i=[0.3, 0.4]) for name in recipes[:2]]
    assert match_paper_table(runs, 4).missing == recipes[2:]
    assert match_paper_table([WITH, WITHOUT], 3).missing == []


def test_what_does_not_belong_to_a_table_is_refused(tmp_path):
    with pytest.raises(UserError) as caught:
        load_paper_table(2)
    assert caught.value.code == "unknown-name"
    assert "1, 3, 4, 5" in caught.value.hint
    for runs, number in (([WITHOUT, WITH], 3), ([WITH, WITHOUT], 4), ([WITH], 3)):
        with pytest.raises(UserError) as caught:
            write_paper_table(runs, number, tmp_path)
        assert caught.value.code == "not-comparable"
        first, second, *_ = dict.fromkeys(load_paper_table(number)["recipe"])
        assert f"{first}, {second}" in caught.value.problem
    assert not list(tmp_path.iterdir())


def test_rows_name_recipes_and_metrics_that_exist():
    for number in (1, 3, 4, 5):
        table = load_paper_table(number)
        assert set(table["recipe"]) <= set(list_recipes())
        assert set(table["metric"]) <= set(load_own_metrics())
        assert not table.duplicated(["recipe", "metric"]).any()
        assert table["value"].between(0, 1).all()
