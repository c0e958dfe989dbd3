"""Slots: one grammar for those who check, generate and score."""

import pytest

from dreambench.config.slots import MAX_TEXT_LENGTH, check_slot, fill_slot, has_slot


@pytest.mark.parametrize("text", ["a {subject}", "{subject} and {subject}", "100 % {subject} %s"])
def test_a_slot_is_filled_as_it_stands(text):
    assert check_slot(text, "subject") == text
    assert fill_slot(text, "sks {x} dog") == text.replace("{subject}", "sks {x} dog")
    assert has_slot(text)


@pytest.mark.parametrize(
    "text",
    [
        "a dog", "a {Subject}", "a {class}", "a {subject!r}", "a {subject:>1000000000}", "{subject",
        "a {subject:d}", "a {subject} with {{curly}} braces", "a {subject} {0}", "a {subject} }",
        "a {{subject}}", "a {subject.name}", "a {subject[0]}", "",
        "{subject}" + "x" * MAX_TEXT_LENGTH,
    ],
)  # fmt: skip
def test_any_other_brace_is_refused(text):
    with pytest.raises(ValueError, match=r"slot|letters"):
        check_slot(text, "subject")
