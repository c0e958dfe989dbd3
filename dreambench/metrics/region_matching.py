"""Which region of a picture is which of several subjects, by how alike they look.

Regions come from a segmenter, which says where something is and not what. Each subject is given at
most one, and no two the same, so that the sum of likenesses is greatest (the assignment problem,
scipy's `linear_sum_assignment`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from dreambench.types import Features, Values

NONE = -1
"""In place of a region: the subject has none."""


@dataclass(frozen=True)
class RegionMatches:
    """The region of each subject of each image, (n, subjects), NONE where there is none.

    `likeness` (n, regions, subjects) is how alike each region and each subject are.
    """

    own: NDArray[np.int64]
    likeness: Values

    def own_likeness(self) -> Values:
        """Return how alike each subject and its region are, (n, subjects); 0 without a region."""
        return self.pick(self.likeness)

    def pick(self, values: Values) -> Values:
        """Return the values (n, regions, subjects) of each subject's own region; 0 for none."""
        n_subjects = self.own.shape[1]
        rows, columns = np.arange(len(self.own))[:, None], np.arange(n_subjects)
        found: Values = values[rows, self.own, columns]
        return np.where(self.own == NONE, 0.0, found)

    def nearest(self) -> NDArray[np.int64]:
        """Return the subject that each subject's region is most like, (n, subjects), or NONE."""
        rows = np.arange(len(self.own))[:, None]
        found = self.likeness[rows, self.own].argmax(-1)
        return np.where(self.own == NONE, NONE, found)


def compute_likeness(regions: Features, photos: Sequence[Features]) -> Values:
    """Return the mean cosine of each region with the photos of each subject.

    (n, regions, d) and for each subject (m, d), its own cut out -> (n, regions, subjects).
    """
    rows = regions.astype(np.float64)
    return np.stack([(rows @ own.astype(np.float64).T).mean(-1) for own in photos], axis=-1)


def match_regions(shares: Features, cuts: Features, likeness: Values) -> RegionMatches:
    """Return which region is which subject's.

    `shares` (n, regions) are 0 where there is no region; `cuts` (n, regions) mark the halves of a
    region that hangs together. Those count in its place where they look more like the subjects than
    the whole does: two subjects that touch, not two ends of one.
    """
    own = np.full((len(shares), likeness.shape[-1]), NONE, np.int64)
    for i, table in enumerate(likeness):
        chosen = _choose_regions(shares[i] > 0, cuts[i] > 0, table)
        regions, subjects = linear_sum_assignment(table[chosen], maximize=True)
        own[i, subjects] = chosen[regions]
    return RegionMatches(own, likeness)


def _choose_regions(
    is_there: NDArray[np.bool_], is_cut: NDArray[np.bool_], table: Values
) -> NDArray[np.int64]:
    whole, halves = np.flatnonzero(is_there & ~is_cut), np.flatnonzero(is_there & is_cut)
    if len(halves) and table[halves].max(-1).mean() > table[whole].max():
        return halves
    return whole
