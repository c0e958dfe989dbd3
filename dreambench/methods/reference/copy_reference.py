"""Gives the reference photos back, whatever the prompt: what copying earns on a metric."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from dreambench.datasets.subjects import Subject
from dreambench.methods.base import Method
from dreambench.storage.images import load_image, place_side_by_side


class CopyReference(Method):
    """Baseline without a model. The seed picks the photo; of a pair, one of each, side by side."""

    most_subjects = 2

    def load(self, subject: Subject, out_dir: Path) -> _Copies:
        """Load the photos, squeezed to the protocol's size; those of a pair in turn."""
        side = self.context.sampler.size_px
        each = [[load_image(path) for path in one.photos] for one in subject.each]
        if subject.members:
            n_pictures = max(map(len, each))
            rows = [[own[n % len(own)] for own in each] for n in range(n_pictures)]
            return _Copies([place_side_by_side(row, side_px=side) for row in rows])
        size = (side, side)
        return _Copies([photo.resize(size, Image.Resampling.BICUBIC) for photo in each[0]])


class _Copies:
    def __init__(self, photos: list[Image.Image]) -> None:
        self.photos = photos

    def generate(self, prompts: Sequence[str], seeds: Sequence[int]) -> list[Image.Image]:
        return [self.photos[seed % len(self.photos)].copy() for seed in seeds]
