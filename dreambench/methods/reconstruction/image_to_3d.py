"""A shape that a diffusion model imagines from one photo: Shap-E (Jun and Nichol, 2023).

arXiv 2305.02463. Its latents are the weights of a small network, which says of each place how far
inside it is, and its colour; asked at the middles of a grid's cells, it gives a `Shape`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image, ImageOps
from scipy import ndimage
from torch import Tensor

from dreambench.base_models.loading import only_errors
from dreambench.base_models.weights import check_loading
from dreambench.errors import unknown_name
from dreambench.methods.reconstruction.shape import Floats, Shape, cut_box, find_box
from dreambench.storage.snapshots import Snapshot
from dreambench.types import Mask

_NETWORKS = {
    "prior": "diffusion_pytorch_model.safetensors",
    "image_encoder": "model.safetensors",
    "shap_e_renderer": "diffusion_pytorch_model.safetensors",
}
_OTHERS = {"scheduler": "scheduler_config.json", "image_processor": "preprocessor_config.json"}
# The photo's subject with a little white around it, as in the renderings that it was trained on.
_PHOTO_PX, _MARGIN = 512, 0.15
_COARSE_CELLS, _MATCH_PX = 24, 32
_AZIMUTHS, _ELEVATIONS = range(0, 360, 15), (0, 15, 30)
_BATCH = 1 << 16


@dataclass(frozen=True, kw_only=True)
class ImageTo3DSpec(Snapshot):
    """An image-to-3D model in the layout of diffusers' `ShapEImg2ImgPipeline`."""

    kind: ClassVar[str] = "image-to-3D model"
    n_parameters: int
    files: tuple[str, ...] = (
        *(f"{part}/config.json" for part in _NETWORKS),
        *(f"{part}/{name}" for part, name in (_NETWORKS | _OTHERS).items()),
    )


IMAGE_TO_3D = {
    spec.name: spec
    for spec in (
        ImageTo3DSpec(
            name="shap-e-img2img", hub="openai/shap-e-img2img",
            revision="0e0aba80f08d368aaf6af9cb93583707481cc29b", licence="mit",
            n_parameters=845_437_382, n_download_bytes=4 * 845_437_382,
        ),
    )
}  # fmt: skip


def find_image_to_3d(name: str) -> ImageTo3DSpec:
    """Return an image-to-3D model by name.

    Raises:
        UserError: the name is unknown.
    """
    if name not in IMAGE_TO_3D:
        raise unknown_name("image-to-3D model", name, list(IMAGE_TO_3D))
    return IMAGE_TO_3D[name]


class ImageTo3D:
    """A loaded image-to-3D model, in fp32.

    Raises:
        UserError: its files are damaged, or not on this machine and the hub cannot be reached.
    """

    def __init__(self, spec: ImageTo3DSpec, *, device: str) -> None:
        self.device = torch.device(device)
        self.pipeline = _load(spec).to(self.device)
        self.pipeline.set_progress_bar_config(disable=True)

    @torch.inference_mode()
    def reconstruct(
        self,
        photos: Sequence[Image.Image],
        masks: Sequence[Mask],
        *,
        n_cells: int,
        n_steps: int,
        guidance: float,
        seed: int,
    ) -> Shape:
        """Return the shape of what the photo with the largest subject shows; no mask is empty.

        The model puts a shape at an angle of its own: the front is where the photos look from.
        """
        largest = int(np.argmax([mask.sum() for mask in masks]))
        latents = self.pipeline(
            put_on_white(photos[largest], masks[largest]), num_inference_steps=n_steps,
            guidance_scale=guidance, generator=torch.Generator().manual_seed(seed),
            output_type="latent",
        ).images  # fmt: skip
        self._take(latents)
        rough = self._ask(_COARSE_CELLS, turn=0.0)
        views = match_views(rough, photos, masks)
        turn = _find_middle(views[:, 0])
        views[:, 0] = (views[:, 0] - turn + 180) % 360 - 180
        found = self._ask(n_cells, turn=turn)
        return Shape(found.solid, found.colours, views)

    def _take(self, latents: Tensor) -> None:
        """Make the small network the one that latents (1, n, d) stand for."""
        renderer = self.pipeline.shap_e_renderer
        weights = renderer.params_proj(latents)
        for name, values in renderer.mlp.state_dict().items():
            if f"nerstf.{name}" in weights:
                values.copy_(weights[f"nerstf.{name}"].squeeze(0))

    def _ask(self, n: int, *, turn: float) -> Shape:
        """Return the small network's answers at n**3 places, turned by degrees about the upright.

        Its own axes are: x right, y away from who sees its front, and z up.
        """
        ticks = (torch.arange(n) + 0.5) / n * 2 - 1
        z, y, x = torch.meshgrid(ticks, ticks, ticks, indexing="ij")
        angle = torch.deg2rad(torch.tensor(turn))
        across, near = x * angle.cos() + z * angle.sin(), z * angle.cos() - x * angle.sin()
        places = torch.stack([across, -near, y], -1).reshape(1, -1, 3).to(self.device)
        mlp = self.pipeline.shap_e_renderer.mlp
        inside, colours = [], []
        for part in places.split(_BATCH, dim=1):
            answer = mlp(
                position=part, direction=None, ts=None, nerf_level="fine", rendering_mode="stf"
            )
            inside.append(answer.signed_distance[0, :, 0].cpu() > 0)
            colours.append(answer.channels[0].cpu())
        solid = torch.cat(inside).reshape(n, n, n).numpy()
        soft = ndimage.gaussian_filter(solid.astype(np.float32), 0.8)
        levels = (torch.cat(colours) * 255).round().byte().reshape(n, n, n, 3).numpy()
        return Shape((soft * 255).round().astype(np.uint8), levels, np.zeros((0, 2), np.float32))


def put_on_white(photo: Image.Image, mask: Mask) -> Image.Image:
    """Return a photo's subject alone in the middle of a white square."""
    left, top, right, bottom = find_box(mask)
    half = max(right - left, bottom - top) / 2 * (1 + 2 * _MARGIN)
    x, y = (left + right) / 2, (top + bottom) / 2
    shown = photo.convert("RGBA")
    shown.putalpha(Image.fromarray(mask.astype(np.uint8) * np.uint8(255)))
    white = Image.new("RGBA", shown.size, "white")
    white.alpha_composite(shown)
    box = (x - half, y - half, x + half, y + half)
    return white.convert("RGB").transform(
        (_PHOTO_PX, _PHOTO_PX), Image.Transform.EXTENT, box, Image.Resampling.BICUBIC,
        fillcolor="white",
    )  # fmt: skip


def match_views(shape: Shape, photos: Sequence[Image.Image], masks: Sequence[Mask]) -> Floats:
    """Return azimuth and elevation (k, 2), in degrees, at which a shape looks most like photos."""
    angles = [(azimuth, elevation) for azimuth in _AZIMUTHS for elevation in _ELEVATIONS]
    drawn = np.stack([_shrink(shape.draw(*angle, side_px=2 * _MATCH_PX)) for angle in angles])
    found = []
    for photo, mask in zip(photos, masks, strict=True):
        shown = photo.convert("RGBA")
        shown.putalpha(Image.fromarray(mask.astype(np.uint8) * np.uint8(255)))
        errors = np.square(drawn - _shrink(shown)).mean((1, 2, 3))
        found.append(angles[int(errors.argmin())])
    return np.array(found, np.float32)


def _shrink(image: Image.Image) -> Floats:
    """Return what an RGBA image shows as RGB x alpha and alpha, (side, side, 4), in a frame."""
    cut = ImageOps.contain(cut_box(image), (_MATCH_PX, _MATCH_PX), Image.Resampling.BILINEAR)
    frame = Image.new("RGBA", (_MATCH_PX, _MATCH_PX))
    frame.paste(cut, ((_MATCH_PX - cut.width) // 2, (_MATCH_PX - cut.height) // 2))
    pixels = np.asarray(frame, np.float32) / 255
    return np.concatenate([pixels[..., :3] * pixels[..., 3:], pixels[..., 3:]], -1)


def _find_middle(azimuths: Floats) -> float:
    """Return the mean direction of angles, in degrees."""
    radians = np.deg2rad(azimuths)
    return float(np.rad2deg(np.arctan2(np.sin(radians).sum(), np.cos(radians).sum())))


def _load(spec: ImageTo3DSpec) -> Any:
    """Load the pipeline, part for part, so that weights that are not whole are refused."""
    from diffusers import (  # noqa: PLC0415  (slow import)
        HeunDiscreteScheduler,
        PriorTransformer,
        ShapEImg2ImgPipeline,
    )
    from diffusers.pipelines.shap_e import ShapERenderer  # noqa: PLC0415
    from transformers import CLIPImageProcessor, CLIPVisionModel  # noqa: PLC0415

    networks: dict[str, Any] = {
        "prior": PriorTransformer, "image_encoder": CLIPVisionModel,
        "shap_e_renderer": ShapERenderer,
    }  # fmt: skip
    others: dict[str, Any] = {
        "scheduler": HeunDiscreteScheduler,
        "image_processor": CLIPImageProcessor,
    }
    loading = {}
    with spec.loading() as folder, only_errors():  # It warns of what is refused below.
        for part, found in networks.items():
            networks[part], loading[part] = found.from_pretrained(
                folder, subfolder=part, use_safetensors=True, torch_dtype=torch.float32,
                output_loading_info=True, local_files_only=True,
            )  # fmt: skip
        for part, found in others.items():
            others[part] = found.from_pretrained(folder, subfolder=part, local_files_only=True)
    for part, info in loading.items():
        name = f"{spec.name}'s {part}"
        check_loading(info, where=str(folder), part=name, hint=spec.how_to_get)
        networks[part].eval().requires_grad_(False)
    return ShapEImg2ImgPipeline(**networks, **others)
