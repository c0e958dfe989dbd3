"""How fast devices were in earlier runs, so that a cost estimate can say hours."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from dreambench.storage.files import digest, read_json, write_json

Speed = Literal["training_image", "network_call"]


@dataclass(frozen=True)
class Setting:
    """What a speed belongs to."""

    device: str
    base_model: str
    size_px: int
    precision: str

    def path(self, cache_dir: Path) -> Path:
        """Return the file with this setting's speeds."""
        return cache_dir / "throughput" / f"{digest(asdict(self))}.json"


def note_speed(cache_dir: Path, setting: Setting, what: Speed, *, seconds_per_unit: float) -> None:
    """Keep the latest speed of a kind of work."""
    path = setting.path(cache_dir)
    content: dict[str, Any] = read_json(path) if path.exists() else {"setting": asdict(setting)}
    write_json(path, {**content, what: seconds_per_unit}, inside=cache_dir)


def read_speed(cache_dir: Path, setting: Setting, what: Speed) -> float | None:
    """Return the seconds of one training image or network call; None where none was measured."""
    path = setting.path(cache_dir)
    return read_json(path).get(what) if path.exists() else None
