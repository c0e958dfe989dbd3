"""IP-Adapter (Ye et al., 2023, arXiv 2308.06721): a photo as a prompt, nothing tuned."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from PIL import Image
from pydantic import Field
from torch import Tensor

from dreambench.base_models import BaseModel
from dreambench.files import load_image
from dreambench.methods import Context, Settings, Work
from dreambench.methods.diffusion import PipelineGenerator, load_base
from dreambench.methods.image_prompt import encode_photo, find_adapter, load_adapter
from dreambench.subjects import Subject


class IPAdapterSettings(Settings):
    """Numbers of an IP-Adapter recipe."""

    adapter: str = Field(min_length=1, description="see methods.image_prompt.ADAPTERS")
    scale: float = Field(ge=0, description="weight of the photo beside the text")


class IPAdapter:
    """Draws with a photo beside the class noun in the prompt. The seed picks the photo."""

    Settings: ClassVar[type[IPAdapterSettings]] = IPAdapterSettings
    tunes = False
    n_references = 1

    def __init__(self, settings: IPAdapterSettings, context: Context) -> None:
        self.settings = settings
        self.context = context
        adapter = find_adapter(settings.adapter, context.base_model.name)
        self.pipeline = load_base(context)
        load_adapter(self.pipeline, adapter)

    @classmethod
    def count_work(cls, settings: IPAdapterSettings, base_model: BaseModel) -> Work:
        """See `methods.Method`. The adapter was trained once, and not on any subject."""
        adapter = find_adapter(settings.adapter, base_model.name)
        return Work(draws=True, other_parameters=adapter.n_parameters)

    def fit(self, subject: Subject, out_dir: Path, *, seed: int) -> None:
        """Nothing to learn."""

    def load(self, subject: Subject, out_dir: Path) -> PhotoPrompted:
        """Encodes the photos."""
        found = [encode_photo(self.pipeline, load_image(path)) for path in subject.photos]
        return PhotoPrompted(
            self.pipeline, self.context, subject_phrase=subject.class_name, photos=found,
            scale=self.settings.scale,
        )  # fmt: skip


class PhotoPrompted(PipelineGenerator):
    """Draws with what the adapter was shown of a photo, each (1, ...), beside that of none.

    Without `reads_prompts` the photo is all that a picture of the subject is drawn from.
    """

    def __init__(
        self, pipeline: Any, context: Context, *, subject_phrase: str,
        photos: Sequence[tuple[Tensor, Tensor]], scale: float, reads_prompts: bool = True,
    ) -> None:  # fmt: skip
        super().__init__(pipeline, context, subject_phrase=subject_phrase)
        self.photos = photos
        self.scale = scale
        self.reads_prompts = reads_prompts

    def _generate(self, prompts: Sequence[str], seeds: Sequence[int]) -> list[Image.Image]:
        def draw(
            prompts: Sequence[str], seeds: Sequence[int], of_subject: bool
        ) -> list[Image.Image]:
            # The plain class is drawn as the base model draws it.
            self.pipeline.set_ip_adapter_scale(self.scale if of_subject else 0.0)
            texts = self._fill(prompts)
            if of_subject and not self.reads_prompts:
                texts = [""] * len(texts)
            return self._draw(texts, seeds, ip_adapter_image_embeds=[self._show(seeds)])

        return split_prompts(prompts, seeds, draw)

    def _show(self, seeds: Sequence[int]) -> Tensor:
        """Of each image's photo (n, 1, ...), with guidance after as many of none."""
        chosen = [self.photos[seed % len(self.photos)] for seed in seeds]
        rows = [torch.cat([shown for shown, _ in chosen])]
        if self.context.sampler.guidance_scale > 1:
            rows.insert(0, torch.cat([hidden for _, hidden in chosen]))
        return torch.cat(rows)[:, None]


def split_prompts(
    prompts: Sequence[str],
    seeds: Sequence[int],
    draw: Callable[[Sequence[str], Sequence[int], bool], list[Image.Image]],
) -> list[Image.Image]:
    """Draws the prompts that ask for the subject apart from those of its plain class."""
    found: dict[int, Image.Image] = {}
    for of_subject in (True, False):
        rows = [i for i, prompt in enumerate(prompts) if ("{subject}" in prompt) == of_subject]
        if rows:
            drawn = draw([prompts[i] for i in rows], [seeds[i] for i in rows], of_subject)
            found |= dict(zip(rows, drawn, strict=True))
    return [found[i] for i in range(len(prompts))]
