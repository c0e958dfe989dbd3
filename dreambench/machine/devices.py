"""Devices by torch's names."""

from __future__ import annotations

import os

from dreambench.errors import UserError


def pick_device(device: str) -> str:
    """Return a device by torch's name; "auto" stands for a GPU if there is one.

    Raises:
        UserError: there is no such device here.
    """
    import torch  # noqa: PLC0415  (slow import)

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(
            f"there is no device '{device}' here", hint="use --device cpu", code="no-device"
        ) from error
    return device


def name_device(device: str) -> str:
    """Return the kind of device: a GPU's name, or the number of cores."""
    if device.startswith("cuda"):
        import torch  # noqa: PLC0415  (slow import)

        return torch.cuda.get_device_name(torch.device(device))
    return f"{device} with {os.cpu_count()} cores"
