"""Prior preservation: is the class still the class? (DreamBooth paper, section 4.4)"""

from __future__ import annotations

from dreambench.metrics.base import (
    COSINE,
    PAPER,
    Metric,
    SubjectCounts,
    SubjectFeatures,
    compute_reference_similarity,
)
from dreambench.types import Values


class Pres(Metric):
    """PRES of the paper: how much class images of the trained model look like the subject."""

    name, title, inputs, place = "pres", "PRES", ("dino",), 4
    bounds = COSINE
    higher_is_better = False
    choices = "images:prior,refs:all"
    formula = "mean cosine of class images with the subject's photos"
    tags = frozenset({PAPER})
    prompts = "all"
    unit = "class-image"
    average = "pairs>subject"

    def compute(self, seen: SubjectFeatures) -> Values:
        """Return one number a class image."""
        return compute_reference_similarity(seen.class_images["dino"], seen.photos["dino"])

    def count_pairs(self, seen: SubjectFeatures) -> int:
        """Return the number of photos."""
        return len(seen.photos["dino"])

    def n_expected(self, counts: SubjectCounts) -> int:
        """Return class images times photos."""
        return counts.n_class_images * counts.n_photos
