"""The metrics: pure functions of embeddings, and the table METRICS with each one's identity.

Sources: DINO, CLIP-I, CLIP-T: DreamBooth paper, section 4.2. PRES and DIV: the same, section 4.4.
What the paper leaves open is settled as in the protocol and printed in the signature.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dreambench.encoders.spec import Role
from dreambench.types import Bounds, Features

COSINE: Bounds = (-1.0, 1.0)
SHARE: Bounds = (0.0, 1.0)
UNBOUNDED: Bounds = (-math.inf, math.inf)


@dataclass(frozen=True)
class Metric:
    """A metric's identity apart from the encoder; `bounds` are the ends of its range."""

    name: str
    title: str
    version: int
    role: Role
    higher_is_better: bool
    pairs: str
    formula: str
    bounds: Bounds

    def signature(self, encoders: Mapping[str, str]) -> str:
        """One string that names everything the number depends on; `encoders` by role."""
        return "|".join(
            [self.title, f"v{self.version}", encoders[self.role], self.pairs, "mean:pairs>subject"]
        )


METRICS = {
    metric.name: metric
    for metric in (
        Metric(
            "dino", "DINO", 1, "dino", True, "refs:all",
            "mean cosine between each image of a subject and each of its photos",
            COSINE,
        ),
        Metric(
            "clip-i", "CLIP-I", 1, "clip", True, "refs:all",
            "mean cosine between each image of a subject and each of its photos",
            COSINE,
        ),
        Metric(
            "clip-t", "CLIP-T", 1, "clip", True, "text:prompt-without-identifier",
            "mean cosine between each image and its prompt",
            COSINE,
        ),
        Metric(
            "div", "DIV", 1, "perceptual", True, "pairs:within-prompt",
            "mean perceptual distance between images of one subject and one prompt",
            (0.0, math.inf),
        ),
        Metric(
            "pres", "PRES", 1, "dino", False, "images:prior,refs:all",
            "mean cosine of images of the plain class with the subject's photos; lower is better",
            COSINE,
        ),
    )
}  # fmt: skip


def compute_reference_similarity(images: Features, references: Features) -> NDArray[np.float64]:
    """Mean cosine of each image to all references: (n, d), (m, d) -> (n,) in [-1, 1].

    Inputs have unit rows. Sums run in float64, so that no order of work shows in the result.
    """
    return (images.astype(np.float64) @ references.astype(np.float64).T).mean(axis=1)


def compute_text_similarity(images: Features, texts: Features) -> NDArray[np.float64]:
    """Cosine of each image to its own text: (n, d), (n, d) -> (n,) in [-1, 1]."""
    return (images.astype(np.float64) * texts.astype(np.float64)).sum(axis=1)


def compute_diversity(distances: NDArray[np.float64]) -> tuple[float, int]:
    """Mean perceptual distance over the pairs of a prompt's images, and their number: (n,) -> >= 0.

    Without a pair: (nan, 0).
    """
    if len(distances) == 0:
        return float("nan"), 0
    return float(distances.mean()), len(distances)
