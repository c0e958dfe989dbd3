"""Custom Diffusion (Kumari et al., CVPR 2023): keys and values of cross-attention, and a word."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from PIL import Image, ImageOps
from pydantic import Field
from safetensors.torch import load_file, save
from torch import Tensor, nn

from dreambench.artifacts.plan import derive_seed
from dreambench.base_models.registry import BaseModel
from dreambench.datasets.subjects import Subject
from dreambench.methods.base import Context, Method, Work
from dreambench.methods.diffusion import PipelineGenerator, encode_texts
from dreambench.methods.finetuning.identifier import choose_identifier
from dreambench.methods.finetuning.new_word import NewWord
from dreambench.methods.finetuning.training import (
    Batch,
    ClassImages,
    TrainingSettings,
    check_prior,
    draw_latents,
    draw_rows,
    encode_images,
    load_frozen,
    load_photos,
    sample_latents,
    tune,
)
from dreambench.storage.files import write_bytes, write_json

WORD = "<new1>"
FILE = "pytorch_custom_diffusion_weights.safetensors"
# The paper's scales ("Training details": .4 to 1.4) with the authors' code's gap between them, its
# two thirds of smaller ones, and its words, which stand before "photo of a <new1> [class]".
SMALLER, LARGER, SMALLER_SHARE = (0.4, 1.0), (1.2, 1.4), 2 / 3
FAR_BELOW = 0.6
FAR, NEAR = ("a far away", "very small"), ("zoomed in", "close up")


class CustomDiffusionSettings(TrainingSettings):
    """Numbers of a Custom Diffusion recipe."""

    identifier: str = Field(
        min_length=1, description="the rare token that the new word starts from, or auto"
    )
    prior_weight: float = Field(ge=0, description="weight of the class images; 0 leaves them out")
    n_class_images: int = Field(ge=0)
    n_views: int = Field(
        ge=0, description="resized views of each photo, encoded once; 0: the photos as they are"
    )
    flip: bool = Field(description="whether half of the views are mirrored")


@dataclass(frozen=True)
class View:
    """A photo as a training step sees it.

    `valid` (h, w) is 1 where the latent shows the photo and 0 where it shows what is around it;
    `words` go before the prompt.
    """

    image: Image.Image
    valid: Tensor
    words: str = ""


def make_view(
    photo: Image.Image, *, scale: float, corner: tuple[float, float], words: str, cell_px: int
) -> View:
    """A square photo made smaller on grey, or larger and cut; of its own size both ways.

    `corner` is where the smaller of the two squares lies in the larger one, from (0, 0), top left,
    to (1, 1); `cell_px` is the side of a latent's cell. Cells at the edge of a smaller photo are
    not valid, since the autoencoder sees the grey beside it (the authors' code).
    """
    side = photo.width
    new = round(side * scale)
    resized = photo.resize((new, new), Image.Resampling.BICUBIC)
    left, top = (round(abs(side - new) * part) for part in corner)
    cells = side // cell_px
    if new >= side:
        valid = torch.ones(cells, cells)
        return View(resized.crop((left, top, left + side, top + side)), valid, words)
    image = Image.new("RGB", (side, side), (128, 128, 128))
    image.paste(resized, (left, top))
    valid = torch.zeros(cells, cells)
    rows = slice(top // cell_px + 1, (top + new) // cell_px - 1)
    columns = slice(left // cell_px + 1, (left + new) // cell_px - 1)
    valid[rows, columns] = 1
    return View(image, valid, words)


def draw_view(photo: Image.Image, *, flip: bool, cell_px: int, rng: np.random.Generator) -> View:
    """A view of a square photo at a random scale and place, with the words for that scale."""
    low, high = SMALLER if rng.uniform() < SMALLER_SHARE else LARGER
    scale = float(rng.uniform(low, high))
    words = ""
    if scale < FAR_BELOW or scale > 1:
        words = str(rng.choice(FAR if scale < 1 else NEAR))
    corner = (float(rng.uniform()), float(rng.uniform()))
    if flip and rng.uniform() < 0.5:
        photo = ImageOps.mirror(photo)
    return make_view(photo, scale=scale, corner=corner, words=words, cell_px=cell_px)


class CustomDiffusion(Method):
    """Trains what the UNet makes of text, and a word: "photo of a <new1> [class]".

    Of the UNet that is the keys and values of each cross-attention (paper, section 3.2); the word
    starts from a rare token. Class images are drawn by the base model, as DreamBooth does; the
    paper retrieves real ones from LAION-400M, and has drawn ones as its ablation.

    The paper resizes each photo anew in each step. Here `n_views` views of each photo are drawn and
    encoded once at the start, so that no step runs the autoencoder; steps draw from these views,
    with new noise each time. A tokenizer that lacks the words for near and far (mini's does) spells
    them in smaller tokens that no caption had: they mean nothing to the base model there, and are
    marks that tuning itself ties to the scale.

    Saved are the keys and values under diffusers' names for them, and the word as `NewWord` does.
    """

    Settings: ClassVar[type[CustomDiffusionSettings]] = CustomDiffusionSettings
    tunes = True

    def __init__(self, settings: CustomDiffusionSettings, context: Context) -> None:
        check_prior(settings.prior_weight, settings.n_class_images)
        super().__init__(settings, context)
        self.pipeline = load_frozen(context, settings)
        self.identifier = choose_identifier(self.pipeline.tokenizer, settings.identifier)
        self.word = NewWord(self.pipeline, WORD)
        self.layers: dict[str, nn.Linear] = {
            name: module
            for name, module in self.pipeline.unet.named_modules()
            if name.endswith(("attn2.to_k", "attn2.to_v")) and isinstance(module, nn.Linear)
        }
        self._initial = {name: layer.weight.detach().clone() for name, layer in self.layers.items()}
        self._class_images = ClassImages(self.pipeline, context, n_images=settings.n_class_images)

    @classmethod
    def count_work(cls, settings: CustomDiffusionSettings, base_model: BaseModel) -> Work:
        """See `methods.Method`."""
        with_prior = settings.prior_weight > 0
        n_trained = base_model.n_cross_attention_parameters + base_model.text_width
        return Work(
            optimizer_steps=settings.n_steps,
            images_per_step=settings.batch_size * (2 if with_prior else 1),
            class_images=settings.n_class_images if with_prior else 0,
            trained_parameters=n_trained,
            saved_bytes=4 * n_trained,
            draws=True,
        )

    def fit(self, subject: Subject, out_dir: Path, *, seed: int) -> None:
        """Trains on the subject's photos; writes what it learned and `losses.json`."""
        self._put(self._initial)
        self.word.put(self.word.find_vectors(self.identifier))
        with self.word.learning() as vocabulary, self._learning_layers():
            losses = self._train(subject, vocabulary, seed=seed)
        self.word.save(out_dir)
        state = {
            _file_key(name): layer.weight.detach().cpu().contiguous()
            for name, layer in self.layers.items()
        }
        write_bytes(out_dir / FILE, save(state, metadata={"format": "pt"}))
        write_json(out_dir / "losses.json", losses)

    def load(self, subject: Subject, out_dir: Path) -> PipelineGenerator:
        """Puts the subject's keys, values and word into the pipeline."""
        state = load_file(out_dir / FILE)
        self._put({name: state[_file_key(name)] for name in self.layers})
        self.word.load(out_dir)
        return PipelineGenerator(self.pipeline, self.context, subject_phrase=_phrase(subject))

    @torch.no_grad()
    def _put(self, weights: dict[str, Tensor]) -> None:
        for name, layer in self.layers.items():
            layer.weight.copy_(weights[name])

    @contextmanager
    def _learning_layers(self) -> Iterator[None]:
        handles = [layer.register_forward_hook(_hold_start) for layer in self.layers.values()]
        for layer in self.layers.values():
            layer.requires_grad_(True)
        try:
            yield
        finally:
            for layer in self.layers.values():
                layer.requires_grad_(False)
            for handle in handles:
                handle.remove()

    def _make_views(self, subject: Subject, *, seed: int) -> list[View]:
        settings, side = self.settings, self.context.sampler.size_px
        cell_px = self.pipeline.vae_scale_factor
        photos = [
            ImageOps.fit(photo, (side, side), Image.Resampling.BICUBIC)
            for photo in load_photos(subject.photos, settings)
        ]
        if settings.n_views == 0:
            valid = torch.ones(side // cell_px, side // cell_px)
            return [View(photo, valid) for photo in photos]
        rng = np.random.default_rng(derive_seed("views", subject.name, seed))
        return [
            draw_view(photo, flip=settings.flip, cell_px=cell_px, rng=rng)
            for photo in photos
            for _ in range(settings.n_views)
        ]

    def _train(
        self, subject: Subject, vocabulary: Sequence[nn.Module], *, seed: int
    ) -> list[dict[str, float]]:
        settings, pipeline = self.settings, self.pipeline
        size, device = settings.batch_size, pipeline.device
        views = self._make_views(subject, seed=seed)
        photos = encode_images(pipeline, self.context, [view.image for view in views])
        valid = torch.stack([view.valid for view in views])[:, None].to(device)
        prior = None
        if settings.prior_weight > 0:
            prior = self._class_images.encode(subject.class_name)
        with torch.no_grad():
            class_text = encode_texts(pipeline, [f"a {subject.class_name}"])
        photo_of = f"photo of a {_phrase(subject)}"
        texts = sorted({f"{view.words} {photo_of}".strip() for view in views})
        text_of = [texts.index(f"{view.words} {photo_of}".strip()) for view in views]

        def draw_batch(noise: torch.Generator) -> Batch:
            rows = draw_rows(len(views), size, noise)
            latents, weights = sample_latents(pipeline, photos, rows, noise), valid[rows.to(device)]
            words = encode_texts(pipeline, texts).take([text_of[row] for row in rows.tolist()])
            if prior is not None:
                latents = torch.cat([latents, draw_latents(pipeline, prior, size, noise)])
                weights = torch.cat([weights, torch.ones_like(weights)])
                words = words.join(class_text.repeat(0, size))
            return Batch(latents, words, n_subject=size, weights=weights)

        return tune(
            pipeline, self.context, settings, modules=[*self.layers.values(), *vocabulary],
            draw_batch=draw_batch, prior_weight=settings.prior_weight,
            subject_name=subject.name, seed=seed,
        )  # fmt: skip


def _phrase(subject: Subject) -> str:
    return f"{WORD} {subject.class_name}"


def _file_key(layer: str) -> str:
    """The name that diffusers has for a key or value layer that Custom Diffusion trained."""
    path, _, name = layer.rpartition(".")
    return f"{path}.processor.{name}_custom_diffusion.weight"


def _hold_start(_layer: nn.Module, _inputs: object, found: Tensor) -> Tensor:
    """Lets no gradient through the start token, which all prompts share (the authors' code)."""
    return torch.cat([found[:, :1].detach(), found[:, 1:]], 1)
