"""DDIM inversion of a photo, redrawn with Prompt-to-Prompt attention control.

A photo is inverted to noise with the caption "a [class]" (Song et al., ICLR 2021, arXiv 2010.02502,
section 4.3), and drawn from that noise twice at once: with the caption, which gives the photo back,
and with the prompt, which takes the attention maps of the former (Hertz et al., ICLR 2023,
arXiv 2208.01626, section 3.2: adding a new phrase).

Under guidance plain inversion does not give the photo back (Mokady et al., CVPR 2023, "null-text
inversion"). Here the caption stands in the place of the empty text, which needs no optimization
(Miyake et al., "negative-prompt inversion", arXiv 2305.16807): the caption's own drawing is then
the same at any guidance, and guidance goes from the caption towards the prompt.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from PIL import Image
from pydantic import Field
from safetensors.torch import load_file, save
from torch import Tensor

from dreambench.base_models.registry import BaseModel
from dreambench.datasets.subjects import Subject
from dreambench.methods.base import Context, Method, Settings, Work
from dreambench.methods.diffusion import Conditioning, autocast, encode_texts, load_base, predict
from dreambench.methods.editing.editing import EditingGenerator, load_square
from dreambench.methods.finetuning.training import encode_images
from dreambench.storage.files import write_bytes

if TYPE_CHECKING:
    from diffusers import DDIMScheduler, StableDiffusionPipeline

FILE = "inverted.safetensors"
# The public code of Prompt-to-Prompt leaves the maps of larger layers alone, which are also the
# ones that fill the memory.
MAX_CONTROLLED_PLACES = 32**2


class DDIMInversionSettings(Settings):
    """Numbers of a recipe of DDIM inversion with Prompt-to-Prompt."""

    self_share: float = Field(
        ge=0, le=1, description="share of the steps that take the photo's self-attention maps"
    )
    cross_share: float = Field(
        ge=0, le=1, description="the same for the cross-attention maps of words in common"
    )
    n_corrections: int = Field(
        ge=0, description="of each step of the inversion, towards an exact one; 0 is plain DDIM's"
    )


class DDIMInversion(Method):
    """Inverts every photo once; each image is made of one photo, which the seed picks.

    Nothing else is random: two images of one prompt and one photo are the same image. The steps are
    DDIM's whatever the protocol's scheduler, since they have to be those of the inversion.
    """

    Settings: ClassVar[type[DDIMInversionSettings]] = DDIMInversionSettings

    def __init__(self, settings: DDIMInversionSettings, context: Context) -> None:
        super().__init__(settings, context)
        self.pipeline = load_base(context)

    @classmethod
    def count_work(cls, settings: DDIMInversionSettings, base_model: BaseModel) -> Work:
        """See `methods.Method`. Three rows a step: photo, caption and prompt."""
        return Work(draws=True, drawing=1.5)

    def fit(self, subject: Subject, out_dir: Path, *, seed: int) -> None:
        """Writes the noise that each photo comes from."""
        side = self.context.sampler.size_px
        photos = [load_square(path, side) for path in subject.photos]
        mean, _ = encode_images(self.pipeline, self.context, photos)
        # One after another, so that a photo's noise does not depend on how many there are.
        noise = torch.cat(
            [
                invert(
                    self.pipeline, self.context, latents * self.pipeline.vae.config.scaling_factor,
                    caption=f"a {subject.class_name}", n_corrections=self.settings.n_corrections,
                )
                for latents in mean.split(1)
            ]
        )  # fmt: skip
        content = save({"noise": noise.float().cpu().contiguous()}, metadata={"format": "pt"})
        write_bytes(out_dir / FILE, content)

    def load(self, subject: Subject, out_dir: Path) -> EditingGenerator:
        """Reads what the photos were inverted to."""
        noise = load_file(out_dir / FILE)["noise"].to(self.context.device)
        return _Controlled(
            self.pipeline, self.context, subject=subject, noise=noise, settings=self.settings
        )


def _make_schedule(pipeline: StableDiffusionPipeline, name: str, n_steps: int) -> Any:
    import diffusers  # noqa: PLC0415  (slow import)

    # Latents have no fixed range to be clipped to, and a clipped step has no inverse.
    made = getattr(diffusers, name).from_config(pipeline.scheduler.config, clip_sample=False)
    made.set_timesteps(n_steps, device=pipeline.device)
    return made


@torch.inference_mode()
def invert(
    pipeline: StableDiffusionPipeline,
    context: Context,
    latents: Tensor,
    *,
    caption: str,
    n_corrections: int,
) -> Tensor:
    """The noise (n, c, h, w) that DDIM without guidance draws scaled latents (n, c, h, w) from.

    A step is undone with the network's answer at the latents before it, since those after it are
    not known yet. Each of `n_corrections` then draws the step from what was found and adds what it
    misses, which is a fixed-point iteration as in Pan et al. ("AIDI", ICCV 2023).
    """
    n_steps = context.sampler.n_steps
    back = _make_schedule(pipeline, "DDIMInverseScheduler", n_steps)
    forth = _make_schedule(pipeline, "DDIMScheduler", n_steps)
    with autocast(context):
        text = encode_texts(pipeline, [caption]).repeat(0, len(latents))
        for time in back.timesteps:
            wanted, times = latents, time.expand(len(latents))
            answer = predict(pipeline, latents, times, text).float()
            latents = back.step(answer, time, latents).prev_sample
            for _ in range(n_corrections):
                answer = predict(pipeline, latents, times, text).float()
                latents = latents + wanted - forth.step(answer, time, latents).prev_sample
    return latents


def match_tokens(source: Sequence[int], target: Sequence[int], n_tokens: int) -> Tensor:
    """For each of `n_tokens` places of the target text the place of the same token in the source.

    -1 for a token that the source lacks. What follows both texts is padding, which they have in
    common.
    """
    places = torch.full((n_tokens,), -1)
    end = max(len(source), len(target))
    places[end:] = torch.arange(end, n_tokens)
    blocks = difflib.SequenceMatcher(None, source, target, autojunk=False).get_matching_blocks()
    for block in blocks:
        places[block.b : block.b + block.size] = torch.arange(block.a, block.a + block.size)
    return places


@dataclass
class _Control:
    """What the attention layers do in a step. Rows are n photos', n captions' and n prompts'.

    `places` (n, tokens) from `match_tokens`, for each prompt.
    """

    places: Tensor
    replace_self: bool = True
    replace_cross: bool = True

    def mix(self, maps: Tensor, *, is_cross: bool) -> Tensor:
        """Attention maps (3n, heads, queries, keys), with those of the photos put in."""
        photo, caption, prompt = maps.chunk(3)
        if not is_cross:
            return torch.cat([photo, caption, photo]) if self.replace_self else maps
        if not self.replace_cross:
            return maps
        at = self.places.clamp(min=0)[:, None, None].expand(-1, *prompt.shape[1:3], -1)
        common = (self.places >= 0)[:, None, None]
        return torch.cat([photo, caption, torch.where(common, photo.gather(3, at), prompt)])


class _ControlledAttention:
    """A diffusers attention processor whose maps go through a control."""

    def __init__(self, control: _Control) -> None:
        from diffusers.models.attention_processor import AttnProcessor2_0  # noqa: PLC0415

        self.control = control
        self.plain = AttnProcessor2_0()

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        is_cross = encoder_hidden_states is not None
        control, n_places = self.control, hidden_states.shape[1]
        wanted = control.replace_cross if is_cross else control.replace_self
        if not wanted or n_places > MAX_CONTROLLED_PLACES:
            return self.plain(attn, hidden_states, encoder_hidden_states, attention_mask, temb)
        words = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        query, key, value = (
            attn.head_to_batch_dim(layer(given))
            for layer, given in (
                (attn.to_q, hidden_states), (attn.to_k, words), (attn.to_v, words)
            )
        )  # fmt: skip
        maps = attn.get_attention_scores(query, key, attention_mask)
        mixed = control.mix(maps.unflatten(0, (-1, attn.heads)), is_cross=is_cross).flatten(0, 1)
        found = attn.batch_to_head_dim(torch.bmm(mixed, value))
        return attn.to_out[1](attn.to_out[0](found)) / attn.rescale_output_factor


@contextmanager
def _controlled(pipeline: StableDiffusionPipeline, control: _Control) -> Iterator[None]:
    """The UNet's attention layers under a control, and as they were afterwards."""
    before = dict(pipeline.unet.attn_processors)
    pipeline.unet.set_attn_processor(_ControlledAttention(control))
    try:
        yield
    finally:
        pipeline.unet.set_attn_processor(before)


class _Controlled(EditingGenerator):
    def __init__(
        self,
        pipeline: StableDiffusionPipeline,
        context: Context,
        *,
        subject: Subject,
        noise: Tensor,
        settings: DDIMInversionSettings,
    ) -> None:
        super().__init__(pipeline, context, subject=subject)
        self.noise = noise
        self.settings = settings
        self.caption = f"a {subject.class_name}"

    def _draw_subject(self, prompts: Sequence[str], seeds: Sequence[int]) -> list[Image.Image]:
        pipeline, n = self.pipeline, len(prompts)
        texts = self._fill(prompts)
        start = self.noise[self._pick(seeds)]
        sampler = self.context.sampler
        schedule = _make_schedule(pipeline, "DDIMScheduler", sampler.n_steps)
        tokens = [pipeline.tokenizer(text, truncation=True).input_ids for text in texts]
        source = pipeline.tokenizer(self.caption, truncation=True).input_ids
        with autocast(self.context):
            captions = encode_texts(pipeline, [self.caption]).repeat(0, 2 * n)
            text = captions.join(encode_texts(pipeline, texts))
            n_tokens = text.states.shape[1]
            places = torch.stack([match_tokens(source, found, n_tokens) for found in tokens])
            control = _Control(places.to(start.device))
            latents = start.repeat(2, 1, 1, 1)
            with _controlled(pipeline, control):
                for step, time in enumerate(schedule.timesteps):
                    control.replace_self = step < self.settings.self_share * sampler.n_steps
                    control.replace_cross = step < self.settings.cross_share * sampler.n_steps
                    latents = self._step(schedule, time, latents, text)
            images = pipeline.vae.decode(latents[n:] / pipeline.vae.config.scaling_factor).sample
        return pipeline.image_processor.postprocess(images.float(), output_type="pil")

    def _step(
        self, schedule: DDIMScheduler, time: Tensor, latents: Tensor, text: Conditioning
    ) -> Tensor:
        """One step of n photos and n images, (2n, c, h, w)."""
        photo, image = latents.chunk(2)
        rows = torch.cat([photo, image, image])
        answers = predict(self.pipeline, rows, time.expand(len(rows)), text).float()
        of_photo, of_caption, of_prompt = answers.chunk(3)
        guided = of_caption + self.context.sampler.guidance_scale * (of_prompt - of_caption)
        return schedule.step(torch.cat([of_photo, guided]), time, latents).prev_sample
