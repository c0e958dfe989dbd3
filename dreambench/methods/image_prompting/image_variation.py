"""Image variations (Ramesh et al., 2022, arXiv 2204.06125, section 3.1): a photo's CLIP embedding.

The family that DALL-E 2 belongs to, which the DreamBooth paper sets itself against: the embedding
of a photo is all that an image of the subject is generated from. The prompt is not read, so that
what it asks for is in the image by chance alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import torch
from PIL import Image
from pydantic import Field
from torch import Tensor

from dreambench.base_models.spec import DIFFUSION, BaseModel
from dreambench.base_models.stable_diffusion import StableDiffusion
from dreambench.base_models.unclip import StableUnCLIP
from dreambench.datasets.subjects import Subject
from dreambench.methods.base import Context, Method, Settings, Work
from dreambench.methods.generators import ReferenceGenerator
from dreambench.methods.image_prompting.adapters import find_adapter, load_adapter
from dreambench.methods.image_prompting.ip_adapter import PhotoPrompted
from dreambench.storage.images import load_image


class ImageVariationSettings(Settings):
    """Numbers of an image variation recipe."""

    adapter: str = Field(
        description="of IP-Adapter; empty for a base model that reads embeddings itself (unCLIP)"
    )
    scale: float = Field(ge=0, description="weight of the adapter")
    noise_level: int = Field(ge=0, description="unCLIP alone: noise on the embedding")


class ImageVariation(Method):
    """Generates from the CLIP embedding of one photo, which the seed picks, and without words."""

    Settings: ClassVar[type[ImageVariationSettings]] = ImageVariationSettings
    families = DIFFUSION

    def __init__(self, settings: ImageVariationSettings, context: Context) -> None:
        super().__init__(settings, context)
        name = settings.adapter
        self.model: StableDiffusion
        if not name:
            self.model = context.load_base_model(StableUnCLIP)
            return
        adapter = find_adapter(name, context.base_model.name)
        self.model = context.load_base_model(StableDiffusion)
        load_adapter(self.model, adapter)

    @classmethod
    def count_work(cls, settings: ImageVariationSettings, base_model: BaseModel) -> Work:
        """See `methods.Method`."""
        if not settings.adapter:
            return Work(samples=True)
        adapter = find_adapter(settings.adapter, base_model.name)
        return Work(samples=True, other_parameters=adapter.n_parameters, weights=adapter.weights)

    def load(self, subject: Subject, out_dir: Path) -> ReferenceGenerator:
        """Encode the photos."""
        photos = [load_image(path) for path in subject.photos]
        if isinstance(self.model, StableUnCLIP) and not self.settings.adapter:
            return _Unclip(
                self.model, subject_phrase=subject.class_name, photos=photos,
                noise_level=self.settings.noise_level,
            )  # fmt: skip
        # Of an encoder's tokens the first is that of the whole image.
        found = [
            tuple(row[:, :, :1] if row.ndim > 3 else row for row in rows)
            for rows in map(self.model.encode_image_prompt, photos)
        ]
        return PhotoPrompted(
            self.model, subject_phrase=subject.class_name,
            photos=[(shown, hidden) for shown, hidden in found], scale=self.settings.scale,
            reads_prompts=False,
        )  # fmt: skip


class _Unclip(ReferenceGenerator):
    """Generates with a model that was trained on CLIP's embeddings (stable unCLIP)."""

    model: StableUnCLIP

    def __init__(
        self,
        model: StableUnCLIP,
        *,
        subject_phrase: str,
        photos: Sequence[Image.Image],
        noise_level: int,
    ) -> None:
        super().__init__(model, subject_phrase=subject_phrase)
        self.noise_level = noise_level
        self.embeddings = [model.encode_photo(photo) for photo in photos]

    def _generate_subject(self, prompts: Sequence[str], seeds: Sequence[int]) -> list[Image.Image]:
        return self.model.sample_from_embeddings(
            [""] * len(prompts), seeds, embeddings=self._choose(seeds),
            noise_level=self.noise_level,
        )  # fmt: skip

    def _generate_class(self, prompts: Sequence[str], seeds: Sequence[int]) -> list[Image.Image]:
        # The photo drowns in noise, and the words are what is left.
        return self.model.sample_from_embeddings(
            prompts, seeds, embeddings=self._choose(seeds),
            noise_level=self.model.highest_noise_level,
        )  # fmt: skip

    def _choose(self, seeds: Sequence[int]) -> Tensor:
        return torch.cat([self.embeddings[seed % len(self.embeddings)] for seed in seeds])
