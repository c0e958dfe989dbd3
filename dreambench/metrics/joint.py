"""Joint: one number that is low where subject, prompt or newness is missing."""

from __future__ import annotations

import numpy as np

from dreambench.metrics.base import MASK, SHARE, THUMBNAIL, Metric, SubjectFeatures
from dreambench.metrics.prompt_fidelity import compute_prompt_rank, compute_subject_lift
from dreambench.metrics.subject_fidelity import compute_normalised_likeness
from dreambench.types import Values

NO_RANK = 0.75
"""Prompt rank up to which the prompt was not followed: a quarter of the others matches better."""
FULL_LIFT = 3.0
"""Standard deviations above the photos' that count as having followed the prompt."""
NEW, COPIED = 0.97, 0.985
"""Pixel match up to which the subject counts as new, and from which on as copied.

Settled on mini's world (`mini.validation`), on subjects other than those of the published trial.
"""


class Joint(Metric):
    """Geometric mean of subject and prompt fidelity, nothing for a copied subject."""

    name, title, inputs, place = "joint", "Joint", ("dino", "clip", MASK, THUMBNAIL), 22
    version = 2
    bounds = SHARE
    choices = (
        "subject:dino-fg-norm+clip-i-fg-norm,"
        f"prompt:prompt-rank>{NO_RANK:g}*prompt-lift/{FULL_LIFT:g},"
        f"copy:pixel-match>{NEW:g}..{COPIED:g}"
    )
    formula = "geometric mean of subject and prompt fidelity, nothing for a copied subject"

    def compute(self, seen: SubjectFeatures) -> Values:
        """Return one number an image; NaN where a part is not defined."""
        likeness = [
            compute_normalised_likeness(seen, kind).clip(0, 1) for kind in ("dino-fg", "clip-fg")
        ]
        return compute_joint(
            (likeness[0] + likeness[1]) / 2,
            compute_prompt_rank(seen.images["clip"], seen.texts, seen.own_text),
            compute_subject_lift(seen),
            seen.pixel_match,
        )


def compute_joint(
    subject: Values, prompt_rank: Values, prompt_lift: Values, pixel_match: Values
) -> Values:
    """Return sqrt(subject x prompt) x (1 - copied), in [0, 1]: low if either is, 0 for a copy.

    `subject` lies in [0, 1]. The prompt counts in full where it ranks first of all and CLIP-T is
    FULL_LIFT deviations above the photos', and not at all up to NO_RANK or without a lift. An
    image is a copy from a pixel match of COPIED on.
    """
    followed = np.clip((prompt_rank - NO_RANK) / (1 - NO_RANK), 0, 1)
    prompt = followed * np.clip(prompt_lift / FULL_LIFT, 0, 1)
    copied = np.clip((pixel_match - NEW) / (COPIED - NEW), 0, 1)
    return np.sqrt(subject * prompt) * (1 - copied)
