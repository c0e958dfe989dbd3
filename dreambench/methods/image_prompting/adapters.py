"""What methods share that are shown a photo while they generate: adapters and their encoders."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import normalize

from dreambench.base_models.stable_diffusion import StableDiffusion
from dreambench.encoders.preprocessing import Pixels
from dreambench.encoders.registry import ENCODERS, load_encoder
from dreambench.errors import unknown_name
from dreambench.storage.snapshots import Snapshot, Weights

MINI, MINI_CLIP = "ip-adapter-mini", "mini-clip"


@dataclass(frozen=True, kw_only=True)
class Adapter(Snapshot):
    """An image adapter (IP-Adapter's or OminiControl's) in the layout of its authors.

    Its own file comes first, then those of the CLIP that reads the photos, in a folder of their
    own; the package's adapter and OminiControl's have none there.
    """

    kind: ClassVar[str] = "image adapter"
    base_model: str
    n_parameters: int  # with the image encoder's
    size_px: int = 0  # of photos and images, where the adapter is for one size alone

    @property
    def image_encoder(self) -> str | None:
        """The folder of the image encoder."""
        return self.files[1].rpartition("/")[0] if len(self.files) > 1 else None

    @property
    def weights(self) -> list[Weights]:
        """What is loaded besides the base model: mini's reads photos by mini's CLIP."""
        return [self, ENCODERS[MINI_CLIP]] if self.shipped else [self]


def _with_encoder(file: str, folder: str) -> tuple[str, ...]:
    return (file, f"{folder}/config.json", f"{folder}/model.safetensors")


_AUTHORS: dict[str, Any] = {
    "hub": "h94/IP-Adapter",
    "revision": "018e402774aeeddd60609b4ecdb7e298259dc729",
}
_CLIP = "models/image_encoder"
ADAPTERS = {
    adapter.name: adapter
    for adapter in (
        Adapter(
            name=MINI, base_model="mini", files=("ip_adapter.safetensors",), shipped="ip-adapter",
            n_parameters=3_806_388,
        ),
        Adapter(
            name="ip-adapter-sd15", base_model="sd15",
            files=_with_encoder("models/ip-adapter_sd15.safetensors", _CLIP),
            n_parameters=654_396_416, n_download_bytes=2_573_000_000, **_AUTHORS,
        ),
        Adapter(
            name="ip-adapter-plus-sd15", base_model="sd15",
            files=_with_encoder("models/ip-adapter-plus_sd15.safetensors", _CLIP),
            n_parameters=681_164_288, n_download_bytes=2_627_000_000, **_AUTHORS,
        ),
        Adapter(
            name="ip-adapter-sdxl", base_model="sdxl",
            files=_with_encoder("sdxl_models/ip-adapter_sdxl_vit-h.safetensors", _CLIP),
            n_parameters=981_264_896, n_download_bytes=3_227_000_000, **_AUTHORS,
        ),
        # Of rank 4, in bf16. No public code pins its revision.
        Adapter(
            name="ominicontrol-subject-512", base_model="flux-schnell",
            files=("omini/subject_512.safetensors",), hub="Yuanshi/OminiControl", revision="main",
            n_parameters=14_487_808, n_download_bytes=29_000_000, size_px=512,
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
    with adapter.loading() as folder:
        encoder = folder / adapter.image_encoder if adapter.image_encoder else None
        model.load_image_adapter(folder / adapter.files[0], image_encoder=encoder)
