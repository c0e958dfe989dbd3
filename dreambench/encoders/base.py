"""Encoders: frozen networks that turn images, and texts, into rows. Subclass `Encoder` for another.

Everything that costs care is here and the same for all: device, batches of one size, precision,
unit length, checks of what a network gives.
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import normalize

from dreambench.encoders.preprocessing import Preparation
from dreambench.encoders.spec import AnyEncoderSpec
from dreambench.errors import UserError
from dreambench.plugins import plugin_error
from dreambench.types import Features

COSINE_ROLES = ("dino", "clip")
"""Roles whose rows have unit length, so that a dot product is a cosine."""
CPU_BATCH_SIZE = 8
GPU_BATCH_SIZE = 64
TEXT_BATCH_SIZE = 8


@contextmanager
def exact_sums() -> Iterator[None]:
    """Compute in what fp32 says, whatever the process has set.

    Left to itself cuDNN takes TF32 for fp32, which has the ten bits of fp16; where a user asked
    for fast matrix products, they are in TF32 on a GPU and in bf16 on a CPU.
    """
    wanted = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    flags = torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False)
    try:
        with flags:
            yield
    finally:
        torch.set_float32_matmul_precision(wanted)


@contextmanager
def exact_inference() -> Iterator[None]:
    """Compute so, without gradients."""
    with exact_sums(), torch.inference_mode():
        yield


class Extractor(Protocol):
    """What feature extraction needs of whatever turns images into rows; an `Encoder` has it."""

    identity: str

    @property
    def pixels(self) -> Preparation:
        """Its preprocessing."""
        ...

    @property
    def batch_size(self) -> int:
        """How many images it takes at once where nobody says otherwise."""
        ...

    @property
    def on_cpu(self) -> bool:
        """Whether it works on the cores that also decode."""
        ...

    def encode_pixels(self, pixels: NDArray[np.float32]) -> Features:
        """Return one row per image of a batch of prepared images."""
        ...


class Encoder(ABC):
    """A frozen network that turns images into rows of numbers.

    A subclass says what it is by class attributes, builds its network in `load`, and computes rows
    in `forward`; one that plays the role "clip" also has `forward_texts`:

        class MyEncoder(Encoder):
            name = "my-encoder"
            version = 1  # a new number whenever rows change, and the code does not
            roles = ("dino",)
            pixels = Pixels(224, 224, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
            weights = "my-weights.pt"  # optional; next to this file

            def load(self, device):
                return torch.jit.load(self.weights_path, map_location=device)

            def forward(self, batch):
                return self.model(batch)

    `name` is by default the class's, in kebab case. `roles` are the inputs of metrics that it can
    stand for: "dino", "clip", "perceptual", or the name of another input that a metric asks for.
    `pixels` prepares an RGB image; `Pixels` is the usual choice, anything hashable with `prepare`
    does. `weights` is a file or a folder whose digest becomes part of the identity, next to that
    of the code. Make no `__init__`: `load` is called once, when a network is first needed.
    """

    name: ClassVar[str] = ""
    version: ClassVar[int] = 1
    roles: ClassVar[tuple[str, ...]] = ()
    pixels: Preparation
    weights: ClassVar[str | Path | None] = None

    def __init__(self, spec: AnyEncoderSpec, *, device: str) -> None:
        self.spec = spec
        self.device = torch.device(device)
        self.dtype = torch.float16 if spec.precision == "fp16" else torch.float32
        self.identity = spec.identity()
        self.pixels = spec.pixels

    def load(self, device: torch.device) -> Any:
        """Build the network; it becomes `self.model`, in evaluation mode and on the device.

        None, the default, is for an encoder that has no network.
        """
        return None

    @abstractmethod
    def forward(self, batch: Tensor) -> Tensor:
        """Return one row per image: (n, ...) as `pixels` prepares them -> (n, d).

        Rows of "dino" and "clip" are scaled to unit length by the harness. For "perceptual" the
        squared Euclidean distance of two rows is the perceptual distance.
        """

    def forward_texts(self, texts: Sequence[str]) -> Tensor:
        """Return one row per text, (n, d), comparable with the rows of images. For "clip" alone."""
        raise UserError(f"encoder '{self.spec.name}' does not take texts", code="no-texts")

    @functools.cached_property
    def model(self) -> Any:
        """What `load` built, in evaluation mode.

        Raises:
            UserError: the weights are not its own, or were changed meanwhile.
        """
        with self._explain("load"):
            model = self.load(self.device)
        if self.spec.identity() != self.identity:
            raise UserError(
                f"the weights of encoder '{self.spec.name}' changed in the meantime",
                hint="run the same command again",
                code="changed-data",
            )
        if isinstance(model, nn.Module):
            model = model.to(self.device, self.dtype).eval().requires_grad_(False)
        return model

    @property
    def weights_path(self) -> Path:
        """The file or folder of its weights on this machine."""
        return self.spec.find_weights()

    @property
    def batch_size(self) -> int:
        """How many images go through at once where nobody says otherwise.

        On two CPU cores eight are as fast as any (`benchmarks/scoring.py`) and need little memory.
        """
        return CPU_BATCH_SIZE if self.on_cpu else GPU_BATCH_SIZE

    @property
    def on_cpu(self) -> bool:
        """Whether the network runs on the cores that also decode images."""
        return self.device.type == "cpu"

    def encode_images(self, images: Sequence[Image.Image], *, batch_size: int = 64) -> Features:
        """Return one row per image, (n, d); see `forward`."""
        rows = []
        for start in range(0, len(images), batch_size):
            chunk = [self.pixels.prepare(image) for image in images[start : start + batch_size]]
            rows.append(self.encode_pixels(np.stack(chunk)))
        return np.concatenate(rows)

    def encode_pixels(self, pixels: NDArray[np.float32]) -> Features:
        """Return `encode_images` of images that `pixels` has prepared, in one pass."""
        found: Features = self.encode_there(pixels).cpu().numpy()
        return found

    def encode_there(self, pixels: NDArray[np.float32]) -> Tensor:
        """Return the same in fp32, left on the device."""
        _ = self.model  # Built outside of the guards below.
        batch = torch.from_numpy(pixels).to(self.device, self.dtype)
        with exact_inference():
            with self._explain("forward"):
                rows = self.forward(batch)
            return self._finish(rows, len(batch), hook="forward")

    def encode_texts(self, texts: Sequence[str]) -> Features:
        """Return one row per text, (n, d), whose bits do not depend on the other texts."""
        found: dict[int, NDArray[np.float32]] = {}
        for group in self.group_texts(texts):
            for start in range(0, len(group), TEXT_BATCH_SIZE):
                # Batches of one size: another size is added up in another order.
                batch = list(group[start : start + TEXT_BATCH_SIZE])
                filled = batch + batch[-1:] * (TEXT_BATCH_SIZE - len(batch))
                with exact_inference():
                    with self._explain("forward_texts"):
                        rows = self.forward_texts([texts[index] for index in filled])
                    made = self._finish(rows, len(filled), hook="forward_texts").cpu().numpy()
                found |= dict(zip(batch, made, strict=False))
        return np.stack([found[index] for index in range(len(texts))])

    def group_texts(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the indices of the texts in groups that may share a batch; all, by default."""
        return [list(range(len(texts)))]

    @contextmanager
    def _explain(self, hook: str) -> Iterator[None]:
        """Turn an exception of code from outside into one line."""
        try:
            yield
        except UserError:
            raise
        except Exception as error:
            if not self.spec.where:
                raise
            raise plugin_error(f"{hook}() of {self.spec.where}", error) from error

    def _finish(self, rows: Any, n_rows: int, *, hook: str) -> Tensor:
        """Return what a hook gave as float32 rows, of unit length where the role wants it.

        Raises:
            UserError: it is not a tensor (n_rows, d) of finite numbers.
        """
        what = f"{hook}() of {self.spec.where or repr(self.spec.name)}"
        if isinstance(rows, np.ndarray):
            rows = torch.from_numpy(rows)
        if not isinstance(rows, Tensor) or rows.ndim != 2 or len(rows) != n_rows:
            shape = tuple(rows.shape) if isinstance(rows, Tensor) else type(rows).__name__
            raise UserError(
                f"{what} gives {shape} for a batch of {n_rows}",
                hint="return a tensor with one row each, (n, d)",
                code="wrong-shape",
            )
        if self.spec.role in COSINE_ROLES:
            rows = normalize(rows.to(self.dtype), dim=-1)
        found = rows.float()
        if not found.isfinite().all():
            raise UserError(
                f"{what} gives numbers that are not finite",
                hint="check its weights and its preprocessing",
                code="not-finite",
            )
        return found
