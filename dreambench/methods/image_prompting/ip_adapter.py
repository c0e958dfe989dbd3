"""IP-Adapter (Ye et al., 2023, arXiv 2308.06721): a photo as a prompt, nothing tuned."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from PIL import Image
from pydantic import Field
from torch import Tensor

from dreambench.base_models.registry import BaseModel
from dreambench.datasets.subjects import Subject
from dreambench.methods.base import Context, Method, Settings, Work
from dreambench.methods.diffusion import ReferenceGenerator, load_base
from dreambench.methods.image_prompting.adapters import encode_photo, find_adapter, load_adapter
from dreambench.storage.images import load_image


class IPAdapterSettings(Settings):
    """Numbers of an IP-Adapter recipe."""

    adapter: str = Field(min_length=1, description="see methods.image_prompt.ADAPTERS")
    scale: float = Field(ge=0, description="weight of the photo beside the text")
    photos: Literal["one", "all"] = Field(
        description="what each image is shown: one photo, which the seed picks, or all of them"
    )


class IPAdapter(Method):
    """Draws with a photo, or all of them, beside the class noun in the prompt."""

    Settings: ClassVar[type[IPAdapterSettings]] = IPAdapterSettings

    def __init__(self, settings: IPAdapterSettings, context: Context) -> None:
        super().__init__(settings, context)
        adapter = find_adapter(settings.adapter, context.base_model.name)
        self.pipeline = load_base(context)
        load_adapter(self.pipeline, adapter)

    @classmethod
    def count_work(cls, settings: IPAdapterSettings, base_model: BaseModel) -> Work:
        """See `methods.Method`. The adapter was trained once, and not on any subject."""
        adapter = find_adapter(settings.adapter, base_model.name)
        return Work(
            draws=True, other_parameters=adapter.n_parameters, missing=adapter.find_missing()
        )

    def load(self, subject: Subject, out_dir: Path) -> PhotoPrompted:
        """Encodes the photos."""
        found = [encode_photo(self.pipeline, load_image(path)) for path in subject.photos]
        if self.settings.photos == "all":
            shown, hidden = zip(*found, strict=True)
            found = [(torch.cat(shown, 1), torch.cat(hidden, 1))]
        return PhotoPrompted(
            self.pipeline, self.context, subject_phrase=subject.class_name, photos=found,
            scale=self.settings.scale,
        )  # fmt: skip


@contextmanager
def _shown_as_they_are(pipeline: Any) -> Iterator[None]:
    """The pipeline takes one row an image; diffusers shows all rows to each image of a batch."""
    pipeline.prepare_ip_adapter_image_embeds = lambda _image, embeds, *_: embeds
    try:
        yield
    finally:
        del pipeline.prepare_ip_adapter_image_embeds


class PhotoPrompted(ReferenceGenerator):
    """Draws with what the adapter was shown of photos beside that of none, each (1, photos, ...).

    The seed picks among `photos`. Without `reads_prompts` they are all that a picture of the
    subject is drawn from.
    """

    def __init__(
        self, pipeline: Any, context: Context, *, subject_phrase: str,
        photos: Sequence[tuple[Tensor, Tensor]], scale: float, reads_prompts: bool = True,
    ) -> None:  # fmt: skip
        super().__init__(pipeline, context, subject_phrase=subject_phrase)
        self.photos = photos
        self.scale = scale
        self.reads_prompts = reads_prompts

    def _draw_subject(self, prompts: Sequence[str], seeds: Sequence[int]) -> list[Image.Image]:
        texts = self._fill(prompts) if self.reads_prompts else [""] * len(prompts)
        return self._draw_beside(texts, seeds, scale=self.scale)

    def _draw_class(self, prompts: Sequence[str], seeds: Sequence[int]) -> list[Image.Image]:
        # The adapter stays in its place and counts nothing.
        return self._draw_beside(list(prompts), seeds, scale=0.0)

    def _draw_beside(
        self, texts: list[str], seeds: Sequence[int], *, scale: float
    ) -> list[Image.Image]:
        self.pipeline.set_ip_adapter_scale(scale)
        shown = [self._show(seeds)]
        with _shown_as_they_are(self.pipeline):
            return self._draw(texts, seeds, ip_adapter_image_embeds=shown)

    def _show(self, seeds: Sequence[int]) -> Tensor:
        """Of each image's photos (n, photos, ...), with guidance after as many of none."""
        chosen = [self.photos[seed % len(self.photos)] for seed in seeds]
        rows = [torch.cat([shown for shown, _ in chosen])]
        if self.context.sampler.guidance_scale > 1:
            rows.insert(0, torch.cat([hidden for _, hidden in chosen]))
        return torch.cat(rows)
