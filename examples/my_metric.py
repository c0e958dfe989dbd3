"""A metric of your own in one file: `--metric my_metric.py:NearestPhoto`."""

from __future__ import annotations

import numpy as np

from dreambench import Metric
from dreambench.metrics.base import SubjectFeatures
from dreambench.types import Values


class NearestPhoto(Metric):
    """DINO similarity with the one photo that the image resembles most."""

    name, title, version = "nearest-photo", "Nearest photo", 1
    inputs = ("dino",)  # the encoder in this role; its features have unit length
    bounds, higher_is_better = (-1.0, 1.0), True
    formula = "largest cosine between the image and a photo of the subject"
    choices = "refs:nearest"

    def compute(self, seen: SubjectFeatures) -> Values:
        """Return one number per image: (n, d) and (m, d) -> (n,)."""
        images = seen.images["dino"].astype(np.float64)
        photos = seen.photos["dino"].astype(np.float64)
        return (images @ photos.T).max(axis=1)
