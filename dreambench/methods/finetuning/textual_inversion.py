"""Textual Inversion (Gal et al., ICLR 2023): a new word for the subject, and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import nn

from dreambench.base_models.registry import BaseModel
from dreambench.datasets.subjects import Subject
from dreambench.methods.base import Context, Method, Work
from dreambench.methods.diffusion import PipelineGenerator, encode_texts
from dreambench.methods.finetuning.new_word import NewWord
from dreambench.methods.finetuning.training import (
    Batch,
    TrainingSettings,
    draw_latents,
    encode_images,
    load_frozen,
    load_photos,
    tune,
)
from dreambench.storage.files import write_json

WORD = "<subject>"
# The word has to stand for the subject in whatever sentence.
TEMPLATES = ("a {}", "a photo of a {}", "a picture of a {}")


class TextualInversionSettings(TrainingSettings):
    """Numbers of a Textual Inversion recipe."""

    n_vectors: int = Field(ge=1, description="vectors of the new word, in a row")
    initial: Literal["class-noun"] = Field(description="what the vectors start from")


class TextualInversion(Method):
    """Learns the vectors of a new word; UNet, autoencoder and text encoder stay as they are.

    Saved as `NewWord` saves it, which is how `pipeline.load_textual_inversion` reads it.
    """

    Settings: ClassVar[type[TextualInversionSettings]] = TextualInversionSettings
    tunes = True

    def __init__(self, settings: TextualInversionSettings, context: Context) -> None:
        super().__init__(settings, context)
        self.pipeline = load_frozen(context, settings)
        self.word = NewWord(self.pipeline, WORD, n_vectors=settings.n_vectors)

    @classmethod
    def count_work(cls, settings: TextualInversionSettings, base_model: BaseModel) -> Work:
        """See `methods.Method`."""
        n_trained = settings.n_vectors * base_model.text_width
        return Work(
            optimizer_steps=settings.n_steps,
            images_per_step=settings.batch_size,
            trained_parameters=n_trained,
            saved_bytes=4 * n_trained,
            draws=True,
        )

    def fit(self, subject: Subject, out_dir: Path, *, seed: int) -> None:
        """Learns the word from the subject's photos; writes its vectors and `losses.json`."""
        self.word.put(self.word.find_vectors(subject.class_name))
        with self.word.learning() as modules:
            losses = self._train(subject, modules, seed=seed)
        self.word.save(out_dir)
        write_json(out_dir / "losses.json", losses)

    def load(self, subject: Subject, out_dir: Path) -> PipelineGenerator:
        """Puts the subject's word into the vocabulary."""
        self.word.load(out_dir)
        return PipelineGenerator(self.pipeline, self.context, subject_phrase=WORD)

    def _train(
        self, subject: Subject, modules: list[nn.Module], *, seed: int
    ) -> list[dict[str, float]]:
        settings, pipeline = self.settings, self.pipeline
        photos = encode_images(pipeline, self.context, load_photos(subject.photos, settings))

        texts = [template.format(WORD) for template in TEMPLATES]

        def draw_batch(noise: torch.Generator) -> Batch:
            latents = draw_latents(pipeline, photos, settings.batch_size, noise)
            chosen = torch.randint(len(texts), (settings.batch_size,), generator=noise)
            words = encode_texts(pipeline, texts).take(chosen.tolist())
            return Batch(latents, words, n_subject=settings.batch_size)

        return tune(
            pipeline, self.context, settings, modules=modules, draw_batch=draw_batch,
            prior_weight=0.0, subject_name=subject.name, seed=seed,
        )  # fmt: skip
