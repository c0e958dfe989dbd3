"""In-context photo prompting: photos of the subject and an instruction, nothing trained.

FLUX.1 Kontext (2025, arXiv 2506.15742), FLUX.2 [klein] (2026), Qwen-Image-Edit (arXiv 2508.02324)
and OmniGen (arXiv 2409.11340) read photos in one sequence with the image that they generate.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import ClassVar

from PIL import Image
from pydantic import Field, field_validator

from dreambench.base_models.base import LoadedModel
from dreambench.base_models.flow import PHOTO_PIXELS, InContextModel
from dreambench.base_models.registry import find_family
from dreambench.base_models.spec import IN_CONTEXT, BaseModel
from dreambench.config.slots import check_braces, check_slot, fill_slot, has_slot
from dreambench.datasets.subjects import Subject
from dreambench.errors import UserError
from dreambench.methods.base import Context, Method, QuantizedSettings, Work
from dreambench.methods.generators import ReferenceGenerator
from dreambench.storage.images import load_image


class Wording(QuantizedSettings):
    """Words of a recipe that shows photos; {class} stands for the class noun."""

    names_photos: ClassVar[bool] = False
    """Whether an instruction may have {photos}, which stands for what names the photos."""

    subject: str = Field(min_length=1, description="what fills the slot {subject} of a prompt")
    instruction: str = Field(description="what the model is told; {prompt} is the filled prompt")

    @field_validator("subject")
    @classmethod
    def _check_subject(cls, text: str) -> str:
        return check_braces(text, ("class",))

    @field_validator("instruction")
    @classmethod
    def _check_instruction(cls, text: str) -> str:
        rest = fill_slot(text, "", "class")
        check_slot(fill_slot(rest, "", "photos") if cls.names_photos else rest, "prompt")
        return text

    def name_subject(self, subject: Subject) -> str:
        """Return what fills the slot {subject} of prompts."""
        return fill_slot(self.subject, subject.class_name, "class")


class PhotoPromptingSettings(Wording):
    """Numbers and words of a photo prompting recipe."""

    names_photos = True

    max_photos: int = Field(ge=1, description="photos that an image is shown at most")
    image_guidance: float | None = Field(
        default=None, ge=0, description="of photos without text, for a model that has it (omnigen)"
    )


class PhotoPrompting(Method):
    """Generates from photos and an instruction.

    Each image is shown all photos in their order, if they are `max_photos` at most. If there are
    more, it is shown that many, beginning with the one that the seed picks; the first follows the
    last.
    """

    Settings: ClassVar[type[PhotoPromptingSettings]] = PhotoPromptingSettings
    families = IN_CONTEXT

    def __init__(self, settings: PhotoPromptingSettings, context: Context) -> None:
        super().__init__(settings, context)
        self.model = context.load_base_model(
            InContextModel,  # type: ignore[type-abstract]
            quantization=settings.quantization,
        )

    @classmethod
    def count_work(cls, settings: PhotoPromptingSettings, base_model: BaseModel) -> Work:
        """See `methods.Method`.

        A call of the network reads the photos, too, as if it was on so many images more.

        Raises:
            UserError: the base model cannot be shown so many photos, or not in this way.
        """
        settings.check_quantization(base_model)
        family = find_family(base_model.family)
        assert issubclass(family, InContextModel)
        _check_way(settings, family, base_model.name)
        most = family.max_photos
        if most is not None and settings.max_photos > most:
            raise UserError(
                f"max_photos is {settings.max_photos}, and '{base_model.name}' is shown {most} "
                "at most",
                hint=f"set max_photos = {most} in the recipe",
                code="invalid-value",
            )
        return Work(
            samples=True,
            # Guidance by photos takes a call of its own, with them and without text.
            calls_per_image=1 + settings.max_photos + family.has_image_guidance / 2,
            photo_pixels=[PHOTO_PIXELS] * settings.max_photos,
        )  # fmt: skip

    @classmethod
    def name_subject(cls, settings: PhotoPromptingSettings, subject: Subject) -> str:
        """See `methods.Method`."""
        return settings.name_subject(subject)

    def load(self, subject: Subject, out_dir: Path) -> Prompted:
        """Load the photos."""
        settings: PhotoPromptingSettings = self.settings
        draw: Callable[..., list[Image.Image]] = self.model.sample_in_context
        if settings.image_guidance is not None:
            draw = partial(draw, image_guidance=settings.image_guidance)
        return Prompted(
            self.model, subject=subject, wording=settings, max_photos=settings.max_photos,
            draw=draw, photo_words=self.model.photo_words,
        )  # fmt: skip


def _check_way(
    settings: PhotoPromptingSettings, family: type[InContextModel], base_model: str
) -> None:
    """Refuse words or guidance that mean nothing to a model, or that it needs and lacks.

    Raises:
        UserError: it is so.
    """
    has_words, has_guidance = family.photo_words is not None, family.has_image_guidance
    faults = {
        "the slot {photos} in instruction": (
            has_slot(settings.instruction, "photos"), has_words
        ),
        "image_guidance": (settings.image_guidance is not None, has_guidance),
    }  # fmt: skip
    for what, (is_given, is_needed) in faults.items():
        if is_given != is_needed:
            raise UserError(
                f"'{base_model}' {'needs' if is_needed else 'does not know'} {what}",
                hint=f"{'add it to' if is_needed else 'take it out of'} the recipe",
                code="invalid-value",
            )


class Prompted(ReferenceGenerator):
    """Generates from a subject's photos and an instruction; `draw` is a model's way to do so.

    `photo_words` are what names a photo in the instruction, with its {number}.
    """

    def __init__(
        self,
        model: LoadedModel,
        *,
        subject: Subject,
        wording: Wording,
        max_photos: int,
        draw: Callable[..., list[Image.Image]],
        photo_words: str | None = None,
    ) -> None:
        super().__init__(model, subject_phrase=wording.name_subject(subject))
        self.photos = [load_image(path) for path in subject.photos]
        self.max_photos = max_photos
        self.draw = draw
        words, n_shown = photo_words or "", min(len(self.photos), max_photos)
        names = [words.replace("{number}", str(place + 1)) for place in range(n_shown)]
        instruction = fill_slot(wording.instruction, subject.class_name, "class")
        self.instruction = fill_slot(instruction, " ".join(names), "photos")

    def _generate_subject(self, prompts: Sequence[str], seeds: Sequence[int]) -> list[Image.Image]:
        texts = [fill_slot(self.instruction, text, "prompt") for text in self._fill(prompts)]
        # Pipelines show all images of a call the same photos, or resize them to the first's shape.
        rows_of: dict[tuple[int, ...], list[int]] = {}
        for row, seed in enumerate(seeds):
            rows_of.setdefault(self._choose(seed), []).append(row)
        found: dict[int, Image.Image] = {}
        for places, rows in rows_of.items():
            images = self.draw(
                [texts[row] for row in rows],
                [seeds[row] for row in rows],
                photos=[self.photos[place] for place in places],
            )
            found |= dict(zip(rows, images, strict=True))
        return [found[row] for row in range(len(prompts))]

    def _choose(self, seed: int) -> tuple[int, ...]:
        """Return the places of the photos that an image is shown."""
        n_photos = len(self.photos)
        if n_photos <= self.max_photos:
            return tuple(range(n_photos))
        return tuple((seed + step) % n_photos for step in range(self.max_photos))
