"""Methods: code that makes images of a subject. The interface, and the table of all of them."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

from PIL import Image
from pydantic import BaseModel, ConfigDict

from dreambench.base_models.registry import BaseModel as DiffusionModel
from dreambench.config.protocol import Sampler
from dreambench.config.recipe import PluginRecipe, Recipe
from dreambench.datasets.subjects import Subject
from dreambench.errors import UserError, unknown_name
from dreambench.progress import Progress

Precision = Literal["fp32", "bf16"]


class Settings(BaseModel):
    """Numbers of a recipe's table; a method lists its own in a subclass."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class NoSettings(Settings):
    """For a method without numbers."""


@dataclass(frozen=True)
class Context:
    """Where and under which protocol a method works."""

    base_model: DiffusionModel
    sampler: Sampler
    device: str
    precision: Precision
    batch_size: int
    cache_dir: Path
    progress: Progress


@dataclass(frozen=True)
class Work:
    """What a method does besides drawing its images, as far as it can be counted beforehand."""

    optimizer_steps: int = 0  # of each subject
    images_per_step: int = 0  # noisy images that a step learns from
    class_images: int = 0  # of each class noun
    trained_parameters: int = 0
    saved_bytes: int = 0  # of each subject
    other_parameters: int = 0  # of networks beside the base model's own
    draws: bool = False  # whether its images come out of the denoising network
    drawing: float = 1.0  # network calls of an image of the subject, where plain drawing takes 1
    # Weights beside the base model's that are not on this machine, with their bytes (0: unknown).
    missing: Mapping[str, int] = field(default_factory=dict)


class Generator(Protocol):
    """Makes images of one subject."""

    def generate(self, prompts: Sequence[str], seeds: Sequence[int]) -> list[Image.Image]:
        """One RGB image a prompt. Image i depends on (prompts[i], seeds[i]) alone.

        A prompt may hold the slot {subject}, which stands for what the method calls its subject.
        """
        ...


class Method(ABC):
    """A way to make images of a subject. Inherit from it, write `load`, and `fit` if it learns.

    `tunes` says whether `fit` changes weights; `n_references` how many photos the method sees
    (None: all of them); `is_oracle` that it knows what no method can. These put a baseline in its
    track. All else has a default.
    """

    Settings: ClassVar[type[Settings]] = NoSettings
    tunes: ClassVar[bool] = False
    n_references: ClassVar[int | None] = None
    is_oracle: ClassVar[bool] = False

    def __init__(self, settings: Any, context: Context) -> None:
        self.settings = settings
        self.context = context

    @classmethod
    def count_work(cls, settings: Any, base_model: DiffusionModel) -> Work:
        """What is to be done, without loading anything."""
        return Work()

    def fit(self, subject: Subject, out_dir: Path, *, seed: int) -> None:
        """Leaves in `out_dir` (which exists and is empty) all that `load` needs."""
        return

    @abstractmethod
    def load(self, subject: Subject, out_dir: Path) -> Generator:
        """Makes a generator from what `fit` left."""


METHODS = {
    "dreambooth": "dreambench.methods.finetuning.dreambooth:DreamBooth",
    "dreambooth-lora": "dreambench.methods.finetuning.dreambooth_lora:DreamBoothLora",
    "textual-inversion": "dreambench.methods.finetuning.textual_inversion:TextualInversion",
    "custom-diffusion": "dreambench.methods.finetuning.custom_diffusion:CustomDiffusion",
    "ip-adapter": "dreambench.methods.image_prompting.ip_adapter:IPAdapter",
    "image-variation": "dreambench.methods.image_prompting.image_variation:ImageVariation",
    "composition": "dreambench.methods.editing.composition:Composition",
    "cut-and-paste": "dreambench.methods.editing.composition:CutAndPaste",
    "sdedit": "dreambench.methods.editing.sdedit:SDEdit",
    "inpainting": "dreambench.methods.editing.inpainting:Inpainting",
    "ddim-inversion": "dreambench.methods.editing.ddim_inversion:DDIMInversion",
    "class-only": "dreambench.methods.reference.class_only:ClassOnly",
    "copy-reference": "dreambench.methods.reference.copy_reference:CopyReference",
    # On mini it draws with the world's program, which stands far below the methods.
    "real-images": "dreambench.mini.real_images:RealImages",
}


def find_method(name: str) -> type[Method]:
    """The class behind a name in METHODS; imports it only now, since torch is slow to import."""
    if name not in METHODS:
        raise unknown_name("method", name, METHODS)
    module, _, attribute = METHODS[name].partition(":")
    return getattr(importlib.import_module(module), attribute)


def find_class(recipe: Recipe) -> type[Method]:
    """The class that a recipe is of; UserError where the code of somebody's own is not at hand."""
    if not isinstance(recipe, PluginRecipe):
        return find_method(recipe.method)
    if recipe.method_class is None:
        raise UserError(
            f"the code of '{recipe.name}' ({recipe.method}) is not known here",
            hint=f"say where it is: --method path/to/{recipe.method}",
        )
    return recipe.method_class


def read_settings(recipe: Recipe, base_model: str) -> Settings:
    """Return a recipe's numbers for a base model; UserError for one that the method lacks."""
    return recipe.read_settings(base_model, find_class(recipe).Settings)


def make_method(recipe: Recipe, context: Context) -> Method:
    """A method with a recipe's numbers; UserError for a number that the method does not take."""
    return find_class(recipe)(read_settings(recipe, context.base_model.name), context)


def describe_track(recipe: Recipe, base_model: str) -> str:
    """What a baseline may use, e.g. "tuned, all photos"; only rows of one track are rivals."""
    known = recipe if isinstance(recipe, PluginRecipe) else find_method(recipe.method)
    if getattr(known, "is_oracle", False):
        return "oracle"
    chosen = recipe.settings_for(base_model).get("n_photos")
    n_photos = chosen if isinstance(chosen, int) and chosen > 0 else known.n_references
    if n_photos == 0:
        return "no photos"
    seen = "all photos" if n_photos is None else f"{n_photos} photo{'s' if n_photos > 1 else ''}"
    return f"{'tuned' if known.tunes else 'tuning-free'}, {seen}"
