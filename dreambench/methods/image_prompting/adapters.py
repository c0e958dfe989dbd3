"""What methods share that are shown a photo while they generate: adapters and their encoders."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import normalize

from dreambench.base_models.stable_diffusion import StableDiffusion
from dreambench.encoders.preprocessing import Pixels
from dreambench.encoders.registry import ENCODERS, load_encoder
from dreambench.encoders.spec import weights_root
from dreambench.errors import UserError, unknown_name
from dreambench.storage.downloads import find_snapshot, identify_snapshot
from dreambench.storage.formats import find_weights_damage
from dreambench.storage.shipped import PACKAGE_DIR

MINI, MINI_CLIP = "ip-adapter-mini", "mini-clip"
ENCODER_FILES = ("config.json", "model.safetensors")


@dataclass(frozen=True)
class Adapter:
    """An image adapter (IP-Adapter's or OminiControl's) in the layout of its authors.

    `hub` holds `subfolder/file` and, at `image_encoder`, the CLIP that reads the photos; without a
    hub both are the package's own.
    """

    name: str
    base_model: str
    subfolder: str
    file: str
    n_parameters: int  # with the image encoder's
    hub: str | None = None
    revision: str | None = None
    image_encoder: str | None = None
    n_download_bytes: int = 0  # with the image encoder's
    size_px: int = 0  # of photos and images, where the adapter is for one size alone

    @property
    def shipped(self) -> bool:
        """Whether it is the package's own."""
        return self.hub is None

    @property
    def files(self) -> tuple[str, ...]:
        """The adapter's file, then those of its image encoder unless that is mini's CLIP."""
        encoder = [f"{self.image_encoder}/{name}" for name in ENCODER_FILES if self.image_encoder]
        return (f"{self.subfolder}/{self.file}", *encoder)

    @property
    def source(self) -> str:
        """Where the files come from, in words."""
        if self.shipped:
            return "shipped with the package"
        return f"{', '.join(self.files)} of {self.hub} at {self.revision}"

    @property
    def how_to_get(self) -> str:
        """Which files to download and where to put them."""
        return f"download {self.source} and put them, folders and all, into {self.local_dir}"

    def find_local(self) -> Path | None:
        """Return the folder with all its files: shipped, the user's, or in the hub's cache."""
        return find_snapshot(self.folder, self.files, hub=self.hub, revision=self.revision)

    def identify(self) -> dict[str, str]:
        """Return the identities of its weights by name, see `Method.identify_weights`."""
        found = identify_snapshot(self.folder, self.files, hub=self.hub, revision=self.revision)
        encoder = {MINI_CLIP: ENCODERS[MINI_CLIP].identity()} if self.shipped else {}
        return {self.name: found, **encoder}

    def find_missing(self) -> dict[str, int]:
        """Return what is to be downloaded, with its size in bytes; empty where it is here."""
        if self.find_local() is not None:
            return {}
        return {f"{self.name}: {self.source}": self.n_download_bytes}

    @property
    def folder(self) -> Path:
        """Where its files are looked for first."""
        return PACKAGE_DIR / "mini" / "weights" if self.shipped else self.local_dir

    @property
    def local_dir(self) -> Path:
        """Folder for a snapshot that a user downloads."""
        return weights_root() / self.name


_AUTHORS: dict[str, Any] = {
    "hub": "h94/IP-Adapter",
    "revision": "018e402774aeeddd60609b4ecdb7e298259dc729",
}
ADAPTERS = {
    adapter.name: adapter
    for adapter in (
        Adapter(MINI, "mini", "ip-adapter", "ip_adapter.safetensors", 3_806_388),
        Adapter(
            "ip-adapter-sd15", "sd15", "models", "ip-adapter_sd15.safetensors", 654_396_416,
            image_encoder="models/image_encoder", n_download_bytes=2_573_000_000, **_AUTHORS,
        ),
        Adapter(
            "ip-adapter-plus-sd15", "sd15", "models", "ip-adapter-plus_sd15.safetensors",
            681_164_288, image_encoder="models/image_encoder", n_download_bytes=2_627_000_000,
            **_AUTHORS,
        ),
        Adapter(
            "ip-adapter-sdxl", "sdxl", "sdxl_models", "ip-adapter_sdxl_vit-h.safetensors",
            981_264_896, image_encoder="models/image_encoder", n_download_bytes=3_227_000_000,
            **_AUTHORS,
        ),
        # Of rank 4, in bf16. No public code pins its revision.
        Adapter(
            "ominicontrol-subject-512", "flux-schnell", "omini", "subject_512.safetensors",
            14_487_808, hub="Yuanshi/OminiControl", revision="main", n_download_bytes=29_000_000,
            size_px=512,
        ),
    )
}  # fmt: skip


def find_adapter(name: str, base_model: str) -> Adapter:
    """Return an adapter by name.

    Raises:
        UserError: it is unknown, or made for another base model.
    """
    names = [adapter.name for adapter in ADAPTERS.values() if adapter.base_model == base_model]
    if name not in names:
        raise unknown_name(f"image adapter for '{base_model}'", name, names)
    return ADAPTERS[name]


@dataclass(frozen=True)
class ImageFeatures:
    """What diffusers reads from an image encoder: (n, d); and the last but one, (n, tokens, d)."""

    image_embeds: Tensor
    hidden_states: tuple[Tensor, Tensor]


class CellEncoder(nn.Module):
    """The image tower of mini's CLIP as diffusers asks for one.

    Its tokens are the embedding of the image and that of each cell of the last feature map, which
    goes through the attention pool's value and output projections alone (Zhou et al., ECCV 2022,
    "Extract Free Dense Labels from CLIP", section 3.2), all of length sqrt(d).
    """

    def __init__(self, visual: nn.Module) -> None:
        super().__init__()
        self.visual = visual

    @property
    def device(self) -> torch.device:
        """Where it is; a pipeline asks each of its parts."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Of its weights."""
        return next(self.parameters()).dtype

    def forward(self, pixels: Tensor, output_hidden_states: bool = False) -> ImageFeatures:
        """Return features of pixels (n, 3, side, side); all of them, whatever is asked for."""
        visual: Any = self.visual
        found = visual.forward_intermediates(pixels, indices=1, intermediates_only=True)
        cells, pool = found["image_intermediates"][-1], visual.attnpool
        places = cells.flatten(2).transpose(1, 2) + pool.positional_embedding[1:]
        tokens = torch.cat([pool(cells)[:, None], pool.c_proj(pool.v_proj(places))], dim=1)
        tokens = normalize(tokens, dim=-1) * tokens.shape[-1] ** 0.5
        return ImageFeatures(tokens[:, 0], (tokens, tokens))


@dataclass(frozen=True)
class _Prepared:
    pixel_values: Tensor


class PixelExtractor:
    """Our own transform in the place of a preprocessor file."""

    def __init__(self, pixels: Pixels) -> None:
        self.pixels = pixels

    def __call__(self, images: Image.Image | list[Image.Image], **_: object) -> _Prepared:
        """Return images as the network's input; diffusers asks for tensors, which these are."""
        chosen = images if isinstance(images, list) else [images]
        rows = np.stack([self.pixels.prepare(image) for image in chosen])
        return _Prepared(torch.from_numpy(rows))


def make_mini_encoder(device: str) -> tuple[CellEncoder, PixelExtractor]:
    """Return the image encoder of mini and what prepares its pixels."""
    clip = load_encoder(MINI_CLIP, "clip", device=device)
    return CellEncoder(clip.model.visual), PixelExtractor(ENCODERS[MINI_CLIP].pixels)


def load_adapter(model: StableDiffusion, adapter: Adapter) -> None:
    """Put an adapter and its image encoder into a base model, as diffusers does.

    Raises:
        UserError: its files are damaged, or not on this machine and the hub cannot be reached.
    """
    if adapter.shipped:
        model.set_image_encoder(*make_mini_encoder(str(model.device)))
    folder = adapter.find_local()
    with _explained(adapter, folder):
        model.load_image_adapter(
            str(folder or adapter.hub), adapter.file, subfolder=adapter.subfolder,
            image_encoder=adapter.image_encoder,
            revision=adapter.revision if folder is None else None,
        )  # fmt: skip


def fetch_file(adapter: Adapter) -> Path:
    """Return the adapter's own file, from the hub where it is not on this machine.

    Raises:
        UserError: the hub cannot be reached.
    """
    from huggingface_hub import hf_hub_download  # noqa: PLC0415  (slow import)

    name = f"{adapter.subfolder}/{adapter.file}"
    if (folder := adapter.find_local()) is not None:
        return folder / name
    with _explained(adapter, None):
        return Path(hf_hub_download(str(adapter.hub), name, revision=adapter.revision))


@contextmanager
def _explained(adapter: Adapter, folder: Path | None) -> Iterator[None]:
    """Say in one line why an adapter cannot be had, or read from its folder."""
    try:
        yield
    except UserError:
        raise
    # Of files that are not valid, libraries make any kind of exception.
    except Exception as error:
        if folder is not None:
            raise _refuse_files(adapter, folder, error) from error
        if not isinstance(error, OSError):
            raise
        raise UserError(
            f"image adapter '{adapter.name}' ({adapter.hub}, revision {adapter.revision}) is not "
            "on this machine and the hub cannot be reached",
            hint=adapter.how_to_get,
            code="hub-unreachable",
        ) from error


def _refuse_files(adapter: Adapter, folder: Path, error: Exception) -> UserError:
    """Return the error for an adapter whose files are on this machine and cannot be loaded."""
    for name in adapter.files:
        path = folder / name
        if path.suffix == ".safetensors" and (damage := find_weights_damage(path)) is not None:
            return UserError(f"{path} {damage[0]}", hint=damage[1], code="unreadable-file")
    reason = " ".join(str(error).split())[:300] or type(error).__name__
    return UserError(
        f"image adapter '{adapter.name}' cannot be loaded from {folder}: {reason}",
        hint=adapter.how_to_get,
        code="wrong-weights",
    )
