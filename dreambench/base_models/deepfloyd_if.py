"""DeepFloyd IF (Stability AI, 2023): a cascade on pixels, conditioned on text by T5.

It has the shape of Imagen (Saharia et al., NeurIPS 2022), on which the DreamBooth paper's own
numbers stand. Training is that of diffusers' `examples/dreambooth/train_dreambooth.py` with the
options that its README names for IF, for both stages.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torch import Tensor, nn

from dreambench.base_models.base import LoadedModel
from dreambench.base_models.drawing import make_images
from dreambench.base_models.encodings import Conditioning, EncodedImages
from dreambench.base_models.memory import with_room
from dreambench.base_models.spec import UPSCALING_STEPS, BaseModel
from dreambench.base_models.stable_diffusion import (
    add_random_noise,
    make_diffusion_scheduler,
    read_noise_schedule,
)
from dreambench.config.sampler import Sampler
from dreambench.errors import UserError

if TYPE_CHECKING:
    from diffusers import DDPMScheduler

# Of stage II, as diffusers' pipeline has them; the README of its training script samples so, too.
UPSCALING_GUIDANCE, UPSCALING_NOISE_LEVEL = 4.0, 250
# How clean pixels are kept in range, which is a base model's own: without it guidance burns them.
# The values are for keys that a scheduler file leaves out.
RANGE: Mapping[str, Any] = {
    "clip_sample": True, "clip_sample_range": 1.0, "thresholding": False,
    "dynamic_thresholding_ratio": 0.995, "sample_max_value": 1.0,
}  # fmt: skip
UNET_LAYERS = ("to_k", "to_q", "to_v", "to_out.0", "add_k_proj", "add_v_proj")
"""What the script adapts: these UNets project texts apart."""


class _Stage(LoadedModel):
    """One network of a cascade; it predicts noise, and a variance that nothing here trains."""

    pipeline_options: ClassVar[Mapping[str, Any]] = {
        "safety_checker": None, "feature_extractor": None, "watermarker": None,
        "requires_safety_checker": False,
    }  # fmt: skip
    denoiser = "unet"
    draws_by_own_steps = True
    tokenizer_class = "T5Tokenizer"
    rounded_networks: ClassVar[Sequence[str]] = ("unet", "text_encoder")
    offloaded_networks: ClassVar[Sequence[str]] = ("text_encoder",)

    def __init__(self, model: BaseModel, sampler: Sampler, **options: Any) -> None:
        super().__init__(model, sampler, **options)
        _keep_wide(self.pipeline)

    @classmethod
    def make_scheduler(cls, pipeline: Any, sampler: Sampler) -> Any:
        """See `LoadedModel`; with a fixed variance, as what was trained predicts noise alone."""
        made = make_diffusion_scheduler(pipeline.scheduler.config, sampler)
        own = pipeline.scheduler.config
        kept = {key: own.get(key, value) for key, value in RANGE.items() if key in made.config}
        # DDIM has no variance of its own, and the pipelines ask each scheduler for it.
        made.register_to_config(
            **{"variance_type": made.config.get("variance_type", "fixed_small")} | kept
        )
        return made

    def encode_prompts(self, prompts: Sequence[str]) -> Conditioning:
        """Return T5's hidden states (n, 77, d)."""
        states, _ = self.pipeline.encode_prompt(
            list(prompts), do_classifier_free_guidance=False, device=self.device
        )
        return Conditioning({"states": states.float()})

    # Training

    @property
    def side_px(self) -> int:
        """Side of the images that this network makes."""
        return self.sampler.size_px

    @property
    def cell_px(self) -> int:
        """See `LoadedModel`; a place is a pixel of its own."""
        return 1

    def encode_images(self, images: Sequence[Image.Image]) -> EncodedImages:
        """Return pixels (n, 3, h, w) from -1 to 1; there is no autoencoder."""
        side, found = self.side_px, []
        for image in images:
            square = ImageOps.fit(image, (side, side), Image.Resampling.BICUBIC)
            pixels = torch.from_numpy(np.asarray(square, np.float32) / 127.5 - 1)
            found.append(pixels.permute(2, 0, 1))
        values = torch.stack(found).to(self.device)
        return EncodedImages(values, torch.zeros_like(values), scale=1.0)

    @cached_property
    def _training_schedule(self) -> DDPMScheduler:
        from diffusers import DDPMScheduler  # noqa: PLC0415  (slow import)

        return DDPMScheduler(**read_noise_schedule(self.pipeline.scheduler.config))

    def predict(self, noisy: Tensor, times: Tensor, text: Conditioning) -> Tensor:
        """Return the noise that the UNet finds in noisy pixels (n, 3, h, w) at `times` (n,)."""
        unet, states = self.pipeline.unet, text.tensors["states"]
        n_channels, labels = noisy.shape[1], None
        if unet.config.in_channels == 2 * n_channels:
            # Stage II is told how noisy the image is that it enlarges: here the one that it cleans.
            noisy, labels = torch.cat([noisy, noisy], dim=1), times
        found: Tensor = unet(noisy, times, encoder_hidden_states=states, class_labels=labels).sample
        return found[:, :n_channels]

    def squared_errors(
        self, latents: Tensor, text: Conditioning, *, noise: torch.Generator
    ) -> Tensor:
        """See `LoadedModel`; the DreamBooth paper's equation 2 on pixels."""
        noisy, eps, times = add_random_noise(self._training_schedule, latents, noise=noise)
        found = self.predict(noisy, times, text)
        return F.mse_loss(found.float(), eps, reduction="none")

    def trainable_networks(self, *, with_text_encoders: bool) -> dict[str, nn.Module]:
        """See `LoadedModel`.

        Raises:
            UserError: text encoders are wanted; the script reads texts once, before it trains.
        """
        if with_text_encoders:
            raise UserError(
                f"the text encoder of the base model '{self.model.name}' is not trained here, "
                "since no public recipe trains it",
                hint="set train_text_encoder = false",
                code="unsupported-base-model",
            )
        return {"unet": self.pipeline.unet}

    def adapted_layers(self, network: str) -> list[str]:
        """See `LoadedModel`; as diffusers' script has them."""
        return list(UNET_LAYERS)

    def name_adapters(self, network: str, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """See `LoadedModel`; PEFT's names.

        Diffusers (0.42.1), as its script saves them, renames those of some of these layers alone,
        and then reads the others alone.
        """
        return state

    def redraw(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        *,
        images: Sequence[Image.Image],
        strength: float,
    ) -> list[Image.Image]:
        """Raise UserError: a method that starts from an image would have to start each stage."""
        raise self.refuse("only generates from noise, by its own steps")

    def add_noise(self, latents: Tensor, noise: Tensor, *, step: int) -> Tensor:
        """Raise UserError: see `redraw`."""
        raise self.refuse("only generates from noise, by its own steps")


def _keep_wide(pipeline: Any) -> None:
    """Let a pipeline hold pixels in the precision of what it is given, and not of its weights."""
    read = pipeline.encode_prompt

    def encode_prompt(
        prompt: Any = None,
        *words: Any,
        prompt_embeds: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
        **options: Any,
    ) -> Any:
        if prompt_embeds is not None:
            return prompt_embeds, negative_prompt_embeds
        return read(prompt, *words, **options)

    def preprocess_image(image: Tensor, _: int, device: torch.device) -> Tensor:
        return image.to(device)

    pipeline.encode_prompt = encode_prompt
    pipeline.preprocess_image = preprocess_image  # Of stage II alone.


class Upscaler(_Stage):
    """Stage II, which enlarges what stage I makes; it has no text encoder of its own."""

    pipeline_class = "IFSuperResolutionPipeline"
    pipeline_options: ClassVar[Mapping[str, Any]] = {
        **_Stage.pipeline_options, "text_encoder": None, "tokenizer": None,
    }  # fmt: skip
    rounded_networks: ClassVar[Sequence[str]] = ("unet",)
    offloaded_networks: ClassVar[Sequence[str]] = ()
    reader: DeepFloydIF

    @property
    def tokenizer(self) -> Any:
        """See `LoadedModel`."""
        return self.reader.tokenizer

    def encode_prompts(self, prompts: Sequence[str]) -> Conditioning:
        """Return stage I's conditioning on prompts."""
        return self.reader.encode_prompts(prompts)


class DeepFloydIF(_Stage):
    """Stage I, and stage II behind it: images are those of both."""

    pipeline_class = "IFPipeline"
    upscaler: Upscaler

    def __init__(self, model: BaseModel, sampler: Sampler, **options: Any) -> None:
        super().__init__(model, sampler, **options)
        second = model.find_upscaler()
        self.upscaler = with_room(self, lambda: Upscaler(second, sampler, **options))
        self.upscaler.reader = self
        small, large = self.pipeline.unet.config, self.upscaler.pipeline.unet.config
        self._ratio = large.sample_size // small.sample_size
        if sampler.size_px % (8 * self._ratio):
            raise UserError(
                f"the base model '{model.name}' enlarges {self._ratio} times and makes images of "
                f"whole squares of {8 * self._ratio} px, and the protocol asks for "
                f"{sampler.size_px} px",
                hint="set another size_px in the protocol's [sampler]",
                code="invalid-value",
            )

    @property
    def side_px(self) -> int:
        """See `_Stage`."""
        return self.sampler.size_px // self._ratio

    def _sample(self, prompts: Sequence[str], seeds: Sequence[int], **_: Any) -> list[Image.Image]:
        """See `LoadedModel`; by both stages, whose steps nothing changes."""
        upscaler, n_steps = self.upscaler, self.sampler.n_steps
        ask = {"generator": [torch.Generator("cpu").manual_seed(seed) for seed in seeds]}
        with self.drawing(), upscaler.drawing(), torch.no_grad():
            told = self._ask(prompts)
            small = self.pipeline(
                **told, **ask, num_inference_steps=n_steps, output_type="pt",
                height=self.side_px, width=self.side_px,
            ).images  # fmt: skip
            told = {**told, "guidance_scale": UPSCALING_GUIDANCE}
            found = upscaler.pipeline(
                **told, **ask, image=small, num_inference_steps=min(n_steps, UPSCALING_STEPS),
                noise_level=UPSCALING_NOISE_LEVEL, output_type="np",
                height=upscaler.side_px, width=upscaler.side_px,
            ).images  # fmt: skip
        return make_images(self.pipeline, found)

    def _ask(self, prompts: Sequence[str]) -> dict[str, Any]:
        nothing = self.encode_prompts([""] * len(prompts)).tensors["states"]
        return {
            "prompt_embeds": self.encode_prompts(prompts).tensors["states"],
            "negative_prompt_embeds": nothing, "guidance_scale": self.sampler.guidance_scale,
        }  # fmt: skip
