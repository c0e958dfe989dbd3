"""How long devices worked on a run: `device-time/SUBJECT.json`, with all tries and sessions."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, ValidationError

from dreambench.artifacts.manifest import StoredPart
from dreambench.errors import UserError
from dreambench.storage.files import read_json, write_json


class DeviceTime(StoredPart):
    """Seconds that a device trained and generated, loading and class images included.

    Of workers side by side all are counted, so that it does not depend on how many there were.
    """

    training_seconds: float = Field(default=0.0, ge=0)
    generating_seconds: float = Field(default=0.0, ge=0)

    def plus(self, other: DeviceTime) -> DeviceTime:
        """Return the sum."""
        return DeviceTime(
            training_seconds=round(self.training_seconds + other.training_seconds, 3),
            generating_seconds=round(self.generating_seconds + other.generating_seconds, 3),
        )


FOLDER = "device-time"


def time_path(folder: Path, subject: str) -> Path:
    """Return the file of a subject's time."""
    return folder / FOLDER / f"{subject}.json"


def add_device_time(folder: Path, subject: str, time: DeviceTime) -> None:
    """Add to the time of a subject of a run; only who has claimed the subject may do this."""
    path = time_path(folder, subject)
    write_json(path, _read(path).plus(time).model_dump(mode="json"), inside=folder)


def read_device_time(folder: Path) -> DeviceTime | None:
    """Return the time of all subjects of a run; a file that is damaged counts as none.

    None where nothing was made here, as for external images.
    """
    total = DeviceTime()
    paths = sorted((folder / FOLDER).glob("*.json"))
    if not paths:
        return None
    for path in paths:
        total = total.plus(_read(path))
    return total


def _read(path: Path) -> DeviceTime:
    try:
        return DeviceTime.model_validate(read_json(path)) if path.is_file() else DeviceTime()
    except (UserError, ValidationError):
        return DeviceTime()
