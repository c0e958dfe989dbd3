"""Array types that several rooms share. No torch."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Features = NDArray[np.float32]
"""What an encoder makes of images or texts: one row each, (n, d)."""
Values = NDArray[np.float64]
"""One number an image, prompt or subject, (n,)."""
Mask = NDArray[np.bool_]
"""Which pixels are the subject, (height, width)."""
Bounds = tuple[float, float]
"""The ends of a metric's range."""
