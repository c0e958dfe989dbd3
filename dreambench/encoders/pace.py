"""How fast an extraction goes, and which part of it a process takes; changes no number."""

from __future__ import annotations

from dataclasses import dataclass

from dreambench.machine.devices import count_cores

MAX_THREADS = 16


@dataclass(frozen=True)
class Pace:
    """How fast extraction may go; changes no number. 0 is for what suits cores and device."""

    n_threads: int = 0
    batch_size: int = 0

    def count_threads(self) -> int:
        """Return how many threads decode and prepare images: one per core, up to 16."""
        if self.n_threads:
            return self.n_threads
        return min(count_cores(), MAX_THREADS)


AUTO = Pace()


@dataclass(frozen=True)
class Shard:
    """One of `n_shards` equal runs of files, whose features one of several processes computes."""

    index: int
    n_shards: int

    def has(self, position: int, n_files: int) -> bool:
        """Return whether a file is in it, by its place among all."""
        return position * self.n_shards // n_files == self.index
