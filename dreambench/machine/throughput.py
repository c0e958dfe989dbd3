"""How fast devices were in earlier runs, so that a cost estimate can say hours."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, get_args

from dreambench.errors import UserError
from dreambench.storage.files import digest, read_json, write_json
from dreambench.storage.paths import remove_leftovers

Speed = Literal["training_image", "network_call"]
MAX_SECONDS = 86_400
"""Of one unit: what is above is not a valid measurement."""

FOLDER = "throughput"


@dataclass(frozen=True)
class Setting:
    """What a speed belongs to."""

    device: str
    base_model: str
    size_px: int
    precision: str

    def path(self, cache_dir: Path) -> Path:
        """Return the file with this setting's speeds."""
        return cache_dir / FOLDER / f"{digest(asdict(self))}.json"


def note_speed(cache_dir: Path, setting: Setting, what: Speed, *, seconds_per_unit: float) -> None:
    """Keep the latest speed of a kind of work; where that cannot be, nothing depends on it."""
    with suppress(UserError):
        speeds = {**_read_speeds(cache_dir, setting), what: seconds_per_unit}
        content = {"setting": asdict(setting), **speeds}
        write_json(setting.path(cache_dir), content, inside=cache_dir)


def tidy_speeds(cache_dir: Path) -> None:
    """Remove what a kill left among the speeds; who writes one just then loses a note of it."""
    with suppress(UserError):
        remove_leftovers(cache_dir / FOLDER)


def read_speed(cache_dir: Path, setting: Setting, what: Speed) -> float | None:
    """Return the seconds of one training image or network call; None where none was measured."""
    return _read_speeds(cache_dir, setting).get(what)


def _read_speeds(cache_dir: Path, setting: Setting) -> dict[str, float]:
    """Return the speeds of a setting that are numbers, whatever became of the file."""
    path = setting.path(cache_dir)
    try:
        content = read_json(path)
    except UserError:
        return {}
    found = content if isinstance(content, dict) else {}
    return {
        what: float(value)
        for what in get_args(Speed)
        if isinstance(value := found.get(what), int | float) and 0 < value < MAX_SECONDS
    }
