"""Base models by name: found, checked, and loaded as their family does. Imports no torch."""

from __future__ import annotations

import functools
import importlib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from dreambench.artifacts.long_texts import TextReader
from dreambench.base_models.catalogue import BASE_MODELS, TRAINED_HERE
from dreambench.base_models.folder import check_folder, check_mark
from dreambench.base_models.spec import PARTS, UPSCALER_DIR, BaseModel, Family
from dreambench.config.sampler import Precision, Quantization, Sampler
from dreambench.errors import UserError, unknown_name

if TYPE_CHECKING:
    from dreambench.base_models.base import LoadedModel

FAMILIES: dict[Family, str] = {
    "stable-diffusion": "dreambench.base_models.stable_diffusion:StableDiffusion",
    "sdxl": "dreambench.base_models.sdxl:StableDiffusionXL",
    "unclip": "dreambench.base_models.unclip:StableUnCLIP",
    "flux2": "dreambench.base_models.flux2:Flux2Klein",
    "flux": "dreambench.base_models.flux:Flux",
    "flux-kontext": "dreambench.base_models.flux:FluxKontext",
    "sd3": "dreambench.base_models.sd3:StableDiffusion3",
    "qwen-image": "dreambench.base_models.qwen_image:QwenImage",
    "qwen-image-edit": "dreambench.base_models.qwen_image:QwenImageEdit",
    "omnigen": "dreambench.base_models.omnigen:OmniGen",
    "mini-flow": "dreambench.base_models.flux2:MiniFlow",
    "deepfloyd-if": "dreambench.base_models.deepfloyd_if:DeepFloydIF",
    "deepfloyd-if-upscaler": "dreambench.base_models.deepfloyd_if:Upscaler",
}
"""The class of each family, imported when a model is loaded, since torch is slow to import."""

MAX_TEXT_TOKENS = 100_000


def find_base_model(name: str) -> BaseModel:
    """Return a base model by its name, or by `NAME=FOLDER`: a folder with that name's settings.

    Raises:
        UserError: the name is unknown, or the folder is not a diffusers pipeline, or lacks files;
            see `check_folder`.
    """
    key, _, folder = name.partition("=")
    model = BASE_MODELS.get(key, TRAINED_HERE.get(key) if folder else None)
    if model is None:
        raise unknown_name("base model", key, BASE_MODELS)
    if not folder:
        return model
    check_folder(Path(folder), PARTS[model.family])
    if model.upscaler is not None:
        check_folder(Path(folder) / UPSCALER_DIR, PARTS["deepfloyd-if-upscaler"])
    if (mark := model.mark) is not None:
        check_mark(Path(folder), *mark, name=key)
    return replace(model, location=folder, revision=None)


def find_family(family: Family) -> type[LoadedModel]:
    """Import and return the class of a family."""
    module, _, attribute = FAMILIES[family].partition(":")
    found: type[LoadedModel] = getattr(importlib.import_module(module), attribute)
    return found


@functools.lru_cache(maxsize=8)
def make_text_reader(model: BaseModel) -> TextReader | None:
    """Return how much the text encoder of a base model reads; None where that is not known.

    Models of the hub have CLIP's own tokenizer, of which open_clip brings the vocabulary along, so
    that nothing is downloaded.
    """
    name = f"the text encoder of '{model.name}'"
    if model.flow is not None or model.upscaler is not None:
        return None  # Language models read more tokens than any prompt has.
    if not model.is_local:
        from open_clip import SimpleTokenizer  # noqa: PLC0415  (imports torch)

        clip = SimpleTokenizer()
        return TextReader(name, clip.context_length, lambda text: len(clip.encode(text)) + 2)
    try:
        tokenizer = find_family(model.family).load_tokenizer(model)
        n_tokens = int(tokenizer.model_max_length)
    except (UserError, OSError, ValueError, OverflowError, AttributeError):
        return None  # Loading the model says what is wrong with it.

    def count(text: str) -> int:
        return len(tokenizer(text, verbose=False).input_ids)

    # transformers has 10^30 where the files name no length.
    return TextReader(name, n_tokens, count) if n_tokens <= MAX_TEXT_TOKENS else None


def load_base_model(
    model: BaseModel,
    sampler: Sampler,
    *,
    device: str = "cpu",
    precision: Precision = "fp32",
    quantization: Quantization = "none",
) -> LoadedModel:
    """Load a base model that samples as a protocol says.

    Raises:
        UserError: its files are not on this machine and the hub cannot be reached, or the device
            has no room for it.
    """
    from dreambench.base_models.memory import is_out_of_memory  # noqa: PLC0415  (imports torch)

    try:
        return find_family(model.family)(
            model, sampler, device=device, precision=precision, quantization=quantization
        )
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise UserError(
            f"not enough memory for the base model '{model.name}' in {precision} on {device}",
            hint="use --precision bf16, another --device or another --base-model; "
            "`dreambench doctor` lists what fits",
            code="out-of-memory",
        ) from error
