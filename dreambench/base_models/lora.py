"""Low-rank adapters in a loaded base model, as diffusers' files hold them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from dreambench.base_models.loading import only_errors
from dreambench.base_models.weights import check_state, read_trained
from dreambench.errors import UserError

if TYPE_CHECKING:
    from dreambench.base_models.base import LoadedModel

LORA_FILE = "pytorch_lora_weights.safetensors"
CLIP_LAYERS = ["q_proj", "k_proj", "v_proj", "out_proj"]
"""The layers of CLIP's text encoder that LoRA adapts, in all of diffusers' scripts."""


def save_lora(model: LoadedModel, folder: Path, networks: Mapping[str, nn.Module]) -> None:
    """Write the adapters in networks as diffusers' `pytorch_lora_weights.safetensors`."""
    from peft import get_peft_model_state_dict  # noqa: PLC0415  (slow import)

    layers = {
        f"{name}_lora_layers": model.name_adapters(name, get_peft_model_state_dict(network))
        for name, network in networks.items()
    }
    model.pipeline.save_lora_weights(folder, **layers)


def load_lora(model: LoadedModel, folder: Path, networks: Mapping[str, nn.Module]) -> None:
    """Put the adapters of `save_lora` into their networks, by the names of their files.

    Raises:
        UserError: the file does not hold an adapter for each adapted layer of these networks.
    """
    file = folder / LORA_FILE
    found = read_trained(file)
    # Diffusers makes adapters for the layers that a file names, whichever these are.
    layers = {
        f"{name}.{layer}"
        for name, network in networks.items()
        for layer, _ in network.named_modules()
        if f".{layer}".endswith(tuple(f".{end}" for end in model.adapted_layers(name)))
    }
    empty = torch.empty(0)
    check_state(
        dict.fromkeys((f"{layer}.{end}" for layer in layers for end in ("A", "B")), empty),
        dict.fromkeys(map(_name_factor, found), empty),
        where=str(file), part="the adapters", hint=f"delete {folder} and run again",
    )  # fmt: skip
    try:
        # It warns when a text encoder has no adapters, which the recipe decides.
        with only_errors():
            model.pipeline.load_lora_weights(folder, weight_name=LORA_FILE)
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"{file}: the adapters are not of the shape of this base model's layers",
            hint=f"delete {folder} and run again",
            code="wrong-weights",
        ) from error


def unload_lora(model: LoadedModel) -> None:
    """Take all adapters out."""
    model.pipeline.unload_lora_weights()


def _name_factor(key: str) -> str:
    """Return a layer's name and A or B for a factor of its adapter, however diffusers names it."""
    for kind, ends in {"A": ("down", "A"), "B": ("up", "B")}.items():
        for end in (f".lora.{ends[0]}.weight", f".lora_linear_layer.{ends[0]}.weight",
                    f".lora_{ends[1]}.weight"):  # fmt: skip
            if key.endswith(end):
                return f"{key.removesuffix(end)}.{kind}"
    return key
