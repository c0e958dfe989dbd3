"""IP-Adapter (Ye et al., 2023, arXiv 2308.06721): a photo as a prompt, nothing trained."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Literal

import torch
from PIL import Image
from pydantic import Field
from torch import Tensor

from dreambench.base_models.spec import DIFFUSION, BaseModel
from dreambench.base_models.stable_diffusion import StableDiffusion
from dreambench.datasets.subjects import Subject
from dreambench.methods.base import Context, Method, Settings, Work
from dreambench.methods.generators import ReferenceGenerator
from dreambench.methods.image_prompting.adapters import find_adapter, load_adapter
from dreambench.storage.images import load_image


class IPAdapterSettings(Settings):
    """Numbers of an IP-Adapter recipe."""

    adapter: str = Field(min_length=1, description="see methods.image_prompting.adapters.ADAPTERS")
    scale: float = Field(ge=0, description="weight of the photo against the text")
    photos: Literal["one", "all"] = Field(
        description="what each image is shown: one photo, which the seed picks, or all of them"
    )


class IPAdapter(Method):
    """Generates from a photo, or all of them, and the class noun in the prompt."""

    Settings: ClassVar[type[IPAdapterSettings]] = IPAdapterSettings
    families = DIFFUSION

    def __init__(self, settings: IPAdapterSettings, context: Context) -> None:
        super().__init__(settings, context)
        adapter = find_adapter(settings.adapter, context.base_model.name)
        self.model = context.load_base_model(StableDiffusion)
        load_adapter(self.model, adapter)

    @classmethod
    def count_work(cls, settings: IPAdapterSettings, base_model: BaseModel) -> Work:
        """See `methods.Method`. The adapter was trained once, and not on any subject."""
        adapter = find_adapter(settings.adapter, base_model.name)
        return Work(samples=True, other_parameters=adapter.n_parameters, weights=adapter.weights)

    def load(self, subject: Subject, out_dir: Path) -> PhotoPrompted:
        """Encode the photos."""
        found = [self.model.encode_image_prompt(load_image(path)) for path in subject.photos]
        if self.settings.photos == "all":
            shown, hidden = zip(*found, strict=True)
            found = [(torch.cat(shown, 1), torch.cat(hidden, 1))]
        return PhotoPrompted(
            self.model, subject_phrase=subject.class_name, photos=found, scale=self.settings.scale
        )


class PhotoPrompted(ReferenceGenerator):
    """Generates from what the adapter is shown of photos, and of none, each (1, photos, ...).

    The seed picks among `photos`. Without `reads_prompts` they are all that an image of the
    subject is generated from.
    """

    model: StableDiffusion

    def __init__(
        self,
        model: StableDiffusion,
        *,
        subject_phrase: str,
        photos: Sequence[tuple[Tensor, Tensor]],
        scale: float,
        reads_prompts: bool = True,
    ) -> None:
        super().__init__(model, subject_phrase=subject_phrase)
        self.photos = photos
        self.scale = scale
        self.reads_prompts = reads_prompts

    def _generate_subject(self, prompts: Sequence[str], seeds: Sequence[int]) -> list[Image.Image]:
        texts = self._fill(prompts) if self.reads_prompts else [""] * len(prompts)
        return self.model.sample_with_photos(
            texts, seeds, shown=self._show(seeds), scale=self.scale
        )

    def _generate_class(self, prompts: Sequence[str], seeds: Sequence[int]) -> list[Image.Image]:
        # The adapter stays in its place and counts nothing.
        return self.model.sample_with_photos(prompts, seeds, shown=self._show(seeds), scale=0.0)

    def _show(self, seeds: Sequence[int]) -> Tensor:
        """Return rows of each image's photos (n, photos, ...), with guidance after n of none."""
        chosen = [self.photos[seed % len(self.photos)] for seed in seeds]
        rows = [torch.cat([shown for shown, _ in chosen])]
        if self.model.sampler.guidance_scale > 1:
            rows.insert(0, torch.cat([hidden for _, hidden in chosen]))
        return torch.cat(rows)
