"""Two subjects in one picture: is each there, as itself, once?

The field's measure is the mean of the similarities of the whole picture to either subject (UNO and
others). It is as high where one subject is there twice, or wears what is the other's. So the
others look at regions: each subject is given one of its own, by looks (`region_matching`). Where
two subjects share a class noun, nothing says which of them should be which, and nothing is swapped.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from dreambench.metrics.base import (
    COSINE,
    REGIONS,
    SHARE,
    Metric,
    SubjectCounts,
    SubjectFeatures,
    Takes,
    compute_cosines,
    compute_reference_similarity,
)
from dreambench.metrics.region_matching import NONE, compute_likeness
from dreambench.types import Values

MATCH = "regions:one-each-by-dino"


class _OfTwo(Metric):
    takes: ClassVar[Takes] = "two"


class _MeanOfTwo(_OfTwo):
    """Mean of the similarities of the whole picture to either subject."""

    bounds = COSINE
    choices = "refs:all,subjects:mean"
    formula = "mean over the two subjects of the mean cosine of the image with the photos of each"
    prompts = "all"
    average = "pairs>subject"

    def compute(self, seen: SubjectFeatures) -> Values:
        """Return one number an image."""
        kind = self.inputs[0]
        to_each = [
            compute_reference_similarity(seen.images[kind], member.photos[kind])
            for member in seen.members
        ]
        found: Values = np.mean(to_each, axis=0)
        return found

    def count_pairs(self, seen: SubjectFeatures) -> int:
        """Return the number of photos of both."""
        return len(seen.photos[self.inputs[0]])

    def n_expected(self, counts: SubjectCounts) -> int:
        """Return images times photos of both."""
        return counts.n_images * counts.n_photos


class PairDino(_MeanOfTwo):
    """DINO as the field has it for two subjects."""

    name, title, inputs, place = "pair-dino", "DINO of two", ("dino",), 24


class PairClipI(_MeanOfTwo):
    """CLIP-I as the field has it for two subjects."""

    name, title, inputs, place = "pair-clip-i", "CLIP-I of two", ("clip",), 25


class _OwnRegion(_OfTwo):
    """Likeness of each subject and its own region, 0 for a subject without one."""

    bounds = COSINE
    choices = f"refs:all,{MATCH},background:mean-colour,none:0"
    formula = (
        "mean over the two subjects of the cosine of its own region with its photos, both cut out; "
        "0 for a subject without a region"
    )


class PairOwnDino(_OwnRegion):
    """DINO of each subject's own region."""

    name, title, inputs = "pair-own-dino", "DINO own region", ("dino", REGIONS)
    place = 26

    def compute(self, seen: SubjectFeatures) -> Values:
        """Return one number an image."""
        found: Values = seen.region_matches.own_likeness().mean(-1)
        return found


class PairOwnClipI(_OwnRegion):
    """CLIP-I of each subject's own region."""

    name, title, inputs = "pair-own-clip-i", "CLIP-I own region", ("dino", "clip", REGIONS)
    place = 27

    def compute(self, seen: SubjectFeatures) -> Values:
        """Return one number an image."""
        photos = [member.photos["region-clip"] for member in seen.members]
        likeness = compute_likeness(seen.images["region-clip"], photos)
        found: Values = seen.region_matches.pick(likeness).mean(-1)
        return found


class PairBoth(_OfTwo):
    """Whether both subjects are there, each in a region that is most like itself."""

    name, title, inputs = "pair-both", "Both there", ("dino", REGIONS)
    place = 28
    bounds = SHARE
    choices = MATCH
    formula = "share of images in which each subject has a region, more like it than like the other"

    def compute(self, seen: SubjectFeatures) -> Values:
        """Return 0 or 1 an image."""
        found: Values = _are_both(seen).astype(np.float64)
        return found


class PairTwice(_OfTwo):
    """Whether one subject stands in the place of both."""

    name, title, inputs = "pair-twice", "One twice", ("dino", REGIONS)
    place = 29
    bounds = SHARE
    higher_is_better = False
    choices = MATCH
    formula = "share of images in which the regions of both subjects are more like the same one"

    def compute(self, seen: SubjectFeatures) -> Values:
        """Return 0 or 1 an image."""
        nearest = seen.region_matches.nearest()
        found: Values = ((nearest[:, 0] == nearest[:, 1]) & (nearest[:, 0] != NONE)).astype(float)
        return found


class PairSwapped(_OfTwo):
    """Whether each subject has the looks of the other."""

    name, title, inputs = "pair-swapped", "Swapped", ("dino", "clip", REGIONS)
    place = 30
    bounds = SHARE
    higher_is_better = False
    choices = f"{MATCH},nouns:clip"
    formula = (
        "share of images in which, by CLIP, each subject's region is the class of the other; not "
        "defined where both have one class noun"
    )

    def compute(self, seen: SubjectFeatures) -> Values:
        """Return 0 or 1 an image; NaN where both have one class noun."""
        n_images = len(seen.own_text)
        if seen.shares_noun:
            return np.full(n_images, np.nan)
        nouns = np.stack([member.noun for member in seen.members])
        regions = seen.images["region-clip"]
        cosines = compute_cosines(regions.reshape(-1, regions.shape[-1]), nouns)
        # How much more each region is its own subject's class than the other's.
        table = cosines.reshape(n_images, -1, len(nouns))
        more = seen.region_matches.pick(table - table[..., ::-1])
        found: Values = (_are_both(seen) & (more < 0).all(-1)).astype(np.float64)
        return found


def _are_both(seen: SubjectFeatures) -> NDArray[np.bool_]:
    nearest = seen.region_matches.nearest()
    found: NDArray[np.bool_] = (nearest == np.arange(nearest.shape[1])).all(-1)
    return found
