"""What a run notes of the training on a subject: `train/SUBJECT/done.json`."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, ValidationError

from dreambench.artifacts.manifest import StoredPart
from dreambench.errors import UserError
from dreambench.storage.files import read_json, write_json

FILE_NAME = "done.json"


class TrainingNote(StoredPart):
    """How training on a subject went.

    `weights_bytes` are those of what it left. `peak_bytes` is the most memory that it took at once:
    of the device, and of the whole process on a CPU. None is not known: a method does not say how
    many parameters it trains, the system counts no memory, or an older version made the note.
    """

    seed: int
    train_seconds: float = Field(ge=0)
    trained_parameters: int | None = Field(default=None, ge=0)
    weights_bytes: int | None = Field(default=None, ge=0)
    peak_bytes: int | None = Field(default=None, ge=0)
    weights_dropped: bool = False


def read_training_note(folder: Path) -> TrainingNote:
    """Return the note in the folder of what was trained on a subject.

    Raises:
        UserError: it is not there, or was changed.
    """
    path = folder / FILE_NAME
    try:
        return TrainingNote.model_validate(read_json(path))
    except ValidationError as error:
        raise UserError(
            f"{path} does not say how training went",
            hint="delete its folder, and the subject is trained again",
            code="damaged-file",
        ) from error


def write_training_note(folder: Path, note: TrainingNote) -> None:
    """Write it; `folder` has all else that was trained."""
    write_json(folder / FILE_NAME, note.model_dump(mode="json", exclude_none=True))
