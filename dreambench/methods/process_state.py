"""What the code of a method may change of the whole process, put back after each of its calls.

One process runs all methods. A working directory, a number of threads, a precision, a hook on every
network or a replaced function of torch that one of them leaves would change what the others make.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import PIL.Image
import PIL.ImageFile
import torch
from torch import nn
from torch.nn.modules import module as hooks_of_all

Setting = tuple[Callable[[], Any], Callable[[Any], object]]
"""How a setting is read, and how it is written."""

_FLAGS = (
    "fp32_precision", "cuda.matmul.fp32_precision", "cudnn.fp32_precision",
    "cudnn.conv.fp32_precision", "cudnn.rnn.fp32_precision", "mkldnn.fp32_precision",
    "mkldnn.matmul.fp32_precision", "mkldnn.conv.fp32_precision", "mkldnn.rnn.fp32_precision",
    "mkldnn.enabled", "mkldnn.deterministic", "cudnn.enabled", "cudnn.benchmark",
    "cudnn.deterministic", "cuda.matmul.allow_fp16_reduced_precision_reduction",
    "cuda.matmul.allow_bf16_reduced_precision_reduction", "cuda.matmul.allow_fp16_accumulation",
)  # fmt: skip
"""Of torch.backends."""
_PATCHED = (torch, nn.functional, PIL.Image, PIL.ImageFile)
"""Modules whose functions methods replace."""
_DENORMAL = 1e-320
_kept_guards: list[Any] = []


def _attribute(owner: Any, path: str) -> Setting:
    *parents, name = path.split(".")
    for parent in parents:
        owner = getattr(owner, parent)
    return (lambda: getattr(owner, name)), (lambda value: setattr(owner, name, value))


def _read_matmul_precision() -> str | None:
    # Torch refuses to say where the newer `fp32_precision` was set for one backend alone.
    with contextlib.suppress(RuntimeError):
        return torch.get_float32_matmul_precision()
    return None


def _set_matmul_precision(value: str | None) -> None:
    if value is not None:
        torch.set_float32_matmul_precision(value)


def _set_device(device: torch.device) -> None:
    torch.set_default_device(None if device.type == "cpu" else device)


def _set_inference_mode(value: bool) -> None:
    guard = torch.inference_mode(value)
    guard.__enter__()
    _kept_guards.append(guard)  # It would end with the last reference to it.


def _flushes_denormals() -> bool:
    return float(torch.tensor(_DENORMAL, dtype=torch.float64) * 1) == 0


def _set_hooks(content: list[dict[int, Any]]) -> None:
    for table, before in zip(_hook_tables(), content, strict=True):
        table.clear()
        table.update(before)


def _hook_tables() -> list[dict[int, Any]]:
    tables = [v for name, v in sorted(vars(hooks_of_all).items()) if name.startswith("_global")]
    return [table for table in tables if isinstance(table, dict)]


def _list_device_types() -> list[str]:
    accelerator = torch.accelerator.current_accelerator()
    return sorted({"cpu", "cuda"} | ({accelerator.type} if accelerator else set()))


def _autocast(device: str) -> list[Setting]:
    return [
        (
            lambda: torch.is_autocast_enabled(device),
            lambda value: torch.set_autocast_enabled(device, value),
        ),
        (
            lambda: torch.get_autocast_dtype(device),
            lambda value: torch.set_autocast_dtype(device, value),
        ),
    ]


def _attention(kind: str) -> Setting:
    of_cuda = torch.backends.cuda
    return getattr(of_cuda, f"{kind}_sdp_enabled"), getattr(of_cuda, f"enable_{kind}_sdp")


def _list_settings() -> list[Setting]:
    """Return settings in an order in which they can be written one after the other."""
    return [
        (torch.is_inference_mode_enabled, _set_inference_mode),
        (torch.is_grad_enabled, torch.set_grad_enabled),
        (torch.get_default_device, _set_device),
        (torch.get_default_dtype, torch.set_default_dtype),
        (torch.get_num_threads, torch.set_num_threads),
        (_read_matmul_precision, _set_matmul_precision),
        *(_attribute(torch.backends, path) for path in _FLAGS),
        (
            lambda: (
                torch.are_deterministic_algorithms_enabled(),
                torch.is_deterministic_algorithms_warn_only_enabled(),
            ),
            lambda value: torch.use_deterministic_algorithms(value[0], warn_only=value[1]),
        ),
        (_flushes_denormals, torch.set_flush_denormal),
        (lambda: [dict(table) for table in _hook_tables()], _set_hooks),
        *(setting for device in _list_device_types() for setting in _autocast(device)),
        *map(_attention, ("flash", "mem_efficient", "math", "cudnn")),
        *(_attribute(sys, name) for name in ("stdin", "stdout", "stderr")),
        _attribute(PIL.ImageFile, "LOAD_TRUNCATED_IMAGES"),
    ]


def _list_functions() -> list[tuple[type | ModuleType, dict[str, Any]]]:
    """Return functions of modules, and those of every class of networks that is loaded."""
    owners: dict[type | ModuleType, None] = dict.fromkeys([*_PATCHED, nn.Module])
    left: list[type] = [nn.Module]
    while left:
        kinds: list[type] = left.pop().__subclasses__()
        found = [kind for kind in kinds if kind not in owners]
        owners |= dict.fromkeys(found)
        left += found
    return [(owner, {key: v for key, v in vars(owner).items() if callable(v)}) for owner in owners]


@contextmanager
def kept_process() -> Iterator[None]:
    """Put back what changes while this is open.

    That is the working directory, what torch computes with (threads, precisions, default dtype and
    device, gradients, inference mode, autocast, deterministic algorithms, denormal numbers,
    attention kernels, oneDNN's and cuDNN's flags), hooks on all networks, functions of torch, of
    classes of networks and of PIL that were replaced, and the standard streams. What is new (a
    class, a module, a thread, a variable of the environment) stays.
    """
    settings = _list_settings()
    before = [read() for read, _ in settings]
    functions = _list_functions()
    folder = Path.cwd()
    try:
        yield
    finally:
        os.chdir(folder)
        for owner, known in functions:
            now = vars(owner)
            for name, function in known.items():
                if now.get(name) is not function:
                    setattr(owner, name, function)
        for (read, write), value in zip(settings, before, strict=True):
            if read() != value:
                write(value)
