"""Prompt fidelity: does the image show what its prompt asks for?

CLIP-T is the DreamBooth paper's (section 4.2). Its scale differs from encoder to encoder and from
prompt to prompt; prompt rank and prompt lift need no such scale.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dreambench.metrics.base import (
    COSINE,
    PAPER,
    SHARE,
    Metric,
    SubjectFeatures,
    compute_cosines,
    compute_text_similarity,
)
from dreambench.types import Features, Values


class ClipT(Metric):
    """CLIP-T of the paper."""

    name, title, inputs, place = "clip-t", "CLIP-T", ("clip",), 2
    bounds = COSINE
    choices = "text:prompt-without-identifier"
    formula = "mean cosine between each image and its prompt"
    takes = "any"
    tags = frozenset({PAPER})
    prompts = "all"
    average = "pairs>subject"

    def compute(self, seen: SubjectFeatures) -> Values:
        """Return one number an image."""
        return compute_text_similarity(seen.images["clip"], seen.texts[list(seen.own_text)])


class PromptRank(Metric):
    """Whether CLIP finds the image's own prompt among the protocol's."""

    name, title, inputs, place = "prompt-rank", "Prompt rank", ("clip",), 20
    bounds = SHARE
    choices = "texts:protocol"
    takes = "any"
    formula = "share of the protocol's other prompts that the image matches less well than its own"

    def compute(self, seen: SubjectFeatures) -> Values:
        """Return one number an image; NaN with one prompt."""
        return compute_prompt_rank(seen.images["clip"], seen.texts, seen.own_text)


class PromptLift(Metric):
    """How far CLIP-T is above that of photos, which were taken for no prompt."""

    name, title, inputs, place = "prompt-lift", "Prompt lift", ("clip",), 21
    choices = "photos:own-and-distractors"
    formula = "CLIP-T above that of photos with the same text, in their standard deviations"

    def compute(self, seen: SubjectFeatures) -> Values:
        """Return one number an image."""
        return compute_subject_lift(seen)


def compute_prompt_rank(images: Features, texts: Features, own: Sequence[int]) -> Values:
    """Return the share of the other texts that each image matches less well than its own.

    (n, d), (t, d) and for each image the row of its text -> (n,) in [0, 1]. Half is chance; ties
    count half. NaN with one text. It needs no scale of CLIP's cosines, which differs from encoder
    to encoder.
    """
    if len(texts) < 2:
        return np.full(len(images), np.nan)
    cosines = compute_cosines(images, texts)
    mine = cosines[np.arange(len(images)), list(own)][:, None]
    less = (cosines < mine).sum(1) + 0.5 * ((cosines == mine).sum(1) - 1)
    found: Values = less / (len(texts) - 1)
    return found


def compute_prompt_lift(
    images: Features, photos: Features, texts: Features, own: Sequence[int]
) -> Values:
    """Return CLIP-T above what photos score with the same text, in their standard deviations.

    (n, d), (k, d), (t, d) and for each image the row of its text -> (n,). Photos were taken for no
    prompt; an image that is no nearer to the text than they are has not followed it.
    """
    cosines = compute_cosines(photos, texts)
    mean, deviation = cosines.mean(0)[list(own)], cosines.std(0, ddof=1)[list(own)]
    found: Values = (compute_text_similarity(images, texts[list(own)]) - mean) / deviation
    return found


def compute_subject_lift(seen: SubjectFeatures) -> Values:
    """Return the prompt lift of a subject's images over its own and its distractors' photos."""
    gallery = np.concatenate([seen.photos["clip"], seen.distractors["clip"]])
    return compute_prompt_lift(seen.images["clip"], gallery, seen.texts, seen.own_text)
