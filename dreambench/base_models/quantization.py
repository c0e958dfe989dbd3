"""Frozen weights in 8 or 4 bits, by bitsandbytes, whose layers PEFT puts adapters on.

Imports bitsandbytes, which is an extra. What is trained beside them stays in fp32, as in QLoRA
(Dettmers et al., NeurIPS 2023, arXiv 2305.14314); activations are not rounded. The packages' own
loading of quantised networks refuses machines without a GPU.
"""

from __future__ import annotations

from typing import Any

import bitsandbytes as bnb
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dreambench.config.sampler import Quantization


class _Product(torch.autograd.Function):
    """A product with a weight in 8 bits, which is made wide anew for the gradient.

    Whatever a step keeps for its gradient, wide weights are not among it, with gradient
    checkpointing or without.
    """

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, largest: Tensor) -> Tensor:
        ctx.weight, ctx.largest = weight, largest
        return F.linear(inputs, _widen(weight, largest, inputs.dtype))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (grad,) = grads
        return grad @ _widen(ctx.weight, ctx.largest, grad.dtype), None, None


def _widen(weight: Tensor, largest: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a weight (n_out, n_in) of whole numbers to 127, each row's `largest` times as much."""
    return (weight * (largest / 127)[:, None]).to(dtype)


class Linear8bit(bnb.nn.Linear8bitLt):
    """A layer of which the weights alone are rounded.

    bitsandbytes rounds inputs, too, all of a batch by its largest: an image would depend on those
    beside it.
    """

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the outputs in the precision of the inputs."""
        weight: Any = self.weight
        found: Tensor = _Product.apply(inputs, weight.data, weight.SCB)
        return found if self.bias is None else found + self.bias.to(found.dtype)


def quantize(
    network: nn.Module, quantization: Quantization, *, device: torch.device, rounded: bool
) -> None:
    """Put a network's linear layers on a device with their weights quantised, one after another.

    `rounded` says that the network computes in bf16.
    """
    for path, layer in list(network.named_modules()):
        if type(layer) is not nn.Linear:
            continue
        parent, _, name = path.rpartition(".")
        with torch.device("meta"):
            made = _make_layer(layer, quantization, torch.bfloat16 if rounded else torch.float32)
        options = made.weight.__dict__
        weight = type(made.weight)(layer.weight.data, requires_grad=False, **options)
        made.weight = weight.to(device)  # Which is where it is quantised.
        made.bias = layer.bias
        setattr(network.get_submodule(parent), name, made.requires_grad_(False))
    # By these PEFT knows which kind of layers to put its adapters on.
    setattr(network, f"is_loaded_in_{'8bit' if quantization == 'int8' else '4bit'}", True)


def _make_layer(layer: nn.Linear, quantization: Quantization, dtype: torch.dtype) -> Any:
    size, has_bias = (layer.in_features, layer.out_features), layer.bias is not None
    if quantization == "int8":
        return Linear8bit(*size, bias=has_bias, has_fp16_weights=False)
    made = bnb.nn.Linear4bit(
        *size, bias=has_bias, compute_dtype=dtype, quant_type="nf4", compress_statistics=False
    )
    # Some CPUs would generate with other sums than they train with, and than other CPUs.
    made.support_avx512bf16_for_cpu = False
    return made
