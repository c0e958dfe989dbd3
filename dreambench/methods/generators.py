"""What generators on a base model share: the slot in prompts, and batches that memory allows."""

from __future__ import annotations

import gc
from collections.abc import Sequence

import torch
from PIL import Image

from dreambench.base_models.base import LoadedModel
from dreambench.base_models.memory import is_out_of_memory, with_room
from dreambench.config.slots import fill_subjects, has_subject_slots
from dreambench.errors import UserError


class TextGenerator:
    """Generates images from text alone; `subject_phrase` fills the slot {subject} of prompts.

    Of a pair it is two phrases, for {first} and {second}.
    """

    def __init__(self, model: LoadedModel, *, subject_phrase: str | Sequence[str]) -> None:
        self.model = model
        is_one = not isinstance(subject_phrase, str) and len(subject_phrase) == 1
        self.subject_phrase = subject_phrase[0] if is_one else subject_phrase

    def generate(self, prompts: Sequence[str], seeds: Sequence[int]) -> list[Image.Image]:
        """See `methods.Generator`. When memory runs out, makes room, then halves the batch.

        It does so down to one image. The base model remembers what fitted, so that no later batch
        runs out again.

        Raises:
            UserError: there is no memory for one image.
        """
        most = self.model.most_images or len(prompts)
        if len(prompts) > most:
            parts = [slice(start, start + most) for start in range(0, len(prompts), most)]
            return [image for part in parts for image in self.generate(prompts[part], seeds[part])]
        try:
            return with_room(self.model, lambda: self._generate(prompts, seeds))
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            problem = str(error)
        # Outside of the handler, since the exception's frames hold on to the failed tensors.
        gc.collect()
        if len(prompts) == 1:
            raise UserError(
                f"not enough memory for one image of {self.model.sampler.size_px} px "
                f"({problem[:80]})",
                hint="free memory, use --precision bf16 or another --device",
                code="out-of-memory",
            )
        self.model.most_images = len(prompts) // 2
        return self.generate(prompts, seeds)

    @torch.inference_mode()
    def _generate(self, prompts: Sequence[str], seeds: Sequence[int]) -> list[Image.Image]:
        return self.model.sample(self._fill(prompts), seeds)

    def _fill(self, prompts: Sequence[str]) -> list[str]:
        return [fill_subjects(text, self.subject_phrase) for text in prompts]


class ReferenceGenerator(TextGenerator):
    """Generates the subject from its photos, in a way of its own.

    A prompt without the slot {subject} asks for the class, not for this subject: the base model
    generates it, as with trained models, so that PRES says what is left of the model's prior.
    """

    @torch.inference_mode()
    def _generate(self, prompts: Sequence[str], seeds: Sequence[int]) -> list[Image.Image]:
        found: dict[int, Image.Image] = {}
        for generate, wanted in ((self._generate_subject, True), (self._generate_class, False)):
            rows = [row for row, text in enumerate(prompts) if has_subject_slots(text) is wanted]
            if rows:
                images = generate([prompts[row] for row in rows], [seeds[row] for row in rows])
                found |= dict(zip(rows, images, strict=True))
        return [found[row] for row in range(len(prompts))]

    def _generate_subject(self, prompts: Sequence[str], seeds: Sequence[int]) -> list[Image.Image]:
        """Return one image a prompt with the slot."""
        raise NotImplementedError

    def _generate_class(self, prompts: Sequence[str], seeds: Sequence[int]) -> list[Image.Image]:
        """Return one image a prompt without it."""
        return self.model.sample(list(prompts), seeds)
