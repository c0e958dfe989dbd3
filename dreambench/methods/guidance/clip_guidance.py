"""CLIP guidance of a VQGAN (Crowson et al., "VQGAN-CLIP", ECCV 2022, arXiv 2204.08583).

The latents of an image are optimised until CLIP finds random crops of it near the prompt. Nothing
is trained. The paper's image prompts are here the subject's photos: the latents start as those of
one photo, and another loss keeps the crops near all of them. Whatever else CLIP takes for the
prompt, the search finds, too; so metrics of the CLIP that steered are inflated, which reports say.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from PIL import Image
from pydantic import Field
from torch import Tensor
from torch.nn.functional import normalize

from dreambench.base_models.memory import is_out_of_memory
from dreambench.base_models.spec import BaseModel
from dreambench.config.slots import fill_slot, has_slot
from dreambench.datasets.subjects import Subject
from dreambench.encoders.base import Encoder, exact_sums
from dreambench.encoders.preprocessing import Pixels
from dreambench.encoders.registry import find_encoder, load_encoder
from dreambench.errors import UserError
from dreambench.methods.base import Context, Method, Settings, Work
from dreambench.methods.guidance.vqgan import VQGAN, find_vqgan
from dreambench.methods.photos import load_photo


class ClipGuidanceSettings(Settings):
    """Numbers of a CLIP guidance recipe."""

    vqgan: str = Field(description="whose latents are optimised")
    steered_by: str = Field(description="the CLIP whose losses they are optimised under")
    n_steps: int = Field(ge=1, description="of Adam, for each image")
    learning_rate: float = Field(gt=0, description="in the latents' own scale")
    n_crops: int = Field(ge=1, description="random crops that CLIP sees in a step")
    smallest_crop: float = Field(
        gt=0, le=1, description="side of a crop, as a share of the image's"
    )
    noise: float = Field(ge=0, description="most noise on a crop, in CLIP's input")
    image_weight: float = Field(
        ge=0, description="of the loss to the photos, where that to the prompt weighs 1"
    )


class ClipGuidance(Method):
    """Optimises the latents of each image for itself. The seed picks the photo that they begin as.

    The base model has no part in it: the VQGAN generates class images, too, from random codes and
    without photos. Both networks compute in fp32.
    """

    Settings: ClassVar[type[ClipGuidanceSettings]] = ClipGuidanceSettings

    def __init__(self, settings: ClipGuidanceSettings, context: Context) -> None:
        super().__init__(settings, context)
        size_px = context.sampler.size_px
        find_encoder(settings.steered_by, "clip").ensure_weights(context.progress)
        self.clip = load_encoder(settings.steered_by, "clip", device=context.device)
        if not isinstance(self.clip.pixels, Pixels):
            raise UserError(
                f"the encoder '{settings.steered_by}' prepares images by code of its own, which no "
                "gradient passes",
                hint="set steered_by to another: dreambench list encoders",
                code="unsupported-encoder",
            )
        self.vqgan = VQGAN(find_vqgan(settings.vqgan), device=context.device)
        if size_px % self.vqgan.reduction:
            raise UserError(
                f"'{settings.vqgan}' makes images of whole squares of {self.vqgan.reduction} px, "
                f"and the protocol asks for {size_px} px",
                hint="set another size_px in the protocol's [sampler]",
                code="invalid-value",
            )

    @classmethod
    def count_work(cls, settings: ClipGuidanceSettings, base_model: BaseModel) -> Work:
        """See `methods.Method`."""
        vqgan, clip = find_vqgan(settings.vqgan), find_encoder(settings.steered_by, "clip")
        return Work(other_parameters=vqgan.n_parameters, weights=[vqgan, clip])

    def load(self, subject: Subject, out_dir: Path) -> _Guided:
        """Encode the photos, for the VQGAN to begin with and for CLIP to compare with."""
        side = self.context.sampler.size_px
        photos = [load_photo(path, size_px=side) for path in subject.photos]
        return _Guided(
            self.vqgan, self.clip, settings=self.settings, class_name=subject.class_name,
            photos=photos, side_px=side,
        )  # fmt: skip


class _Guided:
    def __init__(
        self,
        vqgan: VQGAN,
        clip: Encoder,
        *,
        settings: ClipGuidanceSettings,
        class_name: str,
        photos: Sequence[Image.Image],
        side_px: int,
    ) -> None:
        self.vqgan, self.clip, self.settings = vqgan, clip, settings
        self.class_name = class_name
        self.side_px = side_px
        # One after another, so that a photo's latents do not depend on how many there are.
        self.starts = [vqgan.encode([photo]) for photo in photos]
        self.wanted = torch.from_numpy(clip.encode_images(photos)).to(vqgan.device)

    def generate(self, prompts: Sequence[str], seeds: Sequence[int]) -> list[Image.Image]:
        """See `methods.Generator`. One image after another, so that none sees its neighbours.

        A choice of codes turns last bits, which a batch's size changes, into another picture.

        Raises:
            UserError: there is no memory for one image.
        """
        texts = self.clip.encode_texts([fill_slot(text, self.class_name) for text in prompts])
        rows = zip(prompts, torch.from_numpy(texts).to(self.vqgan.device), seeds, strict=True)
        try:
            return [
                self._search(text, seed, shows_subject=has_slot(prompt))
                for prompt, text, seed in rows
            ]
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise UserError(
                f"not enough memory for one image of {self.side_px} px and "
                f"{self.settings.n_crops} crops",
                hint="free memory, or use --set n_crops=... with fewer",
                code="out-of-memory",
            ) from error

    def _search(self, text: Tensor, seed: int, *, shows_subject: bool) -> Image.Image:
        """Return the image that the latents of a seed lead to under a text's row (d,)."""
        settings, noise = self.settings, torch.Generator().manual_seed(seed)
        if shows_subject:
            start = self.starts[seed % len(self.starts)]
        else:
            start = self.vqgan.draw_codes(self.side_px // self.vqgan.reduction, noise)
        low, high = (
            ends.values[None, :, None, None]
            for ends in (self.vqgan.codes.min(dim=0), self.vqgan.codes.max(dim=0))
        )
        latents = start.clone().requires_grad_(True)
        adam = torch.optim.Adam([latents], settings.learning_rate)
        with exact_sums(), torch.enable_grad():
            for _ in range(settings.n_steps):
                image = self.vqgan.decode(latents)
                found = self._look(image, noise)
                loss = measure_angles(found, text[None]).mean()
                if shows_subject and settings.image_weight:
                    loss = loss + settings.image_weight * measure_angles(found, self.wanted).mean()
                latents.grad = torch.autograd.grad(loss, latents)[0]
                adam.step()
                with torch.no_grad():
                    # No code is beyond, and the way back would be long.
                    latents.clamp_(low, high)
            with torch.no_grad():
                return to_image(self.vqgan.decode(latents)[0])

    def _look(self, image: Tensor, noise: torch.Generator) -> Tensor:
        """Return CLIP's rows (n_crops, d) of random crops of an image (1, 3, side, side)."""
        pixels: Any = self.clip.pixels
        settings = self.settings
        n, side = settings.n_crops, pixels.crop_px
        crops = cut_crops(image, n, side_px=side, smallest=settings.smallest_crop, noise=noise)
        mean, std = (torch.tensor(part, device=image.device) for part in (pixels.mean, pixels.std))
        crops = (crops - mean[:, None, None]) / std[:, None, None]
        strength = settings.noise * torch.rand((n, 1, 1, 1), generator=noise)
        rough = strength * torch.randn((n, 3, side, side), generator=noise)
        return normalize(self.clip.forward(crops + rough.to(image.device)), dim=-1)


def measure_angles(first: Tensor, second: Tensor) -> Tensor:
    """Return half the squared angles (n, m) between rows of unit length, (n, d) and (m, d).

    The paper's distance. A little is added under the root, whose gradient has no value at 0.
    """
    apart = (first[:, None] - second[None]).square().sum(-1)
    return 2 * ((apart + 1e-12).sqrt() / 2).clamp(max=1 - 1e-6).arcsin().square()


def cut_crops(
    image: Tensor, n: int, *, side_px: int, smallest: float, noise: torch.Generator
) -> Tensor:
    """Return n random square crops (n, 3, side_px, side_px) of an image (1, 3, side, side).

    Sides are drawn evenly from `smallest` times the image's to the whole, places evenly, and half
    of the crops are mirrored. Resized by matrices of weights, whose gradient has one order of
    sums on every device, which that of `grid_sample` has not.
    """
    share = smallest + (1 - smallest) * torch.rand(n, generator=noise)
    left, top = torch.rand((2, n), generator=noise) * (1 - share)
    mirrored = torch.rand(n, generator=noise) < 0.5
    side = image.shape[-1]
    across = make_resizing(left * side, share * side, side, side_px)
    across = torch.where(mirrored[:, None, None], across.flip(1), across).to(image.device)
    down = make_resizing(top * side, share * side, side, side_px).to(image.device)
    return down[:, None] @ image.clamp(0, 1) @ across.transpose(1, 2)[:, None]


def make_resizing(start: Tensor, length: Tensor, n_in: int, n_out: int) -> Tensor:
    """Return matrices (n, n_out, n_in) that resize stretches of a row of n_in values, antialiased.

    `start` and `length` (n,) are in pixels. Each output is a mean under a triangle, as in PIL.
    """
    scale = length / n_out
    centres = start[:, None] + (torch.arange(n_out) + 0.5) * scale[:, None]
    places = torch.arange(n_in) + 0.5
    reach = scale.clamp(min=1)[:, None, None]
    weights = (1 - (places - centres[..., None]).abs() / reach).clamp(min=0)
    return weights / weights.sum(-1, keepdim=True)


def to_image(values: Tensor) -> Image.Image:
    """Return RGB values (3, h, w) as an image."""
    levels = (values.clamp(0, 1) * 255).round().byte().permute(1, 2, 0)
    return Image.fromarray(levels.cpu().numpy())
