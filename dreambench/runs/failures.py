"""What a method fails at: a line at once, a record, and when to leave a subject."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from dreambench.artifacts.failures import (
    NOT_TRIED,
    USER_ERROR,
    Failure,
    Stage,
    failures_path,
    read_failures,
    write_failures,
)
from dreambench.datasets.subjects import Subject
from dreambench.errors import (
    UserError,
    format_traceback,
    name_error,
    name_some,
    raise_if_full,
    read_message,
)
from dreambench.runs.run_folder import Run
from dreambench.storage.files import write_bytes
from dreambench.storage.images import ImageError
from dreambench.text import hide_folders, make_printable

N_SAME_BATCHES = 3
"""So many batches of a subject in a row may fail with the same words; then it is left."""
MAX_MESSAGE = 300

logger = logging.getLogger(__name__)


class FailureLog:
    """The failures of a run at one subject, kept in its folder; each is said when it happens.

    `subject` is empty for what holds for all of them.
    """

    def __init__(self, run: Run, subject: str) -> None:
        self.run = run
        self.subject = subject
        # One may be written while a method has another working directory.
        self._run_dir = run.folder.absolute()
        self.found: list[Failure] = []
        self._tracebacks: dict[Stage, str] = {}
        self._in_a_row: list[str] = []

    def forget(self, *stages: Stage) -> None:
        """Drop what failed in these stages earlier, which are tried again now."""
        for stage in stages:
            path = failures_path(self._run_dir, stage, self.subject)
            for one in (path, path.with_suffix(".txt")):
                one.unlink(missing_ok=True)

    def went_well(self) -> None:
        """Note that something worked, which ends a row of failures."""
        self._in_a_row = []

    def record(self, stage: Stage, error: Exception, *, n_images: int) -> None:
        """Keep a failure with its traceback and say it in a line.

        Raises:
            DiskError: the disk is full, which is not a fault of the method.
        """
        raise_if_full(error, self._run_dir)
        kind = USER_ERROR if isinstance(error, UserError) else name_error(error)
        message = hide_folders(read_message(error))[:MAX_MESSAGE]
        path = failures_path(self._run_dir, stage, self.subject).with_suffix(".txt")
        before = self._tracebacks.get(stage)
        text = format_traceback(error) if before is None else f"{before}\n{format_traceback(error)}"
        self._tracebacks[stage] = text
        failure = Failure(
            stage=stage, subject=self.subject, error=kind, message=message, n_images=n_images,
            traceback=path.relative_to(self._run_dir).as_posix(),
        )  # fmt: skip
        # Of a method that cannot be made, every worker says so.
        is_known = not self.subject and failure in read_failures(self._run_dir)
        write_bytes(path, text.encode(), inside=self._run_dir)
        self._keep(failure)
        self._in_a_row.append(f"{stage} {kind}: {message}")
        where = f"{self.run.name}, {self.subject}" if self.subject else self.run.name
        line = f"{where}: {stage} failed: {failure.reason} [{self.run.folder / failure.traceback}]"
        if not is_known:
            logger.error("dreambench: %s", make_printable(line))

    def leave(self, stage: Stage, *, n_images: int, why: str) -> None:
        """Count images that are not tried any more."""
        self._keep(
            Failure(
                stage=stage, subject=self.subject, error=NOT_TRIED, message=why,
                n_images=n_images, traceback="",
            )
        )  # fmt: skip

    def _keep(self, failure: Failure) -> None:
        self.found.append(failure)
        write_failures(self._run_dir, [one for one in self.found if one.stage == failure.stage])

    @property
    def is_stuck(self) -> bool:
        """Whether the last batches failed in the same words."""
        last = self._in_a_row[-N_SAME_BATCHES:]
        return len(last) == N_SAME_BATCHES and len(set(last)) == 1


def tell_of_left(run: Run, stage: Stage, subjects: Sequence[str], why: str) -> None:
    """Say which subjects are not tried any more."""
    line = f"{run.name}: {stage} not tried for the rest of {name_some(subjects)}: {why}"
    logger.error("dreambench: %s", make_printable(line))


def raise_if_photo(error: Exception, subject: Subject) -> None:
    """Raise what says that a photo or mask cannot be read, which is not a fault of the method."""
    if isinstance(error, ImageError) and error.path in (*subject.photos, *subject.masks):
        raise error
