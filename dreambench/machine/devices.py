"""Devices by torch's names, and what floating-point sums on them depend on."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from dreambench.artifacts.manifest import Compute
from dreambench.config.sampler import Precision
from dreambench.errors import UserError
from dreambench.instructions import LIMITS

if TYPE_CHECKING:
    import torch
    from torch import Tensor


def is_device(device: str) -> bool:
    """Return whether torch can compute here on a device of this name."""
    import torch  # noqa: PLC0415  (slow import)

    try:
        torch.zeros(1, device=device).item()  # "meta" takes tensors, and has no numbers.
    # Names that torch knows and was not built for fail in each of these ways.
    except (RuntimeError, AssertionError, ImportError):
        return False
    return True


def pick_device(device: str) -> str:
    """Return a device by torch's name; "auto" stands for a CUDA GPU if there is one, else the CPU.

    Raises:
        UserError: there is no such device here.
    """
    import torch  # noqa: PLC0415  (slow import)

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if not is_device(device):
        raise UserError(
            f"there is no device '{device}' here", hint="use --device cpu", code="no-device"
        )
    return device


def pick_devices(names: str) -> list[str]:
    """Return the devices of a comma-separated list, see `pick_device`.

    Raises:
        UserError: there is no such device here, or none is named.
    """
    found = [pick_device(name.strip()) for name in names.split(",") if name.strip()]
    if not found:
        raise UserError("no device is named", hint="e.g. --device cpu", code="missing-option")
    return found


def spread_devices(device: str, n: int) -> list[str]:
    """Return the devices of n processes: each GPU in turn where "cuda" is not one of them."""
    import torch  # noqa: PLC0415  (slow import)

    if device != "cuda":
        return [device] * n
    return [f"cuda:{index % torch.cuda.device_count()}" for index in range(n)]


def count_cores() -> int:
    """Return how many cores this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # Not on every system.
        return os.cpu_count() or 1


def pick_precision(asked: Precision | None, *, protocols: Precision, device: str) -> Precision:
    """Return what was asked for, else the protocol's precision on a GPU and fp32 on a CPU."""
    return asked or ("fp32" if device.startswith("cpu") else protocols)


def free_memory(device: str) -> None:
    """Give back what nothing refers to any more: networks hold each other in circles."""
    import torch  # noqa: PLC0415  (slow import)

    gc.collect()
    module = torch.get_device_module(device)
    if hasattr(module, "empty_cache"):
        module.empty_cache()


def send(values: Tensor, device: torch.device) -> Tensor:
    """Return values that were made on the CPU, on a device; a GPU fetches them by itself.

    From memory that the system may move it could not, and the CPU would wait for it in each step.
    """
    if device.type == "cuda":
        return values.pin_memory().to(device, non_blocking=True)
    return values.to(device)


def name_device(device: str) -> str:
    """Return the kind of device: a GPU's name, or the number of cores."""
    import torch  # noqa: PLC0415  (slow import)

    module = torch.get_device_module(device)
    if hasattr(module, "get_device_name"):
        return str(module.get_device_name(torch.device(device)))
    return f"{device} with {os.cpu_count()} cores"


def describe_compute(device: str, *, n_threads: int | None = None) -> Compute:
    """Return what sums on a device depend on; `n_threads` is what a protocol fixes."""
    import torch  # noqa: PLC0415  (slow import)

    with fixed_sums(device, n_threads):
        return Compute(
            device=name_device(device),
            threads=torch.get_num_threads(),
            cpu=torch.backends.cpu.get_cpu_capability(),
            deterministic=torch.are_deterministic_algorithms_enabled(),
            limits={name: os.environ[name] for name in LIMITS if name in os.environ},
            processor=_name_processor(),
        )


def _name_processor() -> str | None:
    """Return the CPU's name; its maker alone changes what MKL's sums end with."""
    import torch  # noqa: PLC0415  (slow import)

    # Older versions of torch do not know it.
    find_capabilities = getattr(torch.cpu, "get_capabilities", None)
    name = find_capabilities().get("cpu_name") if find_capabilities else None
    return str(name) if name else None


@contextmanager
def fixed_sums(device: str, n_threads: int | None) -> Iterator[None]:
    """Let torch add up the same numbers in the same order each time.

    On the CPU that takes so many threads, whatever cores there are (None: as it does; more threads
    than cores are slower, and give the same bits), and kernels with one order: without these the
    gradient of `values[indices]` is another in each run. A GPU's are as the process set them.
    """
    import torch  # noqa: PLC0415  (slow import)

    deterministic: Any = torch.utils.deterministic  # Its stub lacks the setting.
    threads = torch.get_num_threads()
    mode = torch.get_deterministic_debug_mode()
    fills = deterministic.fill_uninitialized_memory
    torch.set_num_threads(n_threads or threads)
    if mode == 0 and torch.device(device).type == "cpu":
        torch.set_deterministic_debug_mode("warn")
        deterministic.fill_uninitialized_memory = False  # It costs time.
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.set_deterministic_debug_mode(mode)
        deterministic.fill_uninitialized_memory = fills
