"""The one error that is a user's to fix; everything else is a bug and keeps its traceback."""

from __future__ import annotations

import difflib
import errno
import os
import traceback
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from dreambench.text import make_lines_printable, make_printable

MAX_LINE = 2000
"""Characters of a problem or of a hint."""
MAX_LINES = 100
"""How many problems are listed."""


class UserError(Exception):
    """What is wrong, where, and what to do next, in one line. The command line exits with 2.

    `code` names the kind of mistake for programs and tests; it stays when the words change.
    """

    def __init__(self, problem: str, *, hint: str = "", code: str = "") -> None:
        self.code = code
        self.problem = _in_a_line(problem)
        self.hint = _in_a_line(hint)
        super().__init__(f"{self.problem}; {self.hint}" if self.hint else self.problem)

    @classmethod
    def listed(cls, problems: Sequence[str], *, hint: str, code: str = "") -> Self:
        """Several problems at once, a line for each; of many the first, and how many more."""
        error = cls("; ".join(problems), hint=hint, code=code)
        # The same may be wrong in many places that have one name.
        lines = list(dict.fromkeys(_in_a_line(problem) for problem in problems))
        if len(lines) > MAX_LINES:
            lines = [*lines[:MAX_LINES], f"and {len(lines) - MAX_LINES} more"]
        error.args = ("\n".join([*lines[:-1], f"{lines[-1]}; {error.hint}"]),)
        return error


def _in_a_line(words: str) -> str:
    line = make_printable(" ".join(words.split()))
    if len(line) <= MAX_LINE:
        return line
    # A stranger's word may be a megabyte; what is said of it stands before and behind it.
    return f"{line[: MAX_LINE // 2]} ... {line[-MAX_LINE // 2 :]}"


class DiskError(UserError):
    """What the disk did not allow; `is_full` where that holds for whatever comes next as well."""

    def __init__(
        self, problem: str, *, hint: str = "", code: str = "disk", is_full: bool = False
    ) -> None:
        super().__init__(problem, hint=hint, code=code)
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
_NETWORK = (
    errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EHOSTDOWN, errno.EADDRNOTAVAIL,
)  # fmt: skip
_AGAIN = "run the same command again; what is done is kept"
_CONNECTION = f"check the disk, or the connection to it, and {_AGAIN}"
_LOCKS = "this disk has no file locks: choose a folder on another disk"
_ELSEWHERE = "choose another folder with --out, --to or --cache"
_HINTS = {
    errno.ENOSPC: f"free some space and {_AGAIN}",
    errno.EDQUOT: f"free some space and {_AGAIN}",
    errno.EFBIG: f"allow larger files and {_AGAIN}",
    errno.EROFS: f"the disk is read-only: {_ELSEWHERE}",
    errno.ENOTDIR: f"a file is where a folder should be: {_ELSEWHERE}",
    errno.EEXIST: f"a file is in the way: move it, or {_ELSEWHERE}",
    errno.EISDIR: "a folder is where a file should be: name a file, or move the folder",
    errno.ENOTEMPTY: f"another program put files there meanwhile: close it, and {_AGAIN}",
    errno.ENOENT: "a folder on this path is missing, or was removed meanwhile: check the path",
    errno.ENAMETOOLONG: "choose a shorter name or path",
    errno.ELOOP: "a link on this path leads back to itself: remove it",
    errno.EINVAL: "this disk does not allow it: check the name, or choose another disk",
    errno.EILSEQ: "this disk does not allow such a name: choose another name",
    errno.EXDEV: "its folder is spread over two disks: choose a folder that lies on one",
    errno.EBUSY: f"another program is using it: close that program, and {_AGAIN}",
    errno.ETXTBSY: f"another program is using it: close that program, and {_AGAIN}",
    errno.EAGAIN: f"another program is using it: close that program, and {_AGAIN}",
    errno.EMFILE: f"raise the limit on open files (ulimit -n), and {_AGAIN}",
    errno.ENFILE: f"close other programs, which have too many files open, and {_AGAIN}",
    errno.ENOMEM: f"close other programs to free memory, and {_AGAIN}",
    errno.ENOLCK: _LOCKS,
    errno.ENOSYS: _LOCKS,
    errno.EOPNOTSUPP: _LOCKS,
    errno.EPIPE: "the program at the other end has stopped: start both again",
    errno.EIO: _CONNECTION,
    errno.ESTALE: _CONNECTION,
    errno.ENODEV: _CONNECTION,
    errno.ENXIO: _CONNECTION,
    errno.ETIMEDOUT: _CONNECTION,
}
_MISSING = "restore it, or name another"
_PERMISSIONS = {
    "read": "change its permissions, or name another",
    "write": f"change the permissions there, or {_ELSEWHERE}",
    "use": "change its permissions, or choose another path",
}


def explain_os_error(
    error: OSError, path: Path | str | None = None, *, reads: bool = False
) -> DiskError:
    """Return the one line for whatever the operating system refuses, whichever its number.

    `path` is what the error is about, by default the file that it names itself. The code is "disk",
    or where the file was only read, `missing-file` or `unreadable-file`. An error without a number
    is a library's, and the first line of its text is the problem.
    """
    verb = "read" if reads else "use" if path is None else "write"
    named = error.filename if path is None else path
    named = os.fsdecode(named) if isinstance(named, bytes) else named
    is_missing = reads and error.errno == errno.ENOENT
    if error.errno is None:
        text = str(error).strip() or type(error).__name__
        reason, hint = text.splitlines()[0], "dreambench -v prints where in the code it happened"
    else:
        reason = error.strerror or f"error {error.errno}"
        hint = _MISSING if is_missing else _HINTS.get(error.errno, _CONNECTION)
        if error.errno in (errno.EACCES, errno.EPERM):
            hint = _PERMISSIONS[verb]
    return DiskError(
        reason if named is None else f"cannot {verb} {named}: {reason}",
        hint=hint,
        code="disk" if not reads else "missing-file" if is_missing else "unreadable-file",
        is_full=error.errno in _FULL,
    )


@contextmanager
def disk_errors(path: Path, *, reads: bool = False) -> Iterator[None]:
    """Turn any OSError into the DiskError of `explain_os_error`, which names `path`."""
    try:
        yield
    except OSError as error:
        raise explain_os_error(error, path, reads=reads) from error


def raise_if_disk(error: BaseException) -> None:
    """Raise a DiskError for what this machine's disk refused, and not a network."""
    if not isinstance(error, OSError) or isinstance(error, ConnectionError | TimeoutError):
        return
    # Resolvers of names have numbers of their own, below zero; libraries' errors have none.
    if (error.errno or 0) > 0 and error.errno not in _NETWORK:
        raise explain_os_error(error) from error


def raise_if_full(error: BaseException, path: Path) -> None:
    """Raises a DiskError for an error that says that the disk is full: nothing else can go on."""
    if isinstance(error, DiskError) and error.is_full:
        raise error
    if isinstance(error, OSError) and error.errno in _FULL:
        raise explain_os_error(error, path) from error


def name_error(error: BaseException) -> str:
    """Return the name of an exception's class, as text all of which is seen."""
    return make_lines_printable(type(error).__name__)


def read_message(error: BaseException) -> str:
    """Return the text of an exception, as text all of which is seen, even where it has none."""
    try:
        return make_lines_printable(str(error))
    except BaseException:
        return "(its message cannot be printed)"


def format_traceback(error: BaseException) -> str:
    """Return an exception's traceback, as text all of which is seen."""
    try:
        return make_lines_printable("".join(traceback.format_exception(error)))
    except BaseException:
        frames = "".join(traceback.format_tb(error.__traceback__))
        return f"{frames}{name_error(error)}: {read_message(error)}\n"
