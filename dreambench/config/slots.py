"""Slots in texts, such as `{subject}`: one grammar for all who check, fill and compare them.

A slot is these very letters. No other brace may stand in a text, so that there is nothing on which
two readers could disagree.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

Slot = Literal["subject", "first", "second", "class", "prompt", "photos"]
PAIR_SLOTS: tuple[Slot, ...] = ("first", "second")
"""What stands for two subjects in a prompt."""
MAX_TEXT_LENGTH = 1000
"""Characters; text encoders read some hundred."""


def check_slot(text: str, slot: Slot) -> str:
    """Return a text that has this slot and no other brace; ValueError for another."""
    if not has_slot(text, slot):
        raise ValueError(f"'{text[:80]}' lacks the slot {{{slot}}}")
    return check_braces(text, (slot,))


def check_braces(text: str, slots: Sequence[Slot]) -> str:
    """Return a text that has no other braces than those of these slots; ValueError for another."""
    rest = text
    for slot in slots:
        rest = rest.replace(f"{{{slot}}}", "")
    if set("{}") & set(rest):
        named = " and ".join(f"{{{slot}}}" for slot in slots)
        raise ValueError(
            f"'{text[:80]}' has other braces than the slot {named}: leave conversions, formats "
            "and doubled braces out"
        )
    if len(text) > MAX_TEXT_LENGTH:
        raise ValueError(f"'{text[:80]}...' has {len(text)} letters, over {MAX_TEXT_LENGTH}")
    return text


def has_slot(text: str, slot: Slot = "subject") -> bool:
    """Return whether a text has a slot."""
    return f"{{{slot}}}" in text


def fill_slot(text: str, words: str, slot: Slot = "subject") -> str:
    """Return a text with words in the place of its slot, however often it has it."""
    return text.replace(f"{{{slot}}}", words)


def check_subject_slots(text: str) -> str:
    """Return a prompt with a slot for its one subject, or for each of two; ValueError for another.

    The latter are {first} and {second}.
    """
    if not has_pair_slots(text):
        return check_slot(text, "subject")
    for slot in PAIR_SLOTS:
        if not has_slot(text, slot):
            raise ValueError(f"'{text[:80]}' lacks the slot {{{slot}}}")
    return check_braces(text, PAIR_SLOTS)


def has_pair_slots(text: str) -> bool:
    """Return whether a text has a slot of those for two subjects."""
    return any(has_slot(text, slot) for slot in PAIR_SLOTS)


def has_subject_slots(text: str) -> bool:
    """Return whether a text asks for subjects at all, and not for a class."""
    return has_slot(text) or has_pair_slots(text)


def fill_subjects(text: str, phrases: str | Sequence[str]) -> str:
    """Return a prompt with a phrase in the place of its subject, or one for each of two."""
    phrases = (phrases,) if isinstance(phrases, str) else phrases
    slots: Sequence[Slot] = ("subject",) if len(phrases) == 1 else PAIR_SLOTS
    for slot, words in zip(slots, phrases, strict=True):
        text = fill_slot(text, words, slot)
    return text
