"""Which file of a folder is which image of a protocol."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from dreambench.artifacts.plan import ImageUnit
from dreambench.config.protocol import PRIOR_PROMPT_ID, Protocol
from dreambench.config.slots import fill_slot, fill_subjects
from dreambench.datasets.subjects import Subject
from dreambench.errors import UserError, name_some, suggest
from dreambench.scoring.layouts import (
    Layout,
    count_unlisted,
    detect_layout,
    find_layout,
    read_index,
    read_layout,
)
from dreambench.scoring.problems import Problem
from dreambench.scoring.walking import File, Walk
from dreambench.text import make_printable

N_SUGGESTED = 100


@dataclass(frozen=True)
class Wanted:
    """What a folder is read for: units of some subjects and prompts of a protocol.

    `known_subjects` are all that the protocol has: images of those not in `subjects`, like those of
    prompts not in `units`, are left out without a complaint.
    """

    protocol: Protocol
    subjects: Sequence[Subject]
    known_subjects: Sequence[str]
    units: Sequence[ImageUnit]

    def prompt_ids(self, subject: Subject) -> set[str]:
        """What the protocol has for a subject, wanted or not."""
        prompts = self.protocol.prompts_for(subject.kind)
        return {PRIOR_PROMPT_ID, *(prompt.id for prompt in prompts)}


@dataclass(frozen=True)
class Placed:
    """A folder's files by the image that each is, unopened; `names` are paths inside the folder.

    `units` are those that the folder should have: all, or without the class images
    where it has none of these.
    """

    layout: Layout
    units: Sequence[ImageUnit]
    files: Mapping[ImageUnit, Path]
    names: Mapping[ImageUnit, str]
    problems: Sequence[Problem]
    notes: Sequence[str]


def place_images(
    folder: Path | None, wanted: Wanted, *, index: Path | None = None, layout: str | None = None
) -> Placed:
    """Find which file of a folder is which image, by its layout; detect that where it is None.

    With an index, whose files lie in its own folder, `folder` says where else to count images.

    Subjects match exactly; a prompt is named by its id, or by its text with {subject}, with the
    class noun, or with one word, the identifier, before the class noun. A file's number is its name
    where a prompt's files have the numbers 0 to n-1, else its place in the order of names.

    Raises:
        UserError: the folder is not there, or has two layouts, or an index cannot be read.
    """
    chosen = None if layout is None else find_layout(layout)
    if index is not None:
        if chosen is not None:
            raise UserError(
                f"{index} is an index, which needs no layout '{chosen}'",
                hint="name one of the two",
                code="layout-of-an-index",
            )
        walk = Walk(index.parent)
        read_index(walk, index)
        placed = _place(walk, wanted, "index")
        n_unlisted = 0 if folder is None else count_unlisted(walk, folder)
        if not n_unlisted:
            return placed
        note = f"{n_unlisted} images of the folder are not in the index"
        return replace(placed, notes=[*placed.notes, note])
    if folder is None or not folder.is_dir():
        raise UserError(
            f"{folder} is not a folder", hint="name the folder of the images", code="not-a-folder"
        )
    walk = Walk(folder)
    chosen = chosen or detect_layout(walk, wanted.known_subjects)
    read_layout(walk, chosen)
    return _place(walk, wanted, chosen)


class _Prompts:
    """The prompts of a protocol by id and by their text for one subject."""

    def __init__(self, protocol: Protocol, subject: Subject) -> None:
        self.ids = {PRIOR_PROMPT_ID}
        self.texts: dict[str, set[str]] = {}
        self.patterns: list[tuple[re.Pattern[str], str]] = []
        prior = protocol.prior.text
        self._add(PRIOR_PROMPT_ID, [prior, fill_slot(prior, subject.class_name, "class")])
        for prompt in protocol.prompts:
            self.ids.add(prompt.id)
            self._add(prompt.id, [prompt.text, fill_subjects(prompt.text, subject.nouns)])
            self.patterns.append((_make_pattern(prompt.text, subject.nouns), prompt.id))

    def _add(self, prompt_id: str, texts: Sequence[str]) -> None:
        for text in texts:
            self.texts.setdefault(_normal(text), set()).add(prompt_id)

    def find(self, text: str) -> tuple[str, str | None] | None:
        """Id of the prompt, and the identifier in its text; None when it is none or not clear."""
        if text in self.ids:
            return text, None
        found = self.texts.get(_normal(text), set())
        if found:
            return (next(iter(found)), None) if len(found) == 1 else None
        matches = [
            (prompt_id, " ".join(dict.fromkeys(match.groups())))
            for pattern, prompt_id in self.patterns
            if (match := pattern.fullmatch(_normal(text)))
        ]
        return matches[0] if len(matches) == 1 else None


def _make_pattern(text: str, nouns: Sequence[str]) -> re.Pattern[str]:
    """Return what a prompt's text is with one word before each class noun."""
    words = [rf"(\S+) {re.escape(_normal(noun))}" for noun in nouns]
    # A slot in letters that no text has, and which nothing here changes.
    marks = [f"\0{place}\0" for place in range(len(nouns))]
    pattern = re.escape(_normal(fill_subjects(text, marks)))
    for mark, word in zip(marks, words, strict=True):
        pattern = pattern.replace(re.escape(mark), word)
    return re.compile(pattern)


def _normal(text: str) -> str:
    """A prompt's text without what does not make it another: case, spaces or _, a full stop.

    Nor does the form of accented letters, which differs between the files of two systems.
    """
    text = unicodedata.normalize("NFC", text)
    return " ".join(text.casefold().replace("_", " ").split()).removesuffix(".")


@dataclass
class _Groups:
    """Files by subject and prompt id, and what else was found on the way."""

    files: dict[tuple[str, str], list[File]] = field(default_factory=dict)
    strange: dict[tuple[str, str | None], int] = field(default_factory=dict)
    identifiers: set[str] = field(default_factory=set)
    n_left_out: int = 0


def _group(walk: Walk, wanted: Wanted) -> _Groups:
    """Sort files by subject and prompt; names that the protocol does not have become problems."""
    groups = _Groups()
    by_subject: dict[str, dict[str, list[File]]] = {}
    for file in walk.files:
        by_subject.setdefault(file.subject, {}).setdefault(file.prompt, []).append(file)
    subjects = {subject.name: subject for subject in wanted.subjects}
    for name, by_prompt in by_subject.items():
        if name in subjects:
            _group_prompts(groups, wanted, subjects[name], by_prompt)
        elif name in wanted.known_subjects:
            groups.n_left_out += sum(map(len, by_prompt.values()))
        else:
            groups.strange[name, None] = sum(map(len, by_prompt.values()))
    walk.problems += _describe_strange(groups.strange, wanted, subjects)
    return groups


def _group_prompts(
    groups: _Groups, wanted: Wanted, subject: Subject, by_prompt: Mapping[str, list[File]]
) -> None:
    chosen = {unit.prompt_id for unit in wanted.units if unit.subject == subject.name}
    prompts = _Prompts(wanted.protocol, subject)
    found = {text: prompts.find(text) for text in by_prompt}
    words = {match[1] for match in found.values() if match and match[1]}
    for text, match in found.items():
        # One method has one identifier a subject: where words differ, none is one for sure.
        if match is None or (match[1] and len(words) > 1):
            groups.strange[subject.name, text] = len(by_prompt[text])
        elif match[0] in chosen:
            groups.files.setdefault((subject.name, match[0]), []).extend(by_prompt[text])
        elif match[0] in wanted.prompt_ids(subject):
            groups.n_left_out += len(by_prompt[text])
        else:
            groups.strange[subject.name, text] = len(by_prompt[text])
    if len(words) == 1:
        groups.identifiers |= words


def _describe_strange(
    strange: Mapping[tuple[str, str | None], int],
    wanted: Wanted,
    subjects: Mapping[str, Subject],
) -> list[Problem]:
    problems = []
    for index, ((name, prompt), n_files) in enumerate(strange.items()):
        if prompt is None:
            shown, known = name, list(wanted.known_subjects)
            detail = f"no subject of '{wanted.protocol.name}' has this name"
        else:
            shown = f"{name}/{' '.join(prompt.split())[:100]}"
            known = [p.id for p in wanted.protocol.prompts_for(subjects[name].kind)]
            detail = f"no prompt for {name} has this id or text"
        hint = suggest(prompt or name, known) if index < N_SUGGESTED else ""
        detail = f"{detail} ({n_files} images)" + (f"; {hint}" if hint else "")
        problems.append(Problem("unknown", make_printable(shown), n_files, detail))
    return problems


def _number(labels: Sequence[str], n: int) -> list[int] | None:
    """The numbers that files have by their names; None where these are not of 0 to n-1."""
    if not all(re.fullmatch(r"[0-9]{1,9}", label) for label in labels):
        return None
    numbers = [int(label) for label in labels]
    return numbers if max(numbers) < n else None


def _natural(text: str) -> list[tuple[int, str]]:
    """Sorts 2 before 10, numbers of any length."""
    parts = re.findall(r"[0-9]+|[^0-9]+", text)
    return [
        (len(part.lstrip("0")), part.lstrip("0")) if part[0] in "0123456789" else (-1, part)
        for part in parts
    ]


@dataclass
class _Numbered:
    """Which file each unit is, and prompts whose files were numbered by their order."""

    files: dict[ImageUnit, Path] = field(default_factory=dict)
    names: dict[ImageUnit, str] = field(default_factory=dict)
    ordered: list[str] = field(default_factory=list)


def _place(walk: Walk, wanted: Wanted, layout: Layout) -> Placed:
    groups = _group(walk, wanted)
    numbered = _number_files(walk, wanted, groups)
    files = numbered.files
    has_prior = any(unit.prompt_id == PRIOR_PROMPT_ID for unit in files)
    kept = [unit for unit in wanted.units if has_prior or unit.prompt_id != PRIOR_PROMPT_ID]
    notes = [*walk.notes]
    if groups.identifiers:
        words = name_some([f"'{make_printable(word)}'" for word in sorted(groups.identifiers)])
        notes.append(f"before the class noun, {words} was taken for the identifier")
    if numbered.ordered:
        notes.append(
            f"numbered in the order of their names: files of {name_some(numbered.ordered)}"
        )
    if groups.n_left_out:
        notes.append(f"{groups.n_left_out} images of other subjects and prompts were left out")
    if walk.n_ignored:
        notes.append(f"{walk.n_ignored} other files and folders were not looked at")
    problems = [*_find_missing(kept, files), *walk.problems]
    in_order = {unit: files[unit] for unit in kept if unit in files}
    return Placed(layout, kept, in_order, numbered.names, problems, notes)


def _number_files(walk: Walk, wanted: Wanted, groups: _Groups) -> _Numbered:
    """Give each file its unit; files beyond those of a prompt become problems."""
    units = {(unit.subject, unit.prompt_id, unit.k): unit for unit in wanted.units}
    sizes = Counter((unit.subject, unit.prompt_id) for unit in wanted.units)
    found = _Numbered()
    for (subject, prompt_id), group in groups.files.items():
        n, members = sizes[subject, prompt_id], group
        labels = [file.label for file in members]
        has_entries = members[0].entry is not None
        numbers = [int(label) for label in labels] if has_entries else _number(labels, n)
        if numbers is None:
            found.ordered.append(f"{subject}/{prompt_id}")
            members = sorted(members, key=lambda file: (_natural(file.label), file.name))
            numbers = list(range(len(members)))
        for k, file in zip(numbers, members, strict=True):
            unit = units.get((subject, prompt_id, k))
            if file.entry != members[0].entry:
                detail = f"{members[0].name} is of {subject}/{prompt_id} too, of another entry"
            elif unit is None:
                detail = f"{subject}/{prompt_id} has images 0 to {n - 1} and no more"
            elif unit in found.files:
                detail = f"{found.names[unit]} is image {k} of {subject}/{prompt_id} already"
            else:
                found.files[unit], found.names[unit] = file.path, file.name
                continue
            walk.problems.append(Problem("extra", file.name, detail=detail))
    return found


def _find_missing(units: Sequence[ImageUnit], files: Mapping[ImageUnit, Path]) -> list[Problem]:
    """One problem a subject that has no image at all, else one a prompt."""
    groups: dict[str, dict[str, list[ImageUnit]]] = {}
    for unit in units:
        groups.setdefault(unit.subject, {}).setdefault(unit.prompt_id, []).append(unit)
    found = []
    for subject, prompts in groups.items():
        every = [unit for members in prompts.values() for unit in members]
        if not any(unit in files for unit in every):
            found.append(Problem("missing", subject, len(every), f"all {len(every)} images"))
            continue
        for prompt_id, members in prompts.items():
            lacks = [str(unit.k) for unit in members if unit not in files]
            if lacks:
                detail = f"no {', '.join(lacks)}" if len(lacks) < len(members) else "none"
                found.append(Problem("missing", f"{subject}/{prompt_id}", len(lacks), detail))
    return found
