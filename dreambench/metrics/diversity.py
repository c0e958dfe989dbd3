"""Diversity: do the images of one prompt differ from each other? (DreamBooth paper, section 4.4)"""

from __future__ import annotations

import math

import numpy as np

from dreambench.metrics.base import PAPER, Metric, SubjectCounts, SubjectFeatures
from dreambench.types import Values


class Div(Metric):
    """DIV of the paper: perceptual distance between images of one prompt."""

    name, title, inputs, place = "div", "DIV", ("perceptual",), 3
    bounds = (0.0, math.inf)
    choices = "pairs:within-prompt"
    formula = "mean perceptual distance between images of one subject and one prompt"
    tags = frozenset({PAPER})
    prompts = "all"
    unit = "prompt"
    average = "pairs>subject"

    def compute(self, seen: SubjectFeatures) -> Values:
        """Return one number a prompt; NaN for a prompt with one image."""
        return np.array([gaps.mean() if len(gaps) else np.nan for gaps in _by_prompt(seen)])

    def count_pairs(self, seen: SubjectFeatures) -> list[int]:
        """Return the number of pairs of images of each prompt."""
        return [len(gaps) for gaps in _by_prompt(seen)]

    def n_expected(self, counts: SubjectCounts) -> int:
        """Return the number of pairs of images of one prompt, over all prompts."""
        return sum(math.comb(n, 2) for n in counts.images_per_prompt)


def _by_prompt(seen: SubjectFeatures) -> list[Values]:
    return [seen.distances[prompt_id] for prompt_id in dict.fromkeys(seen.prompt_ids)]
