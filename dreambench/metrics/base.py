"""The class Metric, and what a metric sees of a subject.

A metric turns features of one subject's images and photos into numbers: one an image, one a prompt
or one a class image. It opens no file and knows no encoder; which encoders, segmenter and hash made
its inputs is part of its signature. Results describe their metrics themselves (`MetricInfo`), so
that tables and tests need no metric's code.
"""

from __future__ import annotations

import functools
import math
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from dreambench.artifacts.image_set import is_class_image
from dreambench.artifacts.plan import ImageUnit
from dreambench.artifacts.results import MetricInfo, Prompts
from dreambench.metrics.matching import compute_subject_matches
from dreambench.metrics.region_matching import RegionMatches, compute_likeness, match_regions
from dreambench.types import Bounds, Features, Values

COSINE: Bounds = (-1.0, 1.0)
SHARE: Bounds = (0.0, 1.0)
UNBOUNDED: Bounds = (-math.inf, math.inf)

PAPER = "paper"
"""Tag of the DreamBooth paper's five metrics."""
MASK, HASH, THUMBNAIL, HELD_OUT = "mask", "hash", "thumbnail", "held-out"
REGIONS = "regions"
"""Inputs that come from no encoder: the subject's pixels by a segmenter, hashes, small pictures,
which photos methods were not shown, and regions with a subject each by a segmenter."""
LAST = 1000
"""Place in tables of a metric that names none: after the package's own."""

Unit = Literal["image", "prompt", "class-image"]
Takes = Literal["one", "two", "any"]


@dataclass(frozen=True)
class Member:
    """What a metric sees of one of two subjects: its photos' features by input.

    "region-dino" and "region-clip" are of the subject cut out, as regions of images are. `noun` is
    CLIP's row of "a [class noun]", empty without CLIP.
    """

    photos: Mapping[str, Features]
    noun: Features


@dataclass(frozen=True)
class SubjectFeatures:
    """What a metric sees of one subject, its images in the order of the plan.

    `images`, `photos`, `distractors` (photos of other subjects: of its class where there are any)
    and `class_images` map an input to its features, one row each. Inputs are the roles of encoders
    ("dino", "clip", or a name given with --encoder), "hash" (`encoders.parts.HashExtractor`),
    "thumbnail" (`encoders.parts.ThumbnailExtractor`), and where a segmenter is at hand "dino-fg",
    "clip-fg" (the subject cut out) and "dino-bg" (the background alone). For photos "mask" says
    which pixels of the thumbnails show the subject. Features of "dino" and "clip" have unit length.

    `texts` (t, d) are CLIP's features of the protocol's prompts for this class, with the class noun
    in the place of the subject; `own_text` is the row of each image's own prompt, `prompt_ids` its
    id. `distances` are the perceptual distances between the images of each prompt, by prompt id.
    `held_out` are the rows of photos that methods were not shown.

    Of a pair there are `members`, `photos` of both after each other, and where a segmenter is at
    hand the regions of its images: "region-share", "region-cut" (n, regions), "region-dino" and
    "region-clip" (n, regions, d); see `encoders.regions`. `shares_noun`: both are of one class.
    """

    images: Mapping[str, Features]
    photos: Mapping[str, Features]
    distractors: Mapping[str, Features]
    class_images: Mapping[str, Features]
    texts: Features
    own_text: Sequence[int]
    prompt_ids: Sequence[str]
    distances: Mapping[str, Values]
    held_out: Sequence[int] = ()
    members: Sequence[Member] = ()
    shares_noun: bool = False

    @functools.cached_property
    def region_matches(self) -> RegionMatches:
        """Which region of each image is which subject's, by DINO; several metrics read it."""
        photos = [member.photos["region-dino"] for member in self.members]
        likeness = compute_likeness(self.images["region-dino"], photos)
        return match_regions(self.images["region-share"], self.images["region-cut"], likeness)

    @functools.cached_property
    def pixel_match(self) -> Values:
        """How far each image holds some photo's subject, pixel by pixel: (n,) in [0, 1].

        Computed once, since several metrics read it; needs "thumbnail" and "mask".
        """
        found: Values = np.clip(
            compute_subject_matches(
                self.images[THUMBNAIL], self.photos[THUMBNAIL], self.photos[MASK]
            ),
            0,
            1,
        )
        return found


@dataclass(frozen=True)
class SubjectCounts:
    """How much there is of one subject when nothing is missing; class images counted apart."""

    n_photos: int
    n_images: int
    n_class_images: int
    images_per_prompt: Sequence[int]


def count_subject(units: Sequence[ImageUnit], *, n_photos: int) -> SubjectCounts:
    """Return how much there is of one subject, whose units these are."""
    shown = Counter(unit.prompt_id for unit in units if not is_class_image(unit))
    return SubjectCounts(
        n_photos=n_photos,
        n_images=sum(shown.values()),
        n_class_images=len(units) - sum(shown.values()),
        images_per_prompt=tuple(shown.values()),
    )


class Metric(ABC):
    """A number for each image, prompt or class image of a subject.

    A subclass names what identifies it and writes `compute`. Whoever changes what it computes
    raises `version`. Example, which a file of yours may hold (`--metric FILE.py:Nearest`):

        class Nearest(Metric):
            name, title, inputs = "nearest", "Nearest photo", ("dino",)
            bounds, formula = (-1.0, 1.0), "greatest cosine with a photo of the subject"

            def compute(self, seen):
                return (seen.images["dino"] @ seen.photos["dino"].T).max(axis=1)

    Attributes:
        name: kebab-case, unique among metrics.
        title: what tables call it.
        version: changes with the numbers.
        inputs: what it depends on: roles of encoders, "mask", "hash", "thumbnail",
            "held-out", "regions". It is not measured where one of them is not at hand.
        bounds: the ends of its range, which no interval leaves.
        higher_is_better: its direction.
        formula: what it is, in a line.
        choices: what else its number depends on, for the signature.
        tags: free words; "paper" marks the DreamBooth paper's own.
        prompts: "all", or "not-property" where the mean leaves property prompts out, in which a
            right image has to lose likeness.
        unit: what it gives one number for.
        takes: how many subjects its images show: "one", "two" or "any". It belongs to protocols
            of that many.
        average: how numbers become a subject's, for the signature.
        place: its place in tables.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    version: ClassVar[int] = 1
    inputs: ClassVar[tuple[str, ...]]
    bounds: ClassVar[Bounds] = UNBOUNDED
    higher_is_better: ClassVar[bool] = True
    formula: ClassVar[str] = ""
    choices: ClassVar[str] = ""
    tags: ClassVar[frozenset[str]] = frozenset()
    prompts: ClassVar[Prompts] = "not-property"
    unit: ClassVar[Unit] = "image"
    takes: ClassVar[Takes] = "one"
    average: ClassVar[str] = "images>subject"
    place: ClassVar[int] = LAST

    @abstractmethod
    def compute(self, seen: SubjectFeatures) -> Values:
        """Return one number a unit, in order; NaN where the metric is not defined."""

    def count_pairs(self, seen: SubjectFeatures) -> Sequence[int] | int:
        """Return how many pairs each number is a mean of, one for all or one each."""
        return 1

    def n_expected(self, counts: SubjectCounts) -> int:
        """Return how many pairs there are in all of a subject when no image is missing."""
        n_prompts = len(counts.images_per_prompt)
        units = {"image": counts.n_images, "class-image": counts.n_class_images}
        return units.get(self.unit, n_prompts)

    def signature(self, identities: Mapping[str, str], *, code: str = "") -> str:
        """Return everything that the number depends on, in one string.

        `identities` by input; `code` is the digest of the metric's code where that is not ours.
        """
        used = [identities[name] for name in self.inputs]
        own = [f"code:{code[:16]}"] if code else []
        parts = [self.title, f"v{self.version}", *own, *used, self.choices]
        return "|".join([part for part in parts if part] + [f"mean:{self.average}"])

    def describe(self, identities: Mapping[str, str], *, code: Mapping[str, str]) -> MetricInfo:
        """Return what results say of the metric; no signature where an input is not at hand."""
        has_inputs = set(self.inputs) <= set(identities)
        low, high = self.bounds
        return MetricInfo(
            name=self.name,
            title=self.title,
            version=self.version,
            formula=self.formula,
            higher_is_better=self.higher_is_better,
            low=None if math.isinf(low) else low,
            high=None if math.isinf(high) else high,
            tags=sorted(self.tags),
            prompts=self.prompts,
            code=dict(code),
            signature=self.signature(identities, code=code.get("sha256", ""))
            if has_inputs
            else None,
        )


def compute_cosines(first: Features, second: Features) -> Values:
    """Return the cosine of each two rows of unit length: (n, d), (m, d) -> (n, m) in [-1, 1].

    Sums run in float64, so that no order of work shows in the result.
    """
    return first.astype(np.float64) @ second.astype(np.float64).T


def compute_reference_similarity(images: Features, references: Features) -> Values:
    """Return the mean cosine of each image with all references: (n, d), (m, d) -> (n,)."""
    found: Values = compute_cosines(images, references).mean(axis=1)
    return found


def compute_text_similarity(images: Features, texts: Features) -> Values:
    """Return the cosine of each image with its own text: (n, d), (n, d) -> (n,) in [-1, 1]."""
    found: Values = (images.astype(np.float64) * texts.astype(np.float64)).sum(axis=1)
    return found
