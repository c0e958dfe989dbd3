"""Identification: is the subject found among other individuals of its class?"""

from __future__ import annotations

import numpy as np

from dreambench.metrics.base import SHARE, Metric, SubjectFeatures, compute_cosines
from dreambench.types import Features, Values


class Rank1(Metric):
    """Whether the nearest photo of all is one of the subject."""

    name, title, inputs, place = "rank-1", "Identity rank-1", ("dino",), 15
    bounds = SHARE
    choices = "gallery:photos,distractors:class"
    formula = "share of images whose nearest photo is one of the subject"

    def compute(self, seen: SubjectFeatures) -> Values:
        """Return 0 or 1 an image; NaN without distractors."""
        return _retrieve(seen)[0]


class IdentityMap(Metric):
    """How well the subject's photos are ranked before those of others."""

    name, title, inputs, place = "identity-map", "Identity mAP", ("dino",), 16
    bounds = SHARE
    choices = "gallery:photos,distractors:class"
    formula = "average precision of the subject's photos among those of others of its class"

    def compute(self, seen: SubjectFeatures) -> Values:
        """Return one number an image; NaN without distractors."""
        return _retrieve(seen)[1]


def _retrieve(seen: SubjectFeatures) -> tuple[Values, Values]:
    return compute_retrieval(seen.images["dino"], seen.photos["dino"], seen.distractors["dino"])


def compute_retrieval(
    images: Features, references: Features, distractors: Features
) -> tuple[Values, Values]:
    """Return rank-1 (0 or 1) and average precision of the references among distractors.

    (n, d), (m, d), (k, d) -> (n,), (n,) in [0, 1]; NaN without distractors. A tie counts against
    the subject.
    """
    if not len(distractors):
        missing = np.full(len(images), np.nan)
        return missing, missing.copy()
    own, foreign = compute_cosines(images, references), compute_cosines(images, distractors)
    own = -np.sort(-own, axis=1)
    before = (foreign[:, None, :] >= own[:, :, None]).sum(2)
    hits = np.arange(1, own.shape[1] + 1)
    return (before[:, 0] == 0).astype(np.float64), (hits / (hits + before)).mean(1)
