"""SDEdit (Meng et al., ICLR 2022): noise is added to a photo and taken away with the prompt."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from PIL import Image
from pydantic import Field

from dreambench.base_models.registry import BaseModel
from dreambench.datasets.subjects import Subject
from dreambench.methods.base import Context, Method, Settings, Work
from dreambench.methods.diffusion import load_base
from dreambench.methods.editing.editing import EditingGenerator, check_strength


class SDEditSettings(Settings):
    """Numbers of an SDEdit recipe."""

    strength: float = Field(
        gt=0, le=1, description="t0 of the paper: 0 gives the photo back, 1 forgets it"
    )


class SDEdit(Method):
    """Starts from a photo at noise level `strength` (paper, algorithm 1), with the class noun.

    Each image is made of one photo, but the seed picks it among all.
    """

    Settings: ClassVar[type[SDEditSettings]] = SDEditSettings

    def __init__(self, settings: SDEditSettings, context: Context) -> None:
        check_strength(settings.strength, context)
        super().__init__(settings, context)
        self.pipeline = load_base(context)

    @classmethod
    def count_work(cls, settings: SDEditSettings, base_model: BaseModel) -> Work:
        """See `methods.Method`."""
        return Work(draws=True, drawing=settings.strength)

    def load(self, subject: Subject, out_dir: Path) -> EditingGenerator:
        """Reads the photos."""
        return _Redrawn(
            self.pipeline, self.context, subject=subject, strength=self.settings.strength
        )


class _Redrawn(EditingGenerator):
    def _draw_subject(self, prompts: Sequence[str], seeds: Sequence[int]) -> list[Image.Image]:
        return self._redraw(prompts, seeds, [self.photos[index] for index in self._pick(seeds)])
