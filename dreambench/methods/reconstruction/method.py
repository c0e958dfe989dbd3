"""Reconstruction: the subject in 3-D, rendered from where the prompt looks, and set into a scene.

The way to new poses that DreamBooth's authors name alongside theirs; the scene, the pasting and the
harmonising are composition's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from PIL import Image
from pydantic import Field, model_validator

from dreambench.base_models.base import LoadedModel
from dreambench.base_models.spec import BaseModel
from dreambench.datasets.subjects import Subject
from dreambench.errors import UserError
from dreambench.methods.base import Context, Method, Work
from dreambench.methods.editing.composition import (
    CompositionSettings,
    Harmonised,
    remove_subject,
)
from dreambench.methods.editing.generator import check_strength
from dreambench.methods.editing.masks import load_masks
from dreambench.methods.photos import load_photo
from dreambench.methods.reconstruction import from_photos
from dreambench.methods.reconstruction.image_to_3d import ImageTo3D, find_image_to_3d
from dreambench.methods.reconstruction.shape import (
    MAX_CELLS,
    Shape,
    count_bytes,
    cut_box,
    find_box,
    read_shape,
    take_usable,
)
from dreambench.methods.reconstruction.views import find_view
from dreambench.types import Mask

PHOTOS = "photos"


class ReconstructionSettings(CompositionSettings):
    """Numbers of a reconstruction recipe."""

    shape: str = Field(
        description="what makes the shape: photos, which carves it from them alone; or an "
        "image-to-3D model"
    )
    n_cells: int = Field(ge=8, le=MAX_CELLS, description="of the shape's grid, along each side")
    shape_steps: int | None = Field(
        default=None, ge=1, description="of the image-to-3D model's sampler"
    )
    shape_guidance: float | None = Field(
        default=None, ge=0, description="of the image-to-3D model by the photo"
    )

    @model_validator(mode="after")
    def _check_shape(self) -> ReconstructionSettings:
        given = {self.shape_steps is None, self.shape_guidance is None}
        if given != {self.shape == PHOTOS}:
            raise ValueError(
                "shape_steps and shape_guidance are an image-to-3D model's, which needs both; "
                f"with shape = '{PHOTOS}' there is none"
            )
        return self


class Reconstruction(Method):
    """Reconstructs each subject once; each image shows that at the view that its prompt asks for.

    Where a prompt asks for none, the view is that of the photo that the seed picks.
    """

    Settings: ClassVar[type[ReconstructionSettings]] = ReconstructionSettings

    def __init__(self, settings: ReconstructionSettings, context: Context) -> None:
        check_strength(settings.strength, context)
        super().__init__(settings, context)
        self.model = context.load_base_model()
        self._maker: ImageTo3D | None = None

    @classmethod
    def count_work(cls, settings: ReconstructionSettings, base_model: BaseModel) -> Work:
        """See `methods.Method`. A scene for each image, though some prompts ask for none."""
        work = Work(
            samples=True,
            calls_per_image=1 + settings.strength,
            saved_bytes=count_bytes(settings.n_cells),
        )
        if settings.shape == PHOTOS:
            return work
        spec = find_image_to_3d(settings.shape)
        return replace(work, other_parameters=spec.n_parameters, weights=[spec])

    def fit(self, subject: Subject, out_dir: Path, *, seed: int) -> None:
        """Write the subject's shape. Carving draws nothing at random; a model begins from `seed`.

        Raises:
            UserError: no mask shows anything, nothing comes out, or the image-to-3D model cannot be
                had.
        """
        side = self.context.sampler.size_px
        photos = [load_photo(path, size_px=side) for path in subject.photos]
        masks = load_masks(subject, side)
        rows = take_usable(masks, subject.name)
        used, shown = [photos[row] for row in rows], [masks[row] for row in rows]
        shape = self._make(used, shown, seed)
        if not shape.is_solid:
            raise UserError(
                f"no shape was found for '{subject.name}': nothing of its grid is inside",
                hint="give masks that show the whole subject, or other photos",
                code="unsupported-subject",
            )
        views = np.tile(np.median(shape.views, axis=0), (len(photos), 1)).astype(np.float32)
        views[rows] = shape.views
        Shape(shape.solid, shape.colours, views).write(out_dir)

    def _make(self, photos: Sequence[Image.Image], masks: Sequence[Mask], seed: int) -> Shape:
        if self.settings.shape == PHOTOS:
            return from_photos.reconstruct(photos, masks, n_cells=self.settings.n_cells)
        if self._maker is None:
            spec = find_image_to_3d(self.settings.shape)
            self._maker = ImageTo3D(spec, device=self.context.device)
        return self._maker.reconstruct(
            photos, masks, n_cells=self.settings.n_cells, n_steps=self.settings.shape_steps,
            guidance=self.settings.shape_guidance, seed=seed,
        )  # fmt: skip

    def load(self, subject: Subject, out_dir: Path) -> Harmonised:
        """Load the photos, masks and shape."""
        shape = read_shape(out_dir, n_photos=len(subject.photos))
        return _Shown(self.model, subject=subject, settings=self.settings, shape=shape)


class _Shown(Harmonised):
    def __init__(
        self, model: LoadedModel, *, subject: Subject, settings: Any, shape: Shape
    ) -> None:
        super().__init__(model, subject=subject, strength=settings.strength)
        self.shape = shape
        # Where a photo's mask is empty, the subject stands as in the first that shows it.
        first = self.masks[take_usable(self.masks, subject.name)[0]]
        self.boxes = [find_box(mask if mask.any() else first) for mask in self.masks]
        self._places: dict[int, Image.Image] = {}

    def _describe_scene(self, prompt: str) -> str:
        return remove_subject(find_view(prompt)[1])

    def _own_place(self, index: int) -> Image.Image:
        if index not in self._places:
            self._places[index] = take_out(self.photos[index], self.masks[index])
        return self._places[index]

    def _set_in(self, prompt: str, seed: int, index: int, place: Image.Image) -> Image.Image:
        view, _ = find_view(prompt)
        if view is None:
            azimuth, elevation = map(float, self.shape.views[index])
        else:
            azimuth = view.azimuth
            usual = self.shape.usual_elevation
            elevation = usual if view.elevation is None else view.elevation
            if view.either_side and seed // len(self.photos) % 2:
                azimuth = -azimuth
        # Twice as fine as the grid, which has no more to show.
        drawn = cut_box(self.shape.draw(azimuth, elevation, side_px=3 * len(self.shape.solid)))
        return stand(drawn, place, self.boxes[index])


def take_out(photo: Image.Image, mask: Mask) -> Image.Image:
    """Return a photo's place without what the mask shows, filled from around it (Telea, 2004)."""
    import cv2  # noqa: PLC0415  (slow import)

    grown = max(3, round(photo.width / 16) | 1)
    hole = cv2.dilate(mask.astype(np.uint8), np.ones((grown, grown), np.uint8))
    return Image.fromarray(cv2.inpaint(np.asarray(photo), hole, grown, cv2.INPAINT_TELEA))


def stand(drawn: Image.Image, place: Image.Image, box: tuple[int, int, int, int]) -> Image.Image:
    """Return an RGBA image on a place: as long and wide as a box at most, and on its lower edge."""
    left, top, right, bottom = box
    scale = max(right - left, bottom - top) / max(drawn.size)
    size = tuple(max(1, round(length * scale)) for length in drawn.size)
    small = drawn.resize((size[0], size[1]), Image.Resampling.LANCZOS)
    found = place.copy()
    corner = round((left + right - size[0]) / 2), min(bottom, place.height) - size[1]
    found.paste(small.convert("RGB"), corner, small.getchannel("A"))
    return found
