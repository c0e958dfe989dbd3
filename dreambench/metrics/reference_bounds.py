"""What the real photos themselves score: the copy-paste score and the honest ceiling."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from dreambench.datasets.subjects import Subject
from dreambench.types import Features

METRIC_OF_ROLE = {"dino": "dino", "clip": "clip-i"}
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
