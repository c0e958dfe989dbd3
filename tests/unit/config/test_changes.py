"""`--set KEY=VALUE`: how it is read, and what the changed row is called."""

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dreambench.config.changes import MAX_NAME_LENGTH, name_changes, parse_changes
from dreambench.config.recipe import NAME_PATTERN, Recipe, load_recipe
from dreambench.errors import UserError

VALUES = (
    st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=60)
)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("200", 200), ("3e-4", 0.0003), (" 0.5 ", 0.5), ("true", True), ("True", "True"),
        ("adamw-8bit", "adamw-8bit"), ('"3"', "3"), ("'a b'", "a b"), ("a b", "a b"),
        ("[0.9, 0.999]", [0.9, 0.999]), ("a=b", "a=b"), ("a#b", "a#b"), ("200#x", "200#x"),
        ('""', ""), ("1e", "1e"), ("{k = 1}", {"k": 1}),
    ],
)  # fmt: skip
def test_values_are_toml_and_bare_words_are_text(text, value):
    found = parse_changes([f"key={text}"])
    assert found == {"key": value}
    assert type(found["key"]) is type(value)


@pytest.mark.parametrize(
    "texts",
    [
        ["n_steps"], ["n_steps="], ["=3"], ["a.b=3"], ["a b=3"], ["a=1", "a=1"], ["a=inf"],
        ["a=[1, nan]"], ["a=2026-01-01"], ["a=[1"], ['a="x'], [f"a={2**64}"], ["a=1\nb = 2"],
        [f"a={'9' * 5000}"], ["a=" + "[" * 3000 + "]" * 3000], ["a=" + "[" * 30 + "]" * 30],
    ],
)  # fmt: skip
def test_what_no_recipe_can_hold_is_refused(texts):
    with pytest.raises(UserError) as caught:
        parse_changes(texts)
    assert caught.value.code == "invalid-value"
    assert str(caught.value).startswith("--set: ")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("value", [float("inf"), float("nan"), 2**70, (1, 2), object(), {"k": {1}}])
def test_settings_from_python_are_held_to_the_same(value):
    with pytest.raises(UserError) as caught:
        load_recipe("dreambooth").change("mini", {"n_steps": value})
    assert caught.value.code == "invalid-value"
    assert "n_steps: needs" in str(caught.value)


@given(st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False))
def test_a_number_is_read_as_it_was_written(number):
    found = parse_changes([f"key={number!r}"])["key"]
    assert (found, type(found)) == (number, type(number))


def test_a_name_says_what_was_changed_in_one_order():
    changes = parse_changes(["n_steps=200", "learning_rate=3e-4", "optimizer=adamw-8bit"])
    wanted = "dreambooth+learning_rate=0.0003+n_steps=200+optimizer=adamw-8bit"
    assert name_changes("dreambooth", changes) == wanted
    assert name_changes("dreambooth", dict(reversed(changes.items()))) == wanted
    assert name_changes("r", {"a": 3}) == name_changes("r", {"a": 3.0}) == "r+a=3"


@given(st.dictionaries(st.from_regex(r"[a-z_]{1,30}", fullmatch=True), VALUES, min_size=1))
def test_every_name_is_a_safe_folder_and_a_name_of_a_row(changes):
    name = name_changes("dreambooth", changes)
    assert re.fullmatch(NAME_PATTERN, name)
    assert name.startswith("dreambooth+")
    assert len(name) <= MAX_NAME_LENGTH
    assert Recipe(name=name, method="m", title="t", source="s").name == name


@given(VALUES, VALUES)
def test_other_values_have_other_names(first, second):
    names = [name_changes("r", {"k": value}) for value in (first, second)]
    # Text and number are never both valid for one key; 3 and 3.0 are one number, as are 0 and -0.
    shown = [value if isinstance(value, str) else json.dumps(value) for value in (first, second)]
    if first != second and shown[0] != shown[1]:
        assert names[0] != names[1]


def test_a_changed_row_differs_from_the_plain_one_in_name_digest_and_settings():
    plain = load_recipe("dreambooth")
    changed = plain.change("mini", {"n_steps": 200})
    assert changed.name == "dreambooth+n_steps=200"
    assert changed.tables == {"mini": plain.tables["mini"] | {"n_steps": 200}}
    assert changed.digest("mini") != plain.digest("mini")
    assert changed.method == plain.method
    assert changed.title.startswith(plain.title)
    assert changed.locate("mini", "n_steps") == "--set"
    assert changed.locate("mini", "optimizer") == plain.locate("mini", "optimizer")
    assert plain.locate("mini", "n_steps") != "--set"
