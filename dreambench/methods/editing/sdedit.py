"""SDEdit (Meng et al., ICLR 2022): noise is added to a photo and taken away with the prompt."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from PIL import Image
from pydantic import Field

from dreambench.base_models.base import LoadedModel
from dreambench.base_models.spec import BaseModel
from dreambench.datasets.subjects import Subject
from dreambench.methods.base import Context, Method, Settings, Work
from dreambench.methods.editing.generator import EditingGenerator, check_strength


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
        self.model = context.load_base_model()

    @classmethod
    def count_work(cls, settings: SDEditSettings, base_model: BaseModel) -> Work:
        """See `methods.Method`."""
        return Work(samples=True, calls_per_image=settings.strength)

    def load(self, subject: Subject, out_dir: Path) -> EditingGenerator:
        """Load the photos."""
        return _Redrawn(self.model, subject=subject, strength=self.settings.strength)


class _Redrawn(EditingGenerator):
    def __init__(self, model: LoadedModel, *, subject: Subject, strength: float) -> None:
        super().__init__(model, subject=subject)
        self.strength = strength

    def _generate_subject(self, prompts: Sequence[str], seeds: Sequence[int]) -> list[Image.Image]:
        photos = [self.photos[index] for index in self._pick(seeds)]
        return self._redraw(prompts, seeds, photos, strength=self.strength)
