"""OminiControl (Tan et al., ICCV 2025, arXiv 2411.15098): a photo alongside FLUX.1's image.

The adapter was trained once, on pairs of pictures of one thing, and not on any subject.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import ClassVar

from PIL import Image
from pydantic import Field

from dreambench.base_models.flux import Flux
from dreambench.base_models.flux_photo import PhotoAdapter
from dreambench.base_models.spec import BaseModel
from dreambench.datasets.subjects import Subject
from dreambench.errors import UserError
from dreambench.methods.base import Context, Method, Work
from dreambench.methods.image_prompting.adapters import find_adapter
from dreambench.methods.image_prompting.photo_prompting import Prompted, Wording


class OminiControlSettings(Wording):
    """Numbers and words of an OminiControl recipe."""

    adapter: str = Field(min_length=1, description="see methods.image_prompting.adapters.ADAPTERS")
    shift: tuple[int, int] = Field(
        description="tokens down and right that the photo stands from the image's own places"
    )
    photo_weight: float = Field(ge=0, description="of attention to the photo: 1 as trained, 0 none")


class OminiControl(Method):
    """Generates from a photo, which the seed picks, and an instruction."""

    Settings: ClassVar[type[OminiControlSettings]] = OminiControlSettings
    families = ("flux",)

    def __init__(self, settings: OminiControlSettings, context: Context) -> None:
        super().__init__(settings, context)
        adapter = find_adapter(settings.adapter, context.base_model.name)
        if context.sampler.size_px != adapter.size_px:
            raise UserError(
                f"the adapter '{adapter.name}' was trained at {adapter.size_px} px, and the "
                f"protocol asks for {context.sampler.size_px} px",
                hint=f"set size_px = {adapter.size_px} in the protocol's [sampler]",
                code="invalid-value",
            )
        adapter.ensure_weights()  # Before what takes minutes.
        self.model = context.load_base_model(Flux, quantization=settings.quantization)
        with adapter.loading() as folder:
            self._adapter = PhotoAdapter(self.model, folder / adapter.files[0])

    @classmethod
    def count_work(cls, settings: OminiControlSettings, base_model: BaseModel) -> Work:
        """See `methods.Method`; a call of the network reads the photo as if it was an image more.

        Raises:
            UserError: there is no such adapter for the base model.
        """
        adapter = find_adapter(settings.adapter, base_model.name)
        return Work(
            samples=True, other_parameters=adapter.n_parameters, weights=adapter.weights,
            calls_per_image=2, photo_pixels=[adapter.size_px**2],
        )  # fmt: skip

    @classmethod
    def name_subject(cls, settings: OminiControlSettings, subject: Subject) -> str:
        """See `methods.Method`."""
        return settings.name_subject(subject)

    def load(self, subject: Subject, out_dir: Path) -> Prompted:
        """Load the photos."""
        return Prompted(
            self.model, subject=subject, wording=self.settings, max_photos=1, draw=self._draw
        )

    def _draw(
        self, prompts: Sequence[str], seeds: Sequence[int], *, photos: Sequence[Image.Image]
    ) -> list[Image.Image]:
        (photo,) = photos
        draw = partial(self._adapter.sample, photo=photo, shift=self.settings.shift)
        return draw(prompts, seeds, weight=self.settings.photo_weight)
