"""What to do where memory does not hold all networks, or a whole batch."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

if TYPE_CHECKING:
    from dreambench.base_models.base import LoadedModel

Result = TypeVar("Result")


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an exception says that CUDA or the CPU allocator had no memory left."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and (
        "can't allocate memory" in text or "out of memory" in text
    )


def with_room(model: LoadedModel, attempt: Callable[[], Result]) -> Result:
    """Return what `attempt` returns; where memory runs out, try again with room for more.

    For that the model's `offloaded_networks` go to the CPU for good. Each of their layers then
    visits the device while it computes, so that no number changes.
    """
    try:
        return attempt()
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error) or not _can_offload(model):
            raise
    # Outside of the handler, since the exception's frames hold on to the failed tensors.
    gc.collect()
    _offload(model)
    return attempt()


def _can_offload(model: LoadedModel) -> bool:
    is_on_cpu = model.wanted_device.type == "cpu"
    return bool(model.offloaded_networks) and not (is_on_cpu or model.is_offloaded)


def _offload(model: LoadedModel) -> None:
    from diffusers.hooks import apply_group_offloading  # noqa: PLC0415  (slow import)

    for name in model.offloaded_networks:
        network = getattr(model.pipeline, name)
        apply_group_offloading(network, model.wanted_device, offload_type="leaf_level")
    model.is_offloaded = True


def decode_one_by_one_without_memory(autoencoder: Any) -> None:
    """Let an autoencoder decode single images as soon as there was no memory for a batch.

    Its last layers take more memory than all steps before them, whose work would be lost.
    """
    decode = autoencoder.decode

    def decode_in_memory(latents: Tensor, *args: Any, **options: Any) -> Any:
        try:
            return decode(latents, *args, **options)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error) or len(latents) == 1:
                raise
        # Outside of the handler, since the exception's frames hold on to the failed tensors.
        gc.collect()
        autoencoder.enable_slicing()
        return decode(latents, *args, **options)

    autoencoder.decode = decode_in_memory
