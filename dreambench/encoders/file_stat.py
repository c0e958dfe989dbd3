"""What stands for a file's content without reading it, as in git's index."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dreambench.errors import UserError

# File systems round times, by two seconds at most, and a server's clock may lag a little.
RACY_NS = 3_000_000_000


@dataclass(frozen=True)
class Stat:
    """Size, times and inode of a file: while they stay the same, so does its content."""

    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int

    def is_settled(self, now_ns: int) -> bool:
        """Return whether a change from now on would show in the times, which are coarse."""
        return max(self.mtime_ns, self.ctime_ns) + RACY_NS < now_ns


def read_stat(path: Path) -> Stat:
    """Return the stat of a file.

    Raises:
        UserError: it is not there.
    """
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(
            f"{path} is not there", hint="restore it or name another", code="missing-file"
        ) from error
    return Stat(found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino)
