"""What the methods on a diffusion pipeline share: drawing images and class images."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from filelock import FileLock
from PIL import Image
from torch import Tensor

from dreambench import __version__
from dreambench.artifacts.plan import derive_seed
from dreambench.base_models.registry import load_pipeline, make_scheduler
from dreambench.errors import UserError
from dreambench.methods.base import Context
from dreambench.storage.files import digest, finish_together, make_dir, write_json, write_together
from dreambench.storage.images import encode_generated

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline, StableDiffusionPipeline


def autocast(context: Context) -> AbstractContextManager[object]:
    """The run's precision as a context; weights stay fp32 and sums are kept in fp32."""
    if context.precision == "fp32":
        return nullcontext()
    return torch.autocast(torch.device(context.device).type, torch.bfloat16)


def load_base(context: Context) -> StableDiffusionPipeline:
    """The protocol's base model with the protocol's scheduler, on the run's device."""
    pipeline = load_pipeline(
        context.base_model, device=torch.device(context.device), dtype=torch.float32
    )
    pipeline.scheduler = make_scheduler(pipeline, context.sampler)
    # Convolutions are fastest this way on the CPU and on recent GPUs.
    pipeline.unet.to(memory_format=torch.channels_last)
    pipeline.vae.to(memory_format=torch.channels_last)
    return pipeline


@contextmanager
def only_errors() -> Iterator[None]:
    """Diffusers says nothing below an error; for calls that warn of what is as it should be."""
    from diffusers.utils import logging  # noqa: PLC0415  (slow import)

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)


@dataclass(frozen=True)
class Conditioning:
    """What a UNet is told of texts: hidden states (n, length, d); pooled ones (n, d) for SDXL."""

    states: Tensor
    pooled: Tensor | None = None

    def repeat(self, row: int, n: int) -> Conditioning:
        """The row-th text n times."""
        pooled = None if self.pooled is None else self.pooled[row : row + 1].expand(n, -1)
        return Conditioning(self.states[row : row + 1].expand(n, -1, -1), pooled)

    def take(self, rows: Sequence[int]) -> Conditioning:
        """The texts of these rows, which may repeat."""
        pooled = None if self.pooled is None else _take_rows(self.pooled, rows)
        return Conditioning(_take_rows(self.states, rows), pooled)

    def join(self, other: Conditioning) -> Conditioning:
        """The texts of both."""
        pooled = None
        if self.pooled is not None and other.pooled is not None:
            pooled = torch.cat([self.pooled, other.pooled])
        return Conditioning(torch.cat([self.states, other.states]), pooled)


def _take_rows(values: Tensor, rows: Sequence[int]) -> Tensor:
    """Rows by their numbers, one by one.

    The gradient of indexing with a tensor adds up what rows that repeat get in whatever order the
    threads come, so that no tuning would end with the same bits twice.
    """
    parts = values.unbind()
    return torch.stack([parts[row] for row in rows])


def encode_texts(pipeline: StableDiffusionPipeline, texts: list[str]) -> Conditioning:
    """Texts as the pipeline's one or two text encoders read them; gradients flow."""
    states, _, *pooled = pipeline.encode_prompt(
        texts, device=pipeline.device, num_images_per_prompt=1, do_classifier_free_guidance=False
    )
    return Conditioning(states, pooled[0] if pooled else None)


def predict(
    pipeline: StableDiffusionPipeline, noisy: Tensor, times: Tensor, text: Conditioning
) -> Tensor:
    """What the UNet predicts for noisy latents (n, c, h, w) at `times` (n,)."""
    extra = {}
    if text.pooled is not None:
        # SDXL (Podell et al., 2023, section 2.2): original size, crop corner, target size.
        side = noisy.shape[-1] * pipeline.vae_scale_factor
        sizes = torch.tensor([[side, side, 0, 0, side, side]], device=noisy.device)
        ids = sizes.to(text.pooled.dtype).expand(len(noisy), -1)
        extra = {"added_cond_kwargs": {"text_embeds": text.pooled, "time_ids": ids}}
    return pipeline.unet(noisy, times, encoder_hidden_states=text.states, **extra).sample


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that CUDA or the CPU allocator had no memory left."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and (
        "can't allocate memory" in text or "out of memory" in text
    )


class PipelineGenerator:
    """Draws images with a pipeline; `subject_phrase` fills the slot {subject} of the prompts."""

    def __init__(
        self, pipeline: StableDiffusionPipeline, context: Context, *, subject_phrase: str
    ) -> None:
        self.pipeline = pipeline
        self.context = context
        self.subject_phrase = subject_phrase

    def generate(self, prompts: Sequence[str], seeds: Sequence[int]) -> list[Image.Image]:
        """See `methods.Generator`. Halves the batch when memory runs out, down to one image."""
        try:
            return self._generate(prompts, seeds)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            problem = str(error)
        # Outside of the handler, since the exception's frames hold on to the failed tensors.
        gc.collect()
        if len(prompts) == 1:
            raise UserError(
                f"no memory for one image of {self.context.sampler.size_px} px ({problem[:80]})",
                hint="free memory, use --precision bf16 or another --device",
            )
        half = len(prompts) // 2
        first = self.generate(prompts[:half], seeds[:half])
        return first + self.generate(prompts[half:], seeds[half:])

    @torch.inference_mode()
    def _generate(self, prompts: Sequence[str], seeds: Sequence[int]) -> list[Image.Image]:
        return self._draw(self._fill(prompts), seeds)

    def _fill(self, prompts: Sequence[str]) -> list[str]:
        return [text.replace("{subject}", self.subject_phrase) for text in prompts]

    def _draw(self, texts: list[str], seeds: Sequence[int], **options: Any) -> list[Image.Image]:
        """Images of texts from pure noise; `options` go to the pipeline."""
        side = self.context.sampler.size_px
        return self._call(self.pipeline, texts, seeds, height=side, width=side, **options)

    def _call(
        self, pipeline: DiffusionPipeline, texts: list[str], seeds: Sequence[int], **options: Any
    ) -> list[Image.Image]:
        """What a pipeline makes of texts under the protocol's sampler."""
        # Noise is drawn on the CPU for each image by itself: neither batch nor device changes it.
        noise = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
        sampler = self.context.sampler
        with autocast(self.context):
            found = pipeline(
                prompt=texts,
                num_inference_steps=sampler.n_steps,
                guidance_scale=sampler.guidance_scale,
                generator=noise,
                output_type="pil",
                **options,
            )
        return [image.convert("RGB") for image in found.images]


class ReferenceGenerator(PipelineGenerator):
    """Draws the subject from its photos, in a way of its own.

    A prompt without the slot {subject} asks for the plain class, not for this subject: the base
    model draws it, as with tuned models, so that PRES says what is left of the model's prior.
    """

    @torch.inference_mode()
    def _generate(self, prompts: Sequence[str], seeds: Sequence[int]) -> list[Image.Image]:
        found: dict[int, Image.Image] = {}
        for draw, wanted in ((self._draw_subject, True), (self._draw_class, False)):
            rows = [row for row, text in enumerate(prompts) if ("{subject}" in text) is wanted]
            if rows:
                images = draw([prompts[row] for row in rows], [seeds[row] for row in rows])
                found |= dict(zip(rows, images, strict=True))
        return [found[row] for row in range(len(prompts))]

    def _draw_subject(self, prompts: Sequence[str], seeds: Sequence[int]) -> list[Image.Image]:
        """One image a prompt with the slot."""
        raise NotImplementedError

    def _draw_class(self, prompts: Sequence[str], seeds: Sequence[int]) -> list[Image.Image]:
        """One image a prompt without it."""
        return self._draw(list(prompts), seeds)


def make_class_images(
    pipeline: StableDiffusionPipeline, context: Context, *, class_name: str, n_images: int
) -> list[Path]:
    """Images of "a [class]" by the base model, for prior preservation (paper, section 3.3).

    They are kept in the cache by (base model, class, sampler, precision), so that subjects,
    methods and runs share them, and finished ones outlive a kill.
    """
    key = {
        "base_model": context.base_model.identity(),
        "class_name": class_name,
        "sampler": context.sampler.model_dump(mode="json"),
        "precision": context.precision,
        "device": torch.device(context.device).type,
        "batch_size": context.batch_size,
    }
    folder = make_dir(context.cache_dir / "class-images" / digest(key))
    with FileLock(folder / "lock"):
        finish_together(folder / "staging")
        if not (folder / "key.json").exists():
            write_json(folder / "key.json", key)
        paths = [folder / f"{index}.png" for index in range(n_images)]
        generator = PipelineGenerator(pipeline, context, subject_phrase=class_name)
        size = context.batch_size
        # Whole batches, also past n_images, so that an image's bits do not depend on n_images.
        for start in range(0, n_images, size):
            batch = [folder / f"{index}.png" for index in range(start, start + size)]
            if all(path.exists() for path in batch):
                continue
            context.progress(f"class images of {class_name}", start, n_images)
            seeds = [derive_seed("class-image", class_name, start + i) for i in range(size)]
            images = generator.generate([f"a {class_name}"] * size, seeds)
            note = {**key, "software": f"dreambench {__version__}", "prompt": f"a {class_name}"}
            files = {
                path: encode_generated(image, {**note, "seed": seed})
                for path, image, seed in zip(batch, images, seeds, strict=True)
            }
            write_together(folder / "staging", str(start), files)
        context.progress(f"class images of {class_name}", n_images, n_images)
        return paths
