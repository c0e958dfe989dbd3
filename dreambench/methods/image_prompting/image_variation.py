"""Image variations (Ramesh et al., 2022, arXiv 2204.06125, section 3.1): a photo's CLIP embedding.

The family that DALL-E 2 belongs to, which the DreamBooth paper sets itself against: the embedding
of a photo is all that a picture of the subject is drawn from. The prompt is not read, so that what
it asks for is in the picture by chance alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from PIL import Image
from pydantic import Field
from torch import Tensor

from dreambench.base_models.registry import BaseModel
from dreambench.datasets.subjects import Subject
from dreambench.methods.base import Context, Method, Settings, Work
from dreambench.methods.diffusion import PipelineGenerator, ReferenceGenerator, load_base
from dreambench.methods.image_prompting.adapters import encode_photo, find_adapter, load_adapter
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
    """Draws from the CLIP embedding of one photo and without words. The seed picks the photo."""

    Settings: ClassVar[type[ImageVariationSettings]] = ImageVariationSettings

    def __init__(self, settings: ImageVariationSettings, context: Context) -> None:
        super().__init__(settings, context)
        name = settings.adapter
        adapter = find_adapter(name, context.base_model.name) if name else None
        self.pipeline: Any = load_base(context)
        if adapter is not None:
            load_adapter(self.pipeline, adapter)

    @classmethod
    def count_work(cls, settings: ImageVariationSettings, base_model: BaseModel) -> Work:
        """See `methods.Method`."""
        if not settings.adapter:
            return Work(draws=True)
        adapter = find_adapter(settings.adapter, base_model.name)
        return Work(
            draws=True, other_parameters=adapter.n_parameters, missing=adapter.find_missing()
        )

    def load(self, subject: Subject, out_dir: Path) -> PipelineGenerator:
        """Encodes the photos."""
        photos = [load_image(path) for path in subject.photos]
        if not self.settings.adapter:
            return _Unclip(
                self.pipeline, self.context, subject_phrase=subject.class_name, photos=photos,
                noise_level=self.settings.noise_level,
            )  # fmt: skip
        # Of an encoder's tokens the first is that of the whole image.
        found = [
            tuple(row[:, :, :1] if row.ndim > 3 else row for row in encode_photo(self.pipeline, p))
            for p in photos
        ]
        return PhotoPrompted(
            self.pipeline, self.context, subject_phrase=subject.class_name,
            photos=[(shown, hidden) for shown, hidden in found], scale=self.settings.scale,
            reads_prompts=False,
        )  # fmt: skip


class _Unclip(ReferenceGenerator):
    """Draws with a pipeline that was trained on CLIP's embeddings (stable unCLIP)."""

    def __init__(
        self, pipeline: Any, context: Context, *, subject_phrase: str,
        photos: Sequence[Image.Image], noise_level: int,
    ) -> None:  # fmt: skip
        super().__init__(pipeline, context, subject_phrase=subject_phrase)
        self.noise_level = noise_level
        self.embeddings = [self._encode(photo) for photo in photos]

    def _draw_subject(self, prompts: Sequence[str], seeds: Sequence[int]) -> list[Image.Image]:
        return self._draw_from([""] * len(prompts), seeds, noise_level=self.noise_level)

    def _draw_class(self, prompts: Sequence[str], seeds: Sequence[int]) -> list[Image.Image]:
        # The photo drowns in noise, and the words are what is left.
        schedule = self.pipeline.image_noising_scheduler
        highest = schedule.config.num_train_timesteps - 1
        return self._draw_from(list(prompts), seeds, noise_level=highest)

    def _draw_from(
        self, texts: list[str], seeds: Sequence[int], *, noise_level: int
    ) -> list[Image.Image]:
        chosen = torch.cat([self.embeddings[seed % len(self.embeddings)] for seed in seeds])
        return self._draw(texts, seeds, image_embeds=chosen, noise_level=noise_level)

    @torch.inference_mode()
    def _encode(self, photo: Image.Image) -> Tensor:
        pixels = self.pipeline.feature_extractor(images=photo, return_tensors="pt").pixel_values
        return self.pipeline.image_encoder(pixels.to(self.pipeline.device)).image_embeds
