"""DDIM inversion of a photo, generated again with Prompt-to-Prompt attention control.

A photo is inverted to noise with the caption "a [class]" (Song et al., ICLR 2021, arXiv 2010.02502,
section 4.3), and sampled from that noise twice at once: with the caption, which gives the photo
back, and with the prompt, which takes the attention maps of the former (Hertz et al., ICLR 2023,
arXiv 2208.01626, section 3.2: adding a new phrase).

Under guidance plain inversion does not give the photo back (Mokady et al., CVPR 2023, "null-text
inversion"). Here the caption stands in the place of the empty text, which needs no optimization
(Miyake et al., "negative-prompt inversion", arXiv 2305.16807): the caption's own sample is then
the same at any guidance, and guidance goes from the caption towards the prompt.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from PIL import Image
from pydantic import Field
from safetensors.torch import load_file, save
from torch import Tensor

from dreambench.base_models.encodings import Conditioning
from dreambench.base_models.spec import DIFFUSION, BaseModel
from dreambench.base_models.stable_diffusion import StableDiffusion
from dreambench.datasets.subjects import Subject
from dreambench.methods.base import Context, Method, Settings, Work
from dreambench.methods.editing.generator import EditingGenerator
from dreambench.methods.photos import load_photo
from dreambench.storage.files import write_bytes

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
    families = DIFFUSION

    def __init__(self, settings: DDIMInversionSettings, context: Context) -> None:
        super().__init__(settings, context)
        self.model = context.load_base_model(StableDiffusion)

    @classmethod
    def count_work(cls, settings: DDIMInversionSettings, base_model: BaseModel) -> Work:
        """See `methods.Method`. Three rows a step: photo, caption and prompt."""
        return Work(samples=True, calls_per_image=1.5)

    def fit(self, subject: Subject, out_dir: Path, *, seed: int) -> None:
        """Write the noise that each photo comes from."""
        side = self.context.sampler.size_px
        photos = [load_photo(path, size_px=side) for path in subject.photos]
        caption, n_corrections = f"a {subject.class_name}", self.settings.n_corrections
        # One after another, so that a photo's noise does not depend on how many there are.
        noise = torch.cat(
            [
                invert(self.model, latents, caption=caption, n_corrections=n_corrections)
                for latents in self.model.encode_images(photos).means().split(1)
            ]
        )
        content = save({"noise": noise.float().cpu().contiguous()}, metadata={"format": "pt"})
        write_bytes(out_dir / FILE, content)

    def load(self, subject: Subject, out_dir: Path) -> EditingGenerator:
        """Load what the photos were inverted to."""
        noise = load_file(out_dir / FILE)["noise"].to(self.context.device)
        return _Controlled(self.model, subject=subject, noise=noise, settings=self.settings)


@torch.inference_mode()
def invert(model: StableDiffusion, latents: Tensor, *, caption: str, n_corrections: int) -> Tensor:
    """Return the noise (n, c, h, w) that DDIM without guidance samples latents (n, c, h, w) from.

    A step is undone with the network's answer at the latents before it, since those after it are
    not known yet. Each of `n_corrections` then takes the step from what was found and adds what it
    misses, which is a fixed-point iteration as in Pan et al. ("AIDI", ICCV 2023).
    """
    back, forth = model.make_ddim(inverse=True), model.make_ddim()
    with model.autocast():
        text = model.encode_prompts([caption]).repeat(0, len(latents))
        for time in back.timesteps:
            wanted, times = latents, time.expand(len(latents))
            answer = model.predict(latents, times, text).float()
            latents = back.step(answer, time, latents).prev_sample
            for _ in range(n_corrections):
                answer = model.predict(latents, times, text).float()
                latents = latents + wanted - forth.step(answer, time, latents).prev_sample
    return latents


def match_tokens(source: Sequence[int], target: Sequence[int], n_tokens: int) -> Tensor:
    """Return for each of `n_tokens` places of the target the same token's place in the source.

    It is -1 for a token that the source lacks. What follows both texts is padding, which they have
    in common.
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
        """Return attention maps (3n, heads, queries, keys) with those of the photos put in."""
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


class _Controlled(EditingGenerator):
    model: StableDiffusion

    def __init__(
        self,
        model: StableDiffusion,
        *,
        subject: Subject,
        noise: Tensor,
        settings: DDIMInversionSettings,
    ) -> None:
        super().__init__(model, subject=subject)
        self.noise = noise
        self.settings = settings
        self.caption = f"a {subject.class_name}"

    def _generate_subject(self, prompts: Sequence[str], seeds: Sequence[int]) -> list[Image.Image]:
        model, n, texts = self.model, len(prompts), self._fill(prompts)
        start, n_steps = self.noise[self._pick(seeds)], model.sampler.n_steps
        schedule = model.make_ddim()
        with model.autocast():
            captions = model.encode_prompts([self.caption]).repeat(0, 2 * n)
            text = captions.join(model.encode_prompts(texts))
            n_tokens = text.tensors["states"].shape[1]
            control = _Control(self._match(texts, n_tokens).to(start.device))
            latents = start.repeat(2, 1, 1, 1)
            with model.attention_through(_ControlledAttention(control)):
                for step, time in enumerate(schedule.timesteps):
                    control.replace_self = step < self.settings.self_share * n_steps
                    control.replace_cross = step < self.settings.cross_share * n_steps
                    latents = self._step(schedule, time, latents, text)
        return model.decode_latents(latents[n:])

    def _match(self, texts: Sequence[str], n_tokens: int) -> Tensor:
        """Return the places (n, n_tokens) of the prompts' tokens in the caption."""
        source, *targets = (
            self.model.tokenizer(text, truncation=True).input_ids for text in (self.caption, *texts)
        )
        return torch.stack([match_tokens(source, target, n_tokens) for target in targets])

    def _step(self, schedule: Any, time: Tensor, latents: Tensor, text: Conditioning) -> Tensor:
        """Take one step of n photos and n images, (2n, c, h, w)."""
        photo, image = latents.chunk(2)
        rows = torch.cat([photo, image, image])
        answers = self.model.predict(rows, time.expand(len(rows)), text).float()
        of_photo, of_caption, of_prompt = answers.chunk(3)
        guided = of_caption + self.model.sampler.guidance_scale * (of_prompt - of_caption)
        stepped: Tensor = schedule.step(torch.cat([of_photo, guided]), time, latents).prev_sample
        return stepped
