"""Gives the reference photos back, whatever the prompt: what copying earns on a metric."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from dreambench.base_models import BaseModel
from dreambench.files import load_image
from dreambench.methods import Context, NoSettings, Work
from dreambench.subjects import Subject


class CopyReference:
    """Baseline without a model. The seed picks the photo."""

    Settings = NoSettings
    tunes = False
    n_references = None

    def __init__(self, settings: NoSettings, context: Context) -> None:
        self.size_px = context.sampler.size_px

    @classmethod
    def count_work(cls, settings: NoSettings, base_model: BaseModel) -> Work:
        """See `methods.Method`."""
        return Work()

    def fit(self, subject: Subject, out_dir: Path, *, seed: int) -> None:
        """Nothing to learn."""

    def load(self, subject: Subject, out_dir: Path) -> _Copies:
        """Reads the photos, at the protocol's size."""
        size = (self.size_px, self.size_px)
        return _Copies(
            [load_image(path).resize(size, Image.Resampling.BICUBIC) for path in subject.photos]
        )


class _Copies:
    def __init__(self, photos: list[Image.Image]) -> None:
        self.photos = photos

    def generate(self, prompts: Sequence[str], seeds: Sequence[int]) -> list[Image.Image]:
        return [self.photos[seed % len(self.photos)].copy() for seed in seeds]
