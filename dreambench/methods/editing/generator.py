"""What generators that edit a photo share: which photo, and partial denoising."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image

from dreambench.base_models.base import LoadedModel
from dreambench.datasets.subjects import Subject
from dreambench.errors import UserError
from dreambench.methods.base import Context
from dreambench.methods.generators import ReferenceGenerator
from dreambench.methods.photos import load_photo


def check_strength(strength: float, context: Context) -> None:
    """Refuse a strength that is too low for a single step of the protocol's sampler.

    Raises:
        UserError: it is.
    """
    n_steps = context.sampler.n_steps
    if int(n_steps * strength) < 1:
        raise UserError(
            f"strength {strength:g} is less than one of the protocol's {n_steps} steps",
            hint=f"set strength to {1 / n_steps:.3g} or more",
            code="invalid-value",
        )


class EditingGenerator(ReferenceGenerator):
    """Makes images out of the subject's photos; the seed picks which. The subject is its class.

    Of a pair the photos of the first come before those of the second.
    """

    def __init__(self, model: LoadedModel, *, subject: Subject) -> None:
        super().__init__(model, subject_phrase=subject.nouns)
        size_px = model.sampler.size_px
        self.photos = [load_photo(path, size_px=size_px) for path in subject.photos]

    def _pick(self, seeds: Sequence[int]) -> list[int]:
        """Return which photo each image is made of."""
        return [seed % len(self.photos) for seed in seeds]

    def _redraw(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        images: Sequence[Image.Image],
        *,
        strength: float,
    ) -> list[Image.Image]:
        """Return images after noise for `strength` of the steps was added and removed again."""
        return self.model.redraw(self._fill(prompts), seeds, images=images, strength=strength)
