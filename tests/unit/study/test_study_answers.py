"""Answers from strangers: used when they are of this study, refused by their place when not."""

import json
import sqlite3

import pytest
from simulated_raters import World, make_plan, simulate

from dreambench.errors import UserError
from dreambench.study.answers import AnswerStore, load_answers, parse_answers

METHODS = ("a", "b")


@pytest.fixture(scope="module")
def study():
    return make_plan(METHODS, n_sheets=2, n_questions=3, n_checks=1)


@pytest.fixture
def sheet(study):
    """What a page saves for someone."""
    found = simulate(study, World({"a": 0.0, "b": 0.0}), seed=0)[0]
    return {**found.model_dump(mode="json"), "rater": "somebody", "simulated": False}


def parse(study, content):
    raw = content if isinstance(content, bytes) else json.dumps(content).encode()
    return parse_answers(raw, study, digest=study.digest(), where="x.json")


def test_answers_are_read_as_they_were_saved(study, sheet, tmp_path):
    (tmp_path / "a.json").write_text(json.dumps(sheet))
    (tmp_path / "copy.json").write_text(json.dumps(sheet, indent=2))
    (tmp_path / "other.txt").write_text("no answers")
    found = load_answers([tmp_path, tmp_path / "a.json"], study)
    assert [one.model_dump(mode="json") for one in found] == [sheet]


HOSTILE = {
    "no-json": b"{",
    "deep": b"[" * 100_000,
    "binary": b"\x00\xff\x80",
    "array": b"[]",
    "huge": b'{"format": 1, "x": "' + b"a" * 300_000 + b'"}',
    "nan": b'{"format": NaN}',
}


@pytest.mark.parametrize("name", HOSTILE)
def test_bytes_that_are_no_answers_are_one_line(study, name):
    with pytest.raises(UserError) as found:
        parse(study, HOSTILE[name])
    assert found.value.code == "invalid-answers" and len(str(found.value)) < 500


@pytest.mark.parametrize(
    "change",
    [
        {"rater": "<script>"}, {"rater": ""}, {"rater": "x" * 65}, {"rater": "a\u202eb"},
        {"rater": "=cmd()"}, {"rater": 7}, {"questionnaire": 3}, {"questionnaire": 0},
        {"questionnaire": "1"}, {"questionnaire": 1.5}, {"format": 2}, {"kind": "study"},
        {"answers": {"s99": "left"}}, {"answers": {"__proto__": "left"}},
        {"answers": {"s01": "both"}}, {"answers": {"s01": ["left"]}}, {"answers": None},
        {"simulated": "no"}, {"name": "Ada"}, {"study": "0" * 15},
    ],
    ids=repr,
)  # fmt: skip
def test_what_a_page_never_saves_is_refused(study, sheet, change):
    with pytest.raises(UserError) as found:
        parse(study, {**sheet, **change})
    assert found.value.code == "invalid-answers" and "\u202e" not in str(found.value)


def test_answers_of_another_study_are_refused_as_such(study, sheet, tmp_path):
    for number in range(3):
        content = {**sheet, "study": "0" * 16, "rater": f"r{number}"}
        (tmp_path / f"{number}.json").write_text(json.dumps(content))
    with pytest.raises(UserError) as found:
        load_answers([tmp_path], study)
    assert found.value.code == "other-study" and str(found.value).count("\n") == 2


def test_one_person_says_one_thing(study, sheet, tmp_path):
    (tmp_path / "a.json").write_text(json.dumps(sheet))
    changed = dict.fromkeys(sheet["answers"], "neither")
    (tmp_path / "b.json").write_text(json.dumps({**sheet, "answers": changed}))
    with pytest.raises(UserError, match="other answers elsewhere"):
        load_answers([tmp_path], study)


def test_simulated_raters_never_stand_beside_people(study, sheet, tmp_path):
    (tmp_path / "a.json").write_text(json.dumps(sheet))
    (tmp_path / "b.json").write_text(json.dumps({**sheet, "rater": "sim", "simulated": True}))
    with pytest.raises(UserError, match="simulated"):
        load_answers([tmp_path], study)
    with pytest.raises(UserError) as found:
        load_answers([tmp_path / "nothing"], study)
    assert found.value.code == "missing-file"


def test_store_keeps_answers_once_and_refuses_others(study, sheet, tmp_path):
    store = AnswerStore(tmp_path, study)
    content = json.dumps(sheet).encode()
    store.add(content)
    store.add(content)
    assert store.count() == {1: 1, 2: 0}
    with pytest.raises(UserError) as found:
        changed = dict.fromkeys(sheet["answers"], "neither")
        store.add(json.dumps({**sheet, "answers": changed}).encode())
    assert found.value.code == "already-answered"
    with pytest.raises(UserError):
        store.add(json.dumps({**sheet, "simulated": True, "rater": "x"}).encode())
    again = AnswerStore(tmp_path, study)
    assert again.count() == {1: 1, 2: 0}
    assert [one.rater for one in load_answers([again.path], study)] == ["somebody"]


def test_hostile_databases_are_refused(study, tmp_path):
    junk = tmp_path / "junk.sqlite"
    junk.write_bytes(b"SQLite format 3\x00" + b"\xff" * 5000)
    other = tmp_path / "other.sqlite"
    with sqlite3.connect(other) as connection:
        connection.execute("CREATE TABLE people (name TEXT)")
    for path in (junk, other):
        with pytest.raises(UserError) as found:
            load_answers([path], study)
        assert found.value.code == "unreadable-file"
    odd = tmp_path / "odd.db"
    with sqlite3.connect(odd) as connection:
        connection.execute("CREATE TABLE answers (questionnaire, rater, content)")
        connection.execute("INSERT INTO answers VALUES (1, 'x', NULL)")
        connection.execute("INSERT INTO answers VALUES (1, 'y', zeroblob(5000000))")
    with pytest.raises(UserError) as found:
        load_answers([odd], study)
    assert found.value.code == "invalid-answers" and "row 2" in str(found.value)
