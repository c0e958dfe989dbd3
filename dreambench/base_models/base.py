"""The interface of a family of base models: what a method may ask of a loaded one.

A method says "the errors of these latents under this text" or "images of these prompts", and the
family knows which networks that takes. To add a family: one file with a subclass of `LoadedModel`,
and its name in `registry.FAMILIES`.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from PIL import Image
from torch import Tensor, nn

from dreambench.base_models.drawing import make_images
from dreambench.base_models.encodings import Conditioning, EncodedImages, TextEncoder
from dreambench.base_models.loading import (
    find_quantizer,
    load_networks,
    load_tokenizer,
    not_here,
)
from dreambench.base_models.memory import with_room
from dreambench.base_models.precision import held_rounded, round_network, widen
from dreambench.base_models.spec import BaseModel
from dreambench.config.sampler import Precision, Quantization, Sampler
from dreambench.errors import UserError

AfterStep = Callable[[int, Tensor], Tensor]
"""Gets a step's number, from 0, and the latents after it; returns the latents to go on with."""


class LoadedModel(ABC):
    """A base model in memory: on one device, in one precision, under one protocol's sampler.

    `pipeline` is the diffusers pipeline, for a method that wants to do in its own way what is not
    in this interface. In bf16 the networks of `rounded_networks` are held in it and compute in it,
    with fp32 going in and coming out; what a method trains it asks for in fp32 (`hold_masters`).
    """

    pipeline_class: ClassVar[str]
    """Name of the class in diffusers."""
    denoiser: ClassVar[str]
    """The denoising network's name in the pipeline."""
    tokenizer_class: ClassVar[str] = "CLIPTokenizer"
    """Name of the class in transformers of the first text encoder's tokenizer."""
    pipeline_options: ClassVar[Mapping[str, Any]] = {}
    """What `from_pretrained` is given, besides where and in which precision."""
    rounded_networks: ClassVar[Sequence[str]] = ()
    """What bf16 applies to. Pipelines sample noise and keep latents in the precision of the
    prompts' states, and both need fp32: a family rounds its text encoders only if it hands their
    states over in fp32."""
    offloaded_networks: ClassVar[Sequence[str]] = ()
    """Large text encoders that nothing trains, which wait on the CPU where memory is short."""

    upscaler: LoadedModel | None = None
    """What enlarges its images, in a cascade that was trained stage by stage."""
    most_images: int | None = None
    """Images that memory holds at once, where it did not hold more."""
    is_offloaded = False
    """Whether `offloaded_networks` wait on the CPU, since memory did not hold all networks."""

    def __init__(
        self,
        model: BaseModel,
        sampler: Sampler,
        *,
        device: str,
        precision: Precision,
        quantization: Quantization = "none",
    ) -> None:
        self.model = model
        self.sampler = sampler
        self.precision = precision
        self.quantization = quantization
        self.wanted_device = torch.device(device)
        self.pipeline = self.load_pipeline(
            model, self.wanted_device, rounded=precision == "bf16", quantization=quantization
        )
        with_room(self, lambda: self.pipeline.to(self.wanted_device))
        self.pipeline.scheduler = self.make_scheduler(self.pipeline, sampler)

    @property
    def device(self) -> torch.device:
        """Where its networks compute."""
        device: torch.device = self.pipeline.device
        return device

    def autocast(self) -> AbstractContextManager[object]:
        """Return the run's precision as a context, for training on weights in fp32."""
        if self.precision == "fp32":
            return nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16)

    stays_wide: Callable[[str], bool] = staticmethod(lambda _: False)
    """Whether a weight of this name is fp32 while generating, too."""

    def drawing(self) -> AbstractContextManager[None]:
        """Hold what was trained in the run's precision, too, as long as images are generated."""
        if self.precision == "fp32":
            return nullcontext()
        networks = (getattr(self.pipeline, name) for name in self.rounded_networks)
        weights = (found for network in networks for found in network.named_parameters())
        return held_rounded(weight for name, weight in weights if not self.stays_wide(name))

    def hold_masters(self, modules: Iterable[nn.Module]) -> None:
        """Hold modules that are to be trained in fp32, with the weights that the files have."""
        if self.precision == "fp32":
            return
        wanted = set(modules)
        for name in self.rounded_networks:
            load = partial(self.load_networks, self.model, names=[name])
            widen(getattr(self.pipeline, name), wanted, load=load)

    # Loading

    @classmethod
    def load_networks(
        cls, model: BaseModel, *, names: Collection[str] | None = None
    ) -> dict[str, nn.Module]:
        """Load all networks, or those of some names, in fp32 and on the CPU.

        Raises:
            OSError, ValueError: files cannot be had, or are not valid.
            UserError: a network's files lack weights, or have others than its own.
        """
        return load_networks(model, cls._options(model), names=names)

    @classmethod
    def _options(cls, model: BaseModel) -> dict[str, Any]:
        options = {"dtype": torch.float32, "use_safetensors": True, **cls.pipeline_options}
        if not model.is_local:
            options["revision"] = model.revision
        return options

    @classmethod
    def load_pipeline(
        cls,
        model: BaseModel,
        device: torch.device,
        *,
        rounded: bool = False,
        quantization: Quantization = "none",
    ) -> Any:
        """Load the pipeline from safetensors, without safety checker and progress bars.

        On the CPU, in fp32, or with the weights of `rounded_networks` rounded to bf16; those of the
        denoising network may be quantised, too, and are then on `device`.

        Raises:
            UserError: its folder lacks files or holds damaged ones, or there is none and the hub
                cannot be reached; a package for quantised weights is missing.
        """
        quantize = find_quantizer() if quantization != "none" else None
        # Diffusers imports it wherever it is installed; it warns of kernels that nothing here
        # calls.
        logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
        import diffusers  # noqa: PLC0415  (slow import)
        import transformers  # noqa: PLC0415

        diffusers.utils.logging.disable_progress_bar()
        transformers.utils.logging.disable_progress_bar()
        options = cls._options(model)
        try:
            # Large networks would take twice the memory in fp32 first. An autoencoder is small and
            # may hold statistics that stay in fp32.
            narrow = [name for name in cls.rounded_networks if rounded and name != "vae"]
            networks = load_networks(model, options, rounded=narrow)
            if quantize is not None:
                network = networks[cls.denoiser]
                quantize(network, quantization, device=device, rounded=rounded)
            pipeline = getattr(diffusers, cls.pipeline_class).from_pretrained(
                model.location, **options, **networks
            )
        except UserError:
            raise
        # Of a folder whose files are not valid, libraries make any kind of exception.
        except Exception as error:
            if isinstance(error, MemoryError) or not (model.is_local or isinstance(error, OSError)):
                raise
            raise not_here(model, "base model", error) from error
        pipeline.set_progress_bar_config(disable=True)
        if rounded:
            cls._round(pipeline)
        return pipeline

    @classmethod
    def _round(cls, pipeline: Any) -> None:
        for name in cls.rounded_networks:
            if (network := getattr(pipeline, name, None)) is not None:
                round_network(network)

    @classmethod
    def load_tokenizer(cls, model: BaseModel) -> Any:
        """Load the tokenizer that reads prompts, alone.

        Raises:
            UserError: its files are not on this machine and the hub cannot be reached.
        """
        return load_tokenizer(model, cls.tokenizer_class)

    @classmethod
    @abstractmethod
    def make_scheduler(cls, pipeline: Any, sampler: Sampler) -> Any:
        """Return the protocol's scheduler with the base model's own noise schedule.

        Raises:
            UserError: the base model's scheduler file is not one of the family.
        """

    # Text

    @property
    def text_encoders(self) -> Mapping[str, TextEncoder]:
        """Text encoders by what their files' names end with: "", "_2", "_3"."""
        found = {}
        for suffix in ("", "_2", "_3"):
            tokenizer = getattr(self.pipeline, f"tokenizer{suffix}", None)
            network = getattr(self.pipeline, f"text_encoder{suffix}", None)
            if tokenizer is not None and network is not None:
                found[suffix] = TextEncoder(tokenizer, network)
        return found

    @property
    def tokenizer(self) -> Any:
        """The first text encoder's tokenizer, which rare tokens are looked up in."""
        return next(iter(self.text_encoders.values())).tokenizer

    @abstractmethod
    def encode_prompts(self, prompts: Sequence[str]) -> Conditioning:
        """Return the denoising network's conditioning on prompts; gradients flow."""

    # Images

    @property
    def cell_px(self) -> int:
        """Side of the square of pixels that one place of the latents shows."""
        side: int = self.pipeline.vae_scale_factor
        return side

    @abstractmethod
    def encode_images(self, images: Sequence[Image.Image]) -> EncodedImages:
        """Encode images, which are cut square at the protocol's size."""

    # Training

    @abstractmethod
    def squared_errors(
        self, latents: Tensor, text: Conditioning, *, noise: torch.Generator
    ) -> Tensor:
        """Return the squared errors (n, c, h, w) of one training step's prediction.

        Clean `latents` (n, c, h, w) get noise at random times, both sampled from `noise`; the
        target and the weight of a time are the family's.
        """

    def freeze(self) -> None:
        """Take the gradients from all weights; a method gives them to what it trains."""
        for part in self.pipeline.components.values():
            if isinstance(part, nn.Module):
                part.requires_grad_(False)

    @abstractmethod
    def trainable_networks(self, *, with_text_encoders: bool) -> dict[str, nn.Module]:
        """Return the networks that fine-tuning trains, by the names of their files."""

    @abstractmethod
    def adapted_layers(self, network: str) -> list[str]:
        """Return the ends of the names of a trainable network's layers that LoRA adapts."""

    def find_weights(self, network: str) -> Path | None:
        """Return the one file on this machine with a trainable network's initial weights."""
        return self.model.find_weights() if network == self.denoiser else None

    def enable_gradient_checkpointing(self) -> None:
        """Make activations of the denoising network anew in the backward pass, to save memory."""
        getattr(self.pipeline, self.denoiser).enable_gradient_checkpointing()

    def name_adapters(self, network: str, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Return a trainable network's adapters under the names that its pipeline reads."""
        from diffusers.utils import convert_state_dict_to_diffusers  # noqa: PLC0415

        named: Mapping[str, Tensor] = convert_state_dict_to_diffusers(state)
        return named

    def refuse(self, why: str) -> UserError:
        """Return the error for a method that asks for what the family does not do."""
        return UserError(
            f"the base model '{self.model.name}' {why}",
            hint="pass another --base-model: dreambench list base-models",
            code="unsupported-base-model",
        )

    # Sampling

    def sample(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        *,
        start: Tensor | None = None,
        after_step: AfterStep | None = None,
    ) -> list[Image.Image]:
        """Return one RGB image of the protocol's size a prompt.

        `start` (n, c, h, w) are the latents to begin with, else noise that each seed draws on the
        CPU by itself, so that neither batch nor device changes it.

        Raises:
            UserError: a method wants other latents than those of the family's own steps, which
                takes no others.
        """
        if self.draws_by_own_steps and (start is not None or after_step is not None):
            raise self.refuse("only generates from noise, by its own steps")
        return self._sample(prompts, seeds, start=start, after_step=after_step)

    def _sample(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        *,
        start: Tensor | None = None,
        after_step: AfterStep | None = None,
        **options: Any,
    ) -> list[Image.Image]:
        """Sample with options that only a family's pipeline has."""
        side = self.sampler.size_px
        if start is not None:
            options["latents"] = self.pack(start) if self.starts_packed else start
        if after_step is not None:
            change = after_step

            def at_step_end(_: Any, step: int, __: Any, tensors: dict[str, Tensor]) -> dict:
                return {"latents": self.pack(change(step, self.unpack(tensors["latents"])))}

            options["callback_on_step_end"] = at_step_end
        return self._run_pipeline(self.pipeline, prompts, seeds, height=side, width=side, **options)

    draws_by_own_steps: ClassVar[bool] = False
    """Whether its pipeline takes neither latents to begin with nor changes between steps."""
    starts_packed: ClassVar[bool] = False
    """Whether the pipeline wants the latents to begin with as it holds them between steps."""

    def pack(self, latents: Tensor) -> Tensor:
        """Return latents (n, c, h, w) as the pipeline holds them between steps."""
        return latents

    def unpack(self, held: Tensor) -> Tensor:
        """Return latents (n, c, h, w) of what the pipeline holds between steps."""
        return held

    @abstractmethod
    def redraw(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        *,
        images: Sequence[Image.Image],
        strength: float,
    ) -> list[Image.Image]:
        """Return images after noise for `strength` of the steps was added and removed again."""

    @abstractmethod
    def add_noise(self, latents: Tensor, noise: Tensor, *, step: int) -> Tensor:
        """Return clean latents with as much noise as there is after a step of `sample`."""

    def _run_pipeline(
        self,
        pipeline: Any,
        prompts: Sequence[str],
        seeds: Sequence[int],
        *,
        ask: Callable[[Sequence[str]], dict[str, Any]] | None = None,
        **options: Any,
    ) -> list[Image.Image]:
        """Return what a pipeline makes of prompts under the protocol's sampler.

        `ask` replaces `_ask` where a pipeline takes prompts in another way.
        """
        noise = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
        with self.drawing(), torch.no_grad():
            found = pipeline(
                **(ask or self._ask)(prompts),
                num_inference_steps=self.sampler.n_steps,
                generator=noise,
                output_type="np",
                **options,
            )
        return make_images(pipeline.image_processor, found.images)

    def _ask(self, prompts: Sequence[str]) -> dict[str, Any]:
        """Return a pipeline's arguments for prompts, and how much they count."""
        return {"prompt": list(prompts), "guidance_scale": self.sampler.guidance_scale}
