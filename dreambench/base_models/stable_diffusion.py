"""Stable Diffusion (Rombach et al., CVPR 2022): a UNet on latents, conditioned on text.

The training objective is that of diffusers' `examples/dreambooth/train_dreambooth.py`: uniform
times, and noise, velocity or the clean latents as the target, as the model's config says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

from dreambench.base_models.base import LoadedModel
from dreambench.base_models.drawing import make_images
from dreambench.base_models.encodings import Conditioning, EncodedImages, encode_squares
from dreambench.base_models.loading import only_errors
from dreambench.base_models.lora import CLIP_LAYERS
from dreambench.base_models.memory import decode_one_by_one_without_memory
from dreambench.base_models.spec import BaseModel
from dreambench.base_models.weights import check_loading, check_state
from dreambench.config.sampler import SCHEDULER_OPTIONS, Sampler
from dreambench.errors import UserError
from dreambench.machine.devices import send

if TYPE_CHECKING:
    from diffusers import DDPMScheduler

UNET_LAYERS = ["to_q", "to_k", "to_v", "to_out.0"]


# The noise that Stable Diffusion was trained on, for the keys that a scheduler file leaves out; see
# `config.sampler` for the files.
NOISE_SCHEDULE: Mapping[str, Any] = {
    "num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012,
    "beta_schedule": "scaled_linear", "trained_betas": None, "prediction_type": "epsilon",
    "rescale_betas_zero_snr": False,
}  # fmt: skip
PREDICTION_TYPES = ("epsilon", "sample", "v_prediction")


def read_noise_schedule(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the noise that a base model was trained on, from the config of its scheduler.

    Raises:
        UserError: it was trained with another process than diffusion's.
    """
    # Diffusers lists what the file left out, and has filled in from whatever class the file names.
    filled_in = config.get("_use_default_values", ())
    found = {
        key: value if key in filled_in else config.get(key, value)
        for key, value in NOISE_SCHEDULE.items()
    }
    if found["prediction_type"] not in PREDICTION_TYPES or "base_shift" in config:
        raise UserError(
            f"the scheduler file of the base model is of {config.get('_class_name', 'no class')}, "
            "and not of diffusion with noise added by betas",
            hint="use a base model of the family of its --base-model name",
            code="unsupported-base-model",
        )
    return found


def make_diffusion_scheduler(config: Mapping[str, Any], sampler: Sampler) -> Any:
    """Return a protocol's scheduler on the noise that a base model's `config` says.

    Raises:
        UserError: see `read_noise_schedule`.
    """
    import diffusers  # noqa: PLC0415  (slow import)

    classes = {
        "ddim": diffusers.DDIMScheduler,
        "ddpm": diffusers.DDPMScheduler,
        "dpm-solver": diffusers.DPMSolverMultistepScheduler,
    }
    return classes[sampler.scheduler](**read_noise_schedule(config), **sampler.options)


def add_random_noise(
    schedule: DDPMScheduler, latents: Tensor, *, noise: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Return latents (n, c, h, w) after one random time a row, the noise, and the times (n,)."""
    eps = send(torch.randn(latents.shape, generator=noise), latents.device)
    n_times = schedule.config.num_train_timesteps
    times = send(torch.randint(n_times, (len(latents),), generator=noise), latents.device)
    return schedule.add_noise(latents, eps, times), eps, times


class StableDiffusion(LoadedModel):
    """Stable Diffusion 1 and 2, and mini's own base model."""

    pipeline_class = "StableDiffusionPipeline"
    pipeline_options: ClassVar[Mapping[str, Any]] = {
        "feature_extractor": None, "image_encoder": None, "safety_checker": None,
        "requires_safety_checker": False,
    }  # fmt: skip
    denoiser = "unet"
    rounded_networks: ClassVar[Sequence[str]] = ("unet", "vae")

    def __init__(self, model: BaseModel, sampler: Sampler, **options: Any) -> None:
        super().__init__(model, sampler, **options)
        # Convolutions are fastest this way on the CPU and on recent GPUs.
        self.pipeline.unet.to(memory_format=torch.channels_last)
        self.pipeline.vae.to(memory_format=torch.channels_last)
        decode_one_by_one_without_memory(self.pipeline.vae)
        if self.precision == "bf16":
            # Some autoencoders want fp32 in place of fp16, whose range is smaller than bf16's.
            self.pipeline.vae.register_to_config(force_upcast=False)

    @classmethod
    def make_scheduler(cls, pipeline: Any, sampler: Sampler) -> Any:
        """See `LoadedModel`."""
        return make_diffusion_scheduler(pipeline.scheduler.config, sampler)

    # Text

    def encode_prompts(self, prompts: Sequence[str]) -> Conditioning:
        """Return hidden states (n, length, d), and what the second encoder pools (n, d)."""
        states, _, *pooled = self.pipeline.encode_prompt(
            list(prompts), device=self.device, num_images_per_prompt=1,
            do_classifier_free_guidance=False,
        )  # fmt: skip
        return Conditioning({"states": states} | ({"pooled": pooled[0]} if pooled else {}))

    # Images

    @torch.no_grad()
    def encode_images(self, images: Sequence[Image.Image]) -> EncodedImages:
        """See `LoadedModel`."""
        vae = self.pipeline.vae
        mean, std = encode_squares(vae.encode, images, self.sampler.size_px, self.device)
        return EncodedImages(mean, std, vae.config.scaling_factor)

    def decode_latents(self, latents: Tensor) -> list[Image.Image]:
        """Return the images of latents (n, c, h, w).

        Raises:
            NotNumbersError: pixels are NaN.
        """
        images = self.pipeline.vae.decode(latents / self.pipeline.vae.config.scaling_factor).sample
        processor = self.pipeline.image_processor
        return make_images(processor, processor.postprocess(images.float(), output_type="np"))

    # Training

    @cached_property
    def _training_schedule(self) -> DDPMScheduler:
        from diffusers import DDPMScheduler  # noqa: PLC0415  (slow import)

        return DDPMScheduler(**read_noise_schedule(self.pipeline.scheduler.config))

    def predict(self, noisy: Tensor, times: Tensor, text: Conditioning) -> Tensor:
        """Return what the UNet predicts for noisy latents (n, c, h, w) at `times` (n,)."""
        states = text.tensors["states"]
        extra = self._extra_conditions(noisy, text)
        found: Tensor = self.pipeline.unet(
            noisy, times, encoder_hidden_states=states, **extra
        ).sample
        return found

    def _extra_conditions(self, noisy: Tensor, text: Conditioning) -> dict[str, Any]:
        """Return what a variant's UNet gets besides the hidden states of texts."""
        return {}

    def squared_errors(
        self, latents: Tensor, text: Conditioning, *, noise: torch.Generator
    ) -> Tensor:
        """See `LoadedModel`; the DreamBooth paper's equation 2 for one time and noise a row."""
        schedule = self._training_schedule
        noisy, eps, times = add_random_noise(schedule, latents, noise=noise)
        found = self.predict(noisy, times, text)
        targets: dict[str, Callable[[], Tensor]] = {
            "epsilon": lambda: eps,
            "sample": lambda: latents,
            "v_prediction": lambda: schedule.get_velocity(latents, eps, times),
        }
        target = targets[schedule.config.prediction_type]()
        return F.mse_loss(found.float(), target.float(), reduction="none")

    def trainable_networks(self, *, with_text_encoders: bool) -> dict[str, nn.Module]:
        """See `LoadedModel`."""
        networks = {"unet": self.pipeline.unet}
        if with_text_encoders:
            for suffix, encoder in self.text_encoders.items():
                networks[f"text_encoder{suffix}"] = encoder.network
        return networks

    def adapted_layers(self, network: str) -> list[str]:
        """See `LoadedModel`; the projections of attention, as diffusers' scripts have them."""
        return UNET_LAYERS if network == "unet" else CLIP_LAYERS

    # Sampling

    @cached_property
    def _img2img(self) -> Any:
        """Diffusers' pipeline that starts from an image, on the same networks and scheduler."""
        from diffusers import AutoPipelineForImage2Image  # noqa: PLC0415  (slow import)

        made = AutoPipelineForImage2Image.from_pipe(self.pipeline)
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
        """See `LoadedModel`."""
        return self._run_pipeline(
            self._img2img, prompts, seeds, image=list(images), strength=strength
        )

    def add_noise(self, latents: Tensor, noise: Tensor, *, step: int) -> Tensor:
        """See `LoadedModel`."""
        scheduler = self.pipeline.scheduler
        times = scheduler.timesteps
        if step + 1 >= len(times):
            return latents
        found: Tensor = scheduler.add_noise(latents, noise, times[step + 1].expand(len(latents)))
        return found

    # What methods ask for that are about a UNet by nature

    def make_ddim(self, *, inverse: bool = False) -> Any:
        """Return DDIM's scheduler at the protocol's steps, or the one that undoes them."""
        import diffusers  # noqa: PLC0415  (slow import)

        kind = diffusers.DDIMInverseScheduler if inverse else diffusers.DDIMScheduler
        options = {
            name: self.sampler.options.get(name, choices[0])
            for name, choices in SCHEDULER_OPTIONS["ddim"].items()
        }
        # The class of inverse steps knows no thresholds.
        del options["thresholding"]
        made = kind(**read_noise_schedule(self.pipeline.scheduler.config), **options)
        made.set_timesteps(self.sampler.n_steps, device=self.device)
        return made

    def cross_attention_layers(self) -> dict[str, nn.Linear]:
        """Return the layers that make keys and values of texts, by name."""
        return {
            name: module
            for name, module in self.pipeline.unet.named_modules()
            if name.endswith(("attn2.to_k", "attn2.to_v")) and isinstance(module, nn.Linear)
        }

    @contextmanager
    def attention_through(self, processor: Any) -> Iterator[None]:
        """Put an attention processor of diffusers into all layers, and take it out again."""
        before = dict(self.pipeline.unet.attn_processors)
        self.pipeline.unet.set_attn_processor(processor)
        try:
            yield
        finally:
            self.pipeline.unet.set_attn_processor(before)

    # Image prompts (IP-Adapter, Ye et al., 2023, arXiv 2308.06721)

    def set_image_encoder(self, network: nn.Module, extractor: Any) -> None:
        """Give the pipeline a network that reads photos, and what prepares their pixels."""
        self.pipeline.register_modules(image_encoder=network, feature_extractor=extractor)

    def load_image_adapter(self, path: Path, *, image_encoder: Path | None) -> None:
        """Put an adapter and the folder of its image encoder, if it has its own, into the pipeline.

        Raises:
            OSError: a file cannot be read.
            UserError: they do not hold exactly the weights of such an adapter.
        """
        from transformers import CLIPVisionModelWithProjection  # noqa: PLC0415

        pipeline, state = self.pipeline, load_file(path)
        wrong = UserError(
            f"{path}: the weights are not those of an image adapter for this base model",
            hint="download the adapter again",
            code="wrong-weights",
        )
        self._check_image_adapter(state, where=str(path))
        if image_encoder is not None:
            # By itself, since a pipeline does not tell what its files lack.
            with only_errors():
                network, found = CLIPVisionModelWithProjection.from_pretrained(
                    image_encoder, output_loading_info=True, dtype=pipeline.dtype,
                    local_files_only=True,
                )  # fmt: skip
            check_loading(found, where=str(image_encoder), part="the image encoder")
            pipeline.register_modules(image_encoder=network.to(self.device))
        try:
            # It warns of casts to the precision that all of it has already.
            with only_errors():
                pipeline.load_ip_adapter(
                    str(path.parent), subfolder="", weight_name=path.name,
                    image_encoder_folder=None, local_files_only=True,
                )  # fmt: skip
        except (KeyError, RuntimeError, ValueError) as error:
            raise wrong from error
        (layer,) = pipeline.unet.encoder_hid_proj.image_projection_layers
        n_given = sum(v.numel() for key, v in state.items() if key.startswith("image_proj."))
        # What the file lacks has no memory yet; its other names are the authors' own.
        lacks = [name for name, value in layer.state_dict().items() if value.is_meta]
        if lacks or n_given != sum(value.numel() for value in layer.state_dict().values()):
            raise wrong

    def _check_image_adapter(self, state: Mapping[str, Tensor], *, where: str) -> None:
        """Raise UserError unless an adapter has keys and values for each cross-attention layer."""
        layers = self.cross_attention_layers().values()
        own = {
            f"ip_adapter.{2 * (index // 2) + 1}.to_{'kv'[index % 2]}_ip.weight": layer.weight
            for index, layer in enumerate(layers)
        }
        found = {key: v for key, v in state.items() if not key.startswith("image_proj.")}
        check_state(
            own, found, where=where, part="the image adapter", hint="download the adapter again"
        )

    @torch.inference_mode()
    def encode_image_prompt(self, photo: Image.Image) -> tuple[Tensor, Tensor]:
        """Return what the adapter is shown of a photo, and of none: both (1, 1, ...)."""
        from diffusers.models.embeddings import ImageProjection  # noqa: PLC0415  (slow import)

        (layer,) = self.pipeline.unet.encoder_hid_proj.image_projection_layers
        shown, hidden = self.pipeline.encode_image(
            photo, self.device, 1, not isinstance(layer, ImageProjection)
        )
        return shown[:, None], hidden[:, None]

    def sample_with_photos(
        self, prompts: Sequence[str], seeds: Sequence[int], *, shown: Tensor, scale: float
    ) -> list[Image.Image]:
        """Sample with what the adapter is shown (n, photos, ...), at a weight besides the text.

        With guidance, the rows of no photo come first: (2n, photos, ...).
        """
        self.pipeline.set_ip_adapter_scale(scale)
        # The pipeline takes one row an image; diffusers shows all rows to each image of a batch.
        self.pipeline.prepare_ip_adapter_image_embeds = lambda _image, embeds, *_: embeds
        try:
            return self._sample(prompts, seeds, ip_adapter_image_embeds=[shown])
        finally:
            del self.pipeline.prepare_ip_adapter_image_embeds
