"""Devices, and how fast they were in earlier runs, so that a plan can say hours."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path

from dreambench.errors import UserError
from dreambench.storage.files import digest, read_json, write_json


@dataclass(frozen=True)
class Setting:
    """What a speed belongs to."""

    device: str
    base_model: str
    size_px: int
    precision: str

    def path(self, cache_dir: Path) -> Path:
        """The file with this setting's speeds."""
        return cache_dir / "speeds" / f"{digest(asdict(self))}.json"


def pick_device(device: str) -> str:
    """A device by torch's name, "auto" for a GPU if there is one; UserError for none of these."""
    import torch  # noqa: PLC0415  (slow import)

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"there is no device '{device}' here", hint="use --device cpu") from error
    return device


def name_device(device: str) -> str:
    """The kind of device: a GPU's name, or the number of cores."""
    if device.startswith("cuda"):
        import torch  # noqa: PLC0415  (slow import)

        return torch.cuda.get_device_name(torch.device(device))
    return f"{device} with {os.cpu_count()} cores"


def note_speed(cache_dir: Path, setting: Setting, what: str, *, seconds_per_unit: float) -> None:
    """Keeps the latest speed of `what`: "training_image" or "network_call"."""
    path = setting.path(cache_dir)
    content = read_json(path) if path.exists() else {"setting": asdict(setting)}
    write_json(path, {**content, what: seconds_per_unit})


def read_speed(cache_dir: Path, setting: Setting, what: str) -> float | None:
    """Seconds of one training image or one network call; None where none was measured."""
    path = setting.path(cache_dir)
    return read_json(path).get(what) if path.exists() else None
