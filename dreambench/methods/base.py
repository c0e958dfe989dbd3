"""The interface of a method, and what it is told of its run."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar, overload

import pydantic
from PIL import Image

from dreambench.base_models.registry import find_family, load_base_model
from dreambench.base_models.spec import BaseModel, Family
from dreambench.config.sampler import Precision, Quantization, Sampler
from dreambench.datasets.subjects import Subject
from dreambench.errors import UserError
from dreambench.progress import Progress
from dreambench.storage.snapshots import Weights

if TYPE_CHECKING:
    from dreambench.base_models.base import LoadedModel

Model = TypeVar("Model", bound="LoadedModel")


class Settings(pydantic.BaseModel):
    """Numbers of a recipe's table; a method lists its own in a subclass."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)


class NoSettings(Settings):
    """For a method without numbers."""


class QuantizedSettings(Settings):
    """Numbers of a method that leaves the denoising network's weights as they are."""

    quantization: Quantization = pydantic.Field(
        default="none", description="of the transformer's frozen weights; needs bitsandbytes"
    )

    @property
    def quantizations(self) -> Sequence[Quantization]:
        """How weights can be quantised with this recipe, the least rounded first."""
        return ("int8", "nf4")

    def check_quantization(self, base_model: BaseModel) -> None:
        """Refuse a base model whose weights are not quantised here.

        Raises:
            UserError: it has a UNet, much of which are convolutions.
        """
        if self.quantization != "none" and base_model.flow is None:
            raise UserError(
                f"quantization = '{self.quantization}' is for transformers, and the base model "
                f"'{base_model.name}' has a UNet, whose convolutions have no such form",
                hint="set quantization = 'none', or pass another --base-model: "
                "dreambench list base-models",
                code="unsupported-base-model",
            )


@dataclass(frozen=True)
class Context:
    """Where and under which protocol a method works.

    `checkpoints` are steps after which a method that trains also leaves what it has learned so far,
    as it would at the end, in the folder `step-N` of the one it is given (`checkpoint_dir`).
    """

    base_model: BaseModel
    sampler: Sampler
    device: str
    precision: Precision
    batch_size: int
    cache_dir: Path
    progress: Progress
    checkpoints: Sequence[int] = ()

    @overload
    def load_base_model(self, *, quantization: Quantization = "none") -> LoadedModel: ...
    @overload
    def load_base_model(
        self, family: type[Model], *, quantization: Quantization = "none"
    ) -> Model: ...
    def load_base_model(
        self, family: type[Any] | None = None, *, quantization: Quantization = "none"
    ) -> Any:
        """Load the base model with the protocol's sampler, on the run's device.

        A method that works on one family alone names its class. `quantization` is of the denoising
        network's weights, which then cannot be trained themselves.

        Raises:
            UserError: the base model is of another family, or its files cannot be had.
        """
        if family is not None and not issubclass(find_family(self.base_model.family), family):
            raise UserError(
                f"the base model '{self.base_model.name}' is not of the family {family.__name__}, "
                "which this method needs",
                hint="pass another --base-model: dreambench list base-models",
                code="unsupported-base-model",
            )
        return load_base_model(
            self.base_model, self.sampler, device=self.device, precision=self.precision,
            quantization=quantization,
        )  # fmt: skip


@dataclass(frozen=True)
class Work:
    """What a method does besides generating its images, as far as it can be counted beforehand.

    `optimizer_steps` and `saved_bytes` are for each subject, `class_images` for each class noun;
    `images_per_step` are the noisy images that a step learns from; `second_steps` and
    `second_images` are the steps of a second network and all their images; `other_parameters`
    those of networks besides the base model's own; `kept_bytes` what a step holds for its backward
    pass, besides the base model's activations. `samples` says whether images come out of the
    denoising network, `calls_per_image` how many network calls an image of the subject takes, where
    plain sampling takes 1. `photo_pixels` has those of each photo that the network reads beside an
    image. `weights` are those that it loads besides the base model's: a run that has begun with
    some is not resumed with others.
    """

    optimizer_steps: int = 0
    images_per_step: int = 0
    second_steps: int = 0
    second_images: int = 0
    class_images: int = 0
    trained_parameters: int = 0
    saved_bytes: int = 0
    other_parameters: int = 0
    kept_bytes: int = 0
    samples: bool = False
    calls_per_image: float = 1.0
    photo_pixels: Sequence[int] = ()
    weights: Sequence[Weights] = ()

    @property
    def training_images(self) -> int:
        """Noisy images that all steps on a subject learn from."""
        return self.optimizer_steps * self.images_per_step + self.second_images

    @property
    def uses_base_model(self) -> bool:
        """Whether the base model's networks are loaded."""
        return self.samples or self.trained_parameters > 0


def checkpoint_dir(out_dir: Path, step: int) -> Path:
    """Return where a method leaves what it has learned after so many steps."""
    return out_dir / f"step-{step}"


class Generator(Protocol):
    """Makes images of one subject."""

    def generate(self, prompts: Sequence[str], seeds: Sequence[int]) -> list[Image.Image]:
        """Return one RGB image a prompt. Image i depends on (prompts[i], seeds[i]) alone.

        A prompt may hold the slot {subject}, which stands for what the method calls its subject.
        """
        ...


class Method(ABC):
    """A way to make images of a subject. Inherit from it, write `load`, and `fit` if it learns.

    `tunes` says whether `fit` changes weights; `n_references` how many photos the method sees
    (None: all of them); `is_oracle` that it knows what no method can. These put a baseline in its
    track. `families` are those of base models that it works with (none: with every one).
    `most_subjects` is how many subjects it can put into one image: with 2 it also gets pairs, as
    one subject with `members`, and prompts with the slots {first} and {second}. All else has a
    default.
    """

    Settings: ClassVar[type[Settings]] = NoSettings
    tunes: ClassVar[bool] = False
    n_references: ClassVar[int | None] = None
    is_oracle: ClassVar[bool] = False
    families: ClassVar[Sequence[Family]] = ()
    most_subjects: ClassVar[int] = 1

    def __init__(self, settings: Any, context: Context) -> None:
        self.settings = settings
        self.context = context

    @classmethod
    def count_work(cls, settings: Any, base_model: BaseModel) -> Work:
        """Return what there is to do, without loading anything."""
        return Work()

    @classmethod
    def name_subject(cls, settings: Any, subject: Subject) -> str:
        """Return what fills the slot {subject} of prompts, or a text of as many tokens.

        It only says which prompts are too long for the base model; the class noun by default.
        """
        return subject.class_name

    def fit(self, subject: Subject, out_dir: Path, *, seed: int) -> None:
        """Leave in `out_dir` (which exists and is empty) all that `load` needs."""
        return

    @abstractmethod
    def load(self, subject: Subject, out_dir: Path) -> Generator:
        """Return a generator, made from what `fit` left."""
