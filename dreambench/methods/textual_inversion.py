"""Textual Inversion (Gal et al., ICLR 2023): a new word for the subject, and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from safetensors.torch import load_file, save
from torch import Tensor, nn

from dreambench.base_models import BaseModel
from dreambench.files import write_bytes, write_json
from dreambench.methods import Context, Work
from dreambench.methods.diffusion import PipelineGenerator, encode_texts, load_base
from dreambench.methods.tuning import (
    Batch,
    TuningSettings,
    draw_latents,
    encode_images,
    load_photos,
    tune,
)
from dreambench.subjects import Subject

WORD = "<subject>"
# The word has to stand for the subject in whatever sentence.
TEMPLATES = ("a {}", "a photo of a {}", "a picture of a {}")


class TextualInversionSettings(TuningSettings):
    """Numbers of a Textual Inversion recipe."""

    n_vectors: int = Field(ge=1, description="vectors of the new word, in a row")
    initial: Literal["class-noun"] = Field(description="what the vectors start from")


class _Vocabulary(nn.Module):
    """An embedding table of which only the last rows are trained."""

    def __init__(self, table: nn.Embedding, n_new: int) -> None:
        super().__init__()
        self.table = table
        self.n_old = table.num_embeddings - n_new
        self.vectors = nn.Parameter(table.weight[self.n_old :].detach().clone())

    def forward(self, ids: Tensor) -> Tensor:
        new = self.vectors[(ids - self.n_old).clamp(min=0)]
        return torch.where((ids >= self.n_old)[..., None], new, self.table(ids))


class TextualInversion:
    """Learns the vectors of a new word; UNet, autoencoder and text encoder stay as they are.

    Saved as `learned_embeds.safetensors`, which `pipeline.load_textual_inversion` reads, and
    `learned_embeds_2.safetensors` for a second text encoder.
    """

    Settings: ClassVar[type[TextualInversionSettings]] = TextualInversionSettings
    tunes = True
    n_references = None

    def __init__(self, settings: TextualInversionSettings, context: Context) -> None:
        self.settings = settings
        self.context = context
        self.pipeline = load_base(context)
        for part in self.pipeline.components.values():
            if isinstance(part, nn.Module):
                part.requires_grad_(False)
        if settings.gradient_checkpointing:
            self.pipeline.unet.enable_gradient_checkpointing()
        # diffusers reads "<subject>" in a prompt as all of these in a row.
        words = [WORD, *(f"{WORD}_{index}" for index in range(1, settings.n_vectors))]
        self._texts: dict[str, tuple[Any, list[int]]] = {}
        for suffix in ("", "_2"):
            tokenizer = getattr(self.pipeline, f"tokenizer{suffix}", None)
            encoder = getattr(self.pipeline, f"text_encoder{suffix}", None)
            if tokenizer is None or encoder is None:
                continue
            tokenizer.add_tokens([word for word in words if word not in tokenizer.get_vocab()])
            encoder.resize_token_embeddings(len(tokenizer), mean_resizing=False)
            encoder.requires_grad_(False)
            self._texts[suffix] = (encoder, tokenizer.convert_tokens_to_ids(words))

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
        self._put({suffix: self._start(suffix, subject.class_name) for suffix in self._texts})
        tables = {
            suffix: encoder.get_input_embeddings() for suffix, (encoder, _) in self._texts.items()
        }
        learned = {
            suffix: _Vocabulary(table, self.settings.n_vectors) for suffix, table in tables.items()
        }
        for suffix, (encoder, _) in self._texts.items():
            encoder.set_input_embeddings(learned[suffix])
        try:
            losses = self._train(subject, list(learned.values()), seed=seed)
        finally:
            for suffix, (encoder, _) in self._texts.items():
                encoder.set_input_embeddings(tables[suffix])
        for suffix, vocabulary in learned.items():
            vectors = vocabulary.vectors.detach().cpu().contiguous()
            content = save({WORD: vectors}, metadata={"format": "pt"})
            write_bytes(out_dir / f"learned_embeds{suffix}.safetensors", content)
        write_json(out_dir / "losses.json", losses)

    def load(self, subject: Subject, out_dir: Path) -> PipelineGenerator:
        """Puts the subject's word into the vocabulary."""
        files = {suffix: out_dir / f"learned_embeds{suffix}.safetensors" for suffix in self._texts}
        self._put({suffix: load_file(file)[WORD] for suffix, file in files.items()})
        return PipelineGenerator(self.pipeline, self.context, subject_phrase=WORD)

    @torch.no_grad()
    def _put(self, vectors: dict[str, Tensor]) -> None:
        for suffix, (encoder, rows) in self._texts.items():
            table = encoder.get_input_embeddings().weight
            table[rows] = vectors[suffix].to(table)

    def _start(self, suffix: str, class_name: str) -> Tensor:
        """The class noun's own vectors, repeated or cut to the number of new ones."""
        encoder, rows = self._texts[suffix]
        tokenizer = getattr(self.pipeline, f"tokenizer{suffix}")
        ids = tokenizer(class_name, add_special_tokens=False).input_ids
        chosen = [ids[index % len(ids)] for index in range(len(rows))]
        return encoder.get_input_embeddings().weight[chosen].detach().clone()

    def _train(
        self, subject: Subject, modules: list[nn.Module], *, seed: int
    ) -> list[dict[str, float]]:
        settings, pipeline = self.settings, self.pipeline
        photos = encode_images(pipeline, self.context, load_photos(subject.photos, settings))

        def draw_batch(noise: torch.Generator) -> Batch:
            latents = draw_latents(pipeline, photos, settings.batch_size, noise)
            chosen = torch.randint(len(TEMPLATES), (settings.batch_size,), generator=noise)
            texts = [TEMPLATES[index].format(WORD) for index in chosen.tolist()]
            return Batch(latents, encode_texts(pipeline, texts), n_subject=settings.batch_size)

        return tune(
            pipeline, self.context, settings, modules=modules, draw_batch=draw_batch,
            prior_weight=0.0, subject_name=subject.name, seed=seed,
        )  # fmt: skip
