"""Flow matching (Lipman et al., ICLR 2023): what families of transformers on latents share.

A training step is that of diffusers' `examples/dreambooth/train_dreambooth_lora_*.py` at their
defaults: each row's time is drawn from the family's density and is one of the base model's own
schedule, the transformer predicts noise minus latents there, and no time has a weight of its own.
Texts are read in training as the pipeline reads them when generating.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from dreambench.base_models.base import LoadedModel
from dreambench.base_models.encodings import Conditioning, EncodedImages, encode_squares
from dreambench.base_models.lora import CLIP_LAYERS
from dreambench.base_models.memory import decode_one_by_one_without_memory
from dreambench.base_models.spec import BaseModel
from dreambench.config.sampler import Sampler
from dreambench.errors import UserError
from dreambench.machine.devices import send

if TYPE_CHECKING:
    from diffusers import FlowMatchEulerDiscreteScheduler

# Which noise a time means, which a base model was trained with. The values are for the keys that a
# scheduler file leaves out: those of diffusers' class at 0.42.1.
FLOW_SCHEDULE: Mapping[str, Any] = {
    "num_train_timesteps": 1000, "shift": 1.0, "use_dynamic_shifting": False, "base_shift": 0.5,
    "max_shift": 1.15, "base_image_seq_len": 256, "max_image_seq_len": 4096,
    "shift_terminal": None, "time_shift_type": "exponential",
}  # fmt: skip
# Euler's steps at the schedule's own times, which is what the makers sample with.
EULER_OPTIONS: Mapping[str, Any] = {
    "invert_sigmas": False, "use_karras_sigmas": False, "use_exponential_sigmas": False,
    "use_beta_sigmas": False, "stochastic_sampling": False,
}  # fmt: skip


def pack_patches(latents: Tensor) -> Tensor:
    """Return squares of 2 x 2 places of latents (n, c, h, w) as tokens (n, h w / 4, 4 c)."""
    return F.pixel_unshuffle(latents, 2).flatten(2).transpose(1, 2)


def unpack_patches(tokens: Tensor) -> Tensor:
    """Return the square latents (n, c, h, w) of `pack_patches`."""
    return F.pixel_shuffle(unpack_places(tokens), 2)


def unpack_places(tokens: Tensor) -> Tensor:
    """Return tokens (n, h w, c) of a square image at their places (n, c, h, w)."""
    side = round(tokens.shape[1] ** 0.5)
    return tokens.transpose(1, 2).unflatten(2, (side, side))


PHOTO_PIXELS = 1024 * 1024
"""Of a photo that a model is shown: at most in FLUX.2's pipeline, and about as many in others."""


class FlowModel(LoadedModel):
    """A transformer that was trained by flow matching on an autoencoder's latents."""

    denoiser = "transformer"
    rounded_networks: ClassVar[Sequence[str]] = ("transformer", "vae", "text_encoder")
    offloaded_networks: ClassVar[Sequence[str]] = ("text_encoder",)
    density: ClassVar[Mapping[str, Any]] = {"weighting_scheme": "none"}
    """Which times training draws, in the words of diffusers' scripts; "none" is uniform."""
    trains_on_latents: ClassVar[bool] = False
    """Whether errors are those of the clean latents that the flow leads back to, as in EDM (Karras
    et al., NeurIPS 2022, section 5); else those of the flow."""
    lora_layers: ClassVar[Sequence[str]] = ("to_q", "to_k", "to_v", "to_out.0")
    """Ends of the names of the transformer's layers that the family's script adapts."""
    trained_text_encoders: ClassVar[Sequence[str]] = ()
    """What the names of the text encoders that the family's script can train end with."""
    own_schedule: ClassVar[Mapping[str, Any]] = {}
    """Options of its scheduler that are others than those of all families."""
    redrawing_class: ClassVar[str | None] = None
    """Name of the class in diffusers that starts from an image; None where there is none."""

    def __init__(self, model: BaseModel, sampler: Sampler, **options: Any) -> None:
        super().__init__(model, sampler, **options)
        decode_one_by_one_without_memory(self.pipeline.vae)

    @classmethod
    def make_scheduler(cls, pipeline: Any, sampler: Sampler) -> FlowMatchEulerDiscreteScheduler:
        """See `LoadedModel`; Euler's steps along the base model's own schedule."""
        from diffusers import FlowMatchEulerDiscreteScheduler  # noqa: PLC0415  (slow import)

        config = pipeline.scheduler.config
        if not isinstance(pipeline.scheduler, FlowMatchEulerDiscreteScheduler):
            raise UserError(
                f"the scheduler file of the base model is of {config.get('_class_name')}, and not "
                "of flow matching",
                hint="use a base model of the family of its --base-model name",
                code="unsupported-base-model",
            )
        filled_in = config.get("_use_default_values", ())
        schedule = {
            key: value if key in filled_in else config.get(key, value)
            for key, value in FLOW_SCHEDULE.items()
        }
        return FlowMatchEulerDiscreteScheduler(**schedule, **{**EULER_OPTIONS, **cls.own_schedule})

    # Images

    @torch.no_grad()
    def encode_images(self, images: Sequence[Image.Image]) -> EncodedImages:
        """See `LoadedModel`."""
        vae = self.pipeline.vae
        mean, std = encode_squares(vae.encode, images, self.sampler.size_px, self.device)
        return EncodedImages(mean, std, vae.config.scaling_factor, vae.config.shift_factor or 0.0)

    # Training

    @cached_property
    def _training_schedule(self) -> FlowMatchEulerDiscreteScheduler:
        """A schedule of its own: generating puts its steps into the pipeline's."""
        return self.make_scheduler(self.pipeline, self.sampler)

    @abstractmethod
    def predict(self, noisy: Tensor, times: Tensor, text: Conditioning) -> Tensor:
        """Return the flow (n, c, h, w) at noisy latents (n, c, h, w) at `times` (n,), 0 to 1000."""

    def squared_errors(
        self, latents: Tensor, text: Conditioning, *, noise: torch.Generator
    ) -> Tensor:
        """See `LoadedModel`."""
        from diffusers.training_utils import (  # noqa: PLC0415  (slow import)
            compute_density_for_timestep_sampling,
        )

        schedule, n_rows = self._training_schedule, len(latents)
        eps = send(torch.randn(latents.shape, generator=noise), latents.device)
        share = compute_density_for_timestep_sampling(
            batch_size=n_rows, generator=noise, **self.density
        )
        steps = (share * schedule.config.num_train_timesteps).long()
        times = send(schedule.timesteps[steps], latents.device)
        sigmas = send(schedule.sigmas[steps], latents.device).view(n_rows, 1, 1, 1)
        noisy = (1 - sigmas) * latents + sigmas * eps
        found, target = self.predict(noisy, times, text).float(), eps - latents
        if self.trains_on_latents:
            found, target = noisy - sigmas * found, latents
        return F.mse_loss(found, target, reduction="none")

    def trainable_networks(self, *, with_text_encoders: bool) -> dict[str, nn.Module]:
        """See `LoadedModel`.

        Raises:
            UserError: text encoders are wanted, and the family's script trains none.
        """
        networks = {"transformer": self.pipeline.transformer}
        if with_text_encoders and not self.trained_text_encoders:
            raise UserError(
                f"the text encoder of the base model '{self.model.name}' is not trained here, "
                "since no public recipe trains it",
                hint="set train_text_encoder = false",
                code="unsupported-base-model",
            )
        if with_text_encoders:
            for suffix in self.trained_text_encoders:
                networks[f"text_encoder{suffix}"] = self.text_encoders[suffix].network
        return networks

    def adapted_layers(self, network: str) -> list[str]:
        """See `LoadedModel`."""
        return list(self.lora_layers) if network == "transformer" else CLIP_LAYERS

    def name_adapters(self, network: str, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """See `LoadedModel`; pipelines read a transformer's adapters under PEFT's names."""
        return state if network == "transformer" else super().name_adapters(network, state)

    # Sampling

    @cached_property
    def _redrawing(self) -> Any:
        """Diffusers' pipeline that starts from an image, on the same networks and scheduler."""
        import diffusers  # noqa: PLC0415  (slow import)

        if self.redrawing_class is None:
            raise self.refuse(
                "has no pipeline that starts from a noisy photo, which this method needs"
            )
        # `from_pipe` would cast the networks, which are the same, to fp32.
        made = getattr(diffusers, self.redrawing_class)(**self.pipeline.components)
        made.set_progress_bar_config(disable=True)
        return made

    def redraw(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        *,
        images: Sequence[Image.Image],
        strength: float,
    ) -> list[Image.Image]:
        """See `LoadedModel`.

        Raises:
            UserError: the family has no such pipeline.
        """
        side = self.sampler.size_px
        return self._run_pipeline(
            self._redrawing, prompts, seeds, image=list(images), strength=strength, height=side,
            width=side,
        )  # fmt: skip

    def add_noise(self, latents: Tensor, noise: Tensor, *, step: int) -> Tensor:
        """See `LoadedModel`."""
        sigma = self.pipeline.scheduler.sigmas[step + 1].to(latents)
        return (1 - sigma) * latents + sigma * noise


class InContextModel(FlowModel):
    """A transformer that can be shown photos: tokens of them stand beside those of its image."""

    max_photos: ClassVar[int | None] = None
    """Photos that its pipeline takes at once; None where it sets no limit."""
    photo_words: ClassVar[str | None] = None
    """What stands in a prompt for a photo, with its {number} from 1; None where nothing does."""
    has_image_guidance: ClassVar[bool] = False
    """Whether `sample_in_context` takes `image_guidance`: how much photos count without text."""

    @abstractmethod
    def sample_in_context(
        self, prompts: Sequence[str], seeds: Sequence[int], *, photos: Sequence[Image.Image]
    ) -> list[Image.Image]:
        """Return one image a prompt, as `sample` does, each shown all of these photos in order.

        Photos are as they are: the pipeline brings them to the size that its makers show them at.
        """
