"""Comparisons sampled by seeds, and the pictures that they show."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations, product, zip_longest
from pathlib import Path
from typing import TypeVar

from dreambench.artifacts.image_set import ImageSet, is_class_image
from dreambench.artifacts.plan import ImageUnit, derive_seed
from dreambench.artifacts.study import (
    Comparison,
    Picture,
    StudyImage,
)
from dreambench.errors import UserError
from dreambench.storage.files import sha256_file

IMAGE_PX = 768
"""Longest side of an image that is judged."""
PHOTO_PX = 512
"""Longest side of a photo beside it."""
_Thing = TypeVar("_Thing")
_Cell = tuple[str, str]


@dataclass(frozen=True)
class Source:
    """Where a picture of a study comes from, and how large it is shown."""

    path: Path
    side_px: int
    is_generated: bool


@dataclass
class Pictures:
    """The pictures of a study by the names of their copies, which say nothing of a method."""

    seed: int
    sources: dict[str, Source] = field(default_factory=dict)

    def add(self, path: Path, sha256: str, *, side_px: int, is_generated: bool) -> str:
        """Return the name of a picture's copy, without suffix."""
        key = f"{self.seed}\x1f{side_px}\x1f{sha256}"
        name = hashlib.sha256(key.encode()).hexdigest()[:16]
        self.sources[name] = Source(path, side_px, is_generated)
        return name

    def add_photo(self, path: Path, sha256: str, *, side_px: int) -> Picture:
        """Return a photo as questions show it."""
        name = self.add(path, sha256, side_px=side_px, is_generated=False)
        return Picture(sha256=sha256, file=name)


@dataclass(frozen=True)
class _Candidate:
    """Two images that can be compared, by their places among the methods."""

    places: tuple[int, int]
    units: tuple[ImageUnit, ImageUnit]


def shuffle(things: Iterable[_Thing], *parts: object) -> list[_Thing]:
    """Return things in an order that depends on their names and `parts` alone."""
    return sorted(things, key=lambda thing: derive_seed("study", *parts, thing))


class Drawing:
    """Samples comparisons: as many of each pair of methods, and of each subject in a pair."""

    def __init__(
        self,
        sets: Sequence[ImageSet],
        names: Sequence[str],
        values: Sequence[Mapping[tuple[str, str, int], dict[str, float]]],
        pictures: Pictures,
        seed: int,
    ) -> None:
        self.sets, self.names, self.values = sets, names, values
        self.pictures, self.seed = pictures, seed
        self.sums = [images.read_image_sums() for images in sets]
        self.cells = [_list_cells(images) for images in sets]
        self.known: dict[tuple[int, ImageUnit], str] = {}

    def draw(self, n_comparisons: int) -> list[Comparison]:
        """Return so many comparisons, pair by pair.

        Raises:
            UserError: there are not as many that differ, or an image was changed.
        """
        pairs = list(combinations(range(len(self.sets)), 2))
        drawn: list[_Candidate] = []
        for number, pair in enumerate(pairs):
            quota = n_comparisons // len(pairs) + (number < n_comparisons % len(pairs))
            of_pair: list[_Candidate] = []
            for candidate in self._list_candidates(*pair):
                if len(of_pair) == quota:
                    break
                if len(set(self._hash(candidate))) == 2:
                    of_pair.append(candidate)
            if len(of_pair) < quota:
                first, second = (self.names[place] for place in pair)
                raise UserError(
                    f"{first} and {second} have {len(of_pair)} pairs of different images of one "
                    f"subject and prompt, and {quota} comparisons were asked for",
                    hint=f"choose at most --comparisons {len(of_pair) * len(pairs)}",
                    code="too-few-images",
                )
            drawn += of_pair
        return [self._make(f"c{number:04}", one) for number, one in enumerate(drawn, start=1)]

    def _list_candidates(self, first: int, second: int) -> Iterator[_Candidate]:
        """Yield pairs of images, subject by subject in turn, each prompt before it comes again."""
        own, other = self.cells[first], self.cells[second]
        key = (self.names[first], self.names[second], self.seed)
        by_subject: dict[str, list[_Cell]] = {}
        for cell in own:
            if cell in other:
                by_subject.setdefault(cell[0], []).append(cell)
        streams = []
        for subject in shuffle(by_subject, "subject", *key):
            cells = shuffle(by_subject[subject], "cell", *key)
            pairs = {
                cell: shuffle(product(own[cell], other[cell]), "images", *key) for cell in cells
            }
            rounds = zip_longest(*(pairs[cell] for cell in cells))
            streams.append([one for turn in rounds for one in turn if one is not None])
        for turn in zip_longest(*streams):
            for units in turn:
                if units is not None:
                    yield _Candidate((first, second), units)

    def _hash(self, candidate: _Candidate) -> list[str]:
        """Return the SHA-256 of both images."""
        found = []
        for key in zip(candidate.places, candidate.units, strict=True):
            if key not in self.known:
                self.known[key] = self._hash_one(*key)
            found.append(self.known[key])
        return found

    def _hash_one(self, place: int, unit: ImageUnit) -> str:
        path = self.sets[place].find_image(unit)
        assert path is not None
        sha256 = sha256_file(path)
        if self.sums[place].get(unit.relative_path, sha256) != sha256:
            raise UserError(
                f"{path} was changed since it was made",
                hint=f"see all with dreambench verify {self.sets[place].folder}",
                code="changed-product",
            )
        return sha256

    def _make(self, name: str, candidate: _Candidate) -> Comparison:
        unit, (first, second) = candidate.units[0], candidate.places
        images = [
            self._make_image(place, one, sha256)
            for place, one, sha256 in zip(
                candidate.places, candidate.units, self._hash(candidate), strict=True
            )
        ]
        return Comparison(
            id=name, subject=unit.subject, prompt_id=unit.prompt_id, family=unit.family,
            text=unit.clip_text, first=self.names[first], second=self.names[second],
            first_image=images[0], second_image=images[1],
        )  # fmt: skip

    def _make_image(self, place: int, unit: ImageUnit, sha256: str) -> StudyImage:
        path = self.sets[place].find_image(unit)
        assert path is not None
        scores: dict[str, float] = {}
        if self.values:
            key = (unit.subject, unit.prompt_id, unit.k)
            scores = dict(self.values[place].get(key, {}))
        return StudyImage(
            sha256=sha256, path=unit.relative_path, scores=scores,
            file=self.pictures.add(path, sha256, side_px=IMAGE_PX, is_generated=True),
        )  # fmt: skip


def _list_cells(images: ImageSet) -> dict[_Cell, list[ImageUnit]]:
    """Return the units that have an image by subject and prompt, without class images."""
    cells: dict[_Cell, list[ImageUnit]] = {}
    for unit in images.plan.images:
        if not is_class_image(unit) and images.find_image(unit) is not None:
            cells.setdefault((unit.subject, unit.prompt_id), []).append(unit)
    return cells
