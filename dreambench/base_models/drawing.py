"""From pixels to pictures."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image


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
