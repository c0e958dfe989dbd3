"""What is pinned about encoders and segmenters: identity, and where their weights lie. No torch.

A change to any part of an identity makes it another encoder, with other cached features and other
signatures of its scores. Asking for an identity downloads nothing: `ensure_weights` comes first.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from dreambench.encoders.feature_cache import hash_file
from dreambench.encoders.preprocessing import Pixels, Preparation
from dreambench.errors import DiskError, UserError
from dreambench.progress import Progress, no_progress
from dreambench.storage.downloads import download, find_cached, forget_download
from dreambench.storage.files import digest, digest_folder, sha256_file
from dreambench.storage.shipped import PACKAGE_DIR
from dreambench.storage.snapshots import Snapshot, Weights, weights_root

Role = Literal["dino", "clip", "perceptual"]
"""The inputs of metrics that a protocol names encoders for; metrics may ask for others by name."""
Pooling = Literal["cls", "mean-patches", "projected", "patches", "lpips-v0.1"]
MAX_WEIGHTS_BYTES = 10_000_000_000
FILE_NAMES = (
    "open_clip_model.safetensors", "model.safetensors", "open_clip_pytorch_model.bin",
    "pytorch_model.bin",
)  # fmt: skip
HASH_IDENTITY = "phash64|imagehash|mirrored-too"
THUMBNAIL_PX = 48
THUMBNAIL_IDENTITY = f"thumbnail{THUMBNAIL_PX}|v1"
"""The identities of inputs that no network makes (`encoders.parts`)."""
REGIONS_IDENTITY = "regions|v1"
"""How a picture is taken apart (`encoders.regions`)."""
OWN_PIXELS = "own-pixels"
"""In an identity: images are prepared by the encoder's own code, whose digest stands for it."""


def find_weights_file(folder: Path, *, first: str) -> Path | None:
    """Return the weights file of a snapshot folder: `first`, else one of FILE_NAMES."""
    for name in (first, *FILE_NAMES):
        if name and (folder / name).is_file():
            return folder / name
    return None


@dataclass(frozen=True)
class EncoderSpec(Weights):
    """All that is pinned about an encoder of the package.

    Its weights are a folder of the package (`shipped`), or a file that the hub has (`hub`, at
    `revision`) or a web server (`url`, with its `sha256` where one was published), unless a user
    put them into `local_dir`. `layers` are the blocks that a perceptual encoder reads; `stored_as`
    names the encoder whose `local_dir` it shares. `activation` is what the network was trained
    with, where its library builds another one; `tokenizer_file` is a SentencePiece model that lies
    next to the weights.
    """

    kind: ClassVar[str] = "encoder"
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
    sha256: str = ""
    layers: tuple[int, ...] = ()
    stored_as: str = ""
    activation: Literal["", "gelu-tanh"] = ""
    tokenizer_file: str = ""
    where: ClassVar[str] = ""
    """Names code from outside in errors; empty, for this is the package's own."""

    @property
    def local_dir(self) -> Path:
        """Folder for weights from a user: a file of any known layout, or a snapshot."""
        return weights_root() / (self.stored_as or self.name)

    @property
    def source(self) -> str:
        """Where the weights come from, in words."""
        if self.shipped is not None:
            return "shipped with the package"
        return f"{self.file} of {self.hub} at {self.revision}" if self.hub else str(self.url)

    @property
    def how_to_get(self) -> str:
        """Which file to download and where to put it."""
        if self.shipped is not None:
            return "install dreambench again"
        tokenizer = f", with {self.tokenizer_file} next to it" if self.tokenizer_file else ""
        return f"download {self.source} and put it at {self.local_dir / self.file}{tokenizer}"

    def find_local(self) -> Path | None:
        """Return the weights on this machine: shipped, in `local_dir`, or in the hub's cache."""
        if self.shipped is not None:
            folder = PACKAGE_DIR / "mini" / "weights" / self.shipped
            return folder if folder.is_dir() else None
        found = find_weights_file(self.local_dir, first=self.file)
        if found is None and self.hub is not None:
            found = next(iter(find_cached(self.hub, [self.file], revision=self.revision)), None)
        if found is not None and not found.with_name(self.tokenizer_file or found.name).is_file():
            return None
        return found

    def download(self, progress: Progress) -> None:
        """Download the weights.

        Raises:
            UserError: they cannot be downloaded, or are not the published ones.
        """
        if self.hub is not None:
            self._download_from_hub(self.hub)
        elif self.url is not None:
            self._download_file(self.url, progress)

    def _download_from_hub(self, hub: str) -> None:
        from huggingface_hub import hf_hub_download  # noqa: PLC0415  (slow import)

        with self.reaching_hub():
            if self.tokenizer_file:
                hf_hub_download(hub, self.tokenizer_file, revision=self.revision)
            hf_hub_download(hub, self.file, revision=self.revision)

    def _download_file(self, url: str, progress: Progress) -> None:
        if os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0"):
            raise self.refuse("HF_HUB_OFFLINE is set")
        folder = self.local_dir / "incoming"
        try:
            part = download(url, folder, progress=progress, max_bytes=MAX_WEIGHTS_BYTES)
        except DiskError:
            raise
        except UserError as error:
            raise self.refuse(error.problem) from error
        if self.sha256 and (found := sha256_file(part)) != self.sha256:
            forget_download(url, folder)
            raise UserError(
                f"{url} has SHA-256 {found} where {self.sha256} was published; it was not kept",
                hint=self.how_to_get,
                code="changed-data",
            )
        part.replace(self.local_dir / self.file)

    def identity(self) -> str:
        """Return architecture, digest of the weights, pixels, pooling and precision as one string.

        Raises:
            UserError: the weights, whose digest is part of it, are not on this machine.
        """
        weights = self.find_weights()
        if weights.is_dir():
            content = digest_folder(weights, suffixes=(".safetensors", ".json"))
        else:
            content = hash_file(weights)[:16]
        if self.tokenizer_file:
            content = digest([content, hash_file(weights.with_name(self.tokenizer_file))])
        return self.name_identity(content)

    def find_published_identity(self) -> str | None:
        """Return the identity that it has with the published weights; None where nobody knows it.

        Weights that the package ships are the published ones.
        """
        if self.shipped is not None:
            return self.identity()
        return self.name_identity(self.sha256[:16]) if self.sha256 else None

    def name_identity(self, content: str) -> str:
        """Return the identity that it has with weights of this digest."""
        name = f"{self.library}:{self.architecture}@{content}"
        layers = ":blocks" + ",".join(map(str, self.layers)) if self.layers else ""
        activation = f":{self.activation}" if self.activation else ""
        return "|".join(
            [name + activation, str(self.pixels), self.pooling + layers, self.precision]
        )


@dataclass(frozen=True)
class OutsideSpec(Weights):
    """A class from outside of the package, as the encoder of a role or of another named input.

    `encoder` is the class, a subclass of `base.Encoder`; `reference` is what `--encoder` names
    (`file.py:Class`, or an entry point), `where` what errors name, and `code` the digest of its
    code (`plugins.LoadedClass`).
    """

    kind: ClassVar[str] = "encoder"
    name: str
    role: str
    version: int
    encoder: Any
    reference: str
    where: str
    code: str
    pixels: Preparation
    weights: Path | None = None
    precision: Literal["fp32"] = "fp32"

    @property
    def source(self) -> str:
        """The file or folder that the class names."""
        return str(self.weights)

    @property
    def how_to_get(self) -> str:
        """What the author of the class does."""
        if self.weights is None:
            return f"name them with the attribute `weights` of {self.where}"
        return f"put them at {self.weights}, or change the attribute `weights`"

    def find_local(self) -> Path | None:
        """Return the file or folder that the class names, if it is there."""
        return self.weights if self.weights is not None and self.weights.exists() else None

    def find_missing(self) -> dict[str, int]:
        """Return what is to be downloaded for it: never anything."""
        return {}

    def download(self, progress: Progress) -> None:
        """Nobody has them but the author of the class."""

    def ensure_weights(self, progress: Progress = no_progress) -> None:
        """Check that its weights are there, if it has any.

        Raises:
            UserError: they are not there.
        """
        if self.weights is not None:
            self.find_weights()

    def identity(self) -> str:
        """Return name, version, digests of code and weights, and pixels as one string.

        Raises:
            UserError: the weights are not there.
        """
        content = self.code
        if self.weights is not None:
            content += f",weights@{_digest_weights(self.find_weights())}"
        pixels = str(self.pixels) if isinstance(self.pixels, Pixels) else OWN_PIXELS
        name = f"outside:{self.name}:v{self.version}:{self.reference}@{content}"
        return "|".join([name, pixels, self.precision])


AnyEncoderSpec = EncoderSpec | OutsideSpec


def _digest_weights(path: Path) -> str:
    """Return the digest of a file, or of the names and contents of a folder's files."""
    if path.is_file():
        return hash_file(path)[:16]
    files = sorted(one for one in path.rglob("*") if one.is_file())
    return digest({one.relative_to(path).as_posix(): sha256_file(one) for one in files})


def find_reference(identity: str) -> str | None:
    """Return what `--encoder` named when an identity was made; None for one of the package's."""
    pattern = r"outside:[^:|]+:v\d+:([^|]+?)@[0-9a-f]{16}(?:,weights@[0-9a-f]{16})?\|"
    found = re.match(pattern, identity)
    return found[1] if found else None


def has_own_pixels(identity: str) -> bool:
    """Return whether an encoder prepares images by its own code: no part can be cut out of them."""
    return OWN_PIXELS in identity.split("|")


@dataclass(frozen=True, kw_only=True)
class SegmenterSpec(Snapshot):
    """All that is pinned about a segmenter: a folder of transformers' layout and its pixels.

    `network` segformer finds the subject by itself; clipseg is asked for the class noun.
    """

    kind: ClassVar[str] = "segmenter"
    network: Literal["segformer", "clipseg"]
    pixels: Pixels
    files: tuple[str, ...] = ("config.json", "model.safetensors")

    def identity(self) -> str:
        """Return architecture, digest of the weights, pixels and threshold as one string.

        Raises:
            UserError: the weights, whose digest is part of it, are not on this machine.
        """
        content = digest_folder(self.find_weights(), suffixes=(".safetensors", ".json", ".txt"))
        return self.name_identity(content)

    def find_published_identity(self) -> str | None:
        """Return the identity of the segmenter that the package ships; None for another."""
        return None if self.shipped is None else self.identity()

    def name_identity(self, content: str) -> str:
        """Return the identity that it has with weights of this digest."""
        return f"transformers:{self.network}@{content}|{self.pixels}|logit>0"
