"""Prompts that are longer than a text encoder reads, and which of their words are lost.

Text encoders read so many tokens and cut what is behind: prompts that differ only there are one and
the same to them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict

from dreambench.config.slots import fill_subjects, has_subject_slots
from dreambench.errors import name_some

MAX_SHOWN = 80
ONE_TOKEN = "a"
"""Stands for a word that is one token of every vocabulary, such as one that was added to it."""


@dataclass(frozen=True)
class TextReader:
    """A text encoder as far as lengths go.

    It reads `n_tokens` of a text; `count` says how many one has, with those of start and end.
    """

    name: str
    n_tokens: int
    count: Callable[[str], int]


class CutText(BaseModel):
    """A prompt of which a text encoder reads the beginning alone.

    `lost` are the words behind it, for the subjects where these are the ones.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    reader: str
    n_tokens: int
    prompt_id: str
    lost: str
    subjects: list[str]

    def __str__(self) -> str:
        lost = self.lost if len(self.lost) <= MAX_SHOWN else f"{self.lost[:MAX_SHOWN]}..."
        return (
            f"{self.reader} reads {self.n_tokens} tokens of a text, so the end of the prompt "
            f"'{self.prompt_id}' is lost: '{lost}' (for {name_some(self.subjects)})"
        )


def find_lost_words(reader: TextReader, text: str, words: str | Sequence[str]) -> str:
    """Return the words of a prompt that a text encoder does not read; empty where it reads all.

    `words` are what the slots of subjects are filled with; in the answer they stay slots.
    """
    parts = text.split()
    if reader.count(fill_subjects(text, words)) <= reader.n_tokens:
        return ""
    n_read, n_lost = 0, len(parts)  # So many are read for sure, and so many not.
    while n_lost - n_read > 1:
        middle = (n_read + n_lost) // 2
        length = reader.count(fill_subjects(" ".join(parts[:middle]), words))
        if length <= reader.n_tokens:
            n_read = middle
        else:
            n_lost = middle
    return " ".join(parts[n_read:])


def find_cut_texts(
    reader: TextReader | None,
    texts: Iterable[tuple[str, str, str]],
    words: Mapping[str, str | Sequence[str]],
) -> list[CutText]:
    """Return the prompts that are longer than a text encoder reads, in their order.

    `texts` are subject, prompt id and text; `words` by subject what fills the slots.
    Without a reader, of which nobody knows how much it reads, there are none.
    """
    found: dict[tuple[str, str], list[str]] = {}
    if reader is None:
        return []
    known: dict[tuple[str, str | Sequence[str]], str] = {}
    for subject, prompt_id, text in dict.fromkeys(texts):
        key = text, words[subject] if has_subject_slots(text) else ""
        if key not in known:
            known[key] = find_lost_words(reader, *key)
        if known[key]:
            found.setdefault((prompt_id, known[key]), []).append(subject)
    return [
        CutText(
            reader=reader.name, n_tokens=reader.n_tokens, prompt_id=prompt_id, lost=lost,
            subjects=subjects,
        )
        for (prompt_id, lost), subjects in found.items()
    ]  # fmt: skip
