"""What a method failed at: a line at once, and a record with its traceback in the run folder."""

from __future__ import annotations

import re
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from dreambench.datasets.subjects import Subject
from dreambench.errors import UserError, name_some, raise_if_full
from dreambench.storage.files import make_dir, read_json, write_bytes, write_json
from dreambench.storage.images import ImageError

Stage = Literal["constructor", "fit", "load", "generate"]

N_SAME_BATCHES = 3
"""So many batches of a subject in a row may fail with the same words; then it is left."""
N_SAME_SUBJECTS = 2
"""A UserError in the same words for so many subjects in a row is about none of them."""

MAX_MESSAGE = 300
USER_ERROR = UserError.__name__
NOT_TRIED = "not tried"

_FOLDERS = re.compile(r"(?:(?<![\w./\\])[A-Za-z]:)?(?<![\w./\\])[/\\](?:[^/\\\s'\"]+[/\\])+")


@dataclass(frozen=True)
class Failure:
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


def _explain(error: str, message: str) -> str:
    if error in (USER_ERROR, NOT_TRIED) and message:
        return message
    return f"{error}: {message}" if message else error


def _say(line: str) -> None:
    print(line, file=sys.stderr)


def hide_folders(text: str) -> str:
    """A message in one line with names of files but not of the folders of this machine."""
    return " ".join(_FOLDERS.sub("", text).split())


class Failures:
    """The failures of a run, kept in its folder `failures`; each is said when it happens."""

    def __init__(self, run_dir: Path, name: str, *, say: Callable[[str], None] = _say) -> None:
        self.folder = run_dir / "failures"
        self.name = name
        self.found = read_failures(run_dir)
        self._run_dir = run_dir
        self._say = say
        self._in_a_row: list[tuple[Stage, str, str, bool]] = []

    def forget(self, *stages: Stage) -> None:
        """Drops what failed in these stages, which are tried again now."""
        self._in_a_row = []
        kept = [failure for failure in self.found if failure.stage not in stages]
        if len(kept) < len(self.found):
            self.found = kept
            self._write()

    def went_well(self) -> None:
        """Says that something worked, so that what fails next does not go on a row of failures."""
        self._in_a_row = []

    def record(self, stage: Stage, subject: str, error: Exception, *, n_images: int) -> None:
        """Keeps a failure with its traceback and says it in a line.

        Raises a DiskError instead where the disk is full, since that is no fault of the method.
        """
        raise_if_full(error, self._run_dir)
        kind = USER_ERROR if isinstance(error, UserError) else type(error).__name__
        message = hide_folders(str(error))[:MAX_MESSAGE]
        name = "-".join(part for part in (stage, subject) if part)
        path = self.folder / f"{name}.txt"
        before = [f for f in self.found if (f.stage, f.subject) == (stage, subject)]
        old = path.read_text(encoding="utf-8") + "\n" if before and path.is_file() else ""
        text = "".join(traceback.format_exception(error))
        write_bytes(path, (old + text).encode(errors="replace"))
        relative = path.relative_to(self._run_dir).as_posix()
        self.found.append(Failure(stage, subject, kind, message, n_images, relative))
        self._write()
        self._in_a_row.append((stage, f"{kind}: {message}", subject, kind == USER_ERROR))
        where = f"{self.name}, {subject}" if subject else self.name
        self._say(f"dreambench: {where}: {stage} failed: {self.found[-1].reason} [{path}]")

    def leave(self, stage: Stage, n_images: Mapping[str, int], why: str) -> None:
        """Counts what is not tried any more: subject -> images that are missing for it."""
        for subject, n in n_images.items():
            self.found.append(Failure(stage, subject, NOT_TRIED, why, n, ""))
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
        """The subjects that failed in a stage."""
        return {failure.subject for failure in self.found if failure.stage == stage}

    def _write(self) -> None:
        make_dir(self.folder)
        write_json(self.folder / "index.json", [asdict(failure) for failure in self.found])


def raise_if_photo(error: Exception, subject: Subject) -> None:
    """Raises what says that a photo or mask cannot be read, since that is no fault of a method."""
    if isinstance(error, ImageError) and error.path in (*subject.photos, *subject.masks):
        raise error


def read_failures(run_dir: Path) -> list[Failure]:
    """What failed in a run folder the last time that it was tried; empty for most."""
    path = run_dir / "failures" / "index.json"
    return [Failure(**row) for row in read_json(path)] if path.is_file() else []


def summarise_failures(failures: Sequence[Failure]) -> dict[str, Any]:
    """`n_failed`, the images that are missing because of failures, and the reasons by stage."""
    by_stage: dict[str, list[dict[str, Any]]] = {}
    for failure in failures:
        rows = by_stage.setdefault(failure.stage, [])
        for row in rows:
            if (row["error"], row["message"]) == (failure.error, failure.message):
                break
        else:
            row = {
                "error": failure.error,
                "message": failure.message,
                "subjects": [],
                "n_images": 0,
            }
            rows.append(row)
        if failure.subject and failure.subject not in row["subjects"]:
            row["subjects"].append(failure.subject)
        row["n_images"] += failure.n_images
    return {"n_failed": sum(f.n_images for f in failures), "failures": by_stage}


def describe_failures(summary: Mapping[str, Any]) -> list[str]:
    """A line for each reason in what `summarise_failures` found."""
    lines = []
    for stage, rows in summary.get("failures", {}).items():
        for row in rows:
            of = f" of {name_some(row['subjects'])}" if row["subjects"] else ""
            what = "not tried any more" if row["error"] == NOT_TRIED else "failed"
            reason = _explain(row["error"], row["message"])
            lines.append(f"{stage}{of} {what}, {row['n_images']} images missing: {reason}")
    return lines
