"""Subjects: a few photos of one individual, and its class noun; or two of them in one picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, cast

from dreambench.datasets.index import Dataset, Index, Kind, check_files, read_index
from dreambench.errors import UserError, name_some
from dreambench.storage.files import digest

PairKind = Literal["live-live", "live-object", "object-live", "object-object"]
"""The kinds of the two subjects of a pair, in their order."""
References = Literal["all", "single", "all-but-last"]
"""Whether a method is shown all photos of a subject, or one."""
AND = "+"
"""Between the names of a pair's subjects in its own, and, with blanks, between their nouns."""


@dataclass(frozen=True)
class Subject:
    """One individual, or a pair of them that are to be in one picture.

    `masks` is empty or holds one mask file per photo, in the same order. `single` is the place of
    the photo that stands for it where one alone is shown. A pair (`make_pair`) has two `members`,
    and their photos after each other.
    """

    name: str
    class_name: str
    kind: Kind | PairKind
    photos: tuple[Path, ...]
    sha256: tuple[str, ...]
    masks: tuple[Path, ...] = ()
    single: int = 0
    members: tuple[Subject, ...] = ()

    @property
    def each(self) -> tuple[Subject, ...]:
        """The individuals: itself, or the members of a pair."""
        return self.members or (self,)

    @property
    def nouns(self) -> tuple[str, ...]:
        """The class nouns that prompts are filled with, one an individual."""
        return tuple(one.class_name for one in self.each)

    @property
    def shares_noun(self) -> bool:
        """Whether two subjects have one class noun, so that no prompt says which is which."""
        return len(set(self.nouns)) < len(self.each)

    def held_out(self, references: References) -> tuple[Path, ...]:
        """Return the photos that a method is not shown."""
        shown = self.show(references).photos
        return tuple(path for path in self.photos if path not in shown)

    def show(self, references: References) -> Subject:
        """Return the subject with the photos that a method is shown."""
        if references == "all":
            return self
        if self.members:
            return make_pair([member.show(references) for member in self.members])
        kept = slice(self.single, self.single + 1) if references == "single" else slice(-1)
        return replace(
            self, photos=self.photos[kept], sha256=self.sha256[kept], masks=self.masks[kept],
            single=0,
        )  # fmt: skip


def name_pair(names: Sequence[str]) -> str:
    """Return the name of a pair of subjects, e.g. cat+dog."""
    return AND.join(names)


def make_pair(members: Sequence[Subject]) -> Subject:
    """Return subjects as one that a picture is to show together; the order counts."""
    masks = [member.masks for member in members]
    return Subject(
        name_pair([member.name for member in members]),
        f" {AND} ".join(member.class_name for member in members),
        cast(PairKind, "-".join(member.kind for member in members)),
        tuple(photo for member in members for photo in member.photos),
        tuple(sha256 for member in members for sha256 in member.sha256),
        tuple(mask for own in masks for mask in own) if all(masks) else (),
        members=tuple(members),
    )


def load_subjects(dataset: Dataset, *, names: Sequence[str] | None = None) -> list[Subject]:
    """Load subjects, each of whose files is there with the pinned bytes.

    `names` picks subjects; they come in the order of the index. One UserError (`changed-data`)
    counts the missing and changed files and names the first; see also `read_index`.
    """
    index = read_index(dataset, names=names)
    faults = check_files(dataset, index.files)
    if faults:
        hint = "restore the files"
        if dataset.name == "dreambooth":
            hint = (
                "download them with: dreambench data fetch, or set DREAMBENCH_DATA to the folder "
                "that has them"
            )
        raise UserError(
            f"{dataset.photos_dir}: {name_some(faults)}", hint=hint, code="changed-data"
        )
    return _make_subjects(dataset, index)


def list_subjects(dataset: Dataset, *, names: Sequence[str] | None = None) -> list[Subject]:
    """Return the subjects of the index, whether or not their photos are on this machine."""
    return _make_subjects(dataset, read_index(dataset, names=names))


def _make_subjects(dataset: Dataset, index: Index) -> list[Subject]:
    found = []
    for row in index.subjects:
        mine = [image for image in index.images if image["subject"] == row["subject"]]
        masks = [dataset.photos_dir / image["mask"] for image in mine if image.get("mask")]
        files = [image["file"] for image in mine]
        single = index.singles.get(row["subject"])
        found.append(
            Subject(
                row["subject"],
                row["class_name"],
                cast(Kind, row["kind"]),  # checked by read_index
                tuple(dataset.photos_dir / file for file in files),
                tuple(image["sha256"] for image in mine),
                tuple(masks) if len(masks) == len(mine) else (),
                0 if single is None else files.index(single),
            )
        )
    return found


def digest_subjects(subjects: Sequence[Subject], references: References = "all") -> str:
    """Return a digest of names, class nouns, kinds and photo contents; no path is part of it.

    Where a method is shown one photo of each subject, which one is part of it.
    """
    return digest([_describe(subject, references) for subject in subjects])


def _describe(subject: Subject, references: References) -> list[object]:
    row: list[object] = [subject.name, subject.class_name, subject.kind]
    if subject.members:
        return [*row, [_describe(member, references) for member in subject.members]]
    shown = [subject.sha256[subject.single]] if references == "single" else []
    return [*row, list(subject.sha256), *shown]
