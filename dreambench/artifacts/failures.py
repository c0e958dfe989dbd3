"""Failures of a method, as they lie in a run folder: `failures/index.json` and tracebacks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter, ValidationError

from dreambench.artifacts.manifest import StoredPart
from dreambench.errors import UserError, name_some
from dreambench.storage.files import read_json, write_json

Stage = Literal["constructor", "fit", "load", "generate"]
USER_ERROR = UserError.__name__
NOT_TRIED = "not tried"


class Failure(StoredPart):
    """One thing that did not work. `subject` is empty where it holds for all of them.

    `n_images` images are missing because of it. `traceback` is a file of the run folder; what was
    not tried any more has none.
    """

    stage: Stage
    subject: str
    error: str
    message: str
    n_images: int
    traceback: str

    @property
    def reason(self) -> str:
        """Exception type and message."""
        return _explain(self.error, self.message)


class FailureGroup(StoredPart):
    """Failures of one stage with the same reason."""

    error: str
    message: str
    subjects: list[str]
    n_images: int

    @property
    def reason(self) -> str:
        """Exception type and message."""
        return _explain(self.error, self.message)


_FAILURES: TypeAdapter[list[Failure]] = TypeAdapter(list[Failure])


def _explain(error: str, message: str) -> str:
    if error in (USER_ERROR, NOT_TRIED) and message:
        return message
    return f"{error}: {message}" if message else error


def failures_dir(folder: Path) -> Path:
    """Return the folder of a run's failures."""
    return folder / "failures"


def read_failures(folder: Path) -> list[Failure]:
    """Read what failed in a run folder the last time that it was tried; empty for most."""
    path = failures_dir(folder) / "index.json"
    if not path.is_file():
        return []
    try:
        return _FAILURES.validate_python(read_json(path))
    except ValidationError as error:
        raise UserError(f"{path} is damaged", hint="delete it", code="damaged-file") from error


def write_failures(folder: Path, failures: Sequence[Failure]) -> None:
    """Write what failed in a run folder."""
    content = [failure.model_dump(mode="json") for failure in failures]
    write_json(failures_dir(folder) / "index.json", content)


def group_failures(failures: Sequence[Failure]) -> dict[str, list[FailureGroup]]:
    """Return failures by stage, those with the same reason together."""
    grouped: dict[str, dict[tuple[str, str], list[Failure]]] = {}
    for failure in failures:
        reasons = grouped.setdefault(failure.stage, {})
        reasons.setdefault((failure.error, failure.message), []).append(failure)
    return {
        stage: [
            FailureGroup(
                error=error,
                message=message,
                subjects=list(dict.fromkeys(f.subject for f in members if f.subject)),
                n_images=sum(f.n_images for f in members),
            )
            for (error, message), members in reasons.items()
        ]
        for stage, reasons in grouped.items()
    }


def describe_failures(groups: Mapping[str, Sequence[FailureGroup]]) -> list[str]:
    """Return a line for each reason."""
    lines = []
    for stage, members in groups.items():
        for group in members:
            of = f" of {name_some(group.subjects)}" if group.subjects else ""
            what = "was not tried again" if group.error == NOT_TRIED else "failed"
            lines.append(f"{stage}{of} {what}, {group.n_images} images missing: {group.reason}")
    return lines
