"""What is known of a base model before it is loaded, and what of its files is here. No torch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from dreambench.config.sampler import FLOW, Sampler, SamplerSettings
from dreambench.errors import UserError
from dreambench.storage.downloads import find_cached
from dreambench.storage.files import digest_folder

Family = Literal[
    "stable-diffusion", "sdxl", "unclip", "flux2", "flux", "flux-kontext", "sd3", "qwen-image",
    "qwen-image-edit", "omnigen", "mini-flow", "deepfloyd-if", "deepfloyd-if-upscaler",
]  # fmt: skip

DIFFUSION: tuple[Family, ...] = ("stable-diffusion", "sdxl", "unclip")
"""Families with a UNet that was trained by diffusion, which some methods are about by nature."""
IN_CONTEXT: tuple[Family, ...] = (
    "flux2", "flux-kontext", "qwen-image-edit", "omnigen", "mini-flow",
)  # fmt: skip
"""Families that can be shown photos, in one sequence with the image that they generate."""

_PARTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
_FLOW_PARTS = ("transformer", *_PARTS[1:])
_FLUX_PARTS = (*_FLOW_PARTS, "text_encoder_2", "tokenizer_2")
PARTS: dict[Family, tuple[str, ...]] = {
    "stable-diffusion": _PARTS,
    "sdxl": (*_PARTS, "text_encoder_2", "tokenizer_2"),
    "unclip": (
        *_PARTS, "feature_extractor", "image_encoder", "image_normalizer",
        "image_noising_scheduler",
    ),
    "flux2": _FLOW_PARTS,
    "flux": _FLUX_PARTS,
    "flux-kontext": _FLUX_PARTS,
    "sd3": (*_FLUX_PARTS, "text_encoder_3", "tokenizer_3"),
    "qwen-image": _FLOW_PARTS,
    "qwen-image-edit": (*_FLOW_PARTS, "processor"),
    "omnigen": ("transformer", "vae", "tokenizer", "scheduler"),
    "mini-flow": _FLOW_PARTS,
    "deepfloyd-if": ("unet", "text_encoder", "tokenizer", "scheduler"),
    "deepfloyd-if-upscaler": ("unet", "scheduler", "image_noising_scheduler"),
}  # fmt: skip
"""What a family loads of a pipeline's folder."""

TRANSFORMER_FILE = "transformer/diffusion_pytorch_model.safetensors"
UPSCALER_DIR, UPSCALING_STEPS = "upscaler", 50
"""Where stage II of a cascade is in its folder, and how many steps it takes at most."""
FLOW_SIZE_STEP_PX = 16
"""A transformer's token shows 2 x 2 places of the latents, and each of these 8 x 8 pixels."""
WEIGHT_SUFFIXES = (".safetensors", ".json", ".txt", ".jinja", ".model")


@dataclass(frozen=True)
class BaseModel:
    """A base model. `name` picks the table in a recipe; `location` is a folder or a hub id.

    `licence` is that of the weights, as their hub page or their package names it; `is_gated` says
    that the hub hands them out only to those who have accepted it. `weights_file` is the denoising
    network's file of weights in the pipeline's folder, or the name that its shards have without
    their numbers. `flow` is how its makers sample a model that was trained by flow matching; None
    for diffusion. `is_distilled` says that guidance takes no second call of the network. `upscaler`
    is a cascade's stage II: hub id, revision, parameters; a folder has it in `upscaler/`. `mark` is
    a file of a snapshot, a key in it and its value, by which other weights of the family are told
    from these. The counts are of parameters: `n_denoiser` of that network, `n_other` of autoencoder
    and text encoders, `n_text` of text encoders alone, `n_cross_attention` of the keys and values
    of cross-attention; `text_width` of a word's vector; `n_offloaded` of text encoders that can
    wait on the CPU, where the device has no room for all networks. `adapted_shapes` are the
    denoising network's layers that LoRA and other adapters stand in: inputs, outputs, and how many
    such; `adapted_block` are those of the block whose inputs are the most.
    A training step in fp32 keeps `activation_bytes` for each image of `size_px`, and
    `checkpointed_bytes` with gradient checkpointing.
    """

    name: str
    location: str
    revision: str | None = None
    family: Family = "stable-diffusion"
    size_px: int = 512
    weights_file: str = "unet/diffusion_pytorch_model.safetensors"
    licence: str = ""
    is_gated: bool = False
    flow: SamplerSettings | None = None
    is_distilled: bool = False
    upscaler: tuple[str, str, int] | None = None
    mark: tuple[str, str, bool] | None = None
    n_download_bytes: int = 0
    n_denoiser_parameters: int = 0
    n_other_parameters: int = 0
    n_text_parameters: int = 0
    n_offloaded_parameters: int = 0
    adapted_shapes: tuple[tuple[int, int, int], ...] = ()
    adapted_block: tuple[tuple[int, int, int], ...] = ()
    n_cross_attention_parameters: int = 0
    text_width: int = 0
    activation_bytes: int = 0
    checkpointed_bytes: int = 0

    @property
    def is_local(self) -> bool:
        """Whether the location is a folder on this machine."""
        return Path(self.location).is_dir()

    def find_upscaler(self) -> BaseModel:
        """Return stage II of a cascade."""
        assert self.upscaler is not None
        location, revision, _ = self.upscaler
        found = replace(self, family="deepfloyd-if-upscaler", upscaler=None)
        if self.is_local:
            return replace(found, location=str(Path(self.location) / UPSCALER_DIR))
        return replace(found, location=location, revision=revision)

    def find_weights(self) -> Path | None:
        """Return the denoising network's weights on this machine, local or in the hub's cache.

        None also where they are in several files.
        """
        return self._find(self.weights_file)

    def is_here(self) -> bool:
        """Return whether its weights are on this machine: a local folder, or the hub's cache."""
        names = (self.weights_file, f"{self.weights_file}.index.json")
        if self.upscaler is not None and not self.find_upscaler().is_here():
            return False
        return self.is_local or any(self._find(name) is not None for name in names)

    def _find(self, name: str) -> Path | None:
        if self.is_local:
            path = Path(self.location) / name
            return path if path.is_file() else None
        found = find_cached(self.location, [name], revision=self.revision)
        return next(iter(found), None)

    @property
    def where(self) -> str:
        """Hub id and revision, of both stages of a cascade."""
        found = f"{self.location} at {self.revision}"
        if self.upscaler is not None:
            second, revision, _ = self.upscaler
            found += f", and {second} at {revision} as {UPSCALER_DIR}/ in its folder"
        return found

    @property
    def terms(self) -> str:
        """The licence of the weights, and how to get them where the hub does not simply give them.

        Whoever has a folder has them already.
        """
        if not self.is_gated or self.is_local:
            return f"licence {self.licence}"
        return (
            f"licence {self.licence}; gated: accept it at https://huggingface.co/{self.location} "
            "and log in with `hf auth login`"
        )

    def choose_sampler(self, settings: SamplerSettings) -> Sampler:
        """Return what images are sampled with under a protocol.

        A protocol with a scheduler of diffusion means nothing to a model of flow matching, which
        then has its makers' steps and guidance, at the protocol's size.

        Raises:
            UserError: the protocol's scheduler or size is not one that this model can have.
        """
        if self.flow is None and settings.scheduler == FLOW:
            raise UserError(
                f"the scheduler {FLOW} is not for the base model '{self.name}', which was trained "
                "by diffusion",
                hint="set another scheduler in the protocol, or pass another --base-model",
                code="unsupported-base-model",
            )
        chosen = settings
        if self.flow is not None and settings.scheduler != FLOW:
            chosen = self.flow.model_copy(update={"size_px": settings.size_px})
        sampler = chosen.at_size(self.size_px)
        if self.flow is not None and sampler.size_px % FLOW_SIZE_STEP_PX:
            raise UserError(
                f"the base model '{self.name}' makes images of whole squares of "
                f"{FLOW_SIZE_STEP_PX} px, and the protocol asks for {sampler.size_px} px",
                hint="set another size_px in the protocol's [sampler]",
                code="invalid-value",
            )
        return sampler

    def note_sampler(self, settings: SamplerSettings) -> list[str]:
        """Return a line where images are not sampled as a protocol says, for whoever runs it."""
        found = self.choose_sampler(settings)
        if found.scheduler == settings.scheduler:
            return []
        return [
            f"{settings.scheduler} is for models of diffusion: '{self.name}' is sampled with "
            f"{found.scheduler}, {found.n_steps} steps, guidance {found.guidance_scale:g}"
        ]

    def count_calls(self, sampler: Sampler) -> int:
        """Return the evaluations of the network for one image; guidance takes two a step."""
        is_guided = sampler.guidance_scale > 1 and not self.is_distilled
        n_calls = sampler.n_steps * (2 if is_guided else 1)
        if self.upscaler is not None:
            n_calls += 2 * min(sampler.n_steps, UPSCALING_STEPS)
        return n_calls

    def identity(self) -> str:
        """Return the name with the digest of a local folder's weights, or with hub revision."""
        if self.is_local:
            content = digest_folder(Path(self.location), suffixes=WEIGHT_SUFFIXES)
            return f"{self.name}:folder@{content}"
        second = "" if self.upscaler is None else "+{}@{}".format(*self.upscaler[:2])
        return f"{self.name}:{self.location}@{self.revision}{second}"
