"""Encoders: DINO, CLIP and perceptual roles. Weights, pixels, pooling and precision as one name.

A change to any part of an encoder's identity makes it another encoder, with other cached
embeddings and another signature beside its scores.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn.functional import normalize

from dreambench.errors import UserError, unknown_name
from dreambench.files import PACKAGE_DIR, cache_dir, digest, digest_folder, sha256_file

Role = Literal["dino", "clip", "perceptual"]
Embeddings = NDArray[np.float32]


@dataclass(frozen=True)
class Pixels:
    """From an RGB image to the network's input: resize, centre crop, mean and deviation."""

    resize_px: int
    crop_px: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __str__(self) -> str:
        numbers = ",".join(f"{value:g}" for value in (*self.mean, *self.std))
        return f"resize{self.resize_px}-bicubic,crop{self.crop_px},norm({numbers})"

    def prepare(self, image: Image.Image) -> NDArray[np.float32]:
        """Float array (3, crop, crop). The short side is resized with antialiasing, by PIL."""
        width, height = image.size
        scale = self.resize_px / min(width, height)
        if scale != 1.0:
            size = (round(width * scale), round(height * scale))
            image = image.resize(size, Image.Resampling.BICUBIC)
        left, top = (image.width - self.crop_px) // 2, (image.height - self.crop_px) // 2
        image = image.crop((left, top, left + self.crop_px, top + self.crop_px))
        values = np.asarray(image, np.float32) / 255
        values = (values - np.array(self.mean, np.float32)) / np.array(self.std, np.float32)
        return np.ascontiguousarray(values.transpose(2, 0, 1), np.float32)


@dataclass(frozen=True)
class EncoderSpec:
    """All that is pinned about an encoder.

    Its weights are a folder of the package (`shipped`), or one file that a user brings or the hub
    gives (`hub_repo`, `file`). `layers` are the blocks that a perceptual encoder reads.
    """

    name: str
    role: Role
    library: Literal["timm", "open_clip", "lpips"]
    architecture: str
    pixels: Pixels
    pooling: str
    shipped: str | None = None
    hub_repo: str | None = None
    file: str = ""
    layers: tuple[int, ...] = ()

    def find_weights(self) -> Path:
        """The shipped folder, or the weights file: brought by the user, else from the hub.

        Raises UserError that names the file to bring and the place for it.
        """
        if self.shipped is not None:
            folder = PACKAGE_DIR / "mini" / "weights" / self.shipped
            if not folder.is_dir():
                raise UserError(
                    f"encoder '{self.name}' has no weights in {folder}", hint="install again"
                )
            return folder
        root = Path(os.environ.get("DREAMBENCH_WEIGHTS") or cache_dir() / "weights")
        path = root / self.name / self.file
        if path.is_file():
            return path
        if self.hub_repo is not None:
            from huggingface_hub import hf_hub_download  # noqa: PLC0415  (slow import)
            from huggingface_hub.errors import HfHubHTTPError  # noqa: PLC0415

            try:
                return Path(hf_hub_download(self.hub_repo, self.file))
            except (OSError, HfHubHTTPError):
                pass  # No network, no such file, offline mode: the hint below serves them all.
        source = f"{self.file} of {self.hub_repo}" if self.hub_repo else self.file
        raise UserError(
            f"encoder '{self.name}' has no weights on this machine and they cannot be fetched",
            hint=f"bring {source} and put it at {path}",
        )

    def identity(self) -> str:
        """Architecture, weights, pixels, pooling and precision in one string."""
        weights = self.find_weights()
        if weights.is_dir():
            content = digest_folder(weights, suffixes=(".safetensors", ".json"))
        else:
            content = sha256_file(weights)[:16]
        name = f"{self.library}:{self.architecture}@{content}"
        return "|".join([name, str(self.pixels), self.pooling, "fp32"])


_HALF = (0.5, 0.5, 0.5)
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_OPENAI = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
_MINI_PIXELS = Pixels(64, 64, _HALF, _HALF)
ENCODERS = {
    spec.name: spec
    for spec in (
        EncoderSpec(
            "mini-vit", "dino", "timm", "mini-vit-two-view", _MINI_PIXELS, "cls", shipped="vit"
        ),
        EncoderSpec(
            "mini-clip", "clip", "open_clip", "mini-clip", _MINI_PIXELS, "projected",
            shipped="clip",
        ),
        EncoderSpec(
            "mini-vit-patches", "perceptual", "timm", "mini-vit-two-view", _MINI_PIXELS,
            "patches:blocks2,4", shipped="vit", layers=(2, 4),
        ),
        # The paper's encoders (facts: the official transform of DINO, OpenAI's of CLIP).
        EncoderSpec(
            "dino-vits16", "dino", "timm", "vit_small_patch16_224.dino",
            Pixels(256, 224, *_IMAGENET), "cls",
            hub_repo="timm/vit_small_patch16_224.dino", file="model.safetensors",
        ),
        EncoderSpec(
            "clip-vit-b-32", "clip", "open_clip", "ViT-B-32-quickgelu",
            Pixels(224, 224, *_OPENAI), "projected",
            hub_repo="timm/vit_base_patch32_clip_224.openai", file="open_clip_model.safetensors",
        ),
        EncoderSpec(
            "lpips-alex", "perceptual", "lpips", "alex", Pixels(256, 256, _HALF, _HALF),
            "lpips-v0.1", file="alexnet-owt-7be5be79.pth",
        ),
    )
}  # fmt: skip


def find_encoder(name: str, role: Role) -> EncoderSpec:
    """An encoder by name; UserError when it is unknown or plays another role."""
    names = [spec.name for spec in ENCODERS.values() if spec.role == role]
    if name not in names:
        raise unknown_name(f"{role} encoder", name, names)
    return ENCODERS[name]


class Encoder:
    """A loaded encoder; use `load_encoder`."""

    def __init__(self, spec: EncoderSpec, *, device: str) -> None:
        self.spec = spec
        self.device = torch.device(device)
        self.identity = spec.identity()
        self.model, self.tokenizer = _load_network(spec)
        self.model.float().eval().requires_grad_(False).to(self.device)

    @property
    def key(self) -> str:
        """Short digest of the identity, for folder names."""
        return digest(self.identity)

    def embed_images(self, images: Sequence[Image.Image], *, batch_size: int = 64) -> Embeddings:
        """One row an image.

        For dino and clip: L2-normalised, so that a dot product is a cosine. For perceptual: the
        squared Euclidean distance of two rows is the perceptual distance.
        """
        rows = []
        for start in range(0, len(images), batch_size):
            chunk = [
                self.spec.pixels.prepare(image) for image in images[start : start + batch_size]
            ]
            pixels = torch.from_numpy(np.stack(chunk)).to(self.device)
            with torch.inference_mode():
                rows.append(self._forward(pixels).cpu().numpy())
        return np.concatenate(rows).astype(np.float32)

    def embed_texts(self, texts: Sequence[str]) -> Embeddings:
        """L2-normalised, one row a text; clip only."""
        with torch.inference_mode():
            tokens = self.tokenizer(list(texts)).to(self.device)
            found = normalize(self.model.encode_text(tokens), dim=-1)
        return found.cpu().numpy().astype(np.float32)

    def _forward(self, pixels: Tensor) -> Tensor:
        if self.spec.role == "dino":
            return normalize(self.model(pixels), dim=-1)
        if self.spec.role == "clip":
            return normalize(self.model.encode_image(pixels), dim=-1)
        if self.spec.library == "lpips":
            return self._lpips_features(pixels)
        # As LPIPS does with a convolution net: unit-normalise each patch's features, compare
        # patch by patch, average over patches and layers. Scaling here makes a plain squared
        # distance of rows do that.
        maps = self.model.forward_intermediates(
            pixels, indices=list(self.spec.layers), output_fmt="NLC", intermediates_only=True
        )
        scale = (len(maps) * maps[0].shape[1]) ** -0.5
        return torch.cat([normalize(part, dim=-1).flatten(1) for part in maps], dim=-1) * scale

    def _lpips_features(self, pixels: Tensor) -> Tensor:
        """LPIPS (Zhang et al., CVPR 2018, equation 1) split so that a squared distance gives it."""
        import lpips  # noqa: PLC0415  (slow import)

        maps = self.model.net.forward(self.model.scaling_layer(pixels))
        parts = []
        for index, part in enumerate(maps):
            unit = lpips.normalize_tensor(part)
            weight = self.model.lins[index].model[-1].weight.clamp(min=0).sqrt()
            n_places = part.shape[2] * part.shape[3]
            parts.append((unit * weight / n_places**0.5).flatten(1))
        return torch.cat(parts, dim=-1)


def _load_network(spec: EncoderSpec) -> tuple[Any, Any]:
    """The network and, for CLIP, its tokenizer. Only safetensors and plain tensors are read."""
    weights = spec.find_weights()
    if spec.library == "timm":
        import timm  # noqa: PLC0415  (slow import)

        if weights.is_dir():
            return timm.create_model(f"local-dir:{weights}", pretrained=True, num_classes=0), None
        overlay = {"file": str(weights)}
        return timm.create_model(
            spec.architecture, pretrained=True, pretrained_cfg_overlay=overlay, num_classes=0
        ), None
    if spec.library == "open_clip":
        import open_clip  # noqa: PLC0415  (slow import)

        if weights.is_dir():
            name = f"local-dir:{weights}"
            return open_clip.create_model(name), open_clip.get_tokenizer(name)
        model = open_clip.create_model(spec.architecture, pretrained=str(weights))
        return model, open_clip.get_tokenizer(spec.architecture)
    import lpips  # noqa: PLC0415  (slow import)

    model = lpips.LPIPS(net=spec.architecture, pnet_rand=True, verbose=False)
    trunk = torch.load(weights, weights_only=True, map_location="cpu")
    features = [value for key, value in trunk.items() if key.startswith("features.")]
    # lpips cuts AlexNet's features into five slices in the same order.
    state = dict(zip(model.net.state_dict(), features, strict=True))
    model.net.load_state_dict(state)
    return model, None


@functools.lru_cache(maxsize=8)
def load_encoder(name: str, role: Role, *, device: str = "cpu") -> Encoder:
    """Loads an encoder by name for a role, once a process; always fp32."""
    return Encoder(find_encoder(name, role), device=device)
