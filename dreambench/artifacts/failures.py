"""Failures of a method, as they lie in a run folder's `failures/`.

Each stage of a subject that failed has a file of its own, `STAGE-SUBJECT.json`, and one with the
tracebacks beside it, so that several processes can write theirs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, get_args

from pydantic import TypeAdapter, ValidationError

from dreambench.artifacts.manifest import StoredPart
from dreambench.errors import UserError, name_some
from dreambench.storage.files import make_dir, read_json, write_json

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


def failures_path(folder: Path, stage: Stage, subject: str) -> Path:
    """Return the file of what failed in a stage of a subject; "" for all of them."""
    return failures_dir(folder) / f"{'-'.join(part for part in (stage, subject) if part)}.json"


def read_failures(folder: Path) -> list[Failure]:
    """Read what failed in a run folder the last time that it was tried; empty for most.

    In the order of the stages, and of subjects by their names.

    Raises:
        UserError: a file is damaged.
    """
    found = []
    for path in sorted(failures_dir(folder).glob("*.json")):
        try:
            found += _FAILURES.validate_python(read_json(path))
        except ValidationError as error:
            raise UserError(f"{path} is damaged", hint="delete it", code="damaged-file") from error
    return sorted(found, key=lambda failure: get_args(Stage).index(failure.stage))


def write_failures(folder: Path, failures: Sequence[Failure]) -> None:
    """Write what failed in one stage of a subject."""
    content = [failure.model_dump(mode="json") for failure in failures]
    path = failures_path(folder, failures[0].stage, failures[0].subject)
    make_dir(path.parent)
    write_json(path, content)


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
