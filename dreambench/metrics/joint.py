"""Joint: one number that is low where subject, prompt or newness is missing."""

from __future__ import annotations

import numpy as np

from dreambench.metrics.base import MASK, SHARE, Metric, SubjectFeatures
from dreambench.metrics.copying import compute_copy_index
from dreambench.metrics.prompt_fidelity import compute_prompt_rank, compute_subject_lift
from dreambench.metrics.subject_fidelity import compute_normalised_likeness
from dreambench.types import Values

FULL_LIFT = 3.0
"""Standard deviations above the photos' that count as having followed the prompt."""


class Joint(Metric):
    """Geometric mean of subject and prompt fidelity, less what was copied."""

    name, title, inputs, place = "joint", "Joint", ("dino", "clip", MASK), 22
    bounds = SHARE
    choices = "subject:dino-fg-norm+clip-i-fg-norm,prompt:prompt-rank*prompt-lift/3,copy:dino-fg"
    formula = "geometric mean of subject and prompt fidelity, less what was copied"

    def compute(self, seen: SubjectFeatures) -> Values:
        """Return one number an image; NaN where a part is not defined."""
        likeness = [
            compute_normalised_likeness(seen, kind).clip(0, 1) for kind in ("dino-fg", "clip-fg")
        ]
        return compute_joint(
            (likeness[0] + likeness[1]) / 2,
            compute_prompt_rank(seen.images["clip"], seen.texts, seen.own_text),
            compute_subject_lift(seen),
            compute_copy_index(seen.images["dino-fg"], seen.photos["dino-fg"]),
        )


def compute_joint(
    subject: Values, prompt_rank: Values, prompt_lift: Values, copied: Values
) -> Values:
    """Return sqrt(subject x prompt) x (1 - copied), in [0, 1]: low if either is, 0 for a copy.

    `subject` lies in [0, 1]. The prompt counts in full where it ranks first of all and CLIP-T is
    FULL_LIFT deviations above the photos', and not at all where its rank is chance or it has no
    lift.
    """
    prompt = np.clip(2 * prompt_rank - 1, 0, 1) * np.clip(prompt_lift / FULL_LIFT, 0, 1)
    return np.sqrt(subject * prompt) * (1 - copied)
