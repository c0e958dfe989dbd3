"""Segmenters: which pixels of a picture are the subject."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from dreambench.base_models.loading import only_errors
from dreambench.base_models.weights import check_loading
from dreambench.encoders.base import exact_inference
from dreambench.encoders.registry import find_segmenter
from dreambench.encoders.spec import SegmenterSpec
from dreambench.types import Mask


class Segmenter:
    """A network that finds the subject; see `load_segmenter`. It is built when first needed.

    Raises:
        UserError: its files are not on this machine.
    """

    def __init__(self, spec: SegmenterSpec, *, device: str) -> None:
        self.spec = spec
        self.device = torch.device(device)
        self.identity = spec.identity()

    @functools.cached_property
    def _network(self) -> tuple[Any, Any]:
        model, tokenizer = _load(self.spec)
        return model.to(self.device).eval().requires_grad_(False), tokenizer

    @property
    def model(self) -> Any:
        """The network, in evaluation mode; UserError when the files do not hold it."""
        return self._network[0]

    @property
    def tokenizer(self) -> Any:
        """Of a network that is asked for a noun; None for another."""
        return self._network[1]

    def find_subjects(
        self, images: Sequence[Image.Image], class_name: str, *, batch_size: int = 64
    ) -> list[Mask]:
        """Return the pixels of the subject of each image, (height, width)."""
        masks: list[Mask] = []
        for start in range(0, len(images), batch_size):
            group = images[start : start + batch_size]
            pixels = np.stack([self.spec.pixels.prepare(image) for image in group])
            for image, row in zip(group, self.find_logits(pixels, class_name), strict=True):
                size = (image.height, image.width)
                places = torch.from_numpy(row)[None, None]
                full = torch.nn.functional.interpolate(places, size, mode="bilinear")
                masks.append((full[0, 0] > 0).numpy())
        return masks

    def find_logits(self, pixels: NDArray[np.float32], class_name: str) -> NDArray[np.float32]:
        """Return maps (n, h', w') of prepared images (n, 3, h, w); above 0 where the subject is."""
        with exact_inference():
            batch = torch.from_numpy(np.ascontiguousarray(pixels)).to(self.device)
            return self._forward(batch, class_name).float().cpu().numpy()

    def _forward(self, pixels: torch.Tensor, class_name: str) -> torch.Tensor:
        """Return logits (n, h, w) of a pixel being the subject's."""
        if self.spec.network == "segformer":
            return self.model(pixels).logits[:, 0]
        tokens = self.tokenizer([f"a {class_name}"] * len(pixels), return_tensors="pt")
        found = self.model(
            input_ids=tokens.input_ids.to(self.device),
            attention_mask=tokens.attention_mask.to(self.device),
            pixel_values=pixels,
        )
        # The batch's axis is lost for a single image.
        return found.logits.reshape(len(pixels), *found.logits.shape[-2:])


def _load(spec: SegmenterSpec) -> tuple[Any, Any]:
    import transformers  # noqa: PLC0415  (slow import)

    transformers.utils.logging.disable_progress_bar()
    options = {
        "use_safetensors": True, "local_files_only": True, "dtype": torch.float32,
        "output_loading_info": True,
    }  # fmt: skip
    kind: Any = transformers.SegformerForSemanticSegmentation
    tokenizer = None
    with spec.loading() as folder:
        if spec.network == "clipseg":
            kind = transformers.CLIPSegForImageSegmentation
            tokenizer = transformers.CLIPTokenizer.from_pretrained(folder, local_files_only=True)
        # It warns of what is refused below.
        with only_errors():
            network, found = kind.from_pretrained(folder, **options)
    check_loading(
        found, where=str(folder), part=f"the segmenter '{spec.name}'", hint=spec.how_to_get
    )
    return network, tokenizer


@functools.lru_cache(maxsize=2)
def load_segmenter(name: str, *, device: str = "cpu") -> Segmenter:
    """Return a segmenter by name, made once per process; see `Segmenter`."""
    return Segmenter(find_segmenter(name), device=device)
