"""Base models: Stable-Diffusion-shaped pipelines by name, pinned revision or local folder."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from dreambench.config.protocol import Sampler
from dreambench.errors import UserError, unknown_name
from dreambench.storage.downloads import find_cached
from dreambench.storage.files import digest_folder
from dreambench.storage.shipped import PACKAGE_DIR

if TYPE_CHECKING:
    import torch
    from diffusers import StableDiffusionPipeline
    from transformers import CLIPTokenizer

UNET_FILE = "unet/diffusion_pytorch_model.safetensors"
WEIGHT_SUFFIXES = (".safetensors", ".json", ".txt")


@dataclass(frozen=True)
class BaseModel:
    """A base model. `name` picks the table in a recipe; `location` is a folder or a hub id."""

    name: str
    location: str
    revision: str | None = None
    pipeline: Literal[
        "StableDiffusionPipeline", "StableDiffusionXLPipeline", "StableUnCLIPImg2ImgPipeline"
    ] = "StableDiffusionPipeline"
    # Counted by `python benchmarks/full_size.py --count`: parameters of UNet, of autoencoder and
    # text encoders, of text encoders alone, of adapters of rank 1, of keys and values of
    # cross-attention, and of a word; and what a training step in fp32 keeps for each image of
    # size_px, without and with gradient checkpointing.
    size_px: int = 512
    n_download_bytes: int = 0
    n_unet_parameters: int = 0
    n_other_parameters: int = 0
    n_text_parameters: int = 0
    n_lora_parameters_per_rank: int = 0
    n_cross_attention_parameters: int = 0
    text_width: int = 0
    activation_bytes: int = 0
    checkpointed_bytes: int = 0

    @property
    def is_local(self) -> bool:
        """Whether the location is a folder on this machine."""
        return Path(self.location).is_dir()

    def find_unet(self) -> Path | None:
        """The UNet's one file of weights on this machine, local or in the hub's cache."""
        if self.is_local:
            path = Path(self.location) / UNET_FILE
            return path if path.is_file() else None
        return next(iter(find_cached(self.location, [UNET_FILE], revision=self.revision)), None)

    def is_here(self) -> bool:
        """Whether its weights are on this machine: a local folder, or in the hub's cache."""
        return self.is_local or self.find_unet() is not None

    def identity(self) -> str:
        """Name with the digest of the local folder's weights and configs, or with hub revision."""
        if self.is_local:
            content = digest_folder(Path(self.location), suffixes=WEIGHT_SUFFIXES)
            return f"{self.name}:folder@{content}"
        return f"{self.name}:{self.location}@{self.revision}"


# The revisions are those of the hub's main branches as public code pins them (2026-11).
BASE_MODELS = {
    model.name: model
    for model in (
        BaseModel(
            "mini",
            str(PACKAGE_DIR / "mini" / "weights" / "base"),
            n_unet_parameters=9_310_568,
            n_other_parameters=2_856_867,
            n_text_parameters=1_396_416,
            size_px=64,
            n_lora_parameters_per_rank=23_040,
            n_cross_attention_parameters=516_096,
            text_width=192,
            activation_bytes=10_404_872,
            checkpointed_bytes=1_260_688,
        ),
        BaseModel(
            "sd15",
            "stable-diffusion-v1-5/stable-diffusion-v1-5",
            "451f4fe16113bff5a5d2269ed5ad43b0592e9a14",
            n_download_bytes=4_270_000_000,
            n_unet_parameters=859_520_964,
            n_other_parameters=206_714_343,
            n_text_parameters=123_060_480,
            n_lora_parameters_per_rank=199_296,
            n_cross_attention_parameters=19_169_280,
            text_width=768,
            activation_bytes=1_881_558_280,
            checkpointed_bytes=312_177_936,
        ),
        BaseModel(
            "sd21",
            "stabilityai/stable-diffusion-2-1",
            "5cae40e6a2745ae2b01ad92ae5043f95f23644d6",
            n_download_bytes=5_160_000_000,
            size_px=768,
            n_unet_parameters=865_910_724,
            n_other_parameters=424_041_703,
            n_text_parameters=340_387_840,
            n_lora_parameters_per_rank=207_488,
            n_cross_attention_parameters=25_559_040,
            text_width=1024,
            activation_bytes=4_211_071_112,
            checkpointed_bytes=701_688_080,
        ),
        # Tuned from sd21 to be told of an image by its CLIP embedding; its encoder counts as other.
        BaseModel(
            "sd21-unclip",
            "stabilityai/stable-diffusion-2-1-unclip",
            "e99f66a92bdcd1b0fb0d4b6a9b81b3b37d8bea44",
            "StableUnCLIPImg2ImgPipeline",
            n_download_bytes=7_750_000_000,
            size_px=768,
            n_unet_parameters=870_173_124,
            n_other_parameters=1_056_118_503,
            n_lora_parameters_per_rank=207_488,
            n_cross_attention_parameters=25_559_040,
            text_width=1024,
            activation_bytes=4_211_086_472,
            checkpointed_bytes=701_698_320,
        ),
        BaseModel(
            "sdxl",
            "stabilityai/stable-diffusion-xl-base-1.0",
            "462165984030d82259a11f4367a4eed129e94a7b",
            "StableDiffusionXLPipeline",
            n_download_bytes=13_880_000_000,
            size_px=1024,
            n_unet_parameters=2_567_463_684,
            n_other_parameters=901_374_183,
            n_text_parameters=817_720_320,
            n_lora_parameters_per_rank=1_451_520,
            n_cross_attention_parameters=340_787_200,
            text_width=768 + 1280,
            activation_bytes=13_825_169_184,
            checkpointed_bytes=751_488_552,
        ),
    )
}


def find_base_model(name: str) -> BaseModel:
    """A base model by name, or `NAME=FOLDER`: a local folder that takes that name's settings."""
    key, _, folder = name.partition("=")
    if key not in BASE_MODELS:
        raise unknown_name("base model", key, BASE_MODELS)
    if not folder:
        return BASE_MODELS[key]
    if not (Path(folder) / "model_index.json").is_file():
        raise UserError(
            f"{folder} holds no model_index.json", hint="name the folder of a diffusers pipeline"
        )
    return replace(BASE_MODELS[key], location=folder, revision=None)


def load_pipeline(
    model: BaseModel, *, device: torch.device, dtype: torch.dtype
) -> StableDiffusionPipeline:
    """Loads the pipeline from safetensors, without safety checker and without progress bars.

    Raises UserError that names the folder to bring when the hub cannot be reached.
    """
    # Diffusers imports it wherever it is installed; it warns of kernels that nothing here calls.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    import diffusers  # noqa: PLC0415  (slow import)
    import transformers  # noqa: PLC0415

    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
    options: dict[str, Any] = {"dtype": dtype, "use_safetensors": True}
    if not model.is_local:
        options["revision"] = model.revision
    options |= {
        "StableDiffusionPipeline": {
            "feature_extractor": None, "image_encoder": None, "safety_checker": None,
            "requires_safety_checker": False,
        },
        "StableDiffusionXLPipeline": {
            "feature_extractor": None, "image_encoder": None, "add_watermarker": False,
        },
        "StableUnCLIPImg2ImgPipeline": {},
    }[model.pipeline]  # fmt: skip
    try:
        pipeline = getattr(diffusers, model.pipeline).from_pretrained(model.location, **options)
    except OSError as error:
        raise UserError(
            f"base model '{model.name}' ({model.location}, revision {model.revision}) is not on "
            "this machine and the hub cannot be reached",
            hint=f"bring its diffusers folder and pass --base-model {model.name}=FOLDER",
        ) from error
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(device)


def load_tokenizer(model: BaseModel) -> CLIPTokenizer:
    """The tokenizer of a base model alone; UserError when it cannot be had."""
    from huggingface_hub import snapshot_download  # noqa: PLC0415  (slow import)
    from huggingface_hub.errors import HfHubHTTPError  # noqa: PLC0415
    from transformers import CLIPTokenizer  # noqa: PLC0415

    folder = model.location
    try:
        if not model.is_local:
            # from_pretrained would make an empty tokenizer where the files are not to be had.
            folder = snapshot_download(
                folder, revision=model.revision, allow_patterns=["tokenizer/*"]
            )
        return CLIPTokenizer.from_pretrained(folder, subfolder="tokenizer")
    except (OSError, HfHubHTTPError) as error:
        raise UserError(
            f"the tokenizer of '{model.name}' ({model.location}) is not on this machine and the "
            "hub cannot be reached",
            hint=f"bring its diffusers folder and pass --base-model {model.name}=FOLDER",
        ) from error


def make_scheduler(pipeline: StableDiffusionPipeline, sampler: Sampler) -> Any:
    """The protocol's scheduler with the base model's own noise schedule and prediction type."""
    import diffusers  # noqa: PLC0415  (slow import)

    classes = {
        "ddim": diffusers.DDIMScheduler,
        "ddpm": diffusers.DDPMScheduler,
        "dpm-solver": diffusers.DPMSolverMultistepScheduler,
    }
    return classes[sampler.scheduler].from_config(pipeline.scheduler.config)
