"""TOML files: which line a key stands on, and which values have one spelling."""

import string
import time
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict

from dreambench.config.toml_files import TomlFile, find_lines, find_problems, load_toml, read_toml
from dreambench.errors import UserError

TEXT = '''# comment [not] = "a table"
title = "x" # = [y]

text = """
n_steps = 4
[mini]
"""
sizes = [
    1, # ]
    2,
]
'odd key' = 1
a.b.c = 2

[mini]
n_steps = 5
inline = { x = 1, y = 2 }
one = { x = 1 }
  [mini . "sd 15"] # indented
  rate = 3e-4

[[prompts]]
id = "a"
[prompts.more]
id = "b"
[[prompts]]
id = "c"
[[prompts.tags]]
id = "d"
[[prompts.tags]]
id = "e"
'''


def test_lines_of_tables_and_keys():
    lines = TEXT.split("\n")
    found = {location: lines[number - 1].strip() for location, number in find_lines(TEXT).items()}
    assert found == {
        ("title",): 'title = "x" # = [y]',
        ("text",): 'text = """',
        ("sizes",): "sizes = [",
        ("odd key",): "'odd key' = 1",
        ("a",): "a.b.c = 2",
        ("a", "b"): "a.b.c = 2",
        ("a", "b", "c"): "a.b.c = 2",
        ("mini",): "[mini]",
        ("mini", "n_steps"): "n_steps = 5",
        ("mini", "inline"): "inline = { x = 1, y = 2 }",
        ("mini", "one"): "one = { x = 1 }",
        ("mini", "one", "x"): "one = { x = 1 }",
        ("mini", "sd 15"): '[mini . "sd 15"] # indented',
        ("mini", "sd 15", "rate"): "rate = 3e-4",
        ("prompts", 0): "[[prompts]]",
        ("prompts", 0, "id"): 'id = "a"',
        ("prompts", 0, "more"): "[prompts.more]",
        ("prompts", 0, "more", "id"): 'id = "b"',
        ("prompts", 1): "[[prompts]]",
        ("prompts", 1, "id"): 'id = "c"',
        ("prompts", 1, "tags", 0): "[[prompts.tags]]",
        ("prompts", 1, "tags", 0, "id"): 'id = "d"',
        ("prompts", 1, "tags", 1): "[[prompts.tags]]",
        ("prompts", 1, "tags", 1, "id"): 'id = "e"',
    }


KEYS = st.text(string.ascii_letters + string.digits + "_-", min_size=1, max_size=8)
VALUES = st.sampled_from(
    ["1", "-2.5e-3", '"x = [1]"', '"""\na = 1\n[b]\n"""', "[\n  1, # ]\n  2\n]", "'''\n# c\n'''"]
)


@given(st.dictionaries(KEYS, st.dictionaries(KEYS, VALUES, max_size=4), max_size=4))
def test_every_key_is_found_on_the_line_where_it_was_written(tables):
    text, wanted = "", {}
    for table, values in tables.items():
        wanted[table,] = text.count("\n") + 1
        text += f"[{table}]\n# k = 1\n\n"
        for key, value in values.items():
            wanted[table, key] = text.count("\n") + 1
            text += f"{key} = {value}\n"
    assert find_lines(text) == wanted


class Inner(BaseModel):
    model_config = ConfigDict(extra="forbid")
    n_steps: int = 1


class Table(BaseModel):
    model_config = ConfigDict(extra="forbid")
    n_steps: int = 1
    learning_rate: float = 0.1
    betas: tuple[float, float] = (0.9, 0.999)
    flip: bool = False
    optimizer: Literal["adamw", "sgd"] = "adamw"
    inner: Inner = Inner()


def read(tmp_path, text):
    path = tmp_path / "own.toml"
    path.write_text(text)
    return load_toml(read_toml(path), Table)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_number_is_read_to_the_last_bit(number):
    file = TomlFile(None, "", {"learning_rate": number})
    assert load_toml(file, Table).learning_rate == number


@pytest.mark.parametrize("text", ["3e-4", "0.0003", "3E-4", "+0.000_3", "0.3e-3"])
def test_one_number_has_many_spellings(tmp_path, text):
    assert read(tmp_path, f"learning_rate = {text}").learning_rate == 0.0003


@pytest.mark.parametrize(
    ("text", "code", "fact"),
    [
        ('learning_rate = "3e-4"', "invalid-value", 'learning_rate: needs a number, not "3e-4"'),
        ("learning_rate = true", "invalid-value", "needs a number, not true"),
        ("learning_rate = -inf", "invalid-value", "needs a finite number"),
        ("betas = [0.9, nan]", "invalid-value", "betas.1: needs a finite number"),
        ("betas = [0.9]", "missing-key", "betas.1"),
        ("n_steps = 3.0", "invalid-value", "n_steps: needs a whole number, not 3.0"),
        ('n_steps = "3"', "invalid-value", "needs a whole number"),
        ("n_steps = false", "invalid-value", "needs a whole number, not false"),
        (f"n_steps = {2**63}", "invalid-value", "64 bits"),
        ("flip = 1", "invalid-value", "needs true or false, not 1"),
        ('flip = "true"', "invalid-value", "needs true or false"),
        ('optimizer = "adam"', "invalid-value", "must be 'adamw' or 'sgd', not \"adam\""),
        ("n_steps = 2026-01-01", "invalid-value", "dates"),
        ("lerning_rate = 1", "unknown-key", "'lerning_rate'; did you mean 'learning_rate'?"),
        ("inner.n_step = 1", "unknown-key", "'n_step'; did you mean 'n_steps'?"),
        ("zzz = 1", "unknown-key", "unknown key 'zzz'"),
        (f"n_steps = {'9' * 5000}", "invalid-toml", "too many digits"),
        (f"n_steps = 0x{'f' * 5000}", "invalid-value", "64 bits"),
        ("n_steps = " + "[" * 30 + "]" * 30, "invalid-value", "nested over 20 deep"),
        (".".join(["n_steps"] * 2000) + " = 1", "invalid-value", "nested over 20 deep"),
    ],
)
def test_a_fault_is_named_by_line_and_key(tmp_path, text, code, fact):
    with pytest.raises(UserError) as caught:
        read(tmp_path, f"# comment\n{text}\n")
    assert caught.value.code == code
    assert str(caught.value).startswith(f"{tmp_path / 'own.toml'}:2: ")
    assert fact in str(caught.value)
    assert "Input should" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "code", "fact"),
    [
        (b"n_steps = " + b"[" * 3000 + b"]" * 3000, "invalid-toml", "nested too deeply"),
        ("n_steps = 1\n".encode("utf-16"), "unreadable-file", "UTF-16"),
        (b"n_steps = 1 # caf\xe9\n", "unreadable-file", "line 1 is not UTF-8"),
        (b"# " + b"x" * 1_000_000, "unreadable-file", "1,000,000 bytes"),
    ],
)
def test_a_file_that_cannot_be_read_is_one_line(tmp_path, content, code, fact):
    path = tmp_path / "own.toml"
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        read_toml(path)
    assert caught.value.code == code
    assert str(caught.value).startswith(str(path)) and fact in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path):
    path = tmp_path / "own.toml"
    path.write_bytes(b"\xef\xbb\xbfn_steps = 3.5\n")
    with pytest.raises(UserError, match=":1: n_steps: needs a whole number"):
        load_toml(read_toml(path), Table)


def test_lines_are_not_looked_for_without_end():
    text = "a = [\n" + "[],\n" * 100_000 + "]\nb = 1\n"
    started = time.monotonic()
    assert find_lines(f"first = 1\n{text}")["first",] == 1
    assert time.monotonic() - started < 20


def test_faults_are_in_the_order_of_their_lines(tmp_path):
    with pytest.raises(UserError) as caught:
        read(tmp_path, "zzz = 1\nflip = 3\n[inner]\nn_steps = 1.5\n")
    lines = [line.split(":")[1] for line in str(caught.value).splitlines()]
    assert lines == ["1", "2", "4"]
    assert caught.value.code == "invalid-value"


@given(st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
))  # fmt: skip
def test_a_problem_is_where_the_value_is(value):
    for location, problem in find_problems(value):
        part = value
        for key in location:
            part = part[key]
        assert problem
        is_number = isinstance(part, int | float)
        assert part is None or (is_number and not abs(part) < 2**63)
