"""Base models of real size on tensors without content, which have shapes, dtypes and bytes alone.

dreambench's own loading, training step and drawing run on them, on a CPU or on a GPU that is not
there. What leaves the tensors as numbers (pixels, losses, times, files of weights) is made up.
"""

import weakref
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import numpy as np
import torch
from full_size import make_networks, make_pipeline
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dreambench.base_models.base import LoadedModel
from dreambench.base_models.registry import BaseModel
from dreambench.methods.finetuning import custom_diffusion, dreambooth, new_word, training


class Held(TorchDispatchMode):
    """Counts the bytes of all tensors that are made within it and still held, by device."""

    def __init__(self) -> None:
        super().__init__()
        self.now: Counter[str] = Counter()
        self.peak: Counter[str] = Counter()
        self._sizes: dict[int, tuple[str, int]] = {}

    def see(self, tensor: Tensor) -> None:
        """Count a tensor's memory, once for all its views."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._sizes:
            return
        device, size = tensor.device.type, storage.nbytes()
        self._sizes[key] = device, size
        self.now[device] += size
        self.peak[device] = max(self.peak[device], self.now[device])
        weakref.finalize(storage, self._forget, key)

    def reset_peak(self) -> None:
        """Begin anew with what is held now."""
        self.peak = Counter(self.now)

    def _forget(self, key: int) -> None:
        device, size = self._sizes.pop(key)
        self.now[device] -= size

    def __torch_dispatch__(
        self, function: Any, _types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        found = function(*args, **(kwargs or {}))
        for value in tree_leaves(found):
            if isinstance(value, Tensor):
                self.see(value)
        return found


def load_fake_networks(
    _: type, model: BaseModel, *, names: Any = None
) -> dict[str, nn.Module]:
    """In the place of `LoadedModel.load_networks`."""
    found = make_networks(model.name)
    return {name: network for name, network in found.items() if names is None or name in names}


def load_fake_pipeline(
    cls: type[LoadedModel], model: BaseModel, *, device: torch.device, rounded: bool = False
) -> Any:
    """In the place of `LoadedModel.load_pipeline`."""
    pipeline = make_pipeline(model.name, cls.load_networks(model))
    pipeline.set_progress_bar_config(disable=True)
    if rounded:
        cls._round(pipeline)
    # The scheduler's times and the pixels are numbers, which no tensor here has.
    scheduler, processor = pipeline.scheduler, pipeline.image_processor
    processor.postprocess = lambda image, **_: np.zeros(
        (len(image), *image.shape[2:], image.shape[1]), np.float32
    )
    del scheduler
    return pipeline.to(device)


def make_fake_scheduler(make: Any) -> Any:
    """A family's scheduler whose times are Python's numbers."""

    def make_scheduler(pipeline: Any, sampler: Any) -> Any:
        made = make(pipeline, sampler)
        with no_fakes():
            made.set_timesteps(sampler.n_steps)
        times = made.timesteps.tolist()

        def set_timesteps(*_: Any, **__: Any) -> None:
            made.timesteps = times

        made.set_timesteps = set_timesteps
        return made

    return make_scheduler
