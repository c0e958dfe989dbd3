"""Words that go into prompts: what is too long or no good is said before, beside and after."""

import json
import tomllib

import pytest
from conftest import TINY_PROTOCOL, TINY_RECIPE, invoke, refused_at_once

from dreambench.artifacts.results import Summary

LONG = "a {subject} on the beach " + "with a small red ball " * 8 + "at noon"
LOST = "at noon"


@pytest.fixture
def long(tmp_path):
    """A protocol whose first prompt is longer than mini's text encoders read."""
    path = tmp_path / "long.toml"
    path.write_text(TINY_PROTOCOL.replace("a {subject} on the beach", LONG))
    return path


def write_recipe(tmp_path, identifier):
    path = tmp_path / "own.toml"
    path.write_text(TINY_RECIPE.replace('"auto"', json.dumps(identifier)))
    return path


def cuts_of(found):
    return [(cut["reader"], cut["prompt_id"]) for cut in found["cut_texts"]]


def test_a_prompt_that_is_too_long_is_named_in_plan_run_report_and_summary(
    long, tmp_path, shared_cache
):
    both = [("the text encoder of 'mini'", "beach"), ("mini-clip", "beach")]
    planned = invoke("plan", "--method", "class-only", "--protocol", long, "--json")
    assert cuts_of(json.loads(planned.stdout)) == both
    done = invoke(
        "run", "--method", "class-only", "--alongside", "", "--protocol", long, "--subjects", "dog",
        "--prompts", "beach", "--out", tmp_path / "runs", "--cache", shared_cache,
    )  # fmt: skip
    folder = tmp_path / "runs" / "long" / "class-only"
    assert "prompt 'beach' is lost" in done.stderr
    summary = json.loads((folder / "summary.json").read_text())
    assert cuts_of(summary) == both
    assert all(cut["lost"].endswith(LOST) for cut in summary["cut_texts"])
    report = (folder / "report" / "report.md").read_text()
    assert report.count("prompt 'beach' is lost") == 2
    # What was written before there was such a list is read as having none.
    del summary["cut_texts"]
    assert Summary.model_validate(summary).cut_texts == []


def test_nothing_is_lost_of_the_shipped_protocols():
    for protocol in ("mini", "mini-full", "dreambench", "applications"):
        planned = invoke("plan", "--method", "dreambooth", "--protocol", protocol, "--json")
        found = json.loads(planned.stdout)
        assert (found["cut_texts"], found["notes"]) == ([], [])


@pytest.mark.parametrize(
    ("identifier", "facts"),
    [
        ("auto", []),
        ("dog", ["class noun"]),
        ("DOG", ["class noun", "capitals"]),
        ("my special dog", ["tokens"]),
    ],
)
def test_an_identifier_that_does_little_good_gets_a_note(tiny, tmp_path, identifier, facts):
    recipe = write_recipe(tmp_path, identifier)
    planned = invoke("plan", "--method", recipe, "--protocol", tiny[0], "--json")
    notes = json.loads(planned.stdout)["notes"]
    assert len(notes) == len(facts)
    assert all(fact in note for fact, note in zip(facts, notes, strict=True))


@pytest.mark.parametrize("identifier", ["", "   ", " sks", "{subject}", "s\nks", "x" * 101])
def test_an_identifier_that_no_prompt_can_hold_is_refused_by_line(tiny, tmp_path, identifier):
    recipe = write_recipe(tmp_path, identifier)
    line = refused_at_once("plan", "--method", recipe, "--protocol", tiny[0])
    number = 1 + TINY_RECIPE[: TINY_RECIPE.index("identifier")].count("\n")
    assert line.startswith(f"dreambench: {recipe}:{number}: identifier: ")


NUMBERS = ["n_steps = true", "n_steps = 3.0", 'learning_rate = "3e-4"', "learning_rate = true",
           "learning_rate = inf", "weight_decay = nan", "train_text_encoder = 1"]  # fmt: skip


@pytest.mark.parametrize("text", NUMBERS)
def test_numbers_of_another_type_are_refused_by_file_line_and_key(tiny, tmp_path, text):
    key, value = text.split(" = ")
    lines = TINY_RECIPE.splitlines()
    (number,) = [n for n, line in enumerate(lines) if line.startswith(f"{key} = ")]
    lines[number] = text
    recipe = tmp_path / "own.toml"
    recipe.write_text("\n".join(lines))
    line = refused_at_once("plan", "--method", recipe, "--protocol", tiny[0])
    assert f"{recipe}:{number + 1}: " in line and f"{key}: needs " in line
    words = ("plan", "--method", tiny[1], "--protocol", tiny[0], "--set", f"{key}={value}")
    assert f"--set: {key}: needs " in refused_at_once(*words)
    assert tomllib.loads(text)
