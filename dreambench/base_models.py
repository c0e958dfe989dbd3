"""Base models: Stable-Diffusion-shaped pipelines by name, pinned revision or local folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dreambench.errors import UserError, unknown_name
from dreambench.files import PACKAGE_DIR, digest_folder
from dreambench.protocol import Sampler

if TYPE_CHECKING:
    import torch
    from diffusers import StableDiffusionPipeline

WEIGHT_SUFFIXES = (".safetensors", ".json", ".txt")


@dataclass(frozen=True)
class BaseModel:
    """A base model. `name` picks the table in a recipe; `location` is a folder or a hub id."""

    name: str
    location: str
    revision: str | None = None

    @property
    def is_local(self) -> bool:
        """Whether the location is a folder on this machine."""
        return Path(self.location).is_dir()

    def identity(self) -> str:
        """Name with the digest of the local folder's weights and configs, or with hub revision."""
        if self.is_local:
            content = digest_folder(Path(self.location), suffixes=WEIGHT_SUFFIXES)
            return f"{self.name}:folder@{content}"
        return f"{self.name}:{self.location}@{self.revision}"


BASE_MODELS = {
    "mini": BaseModel("mini", str(PACKAGE_DIR / "mini" / "weights" / "base")),
    "sd15": BaseModel(
        "sd15",
        "stable-diffusion-v1-5/stable-diffusion-v1-5",
        "451f4fe16113bff5a5d2269ed5ad43b0592e9a14",
    ),
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
    return BaseModel(key, folder)


def load_pipeline(
    model: BaseModel, *, device: torch.device, dtype: torch.dtype
) -> StableDiffusionPipeline:
    """Loads the pipeline from safetensors, without safety checker and without progress bars.

    Raises UserError that names the folder to bring when the hub cannot be reached.
    """
    import diffusers  # noqa: PLC0415  (slow import)
    import transformers  # noqa: PLC0415

    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
    options: dict[str, Any] = {"dtype": dtype, "use_safetensors": True}
    if not model.is_local:
        options["revision"] = model.revision
    optional = {"safety_checker": None, "feature_extractor": None, "image_encoder": None}
    try:
        pipeline = diffusers.StableDiffusionPipeline.from_pretrained(
            model.location, requires_safety_checker=False, **optional, **options
        )
    except OSError as error:
        raise UserError(
            f"base model '{model.name}' ({model.location}, revision {model.revision}) is not on "
            "this machine and the hub cannot be reached",
            hint=f"bring its diffusers folder and pass --base-model {model.name}=FOLDER",
        ) from error
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(device)


def make_scheduler(pipeline: StableDiffusionPipeline, sampler: Sampler) -> Any:
    """The protocol's scheduler with the base model's own noise schedule and prediction type."""
    import diffusers  # noqa: PLC0415  (slow import)

    classes = {
        "ddim": diffusers.DDIMScheduler,
        "ddpm": diffusers.DDPMScheduler,
        "dpm-solver": diffusers.DPMSolverMultistepScheduler,
    }
    return classes[sampler.scheduler].from_config(pipeline.scheduler.config)
