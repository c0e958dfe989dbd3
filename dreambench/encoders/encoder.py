"""Encoders: DINO, CLIP and perceptual roles. Weights, pixels, pooling and precision as one name.

A change to any part of an encoder's identity makes it another encoder, with other cached
embeddings and another signature beside its scores.
"""

from __future__ import annotations

import functools
import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import interpolate, normalize

from dreambench.encoders.feature_cache import hash_file
from dreambench.encoders.weights import find_file, read_weights, to_open_clip, to_timm_vit
from dreambench.errors import UserError, unknown_name
from dreambench.progress import Progress, no_progress
from dreambench.storage.downloads import download, find_cached
from dreambench.storage.files import digest, digest_folder
from dreambench.storage.shipped import PACKAGE_DIR, cache_dir
from dreambench.types import Features

Role = Literal["dino", "clip", "perceptual"]
Interpolation = Literal["bicubic", "bilinear", "bicubic-tensor"]
Fit = Literal["crop", "squash"]
Pooling = Literal["cls", "mean-patches", "projected", "patches", "lpips-v0.1"]
MAX_WEIGHTS_BYTES = 10_000_000_000
CPU_BATCH_SIZE = 8
GPU_BATCH_SIZE = 64
TEXT_BATCH_SIZE, TEXT_STEP = 8, 8


@dataclass(frozen=True)
class Pixels:
    """From an RGB image to the network's input: resize, centre crop, mean and deviation.

    `fit` is how an image that is not square becomes so: its short side is resized and its centre
    cut out ("crop"), or it is squashed to `crop_px` at once ("squash", and `resize_px` is unused).
    Resizing is PIL's, antialiased; "bicubic-tensor" is torch's without antialiasing, which old
    scorers used on tensors.
    """

    resize_px: int
    crop_px: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: Interpolation = "bicubic"
    fit: Fit = "crop"

    def __str__(self) -> str:
        numbers = ",".join(f"{value:g}" for value in (*self.mean, *self.std))
        if self.fit == "squash":
            return f"squash{self.crop_px}-{self.interpolation},norm({numbers})"
        return f"resize{self.resize_px}-{self.interpolation},crop{self.crop_px},norm({numbers})"

    def frame(self, image_size: tuple[int, int]) -> tuple[tuple[int, int], int, int]:
        """Width and height that an image is resized to, and the left and top of what is cut out."""
        width, height = image_size
        size = (self.crop_px, self.crop_px)
        if self.fit == "crop":
            scale = self.resize_px / min(width, height)
            size = (round(width * scale), round(height * scale))
        return size, (size[0] - self.crop_px) // 2, (size[1] - self.crop_px) // 2

    def prepare(self, image: Image.Image) -> NDArray[np.float32]:
        """Float array (3, crop, crop)."""
        size, left, top = self.frame(image.size)
        if size == image.size or self.interpolation != "bicubic-tensor":
            if size != image.size:
                image = image.resize(size, Image.Resampling[self.interpolation.upper()])
            values = np.asarray(image, np.float32) / 255
        else:
            pixels = torch.from_numpy(np.asarray(image, np.float32) / 255).permute(2, 0, 1)[None]
            pixels = interpolate(pixels, size[::-1], mode="bicubic", align_corners=False)
            values = pixels[0].permute(1, 2, 0).numpy()
        values = values[top : top + self.crop_px, left : left + self.crop_px]
        values = (values - np.array(self.mean, np.float32)) / np.array(self.std, np.float32)
        return np.ascontiguousarray(values.transpose(2, 0, 1), np.float32)


def weights_root() -> Path:
    """Folder of all weights that a user brings: `DREAMBENCH_WEIGHTS`, or in the user's cache."""
    named = os.environ.get("DREAMBENCH_WEIGHTS")
    return Path(named) if named else cache_dir() / "weights"


@dataclass(frozen=True)
class EncoderSpec:
    """All that is pinned about an encoder.

    Its weights are a folder of the package (`shipped`), or a file that the hub has (`hub`, at
    `revision`) or a web server (`url`), unless a user brought them. `layers` are the blocks that a
    perceptual encoder reads; `stored_as` names the encoder whose brought weights it shares.
    `activation` is what the network was trained with, where its library builds another one;
    `tokenizer_file` a SentencePiece model that lies beside the weights.
    """

    name: str
    role: Role
    library: Literal["timm", "open_clip", "lpips"]
    architecture: str
    pixels: Pixels
    pooling: Pooling
    precision: Literal["fp32", "fp16"] = "fp32"
    shipped: str | None = None
    hub: str | None = None
    revision: str | None = None
    url: str | None = None
    file: str = ""
    n_download_bytes: int = 0
    layers: tuple[int, ...] = ()
    stored_as: str = ""
    activation: Literal["", "gelu-tanh"] = ""
    tokenizer_file: str = ""

    @property
    def local_dir(self) -> Path:
        """Folder for weights that a user brings: a file of any known layout, or a snapshot."""
        return weights_root() / (self.stored_as or self.name)

    @property
    def source(self) -> str:
        """Where the weights come from, in words."""
        if self.shipped is not None:
            return "shipped with the package"
        return f"{self.file} of {self.hub} at {self.revision}" if self.hub else str(self.url)

    @property
    def how_to_get(self) -> str:
        """Which file to bring and where to put it."""
        beside = f", with {self.tokenizer_file} beside it" if self.tokenizer_file else ""
        return f"bring {self.source} and put it at {self.local_dir / self.file}{beside}"

    def find_local(self) -> Path | None:
        """The weights on this machine: shipped, brought, or in the hub's cache; None if nowhere."""
        if self.shipped is not None:
            folder = PACKAGE_DIR / "mini" / "weights" / self.shipped
            return folder if folder.is_dir() else None
        found = find_file(self.local_dir, first=self.file)
        if found is None and self.hub is not None:
            found = next(iter(find_cached(self.hub, [self.file], revision=self.revision)), None)
        if found is not None and not found.with_name(self.tokenizer_file or found.name).is_file():
            return None
        return found

    def find_weights(self, progress: Progress = no_progress) -> Path:
        """`find_local`, else fetched from the hub at its pinned revision or from its server.

        Raises UserError that names the file to bring and the place for it.
        """
        found = self.find_local()
        if found is not None:
            return found
        if self.shipped is not None:
            raise UserError(
                f"encoder '{self.name}' has no weights", hint="install dreambench again"
            )
        try:
            if self.hub is not None:
                return self._download_from_hub(self.hub)
            return self._download(str(self.url), progress)
        except UserError as error:
            raise UserError(
                f"encoder '{self.name}' has no weights on this machine and they cannot be fetched",
                hint=self.how_to_get,
            ) from error

    def _download_from_hub(self, hub: str) -> Path:
        from huggingface_hub import hf_hub_download  # noqa: PLC0415  (slow import)
        from huggingface_hub.errors import HfHubHTTPError  # noqa: PLC0415

        try:
            if self.tokenizer_file:
                hf_hub_download(hub, self.tokenizer_file, revision=self.revision)
            return Path(hf_hub_download(hub, self.file, revision=self.revision))
        except (OSError, HfHubHTTPError) as error:
            raise UserError(f"{self.source} cannot be fetched") from error

    def _download(self, url: str, progress: Progress) -> Path:
        if os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0"):
            raise UserError("HF_HUB_OFFLINE is set")
        part = download(
            url, self.local_dir / "incoming", progress=progress, max_bytes=MAX_WEIGHTS_BYTES
        )
        part.replace(self.local_dir / self.file)
        return self.local_dir / self.file

    def identity(self, progress: Progress = no_progress) -> str:
        """Architecture, weights, pixels, pooling and precision in one string.

        Weights that are not here yet are fetched, since their digest is part of it.
        """
        weights = self.find_weights(progress)
        if weights.is_dir():
            content = digest_folder(weights, suffixes=(".safetensors", ".json"))
        else:
            content = hash_file(weights)[:16]
        if self.tokenizer_file:
            content = digest([content, hash_file(weights.with_name(self.tokenizer_file))])
        name = f"{self.library}:{self.architecture}@{content}"
        layers = ":blocks" + ",".join(map(str, self.layers)) if self.layers else ""
        activation = f":{self.activation}" if self.activation else ""
        return "|".join(
            [name + activation, str(self.pixels), self.pooling + layers, self.precision]
        )


_HALF = (0.5, 0.5, 0.5)
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_OPENAI = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
_MINI_PIXELS = Pixels(64, 64, _HALF, _HALF)
_DINO_PIXELS = Pixels(256, 224, *_IMAGENET)
_CLIP_PIXELS = Pixels(224, 224, *_OPENAI)
_DINO_URL = "https://dl.fbaipublicfiles.com/dino"


def _dino(name: str, architecture: str, file: str, megabytes: int) -> EncoderSpec:
    """DINO (Caron et al., ICCV 2021): the authors' file and transform; the class token."""
    url = f"{_DINO_URL}/{file.removesuffix('.pth')}/{file}"
    return EncoderSpec(
        name, "dino", "timm", architecture, _DINO_PIXELS, "cls", url=url, file=file,
        n_download_bytes=megabytes * 1_000_000,
    )  # fmt: skip


def _dinov2(name: str, architecture: str, hub: str, revision: str, megabytes: int) -> EncoderSpec:
    """DINOv2 (Oquab et al., TMLR 2024): the class token, at 224 px as its evaluation has it."""
    return EncoderSpec(
        name, "dino", "timm", architecture, _DINO_PIXELS, "cls", hub=hub, revision=revision,
        file="model.safetensors", n_download_bytes=megabytes * 1_000_000,
    )  # fmt: skip


def _clip(
    name: str, architecture: str, hub: str, revision: str, file: str, megabytes: int
) -> EncoderSpec:
    """CLIP (Radford et al., ICML 2021): its own transform; both towers' projections."""
    return EncoderSpec(
        name, "clip", "open_clip", architecture, _CLIP_PIXELS, "projected", hub=hub,
        revision=revision, file=file, n_download_bytes=megabytes * 1_000_000,
    )  # fmt: skip


# The revisions are those of the hub's main branches as public code pins them (2026-11).
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
            "patches", shipped="vit", layers=(2, 4),
        ),
        # The paper's is ViT-S/16.
        _dino("dino-vits16", "vit_small_patch16_224.dino", "dino_deitsmall16_pretrain.pth", 87),
        _dino("dino-vits8", "vit_small_patch8_224.dino", "dino_deitsmall8_pretrain.pth", 87),
        _dino("dino-vitb16", "vit_base_patch16_224.dino", "dino_vitbase16_pretrain.pth", 343),
        # The preprocessor file of facebook/dino-vits16 on the hub: not what DINO was trained with.
        replace(
            _dino("dino-vits16-hf", "vit_small_patch16_224.dino",
                  "dino_deitsmall16_pretrain.pth", 87),
            pixels=Pixels(224, 224, _HALF, _HALF, "bilinear", "squash"), stored_as="dino-vits16",
        ),
        _dinov2(
            "dinov2-vits14", "vit_small_patch14_dinov2.lvd142m", "facebook/dinov2-small",
            "ed25f3a31f01632728cabb09d1542f84ab7b0056", 88,
        ),
        _dinov2(
            "dinov2-vitb14", "vit_base_patch14_dinov2.lvd142m", "facebook/dinov2-base",
            "f9e44c814b77203eaa57a6bdbbd535f21ede1415", 346,
        ),
        # The paper's is ViT-B/32.
        _clip(
            "clip-vit-b-32", "ViT-B-32-quickgelu", "openai/clip-vit-base-patch32",
            "3d74acf9a28c67741b2f4f2ea7635f0aaf6f0268", "pytorch_model.bin", 605,
        ),
        # Images resized as tensors without antialiasing, as textual_inversion's scorer did.
        replace(
            _clip(
                "clip-vit-b-32-tensor", "ViT-B-32-quickgelu", "openai/clip-vit-base-patch32",
                "3d74acf9a28c67741b2f4f2ea7635f0aaf6f0268", "pytorch_model.bin", 605,
            ),
            pixels=Pixels(224, 224, *_OPENAI, "bicubic-tensor"), stored_as="clip-vit-b-32",
        ),
        _clip(
            "clip-vit-b-16", "ViT-B-16-quickgelu", "openai/clip-vit-base-patch16",
            "57c216476eefef5ab752ec549e440a49ae4ae5f3", "pytorch_model.bin", 599,
        ),
        _clip(
            "clip-vit-l-14", "ViT-L-14-quickgelu", "openai/clip-vit-large-patch14",
            "32bd64288804d66eefd0ccbe215aa642df71cc41", "model.safetensors", 1711,
        ),
        _clip(
            "clip-vit-h-14", "ViT-H-14", "laion/CLIP-ViT-H-14-laion2B-s32B-b79K",
            "de081ac0a0ca8dc9d1533eed1ae884bb8ae1404b", "open_clip_pytorch_model.bin", 3945,
        ),
        # SigLIP (Zhai et al., ICCV 2023), which squashes images and was trained with JAX's GELU.
        EncoderSpec(
            "siglip-vit-b-16", "clip", "open_clip", "ViT-B-16-SigLIP",
            Pixels(224, 224, _HALF, _HALF, fit="squash"), "projected",
            hub="google/siglip-base-patch16-224",
            revision="7fd15f0689c79d79e38b1c2e2e2370a7bf2761ed", file="model.safetensors",
            n_download_bytes=813_000_000, activation="gelu-tanh", tokenizer_file="spiece.model",
        ),
        EncoderSpec(
            "lpips-alex", "perceptual", "lpips", "alex", Pixels(256, 256, _HALF, _HALF),
            "lpips-v0.1", url="https://download.pytorch.org/models/alexnet-owt-7be5be79.pth",
            file="alexnet-owt-7be5be79.pth", n_download_bytes=244_000_000,
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
    """An encoder; use `load_encoder`. Its network is read when it is first needed."""

    def __init__(self, spec: EncoderSpec, *, device: str) -> None:
        self.spec = spec
        self.device = torch.device(device)
        self.identity = spec.identity()
        self.dtype = torch.float16 if spec.precision == "fp16" else torch.float32

    @functools.cached_property
    def _network(self) -> tuple[Any, Any]:
        with _quietly():
            model, tokenizer = _load_network(self.spec)
        if self.spec.identity() != self.identity:
            raise UserError(
                f"the weights of encoder '{self.spec.name}' were changed meanwhile",
                hint="run the same command again",
            )
        return model.to(self.device, self.dtype).eval().requires_grad_(False), tokenizer

    @property
    def model(self) -> Any:
        """The network, in evaluation mode; UserError when the weights are not its own."""
        return self._network[0]

    @property
    def tokenizer(self) -> Any:
        """From a list of texts to token ids; None for a network without texts."""
        return self._network[1]

    @property
    def pixels(self) -> Pixels:
        """What makes the network's input of an image."""
        return self.spec.pixels

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
        """One row an image.

        For dino and clip: L2-normalised, so that a dot product is a cosine. For perceptual: the
        squared Euclidean distance of two rows is the perceptual distance.
        """
        rows = []
        for start in range(0, len(images), batch_size):
            chunk = [self.pixels.prepare(image) for image in images[start : start + batch_size]]
            rows.append(self.encode_pixels(np.stack(chunk)))
        return np.concatenate(rows)

    def encode_pixels(self, pixels: NDArray[np.float32]) -> Features:
        """`encode_images` of images that `pixels` has prepared, (n, 3, h, w), in one pass."""
        batch = torch.from_numpy(pixels).to(self.device, self.dtype)
        # Left to itself cuDNN takes TF32 for fp32, which has the ten bits of fp16.
        exact = torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False)
        with torch.inference_mode(), exact:
            return self._forward(batch).float().cpu().numpy()

    def encode_texts(self, texts: Sequence[str]) -> Features:
        """L2-normalised, one row a text, whose bits do not depend on the other texts; clip only."""
        tokens = self.tokenizer(list(texts)).to(self.device)
        by_length: dict[int, list[int]] = {}
        for row, length in enumerate(self._text_lengths(tokens)):
            by_length.setdefault(length, []).append(row)
        found: dict[int, NDArray[np.float32]] = {}
        for length, rows in by_length.items():
            for start in range(0, len(rows), TEXT_BATCH_SIZE):
                # Batches of one size: another size is added up in another order.
                batch = rows[start : start + TEXT_BATCH_SIZE]
                filled = batch + batch[-1:] * (TEXT_BATCH_SIZE - len(batch))
                with torch.inference_mode():
                    made = normalize(self._encode_text(tokens[filled], length), dim=-1)
                found |= dict(zip(batch, made.float().cpu().numpy(), strict=False))
        return np.stack([found[row] for row in range(len(texts))])

    @property
    def _reads_forward(self) -> bool:
        """Whether no token sees what comes after it, and the end token is the text's row."""
        model = self.model
        is_causal = getattr(model, "attn_mask", None) is not None
        return is_causal and getattr(model, "text_pool_type", "") == "argmax"

    def _text_lengths(self, tokens: Tensor) -> list[int]:
        """How many tokens of each text have a part in its row, rounded up."""
        n_all = tokens.shape[1]
        if not self._reads_forward:
            return [n_all] * len(tokens)
        ends = tokens.argmax(-1).tolist()
        return [min(n_all, -(-(end + 1) // TEXT_STEP) * TEXT_STEP) for end in ends]

    def _encode_text(self, tokens: Tensor, length: int) -> Tensor:
        model = self.model
        if not self._reads_forward:
            return model.encode_text(tokens)
        # As open_clip's own, without the padding behind the end token, which has no part in the
        # row and most of the cost.
        states = model.token_embedding(tokens[:, :length]) + model.positional_embedding[:length]
        states = model.transformer(states, attn_mask=model.attn_mask[:length, :length])
        ends = tokens.argmax(-1)
        row = model.ln_final(states)[torch.arange(len(tokens), device=tokens.device), ends]
        projection = model.text_projection
        return projection(row) if isinstance(projection, nn.Linear) else row @ projection

    def _forward(self, pixels: Tensor) -> Tensor:
        if self.spec.role == "dino":
            if self.spec.pooling == "mean-patches":
                tokens = self.model.forward_features(pixels)[:, self.model.num_prefix_tokens :]
                return normalize(tokens.mean(1), dim=-1)
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


@contextmanager
def _quietly() -> Iterator[None]:
    """Without libraries' warnings that a network which they build is random: its weights come next.

    open_clip logs them on the root logger; lpips calls torchvision by old names.
    """

    def is_above(record: logging.LogRecord) -> bool:
        return record.levelno > logging.WARNING

    root = logging.getLogger()
    root.addFilter(is_above)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        root.removeFilter(is_above)


def _load_network(spec: EncoderSpec) -> tuple[Any, Any]:
    """The network and, for CLIP, its tokenizer. Only safetensors and plain tensors are read."""
    weights = spec.find_weights()
    if spec.library == "timm":
        return _load_timm(spec, weights), None
    if spec.library == "open_clip":
        return _load_open_clip(spec, weights)
    return _load_lpips(spec, weights), None


def _load_timm(spec: EncoderSpec, weights: Path) -> Any:
    import timm  # noqa: PLC0415  (slow import)

    if weights.is_dir():
        return timm.create_model(f"local-dir:{weights}", pretrained=True, num_classes=0)
    model = timm.create_model(spec.architecture, num_classes=0, img_size=spec.pixels.crop_px)
    state = to_timm_vit(read_weights(weights))
    if "pos_embed" in state and state["pos_embed"].shape != model.pos_embed.shape:
        # DINOv2 was trained at 518 px; timm resamples its places (bicubic, antialiased).
        state["pos_embed"] = timm.layers.resample_abs_pos_embed(
            state["pos_embed"], new_size=model.patch_embed.grid_size, num_prefix_tokens=1
        )
    _fill(spec, weights, model, state)
    return model


def _load_open_clip(spec: EncoderSpec, weights: Path) -> tuple[Any, Any]:
    import open_clip  # noqa: PLC0415  (slow import)

    if weights.is_dir():
        name = f"local-dir:{weights}"
        return open_clip.create_model(name), open_clip.get_tokenizer(name)
    model = open_clip.create_model(spec.architecture)
    _fill(spec, weights, model, to_open_clip(read_weights(weights)))
    if spec.activation == "gelu-tanh":
        for layer in model.modules():
            if isinstance(layer, nn.GELU):
                layer.approximate = "tanh"
    if spec.tokenizer_file:
        return model, _load_sentencepiece(weights.with_name(spec.tokenizer_file))
    return model, open_clip.get_tokenizer(spec.architecture)


def _load_sentencepiece(path: Path) -> Any:
    """SigLIP's tokenizer: lower case, no punctuation, 64 places filled up with the end token."""
    from open_clip.tokenizer import get_clean_fn  # noqa: PLC0415  (slow import)
    from sentencepiece import SentencePieceProcessor  # noqa: PLC0415

    clean, n_places = get_clean_fn("canonicalize"), 64
    try:
        pieces = SentencePieceProcessor(model_file=str(path))
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"{path} is no SentencePiece model", hint="bring it again from its source"
        ) from error

    def tokenize(texts: list[str]) -> Tensor:
        end = pieces.eos_id()
        rows = [pieces.encode(clean(text))[: n_places - 1] for text in texts]
        return torch.tensor([row + [end] * (n_places - len(row)) for row in rows])

    return tokenize


def _fill(spec: EncoderSpec, weights: Path, model: Any, state: dict[str, Tensor]) -> None:
    """Loads every weight of a network; UserError when one is missing or of another shape."""
    own = model.state_dict()
    faults = [key for key in own if key not in state or state[key].shape != own[key].shape]
    if faults:
        raise UserError(
            f"{weights} does not hold the weights of {spec.architecture}: {len(faults)} of "
            f"{len(own)} are missing or of another shape, e.g. {faults[0]}",
            hint=f"bring {spec.source}",
        )
    model.load_state_dict({key: state[key].float() for key in own}, assign=True)


def _load_lpips(spec: EncoderSpec, weights: Path) -> Any:
    import lpips  # noqa: PLC0415  (slow import)

    model = lpips.LPIPS(net=spec.architecture, pnet_rand=True, verbose=False)
    features = [v for key, v in read_weights(weights).items() if key.startswith("features.")]
    # lpips cuts AlexNet's features into five slices in the same order.
    own = model.net.state_dict()
    if [tuple(value.shape) for value in features] != [tuple(v.shape) for v in own.values()]:
        raise UserError(
            f"{weights} does not hold the weights of {spec.architecture}",
            hint=f"bring {spec.source}",
        )
    model.net.load_state_dict(dict(zip(own, features, strict=True)))
    return model


@functools.lru_cache(maxsize=8)
def load_spec(spec: EncoderSpec, *, device: str = "cpu") -> Encoder:
    """Loads an encoder, once a process."""
    return Encoder(spec, device=device)


def load_encoder(name: str, role: Role, *, device: str = "cpu") -> Encoder:
    """Loads an encoder by name for a role, once a process."""
    return load_spec(find_encoder(name, role), device=device)
