"""The one error that is a user's to fix; everything else is a bug and keeps its traceback."""

from __future__ import annotations

import difflib
import errno
import traceback
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Self


class UserError(Exception):
    """What is wrong, where, and what to do next, in one line. The command line exits with 2.

    `code` names the kind of mistake for programs and tests; it stays when the words change.
    """

    def __init__(self, problem: str, *, hint: str = "", code: str = "") -> None:
        self.code = code
        self.problem = " ".join(problem.split())
        self.hint = " ".join(hint.split())
        super().__init__(f"{self.problem}; {self.hint}" if self.hint else self.problem)

    @classmethod
    def listed(cls, problems: Sequence[str], *, hint: str, code: str = "") -> Self:
        """Several problems at once, a line for each."""
        error = cls("; ".join(problems), hint=hint, code=code)
        lines = [" ".join(problem.split()) for problem in problems]
        error.args = ("\n".join([*lines[:-1], f"{lines[-1]}; {error.hint}"]),)
        return error


class DiskError(UserError):
    """What could not be written; `is_full` where that holds for whatever comes next as well."""

    def __init__(self, problem: str, *, hint: str = "", is_full: bool = False) -> None:
        super().__init__(problem, hint=hint, code="disk")
        self.is_full = is_full


def name_some(items: Sequence[str], *, separator: str = ", ") -> str:
    """The first three of many items, and how many more there are."""
    more = f" and {len(items) - 3} more" if len(items) > 3 else ""
    return separator.join(items[:3]) + more


def suggest(name: str, known: Iterable[str]) -> str:
    """The nearest names that there are, as a question; empty when none is near."""
    close = difflib.get_close_matches(name, sorted(known), n=3, cutoff=0.5)
    return "did you mean " + " or ".join(f"'{word}'" for word in close) + "?" if close else ""


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UserError:
    """The error for a name that is not in a table, with the nearest names that are."""
    known = sorted(known)
    hint = suggest(name, known) or f"known: {', '.join(known) if known else 'none'}"
    return UserError(f"no {kind} named '{name}'", hint=hint, code="unknown-name")


_FULL = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turns a full disk or a folder that may not be written into a DiskError that names it."""
    try:
        yield
    except OSError as error:
        hints = {
            errno.ENOSPC: "free some space and run the same command again; what is done is kept",
            errno.EFBIG: "allow larger files and run the same command again; what is done is kept",
            errno.EDQUOT: "free some space and run the same command again; what is done is kept",
            errno.EACCES: "pick a folder that you may write, with --out",
            errno.EPERM: "pick a folder that you may write, with --out",
            errno.EROFS: "pick a folder that you may write, with --out",
            errno.ENOTDIR: "a file is in the way; pick another folder, with --out",
            errno.EEXIST: "a file is in the way; pick another folder, with --out",
        }
        if error.errno not in hints:
            raise
        raise DiskError(
            f"cannot write {path}: {error.strerror}",
            hint=hints[error.errno],
            is_full=error.errno in _FULL,
        ) from error


def raise_if_full(error: BaseException, path: Path) -> None:
    """Raises a DiskError for an error that says that the disk is full: nothing else can go on."""
    if isinstance(error, DiskError) and error.is_full:
        raise error
    if isinstance(error, OSError) and error.errno in _FULL:
        with disk_errors(path):
            raise error


def name_error(error: BaseException) -> str:
    """Return the name of an exception's class, as text that can be written."""
    return _make_writable(type(error).__name__)


def read_message(error: BaseException) -> str:
    """Return the text of an exception, as text that can be written, even where it has none."""
    try:
        return _make_writable(str(error))
    except BaseException:
        return "(its message cannot be printed)"


def format_traceback(error: BaseException) -> str:
    """Return an exception's traceback, as text that can be written."""
    try:
        return _make_writable("".join(traceback.format_exception(error)))
    except BaseException:
        frames = "".join(traceback.format_tb(error.__traceback__))
        return f"{frames}{name_error(error)}: {read_message(error)}\n"


def _make_writable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
