"""What the real photos themselves score: the copy-paste score and the honest ceiling."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from dreambench.datasets.subjects import Subject
from dreambench.metrics.base import compute_reference_similarity
from dreambench.types import Features

METRIC_OF_ROLE = {"dino": "dino", "clip": "clip-i"}
PAIR_METRIC_OF_ROLE = {"dino": "pair-dino", "clip": "pair-clip-i"}
COLUMNS = ["subject", "metric", "n_photos", "copy_bound", "faithful_bound"]


def compute_reference_bounds(
    subjects: list[Subject], vectors: Mapping[str, Mapping[Path, Features]]
) -> pd.DataFrame:
    """Mean cosine of each subject's photos with each other; the columns of COLUMNS.

    `copy_bound` counts each photo with itself as well: the paper's row "Real images", and what
    a method earns that pastes its reference photos back. `faithful_bound` leaves these out: it is
    what a faithful new photo earns; NaN for a single photo. `vectors` by role and path.
    """
    rows = []
    for subject in subjects:
        for role, metric in METRIC_OF_ROLE.items():
            if role not in vectors:
                continue
            photos = np.stack([vectors[role][path] for path in subject.photos]).astype(np.float64)
            similarity = photos @ photos.T
            n = len(photos)
            others = (similarity.sum() - np.trace(similarity)) / (n * (n - 1)) if n > 1 else np.nan
            rows.append([subject.name, metric, n, float(similarity.mean()), float(others)])
    return pd.DataFrame(rows, columns=COLUMNS)


PAIR_COLUMNS = [*COLUMNS, "first_alone_bound", "second_alone_bound"]


def compute_pair_bounds(
    pairs: Sequence[Subject],
    vectors: Mapping[str, Mapping[Path, Features]],
    side_by_side: Mapping[str, Mapping[str, Features]],
) -> pd.DataFrame:
    """Return what the photos of pairs score as images of both; the columns of PAIR_COLUMNS.

    `copy_bound` is that of one photo of each side by side, whose row `side_by_side` has by role and
    pair; the others of the photos of one of the two alone, so that they say what an image earns
    that leaves the other out. There is no photo of both: no `faithful_bound`.
    """
    rows = []
    for pair in pairs:
        for role, metric in PAIR_METRIC_OF_ROLE.items():
            if role not in vectors:
                continue
            each = [np.stack([vectors[role][path] for path in one.photos]) for one in pair.members]

            def score(images: Features, each: Sequence[Features] = each) -> float:
                to_each = [compute_reference_similarity(images, own).mean() for own in each]
                return float(np.mean(to_each))

            both = score(side_by_side[role][pair.name][None])
            n_photos = len(pair.photos)
            rows.append([pair.name, metric, n_photos, both, np.nan, *map(score, each)])
    return pd.DataFrame(rows, columns=PAIR_COLUMNS)
