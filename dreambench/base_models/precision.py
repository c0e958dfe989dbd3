"""Networks in bf16, between which all is fp32."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from dreambench.base_models.loading import only_errors


def cast(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Cast weights, and not what a network has computed for itself, such as its places' angles."""
    own = [
        (part._buffers, name, part._buffers[name])
        for part in module.modules()
        for name in part._non_persistent_buffers_set
    ]
    # Diffusers warns of layers that want fp32, also where a network has none.
    with only_errors():
        module.to(dtype)
    for buffers, name, value in own:
        buffers[name] = value
    return module


def widen(
    network: nn.Module,
    modules: Collection[nn.Module],
    *,
    load: Callable[[], Mapping[str, nn.Module]],
) -> None:
    """Hold those of a rounded network's modules in fp32 that are among `modules`.

    `load` returns the network as its files have it, by its name, and is called if there are any.
    """
    paths = [path for path, module in network.named_modules() if module in modules]
    if not paths:
        return
    (loaded,) = load().values()
    for path in paths:
        module = cast(network.get_submodule(path), torch.float32)
        module.load_state_dict(loaded.get_submodule(path).state_dict())


def round_network(network: nn.Module) -> None:
    """Hold a network in bf16, whose callers give it fp32 and get fp32 back."""
    cast(network, torch.bfloat16)
    for part in _find_borders(network):
        part.register_forward_pre_hook(_round_inputs, with_kwargs=True)
        part.register_forward_hook(_widen_outputs)


def _find_borders(network: nn.Module) -> list[nn.Module]:
    """Return the modules of a rounded network that tensors come into and go out of.

    An autoencoder is called by its halves; T5 has an encoder, too, and is called as a whole.
    """
    if getattr(network, "decoder", None) is None:
        return [network]
    ends = ("encoder", "quant_conv", "post_quant_conv", "decoder")
    parts = [getattr(network, end, None) for end in ends]
    return [part for part in parts if isinstance(part, nn.Module)]


@contextmanager
def held_rounded(weights: Iterable[nn.Parameter]) -> Iterator[None]:
    """Hold weights that are fp32 in bf16 while this is open; the same fp32 values come back."""
    held = [(weight, weight.data) for weight in weights if weight.dtype == torch.float32]
    # Weights that inference mode made could not be trained on.
    with torch.inference_mode(mode=False):
        for weight, value in held:
            weight.data = value.to(torch.bfloat16)
    try:
        yield
    finally:
        for weight, value in held:
            weight.data = value


def _round_inputs(module: nn.Module, args: Any, kwargs: Any) -> tuple[Any, Any]:
    """Round what a network is given to its weights' precision; times (n,) stay as they are."""
    # Quantised weights are of whole numbers.
    dtype = next(weight.dtype for weight in module.parameters() if weight.is_floating_point())

    def round_one(value: Any) -> Any:
        is_wide = isinstance(value, Tensor) and value.dtype == torch.float32 and value.ndim > 1
        return value.to(dtype) if is_wide else value

    found: tuple[Any, Any] = tree_map(round_one, (args, kwargs))
    return found


def _widen_outputs(_module: nn.Module, _args: Any, found: Any) -> Any:
    """Return what a network found in fp32, in which its latents are added up."""

    def widen(value: Any) -> Any:
        is_rounded = isinstance(value, Tensor) and value.dtype == torch.bfloat16
        return value.float() if is_rounded else value

    return tree_map(widen, found)
