"""Which class noun names a subject: a zero-shot classifier over a vocabulary.

The DreamBooth paper (section 3.2): the noun comes from the user or from a classifier.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from dreambench.encoders.base import Encoder

TEMPLATE = "a photo of a {}"
CLIP_SCALE = 100.0
"""Where CLIP's training clips its learned scale, and where it ends (section 2.5)."""


def classify_photos(
    photos: Sequence[Image.Image], nouns: Sequence[str], encoder: Encoder
) -> list[tuple[str, float]]:
    """Return nouns with their probabilities, the likeliest first.

    `encoder` is a CLIP (Radford et al., ICML 2021, section 3.1.4): softmax of its scaled cosines
    over the nouns, averaged over the photos. One without a scale of its own gets CLIP's.
    """
    images = encoder.encode_images(photos)
    texts = encoder.encode_texts([TEMPLATE.format(noun) for noun in nouns])
    scale = getattr(encoder.model, "logit_scale", None)
    logits = (images @ texts.T).astype(np.float64)
    logits *= CLIP_SCALE if scale is None else float(scale.exp())
    logits -= logits.max(axis=1, keepdims=True)
    odds = np.exp(logits)
    probabilities = (odds / odds.sum(axis=1, keepdims=True)).mean(axis=0)
    order = np.argsort(-probabilities, kind="stable")
    return [(nouns[index], float(probabilities[index])) for index in order]
