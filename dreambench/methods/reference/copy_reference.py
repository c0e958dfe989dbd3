"""Gives the reference photos back, whatever the prompt: what copying earns on a metric."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from dreambench.datasets.subjects import Subject
from dreambench.methods.base import Method
from dreambench.storage.images import load_image


class CopyReference(Method):
    """Baseline without a model. The seed picks the photo."""

    def load(self, subject: Subject, out_dir: Path) -> _Copies:
        """Load the photos, squeezed to the protocol's size."""
        size = (self.context.sampler.size_px,) * 2
        return _Copies(
            [load_image(path).resize(size, Image.Resampling.BICUBIC) for path in subject.photos]
        )


class _Copies:
    def __init__(self, photos: list[Image.Image]) -> None:
        self.photos = photos

    def generate(self, prompts: Sequence[str], seeds: Sequence[int]) -> list[Image.Image]:
        return [self.photos[seed % len(self.photos)].copy() for seed in seeds]
