"""From latents to pictures, where memory may not hold a batch."""

from __future__ import annotations

import gc
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor


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


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an exception says that CUDA or the CPU allocator had no memory left."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and (
        "can't allocate memory" in text or "out of memory" in text
    )


class NotNumbersError(ArithmeticError):
    """What a network made has NaN in it."""


def make_images(processor: Any, pixels: NDArray[np.float32]) -> list[Image.Image]:
    """Return images of pixels (n, h, w, c) from 0 to 1, as a pipeline's own `processor` makes them.

    Raises:
        NotNumbersError: pixels are NaN, which diffusers would make black.
    """
    if n_broken := int(np.isnan(pixels).any((1, 2, 3)).sum()):
        raise NotNumbersError(
            f"pixels of {n_broken} of {len(pixels)} images are not numbers (NaN): the weights are "
            "broken, by training or from the start; try a lower learning rate or --precision fp32, "
            "or download the base model again"
        )
    return [image.convert("RGB") for image in processor.numpy_to_pil(pixels)]
