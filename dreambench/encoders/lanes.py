"""Lanes of an extraction: each computes the rows or the distances of one extractor."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence, Set
from itertools import combinations
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dreambench.encoders.base import Encoder, Extractor
from dreambench.encoders.feature_cache import (
    FeatureCache,
    Kind,
    Row,
    key_of_pair,
)
from dreambench.encoders.pace import Pace, Shard
from dreambench.types import Features


class Lane:
    """One extractor's way through the files: what it has and needs, what waits for its batch."""

    kind: Kind

    def __init__(
        self, extractor: Extractor, keys: Sequence[str], cache: FeatureCache, pace: Pace
    ) -> None:
        self.extractor = extractor
        self.size = pace.batch_size or extractor.batch_size
        self.found: dict[str, Row] = cache.read(extractor.identity, self.kind, keys)
        self.fresh: dict[str, Row] = {}
        self.waiting: list[NDArray[np.float32]] = []

    def plan(self, order: Sequence[str], missing: Set[str]) -> None:
        """Lay out the batches of all files, and take those in which something is missing."""
        batches = [order[i : i + self.size] for i in range(0, len(order), self.size)]
        self.set_todo(batch for batch in batches if not missing.isdisjoint(batch))

    def keep_shard(self, shard: Shard, places: Mapping[str, int]) -> None:
        """Leave batches to other shards; one belongs to that of its first file's place."""
        self.set_todo(b for b in self.todo if shard.has(places[b[0]], len(places)))

    def set_todo(self, batches: Iterable[Sequence[str]]) -> None:
        """Set what is to do, in order."""
        self.todo = deque(batches)
        self.needed = {name for batch in self.todo for name in batch}

    def take(self, name: str, pixels: NDArray[np.float32]) -> None:
        """Take the next of the files that it needs; they come in order."""
        self.waiting.append(pixels)
        if len(self.waiting) == len(self.todo[0]):
            batch = self.todo.popleft()
            filling = [pixels] * (self.size - len(batch))
            self.compute(batch, np.stack(self.waiting + filling))
            self.waiting = []

    def compute(self, batch: Sequence[str], pixels: NDArray[np.float32]) -> None:
        """Compute what is asked of a batch, whose pixels may be filled up with those of others."""
        raise NotImplementedError

    def add(self, key: str, row: Row) -> None:
        """Add a result; what was there already stays."""
        if key not in self.found:
            self.found[key] = self.fresh[key] = row

    def save(self, cache: FeatureCache) -> None:
        """Write what is new."""
        if self.fresh:
            cache.write(self.extractor.identity, self.kind, self.fresh)
            self.fresh = {}


class RowLane(Lane):
    """Rows of files."""

    kind = "image"

    def __init__(
        self,
        extractor: Extractor,
        contents: Iterable[str],
        wanted: Set[str],
        cache: FeatureCache,
        pace: Pace,
    ) -> None:
        order = [name for name in contents if name in wanted]
        super().__init__(extractor, order, cache, pace)
        self.plan(order, wanted - self.found.keys())

    def compute(self, batch: Sequence[str], pixels: NDArray[np.float32]) -> None:
        """See `Lane`."""
        made = self.extractor.encode_pixels(pixels)
        for name, row in zip(batch, made, strict=False):
            self.add(name, row)


class DistanceLane(Lane):
    """Rows live until all pairs that they are in are done; they never leave an accelerator."""

    kind = "distance"
    extractor: Encoder

    def __init__(
        self,
        extractor: Encoder,
        contents: Iterable[str],
        groups: Sequence[Sequence[str]],
        cache: FeatureCache,
        pace: Pace,
    ) -> None:
        pairs = {key_of_pair(a, b): (a, b) for group in groups for a, b in combinations(group, 2)}
        super().__init__(extractor, [key for key, (a, b) in pairs.items() if a != b], cache, pace)
        self.found |= {key: np.zeros(1) for key, (a, b) in pairs.items() if a == b}
        self.partners: dict[str, set[str]] = {}
        for key, (a, b) in pairs.items():
            if key not in self.found:
                self.partners.setdefault(a, set()).add(b)
                self.partners.setdefault(b, set()).add(a)
        self.rows: dict[str, Features | Tensor] = {}
        members = {name for pair in pairs.values() for name in pair}
        self.plan([name for name in contents if name in members], self.partners.keys())

    def compute(self, batch: Sequence[str], pixels: NDArray[np.float32]) -> None:
        """See `Lane`."""
        on_cpu, encoder = self.extractor.on_cpu, self.extractor
        made = encoder.encode_pixels(pixels) if on_cpu else encoder.encode_there(pixels)
        gaps: dict[str, Any] = {}
        for name, row in zip(batch, made, strict=False):
            self.rows[name] = row
            for other in self.partners.get(name, set()) & self.rows.keys():
                gaps[key_of_pair(name, other)] = _measure_gap(row, self.rows[other])
                for one, two in ((name, other), (other, name)):
                    self.partners[one].discard(two)
        if gaps and not on_cpu:  # All at once, since a GPU has nothing to do while one is read.
            gaps = dict(zip(gaps, torch.stack(list(gaps.values())).tolist(), strict=True))
        for key, gap in gaps.items():
            self.add(key, np.full(1, gap))
        self.rows = {name: row for name, row in self.rows.items() if self.partners.get(name)}


def _measure_gap(one: Any, other: Any) -> Any:
    """Return the squared distance of two rows, whose bits do not depend on which is the first.

    On a CPU it is summed in float64; in float32 on an accelerator, which may have no other.
    """
    if isinstance(one, Tensor):
        return (one - other).square().sum()
    return ((one.astype(np.float64) - other.astype(np.float64)) ** 2).sum()
