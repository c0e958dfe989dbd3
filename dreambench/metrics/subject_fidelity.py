"""Subject fidelity: is it this individual?

DINO and CLIP-I are the DreamBooth paper's (section 4.2). They reward an image for being close to a
photo, so that pasting a photo back earns most; DINO-LRO and CLIP-I-LRO leave the nearest photo out,
DINO-norm sets the rest between another individual and a new photo of this one, and DINO-fg and
CLIP-I-fg look at the subject apart from its background.
"""

from __future__ import annotations

import numpy as np

from dreambench.metrics.base import (
    COSINE,
    HELD_OUT,
    MASK,
    PAPER,
    Metric,
    SubjectCounts,
    SubjectFeatures,
    compute_cosines,
    compute_reference_similarity,
)
from dreambench.types import Features, Values


class _ReferenceSimilarity(Metric):
    """Mean cosine with all photos; one pair an image and photo."""

    bounds = COSINE
    choices = "refs:all"
    formula = "mean cosine between each image of a subject and each of its photos"
    tags = frozenset({PAPER})
    prompts = "all"
    average = "pairs>subject"

    def compute(self, seen: SubjectFeatures) -> Values:
        """Return one number an image."""
        kind = self.inputs[0]
        return compute_reference_similarity(seen.images[kind], seen.photos[kind])

    def count_pairs(self, seen: SubjectFeatures) -> int:
        """Return the number of photos."""
        return len(seen.photos[self.inputs[0]])

    def n_expected(self, counts: SubjectCounts) -> int:
        """Return images times photos."""
        return counts.n_images * counts.n_photos


class Dino(_ReferenceSimilarity):
    """DINO of the paper."""

    name, title, inputs, place = "dino", "DINO", ("dino",), 0


class ClipI(_ReferenceSimilarity):
    """CLIP-I of the paper."""

    name, title, inputs, place = "clip-i", "CLIP-I", ("clip",), 1


class DinoHeldOut(Metric):
    """DINO with photos that the method has not seen: copying those that it has earns nothing."""

    name, title, inputs, place = "dino-held-out", "DINO held out", ("dino", HELD_OUT), 9
    bounds = COSINE
    choices = "refs:held-out"
    formula = "mean cosine between each image and the photos that the method was not shown"

    def compute(self, seen: SubjectFeatures) -> Values:
        """Return one number an image; NaN where the method was shown all photos."""
        if not seen.held_out:
            return np.full(len(seen.own_text), np.nan)
        photos = seen.photos["dino"][list(seen.held_out)]
        return compute_reference_similarity(seen.images["dino"], photos)


class _LeftOutSimilarity(Metric):
    """Mean cosine with all photos but the nearest."""

    bounds = COSINE
    choices = "refs:all-but-nearest"
    formula = "mean cosine with the photos of the subject, the most similar one left out"

    def compute(self, seen: SubjectFeatures) -> Values:
        """Return one number an image; NaN with one photo."""
        kind = self.inputs[0]
        return compute_left_out_similarity(seen.images[kind], seen.photos[kind])


class DinoLro(_LeftOutSimilarity):
    """DINO with the nearest photo left out."""

    name, title, inputs, place = "dino-lro", "DINO-LRO", ("dino",), 10


class ClipILro(_LeftOutSimilarity):
    """CLIP-I with the nearest photo left out."""

    name, title, inputs, place = "clip-i-lro", "CLIP-I-LRO", ("clip",), 11


class DinoNorm(Metric):
    """DINO-LRO on a scale that means the same for every subject."""

    name, title, inputs, place = "dino-norm", "DINO-norm", ("dino",), 12
    choices = "refs:all-but-nearest,floor:other-subjects,ceiling:photos-without-self"
    formula = "DINO-LRO between 0 (photos of another individual) and 1 (new photos of this one)"

    def compute(self, seen: SubjectFeatures) -> Values:
        """Return one number an image; NaN where the anchors are one or missing."""
        return compute_normalised_likeness(seen, "dino")


class _ForegroundSimilarity(Metric):
    """Mean cosine of the subject cut out, image and photos alike."""

    bounds = COSINE
    choices = "refs:all,background:mean-colour"

    def compute(self, seen: SubjectFeatures) -> Values:
        """Return one number an image."""
        kind = f"{self.inputs[0]}-fg"
        return compute_reference_similarity(seen.images[kind], seen.photos[kind])


class DinoForeground(_ForegroundSimilarity):
    """DINO of the subject alone."""

    name, title, inputs, place = "dino-fg", "DINO-fg", ("dino", MASK), 17
    formula = "DINO of the subject cut out, image and photos alike"


class ClipIForeground(_ForegroundSimilarity):
    """CLIP-I of the subject alone."""

    name, title, inputs, place = "clip-i-fg", "CLIP-I-fg", ("clip", MASK), 18
    formula = "CLIP-I of the subject cut out, image and photos alike"


def compute_left_out_similarity(images: Features, references: Features) -> Values:
    """Return the mean cosine with all references but the most similar: (n, d), (m, d) -> (n,).

    A pasted photo earns what a photo earns beside the others of its subject. NaN with one photo.
    """
    if len(references) < 2:
        return np.full(len(images), np.nan)
    cosines = compute_cosines(images, references)
    found: Values = (cosines.sum(1) - cosines.max(1)) / (len(references) - 1)
    return found


def compute_anchors(references: Features, others: Features) -> tuple[float, float]:
    """Return floor and ceiling: the mean cosine of photos with those of others, and between them.

    (m, d), (k, d) -> in [-1, 1]; NaN where there is nothing to compare with. No photo is compared
    with itself, so the ceiling is what a faithful new photo earns.
    """
    floor = float(compute_cosines(references, others).mean()) if len(others) else float("nan")
    if len(references) < 2:
        return floor, float("nan")
    return floor, float(compute_left_self_out(references).mean())


def compute_left_self_out(references: Features) -> Values:
    """Return the mean cosine of each photo with the others: (m, d) -> (m,), m at least 2."""
    cosines = compute_cosines(references, references)
    found: Values = (cosines.sum(1) - np.diag(cosines)) / (len(references) - 1)
    return found


def normalise(values: Values, floor: float, ceiling: float) -> Values:
    """Return values with 0 at the floor and 1 at the ceiling; NaN where these are one."""
    if not ceiling - floor > 1e-6:
        return np.full(len(values), np.nan)
    return (values - floor) / (ceiling - floor)


def compute_normalised_likeness(seen: SubjectFeatures, kind: str) -> Values:
    """Return the left-out similarity of one kind of features between its anchors, one an image."""
    references = seen.photos[kind]
    return normalise(
        compute_left_out_similarity(seen.images[kind], references),
        *compute_anchors(references, seen.distractors[kind]),
    )
