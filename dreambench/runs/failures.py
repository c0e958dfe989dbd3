"""What a method fails at while it runs: a line at once, a record, and when to stop."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from dreambench.artifacts.failures import (
    NOT_TRIED,
    USER_ERROR,
    Failure,
    Stage,
    failures_dir,
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
from dreambench.storage.files import make_dir, write_bytes
from dreambench.storage.images import ImageError
from dreambench.text import hide_folders, make_printable

N_SAME_BATCHES = 3
"""So many batches of a subject in a row may fail with the same words; then it is left."""
N_SAME_SUBJECTS = 2
"""A UserError in the same words for so many subjects in a row is about none of them."""
MAX_MESSAGE = 300


def _say(line: str) -> None:
    print(make_printable(line), file=sys.stderr)  # noqa: T201


class FailureLog:
    """The failures of a run, kept in its folder; each is said when it happens."""

    def __init__(self, folder: Path, name: str, *, say: Callable[[str], None] = _say) -> None:
        self.folder = failures_dir(folder)
        self.name = name
        self.found = read_failures(folder)
        # One may be written while a method has another working directory.
        self._run_dir = folder.absolute()
        self._say = say
        self._in_a_row: list[tuple[Stage, str, str, bool]] = []

    def forget(self, *stages: Stage) -> None:
        """Drop what failed in these stages, which are tried again now."""
        self._in_a_row = []
        kept = [failure for failure in self.found if failure.stage not in stages]
        if len(kept) < len(self.found):
            self.found = kept
            self._write()

    def went_well(self) -> None:
        """Note that something worked, which ends a row of failures."""
        self._in_a_row = []

    def record(self, stage: Stage, subject: str, error: Exception, *, n_images: int) -> None:
        """Keep a failure with its traceback and say it in a line.

        Raises:
            DiskError: the disk is full, which is no fault of the method.
        """
        raise_if_full(error, self._run_dir)
        kind = USER_ERROR if isinstance(error, UserError) else name_error(error)
        message = hide_folders(read_message(error))[:MAX_MESSAGE]
        name = f"{'-'.join(part for part in (stage, subject) if part)}.txt"
        path = failures_dir(self._run_dir) / name
        before = [f for f in self.found if (f.stage, f.subject) == (stage, subject)]
        old = path.read_text(encoding="utf-8") + "\n" if before and path.is_file() else ""
        write_bytes(path, (old + format_traceback(error)).encode(), inside=self._run_dir)
        failure = Failure(
            stage=stage, subject=subject, error=kind, message=message, n_images=n_images,
            traceback=path.relative_to(self._run_dir).as_posix(),
        )  # fmt: skip
        self.found.append(failure)
        self._write()
        self._in_a_row.append((stage, f"{kind}: {message}", subject, kind == USER_ERROR))
        where = f"{self.name}, {subject}" if subject else self.name
        self._say(f"dreambench: {where}: {stage} failed: {failure.reason} [{self.folder / name}]")

    def leave(self, stage: Stage, n_images: Mapping[str, int], why: str) -> None:
        """Count what is not tried any more: subject -> images that are missing for it."""
        for subject, n in n_images.items():
            self.found.append(
                Failure(
                    stage=stage, subject=subject, error=NOT_TRIED, message=why, n_images=n,
                    traceback="",
                )
            )  # fmt: skip
        self._write()
        names = name_some(list(n_images))
        self._say(f"dreambench: {self.name}: {stage} not tried for the rest of {names}: {why}")

    @property
    def is_stuck_on_subject(self) -> bool:
        """Whether the last batches of a subject failed in the same words."""
        last = self._in_a_row[-N_SAME_BATCHES:]
        return len(last) == N_SAME_BATCHES and len(set(last)) == 1

    @property
    def is_stuck(self) -> bool:
        """Whether the last subjects failed with the same UserError, so that others will too."""
        subjects: list[str] = []
        for stage, words, subject, is_users in reversed(self._in_a_row):
            if (stage, words) != self._in_a_row[-1][:2] or not is_users:
                break
            subjects.append(subject)
        return len(set(subjects)) >= N_SAME_SUBJECTS

    def of(self, stage: Stage) -> set[str]:
        """Return the subjects that failed in a stage."""
        return {failure.subject for failure in self.found if failure.stage == stage}

    def _write(self) -> None:
        make_dir(failures_dir(self._run_dir))
        write_failures(self._run_dir, self.found)


def raise_if_photo(error: Exception, subject: Subject) -> None:
    """Raise what says that a photo or mask cannot be read, since that is no fault of a method."""
    if isinstance(error, ImageError) and error.path in (*subject.photos, *subject.masks):
        raise error
