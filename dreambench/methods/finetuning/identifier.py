"""Rare-token identifiers: the word that a trained model learns to read as its subject."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

from pydantic import AfterValidator

from dreambench.artifacts.plan import derive_seed
from dreambench.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MAX_IDENTIFIER_LENGTH = 100


def _check_identifier(text: str) -> str:
    """Return a word that can stand in a prompt; ValueError for another text."""
    if not text.strip():
        raise ValueError("must not be empty: name a token, or 'auto' for a rare one")
    if text != text.strip():
        raise ValueError(f"must not have blanks at its ends, as {text[:40]!r} has")
    if set("{}") & set(text) or not text.isprintable():
        raise ValueError(f"has a brace or an unprintable character: {text[:40]!r}")
    if len(text) > MAX_IDENTIFIER_LENGTH:
        raise ValueError(f"has {len(text)} letters, over {MAX_IDENTIFIER_LENGTH}")
    return text


Identifier = Annotated[str, AfterValidator(_check_identifier)]
"""The setting of a method that puts a word before the class noun."""


def find_rare_tokens(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Return short words that are one token, rare, and no word of English, rarest first.

    The paper (section 3.2) looks up rare tokens of at most three characters in the tokenizer's
    vocabulary. In a byte-pair vocabulary a later entry was merged later, so the second half holds
    the rarer tokens; three consonants make no English word, and a token has to survive the round
    trip through text, behind another word as in a prompt.
    """
    vocabulary = tokenizer.get_vocab()
    half = len(vocabulary) / 2
    found = []
    for token, index in sorted(vocabulary.items(), key=lambda item: -item[1]):
        # CLIP marks a word's end, and other vocabularies the blank before it.
        marked = re.fullmatch(r"[Ġ▁]([a-z]{3})|([a-z]{3})</w>", token)
        word = "" if marked is None else marked[1] or marked[2]
        if index < half or not re.fullmatch(r"[bcdfghjklmnpqrstvwxz]{3}", word):
            continue
        if find_token(tokenizer, word) == index:
            found.append(word)
    return found


def find_token(tokenizer: PreTrainedTokenizerBase, word: str) -> int | None:
    """Return the one token that a word of a prompt is; None where it is several."""
    _, *others = tokenizer(f"a {word}", add_special_tokens=False).input_ids
    return others[0] if len(others) == 1 else None


def sample_tokens(tokens: Sequence[str], n_tokens: int, *, seed: int) -> list[str]:
    """Return up to `n_tokens` of the tokens, always the same for a seed."""
    order = sorted(range(len(tokens)), key=lambda index: derive_seed("tokens", seed, tokens[index]))
    return [tokens[index] for index in order[:n_tokens]]


def choose_identifier(
    tokenizer: PreTrainedTokenizerBase, wanted: str, *, taken: Sequence[str] = ()
) -> str:
    """Return `wanted`, or for "auto" one of the rare tokens, always the same for a tokenizer.

    None that is `taken`: of two subjects in one picture each has its own.

    Raises:
        UserError: the vocabulary has no rare token.
    """
    if wanted != "auto":
        return wanted
    tokens = [token for token in find_rare_tokens(tokenizer) if token not in taken]
    if not tokens:
        raise UserError(
            "the base model's tokenizer has no rare three-letter token",
            hint="name an identifier in the recipe, for instance identifier = 'sks'",
            code="no-rare-token",
        )
    return tokens[derive_seed("identifier") % len(tokens)]


def complete_identifiers(tokenizer: PreTrainedTokenizerBase, first: str, n: int) -> list[str]:
    """Return `first` and n - 1 rare tokens after it, all different: one a subject.

    Raises:
        UserError: the vocabulary has too few.
    """
    found = [first]
    while len(found) < n:
        found.append(choose_identifier(tokenizer, "auto", taken=found))
    return found
