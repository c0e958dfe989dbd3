"""Copying: how much of a photo is in the image?"""

from __future__ import annotations

import numpy as np

from dreambench.metrics.base import (
    HASH,
    MASK,
    SHARE,
    THUMBNAIL,
    Metric,
    SubjectFeatures,
    compute_cosines,
)
from dreambench.types import Features, Values

COPY_BITS = 10
"""Of 64; the bound within which perceptual hashes of near-duplicates fall (Buchner, imagehash)."""


class CopyIndex(Metric):
    """How near an image is to a photo, beyond how near two photos are to each other."""

    name, title, inputs, place = "copy", "Copy index", ("dino",), 13
    bounds = SHARE
    higher_is_better = False
    choices = "refs:nearest,zero:half-way"
    formula = "how much nearer to a photo than two photos are to each other; 1 is the photo itself"

    def compute(self, seen: SubjectFeatures) -> Values:
        """Return one number an image; NaN with one photo."""
        return compute_copy_index(seen.images["dino"], seen.photos["dino"])


class CopiedPixels(Metric):
    """Whether a photo itself is given back."""

    name, title, inputs, place = "copy-pixels", "Copied pixels", (HASH,), 14
    bounds = SHARE
    higher_is_better = False
    choices = f"refs:any,mirrored-too,bits<={COPY_BITS}"
    formula = "share of images whose perceptual hash is that of a photo"

    def compute(self, seen: SubjectFeatures) -> Values:
        """Return 0 or 1 an image."""
        return compute_copied_pixels(seen.images[HASH], seen.photos[HASH])


class BackgroundLeak(Metric):
    """How much of a photo's background comes along with the subject."""

    name, title, inputs, place = "leak", "Background leak", ("dino", MASK), 19
    bounds = SHARE
    higher_is_better = False
    choices = "refs:nearest,subject:mean-colour,zero:other-subjects"
    formula = "how near the background comes to that of a photo; 1 is the same background"

    def compute(self, seen: SubjectFeatures) -> Values:
        """Return one number an image; NaN without distractors."""
        kind = "dino-bg"
        return compute_leak(seen.images[kind], seen.photos[kind], seen.distractors[kind])


class PixelMatch(Metric):
    """How far the image holds the subject of a photo, pixel by pixel, wherever it lies."""

    name, title, inputs, place = "pixel-match", "Pixel match", (THUMBNAIL, MASK), 23
    bounds = SHARE
    higher_is_better = False
    choices = "refs:nearest,colours-less-mean,moved,mirrored,turned,resized"
    formula = "greatest correlation of a photo's subject with the image; 1 is the same pixels"

    def compute(self, seen: SubjectFeatures) -> Values:
        """Return one number an image; NaN where no photo shows the subject."""
        return seen.pixel_match


def compute_copy_index(images: Features, references: Features) -> Values:
    """Return how much nearer an image is to some reference than any two references are: in [0, 1].

    (n, d), (m, d) -> (n,). With p the greatest cosine between two references, it is 0 up to
    half-way from p to 1, so that a new photo which happens to be near one is not called a copy,
    and 1 for a reference itself. NaN with one reference, or where two references are the same.
    """
    if len(references) < 2:
        return np.full(len(images), np.nan)
    between = compute_cosines(references, references)
    nearest_pair = float(between[np.triu_indices(len(references), 1)].max())
    if nearest_pair > 1 - 1e-6:
        return np.full(len(images), np.nan)
    start = (1 + nearest_pair) / 2
    found: Values = np.clip(
        (compute_cosines(images, references).max(1) - start) / (1 - start), 0, 1
    )
    return found


def compute_leak(images: Features, references: Features, others: Features) -> Values:
    """Return how near an image's background is to that of some reference: in [0, 1].

    (n, d), (m, d), (k, d) of images without their subject -> (n,). 0 is what the backgrounds of
    other subjects' photos have in common with these, 1 the same background. NaN without others.
    """
    if not len(others):
        return np.full(len(images), np.nan)
    common = float(compute_cosines(references, others).mean())
    found: Values = np.clip(
        (compute_cosines(images, references).max(1) - common) / (1 - common), 0, 1
    )
    return found


def compute_copied_pixels(images: Features, references: Features) -> Values:
    """Return 1 where an image's hash is within COPY_BITS of a reference's, else 0.

    (n, 2b), (m, 2b) -> (n,).

    A row has the bits of an image's hash and then those of its mirror image's, as 0 and 1.
    """
    n_bits = images.shape[1] // 2
    either = references.reshape(len(references), 2, n_bits)
    bits = (images[:, None, None, :n_bits] != either[None]).sum(-1)
    found: Values = (bits.min((1, 2)) <= COPY_BITS).astype(np.float64)
    return found
