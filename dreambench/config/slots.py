"""Slots in texts, `{subject}` and `{class}`: one grammar for all who check, fill and compare them.

A slot is these very letters. No other brace may stand in a text, so that there is nothing on which
two readers could disagree.
"""

from __future__ import annotations

from typing import Literal

Slot = Literal["subject", "class"]
MAX_TEXT_LENGTH = 1000
"""Characters; text encoders read some hundred."""


def check_slot(text: str, slot: Slot) -> str:
    """Return a text that has this slot and no other brace; ValueError for another."""
    if f"{{{slot}}}" not in text:
        raise ValueError(f"'{text[:80]}' lacks the slot {{{slot}}}")
    if set("{}") & set(text.replace(f"{{{slot}}}", "")):
        raise ValueError(
            f"'{text[:80]}' has other braces than the slot {{{slot}}}: leave conversions, formats "
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
