"""Segmenters: which pixels of a picture are the subject."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from dreambench.encoders.encoder import Pixels, weights_root
from dreambench.errors import UserError, unknown_name
from dreambench.storage.downloads import find_snapshot
from dreambench.storage.files import digest_folder
from dreambench.storage.shipped import PACKAGE_DIR
from dreambench.types import Mask


@dataclass(frozen=True)
class SegmenterSpec:
    """All that is pinned about a segmenter: a folder of transformers' layout and its pixels.

    `segformer` finds the subject by itself; `clipseg` is asked for the class noun.
    """

    name: str
    kind: Literal["segformer", "clipseg"]
    pixels: Pixels
    shipped: str | None = None
    hub: str | None = None
    revision: str | None = None
    n_download_bytes: int = 0
    files: tuple[str, ...] = ("config.json", "model.safetensors")

    @property
    def local_dir(self) -> Path:
        """Folder for a snapshot that a user brings."""
        return weights_root() / self.name

    @property
    def source(self) -> str:
        """Where the files come from, in words."""
        if self.shipped is not None:
            return "shipped with the package"
        return f"{', '.join(self.files)} of {self.hub} at {self.revision}"

    @property
    def how_to_get(self) -> str:
        """Which files to bring and where to put them."""
        return f"bring {self.source} and put them into {self.local_dir}"

    def find_local(self) -> Path | None:
        """The snapshot folder on this machine: shipped, brought, or in the hub's cache."""
        folder = self.local_dir
        if self.shipped is not None:
            folder = PACKAGE_DIR / "mini" / "weights" / self.shipped
        return find_snapshot(folder, self.files, hub=self.hub, revision=self.revision)

    def find_weights(self) -> Path:
        """`find_local`, else fetched from the hub; UserError that names the files to bring."""
        found = self.find_local()
        if found is not None:
            return found
        from huggingface_hub import snapshot_download  # noqa: PLC0415  (slow import)
        from huggingface_hub.errors import HfHubHTTPError  # noqa: PLC0415

        try:
            if self.hub is None:
                raise UserError(f"{self.name} is not shipped")
            files = list(self.files)
            folder = snapshot_download(self.hub, revision=self.revision, allow_patterns=files)
            return Path(folder)
        except (OSError, HfHubHTTPError, UserError) as error:
            raise UserError(
                f"segmenter '{self.name}' has no weights on this machine and they cannot be "
                "fetched",
                hint=self.how_to_get,
            ) from error

    def identity(self) -> str:
        """Architecture, weights, pixels and threshold in one string."""
        content = digest_folder(self.find_weights(), suffixes=(".safetensors", ".json", ".txt"))
        return f"transformers:{self.kind}@{content}|{self.pixels}|logit>0"


_CLIPSEG_FILES = (
    "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
)  # fmt: skip
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
SEGMENTERS = {
    spec.name: spec
    for spec in (
        SegmenterSpec(
            "mini-segmenter", "segformer",
            Pixels(64, 64, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), fit="squash"), shipped="segmenter",
        ),
        # CLIPSeg (Lueddecke and Ecker, CVPR 2022), whose own transform squashes images. The
        # revision is that of the hub's main branch as public code pins it (2026-09).
        SegmenterSpec(
            "clipseg", "clipseg", Pixels(352, 352, *_IMAGENET, "bilinear", "squash"),
            hub="CIDAS/clipseg-rd64-refined",
            revision="999e0328d9e10b484360c477313983f9afdd7050",
            n_download_bytes=605_000_000, files=_CLIPSEG_FILES,
        ),
    )
}  # fmt: skip


class Segmenter:
    """A segmenter; use `load_segmenter`. Its network is read when it is first needed."""

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
        """For each image the pixels of its subject, (height, width)."""
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
        """Maps (n, h', w') over prepared images (n, 3, h, w); above 0 where the subject is."""
        with torch.inference_mode():
            batch = torch.from_numpy(np.ascontiguousarray(pixels)).to(self.device)
            return self._forward(batch, class_name).float().cpu().numpy()

    def _forward(self, pixels: torch.Tensor, class_name: str) -> torch.Tensor:
        """Logits (n, h, w) of a pixel being the subject's."""
        if self.spec.kind == "segformer":
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

    folder = spec.find_weights()
    transformers.utils.logging.disable_progress_bar()
    options = {"use_safetensors": True, "local_files_only": True, "dtype": torch.float32}
    try:
        if spec.kind == "segformer":
            network = transformers.SegformerForSemanticSegmentation
            return network.from_pretrained(folder, **options), None
        tokenizer = transformers.CLIPTokenizer.from_pretrained(folder, local_files_only=True)
        network = transformers.CLIPSegForImageSegmentation
        return network.from_pretrained(folder, **options), tokenizer
    except Exception as error:  # The tokenizers library raises nothing more exact.
        raise UserError(
            f"{folder} does not hold the segmenter '{spec.name}'", hint=spec.how_to_get
        ) from error


def find_segmenter(name: str) -> SegmenterSpec:
    """A segmenter by name; UserError for an unknown one."""
    if name not in SEGMENTERS:
        raise unknown_name("segmenter", name, SEGMENTERS)
    return SEGMENTERS[name]


def fetch_segmenter(name: str) -> None:
    """Brings a segmenter to this machine, where it is not and its hub answers.

    Where that fails nothing is raised: what needs a segmenter is then said to be not measured.
    UserError for an unknown name.
    """
    spec = find_segmenter(name)
    with contextlib.suppress(UserError):
        spec.find_weights()


@functools.lru_cache(maxsize=2)
def load_segmenter(name: str, *, device: str = "cpu") -> Segmenter:
    """Loads a segmenter by name, once a process."""
    return Segmenter(find_segmenter(name), device=device)
