"""The stages from images to scores, whoever made the images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from types import MappingProxyType

import pandas as pd

from dreambench.artifacts.image_set import ImageSet
from dreambench.artifacts.plan import ImageUnit
from dreambench.artifacts.results import ScoreTable, write_conventions, write_scores
from dreambench.encoders.base import COSINE_ROLES, Encoder
from dreambench.encoders.extraction import Rows
from dreambench.encoders.pace import AUTO, Pace, Shard
from dreambench.encoders.parts import BlackDetector
from dreambench.encoders.registry import load_spec
from dreambench.errors import UserError, name_some
from dreambench.metrics.conventions import Convention, find_convention, score_convention
from dreambench.metrics.reference_bounds import compute_pair_bounds, compute_reference_bounds
from dreambench.progress import Progress
from dreambench.scoring.features import (
    Extracted,
    extract_asked,
    extract_asked_of_shard,
    extract_features,
    extract_features_of_shard,
)
from dreambench.scoring.scores import compute_scores
from dreambench.scoring.tools import Tools, load_tools
from dreambench.storage.files import make_dir
from dreambench.storage.images import load_image, place_side_by_side

BLACK = "black"


class Scorer:
    """Extracts features of an image set and computes its scores.

    `metrics` are added to its protocol's, `encoders` replace its own by role; each by name
    or as `FILE.py:Class`.
    """

    def __init__(
        self,
        images: ImageSet,
        *,
        metrics: Sequence[str] = (),
        encoders: Mapping[str, str] = MappingProxyType({}),
        cache_dir: Path,
        progress: Progress,
        pace: Pace = AUTO,
    ) -> None:
        self.images = images
        self.metrics = tuple(metrics)
        self.encoders = encoders
        self.cache_dir = make_dir(cache_dir)
        self.progress = progress
        self.pace = pace

    @cached_property
    def tools(self) -> Tools:
        """Metrics, encoders and segmenter."""
        return load_tools(self.images, metrics=self.metrics, overrides=self.encoders)

    def extract(self) -> Extracted:
        """Extract features of photos, images and texts, as far as the cache does not have them."""
        return extract_features(
            self.images, self.tools, cache_dir=self.cache_dir, pace=self.pace,
            progress=self.progress,
        )  # fmt: skip

    def extract_shard(self, shard: Shard, conventions: Sequence[str] = ()) -> None:
        """Extract those of a shard of the files, for the cache alone; for conventions, too."""
        extract_features_of_shard(
            self.images, self.tools, shard, cache_dir=self.cache_dir, pace=self.pace,
            progress=self.progress,
        )  # fmt: skip
        if conventions:
            extract_asked_of_shard(
                self._ask_for(conventions).rows.values(), shard, cache_dir=self.cache_dir,
                pace=self.pace, progress=self.progress,
            )  # fmt: skip

    def score(self) -> ScoreTable:
        """Write the scores, and what the photos themselves score.

        Raises:
            UserError: an image of a run is not what the run made.
        """
        scores, bounds = self.compute()
        write_scores(self.images, scores, bounds)
        return scores

    def compute(self) -> tuple[ScoreTable, pd.DataFrame]:
        """Return the scores, and what the photos themselves score; write nothing.

        Raises:
            UserError: an image of a run is not what the run made.
        """
        sums = self.images.hash_images()
        refuse_changed(self.images, sums)
        found = self.extract()
        bounds = self._compute_bounds(found)
        scores = compute_scores(self.images, found, self.tools)
        return replace(scores, images=sums), bounds

    def _compute_bounds(self, found: Extracted) -> pd.DataFrame:
        """Return what the photos score; those of pairs as an image of both side by side, too."""
        subjects = self.images.subjects
        if not self.images.protocol.pairs:
            return compute_reference_bounds(subjects, found.rows)
        names = [pair.name for pair in subjects]
        pictures = [
            place_side_by_side([load_image(one.photos[one.single]) for one in pair.members])
            for pair in subjects
        ]
        side_by_side = {
            role: dict(zip(names, encoder.encode_images(pictures), strict=True))
            for role, encoder in self.tools.encoders.items()
            if role in COSINE_ROLES
        }
        return compute_pair_bounds(subjects, found.rows, side_by_side)

    def score_conventions(self, names: Sequence[str]) -> pd.DataFrame:
        """Score the images under other scorers' conventions and write conventions.csv.

        One pass over the files: each is decoded once for the encoders of all conventions.
        """
        asked, images = self._ask_for(names), self.images
        found = extract_asked(
            asked.rows, texts={one.name: asked.texts(one, images) for one in asked.conventions},
            cache_dir=self.cache_dir, pace=self.pace, progress=self.progress,
        )  # fmt: skip
        black = {path: bool(row[0]) for path, row in found.rows[BLACK].items()}
        frames = []
        for one in asked.conventions:
            identities = {role: e.identity for role, e in asked.encoders[one.name].items()}
            rows = {role: found.rows[identity] for role, identity in identities.items()}
            frames.append(
                score_convention(
                    one, images.subjects, asked.made, rows, found.texts[one.name], black,
                    identities,
                )
            )  # fmt: skip
        table = pd.concat(frames, ignore_index=True).assign(partial=images.is_partial())
        write_conventions(images, table)
        return table

    def _ask_for(self, names: Sequence[str]) -> _Asked:
        images = self.images
        conventions = [find_convention(name) for name in names]
        specs = {one.name: one.encoders(images.protocol) for one in conventions}
        distinct = {spec for of_one in specs.values() for spec in of_one.values()}
        for spec in distinct:
            spec.ensure_weights(self.progress)
        loaded = {spec: load_spec(spec, device=images.device) for spec in distinct}
        made = {s.name: images.made_images(s.name) for s in images.subjects}
        shown = [path for files in made.values() for _, path in files]
        photos = [path for subject in images.subjects for path in subject.photos]
        rows = {one.identity: Rows(one, [*photos, *shown]) for one in loaded.values()}
        return _Asked(
            conventions,
            {
                name: {role: loaded[spec] for role, spec in of_one.items()}
                for name, of_one in specs.items()
            },
            made,
            {**rows, BLACK: Rows(BlackDetector(), shown)},
        )


@dataclass(frozen=True)
class _Asked:
    """What conventions need: encoders by convention and role, images by subject, and rows."""

    conventions: Sequence[Convention]
    encoders: Mapping[str, Mapping[str, Encoder]]
    made: Mapping[str, Sequence[tuple[ImageUnit, Path]]]
    rows: Mapping[str, Rows]

    def texts(self, convention: Convention, images: ImageSet) -> tuple[Encoder, set[str]]:
        """Return what a convention compares images with, and what reads it."""
        wanted = {
            convention.text(unit.prompt, subject.nouns)
            for subject in images.subjects
            for unit, _ in self.made[subject.name]
        }
        return self.encoders[convention.name]["clip"], wanted


def refuse_changed(images: ImageSet, sums: Mapping[str, str]) -> None:
    """Raise UserError for images of a run that are not what the run made."""
    changed = [str(images.folder / unit.relative_path) for unit in images.find_changed_images(sums)]
    if changed:
        raise UserError(
            f"not what this run made: {name_some(changed)}",
            hint=f"restore it, or make it again: dreambench generate {images.folder}",
            code="changed-product",
        )
