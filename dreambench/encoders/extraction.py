"""Features of image files and texts: each file is decoded once, each row computed once."""

from __future__ import annotations

import ctypes
import os
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from itertools import combinations, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from dreambench.encoders.base import Encoder, Extractor
from dreambench.encoders.feature_cache import (
    KEPT_SHARE,
    FeatureCache,
    Kind,
    Row,
    key_of_pair,
    key_of_text,
    read_max_bytes,
)
from dreambench.encoders.file_stat import Stat, read_stat
from dreambench.encoders.preprocessing import Joined, Preparation
from dreambench.errors import UserError
from dreambench.machine.devices import count_cores
from dreambench.progress import Progress
from dreambench.storage.images import PixelBudget, load_image
from dreambench.types import Features

MAX_THREADS = 16
COMMIT_SECONDS = 0.5
# Often enough that 3,000 images take the memory of 300 (`benchmarks/scoring.py`), and seldom enough
# that it costs under a hundredth.
TRIM_SECONDS = 2.0


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


@dataclass(frozen=True)
class Rows:
    """Asks for a row of each file."""

    extractor: Extractor
    paths: Sequence[Path]


@dataclass(frozen=True)
class Distances:
    """Asks for the squared Euclidean distance of the rows of each two files of a group.

    Where rows are large (LPIPS: 640,128 numbers per image) and groups small, distances are cached
    in place of rows, which only live until their group is done.
    """

    extractor: Encoder
    groups: Sequence[Sequence[Path]]


def extract(
    rows: Sequence[Rows],
    distances: Sequence[Distances],
    *,
    cache: FeatureCache,
    progress: Progress,
    pace: Pace = AUTO,
) -> tuple[list[dict[Path, Features]], list[dict[tuple[Path, Path], float]]]:
    """Compute all that is asked, in order; each file is hashed once and decoded at most once.

    Extractors of one identity share their work. Rows are computed in batches that all have one size
    (the last is filled up), and always whole batches of the same files, so that neither a row's
    neighbours nor an interruption show in its bits. Decoding runs in threads: alongside the network
    on a GPU; on a CPU in turns with it, since there both want the same cores.

    Raises:
        UserError: a file is missing, damaged, or changes meanwhile.
    """
    lanes = _lay_out(rows, distances, cache, pace)
    lanes.run(cache, pace, progress)
    made = [
        {path: lanes.of_rows[ask.extractor.identity].found[lanes.names[path]] for path in ask.paths}
        for ask in rows
    ]
    gaps = [
        {
            (a, b): float(lane.found[key_of_pair(lanes.names[a], lanes.names[b])][0])
            for group in ask.groups
            for a, b in combinations(group, 2)
        }
        for ask, lane in zip(distances, lanes.of_distances, strict=True)
    ]
    return made, gaps


def extract_shard(
    rows: Sequence[Rows],
    distances: Sequence[Distances],
    shard: Shard,
    *,
    cache: FeatureCache,
    progress: Progress,
    pace: Pace = AUTO,
) -> None:
    """Compute what is asked of the files of a shard, for the cache alone; see `extract`.

    Its batches are those of the whole work, and so are the bits. Distances between files of two
    shards are left to `extract`.
    """
    lanes = _lay_out(rows, distances, cache, pace)
    places = {name: place for place, name in enumerate(dict.fromkeys(lanes.names.values()))}
    for lane in lanes.all:
        lane.keep_shard(shard, places)
    lanes.run(cache, pace, progress)


def _lay_out(
    rows: Sequence[Rows],
    distances: Sequence[Distances],
    cache: FeatureCache,
    pace: Pace,
) -> _Lanes:
    listed = [path for ask in rows for path in ask.paths]
    listed += [path for ask in distances for group in ask.groups for path in group]
    hashed = cache.hash_files(listed, n_threads=pace.count_threads())
    names = {path: name for path, (name, _) in hashed.items()}
    contents = dict.fromkeys(names.values())
    wanted: dict[str, set[str]] = {}
    for ask in rows:
        wanted.setdefault(ask.extractor.identity, set()).update(names[path] for path in ask.paths)
    extractors = {ask.extractor.identity: ask.extractor for ask in reversed(rows)}
    of_rows = {
        identity: _RowLane(extractors[identity], contents, some, cache, pace)
        for identity, some in wanted.items()
    }
    of_distances = [
        _DistanceLane(
            ask.extractor,
            contents,
            [[names[p] for p in group] for group in ask.groups],
            cache,
            pace,
        )
        for ask in distances
    ]
    return _Lanes(of_rows, of_distances, names, hashed)


@dataclass(frozen=True)
class _Lanes:
    """All that is asked: lanes by extractor's identity, lanes of distances, and the files.

    `names` are the SHA-256 of files, `hashed` these with the stat that they were hashed at.
    """

    of_rows: Mapping[str, _RowLane]
    of_distances: Sequence[_DistanceLane]
    names: Mapping[Path, str]
    hashed: Mapping[Path, tuple[str, Stat]]

    @property
    def all(self) -> Sequence[_Lane]:
        """Lanes of both kinds."""
        return [*self.of_rows.values(), *self.of_distances]

    def run(self, cache: FeatureCache, pace: Pace, progress: Progress) -> None:
        """Compute what is to do."""
        n_threads = pace.count_threads()
        _run_lanes(self.all, self.names, self.hashed, cache, n_threads, progress)


class _Lane:
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


class _RowLane(_Lane):
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
        made = self.extractor.encode_pixels(pixels)
        for name, row in zip(batch, made, strict=False):
            self.add(name, row)


class _DistanceLane(_Lane):
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


def _run_lanes(
    lanes: Sequence[_Lane],
    names: Mapping[Path, str],
    hashed: Mapping[Path, tuple[str, Stat]],
    cache: FeatureCache,
    n_threads: int,
    progress: Progress,
) -> None:
    """Decode what any lane needs, in order, and give it to all that need it."""
    busy = [lane for lane in lanes if lane.needed]
    wanted = set().union(*(lane.needed for lane in busy))
    needed = [name for name in dict.fromkeys(names.values()) if name in wanted]
    if not needed:
        return
    what = "features: files"
    progress(what, 0, len(needed))
    saved = trimmed = time.monotonic()
    files = {name: (path, hashed[path][1]) for path, name in reversed(list(names.items()))}
    pool = ThreadPoolExecutor(n_threads, thread_name_prefix="decode")
    try:
        decoded = _decode_files(needed, files, busy, pool, n_threads)
        for n_done, (name, prepared) in enumerate(decoded, start=1):
            for lane in busy:
                if name in lane.needed:
                    lane.take(name, prepared[lane.extractor.pixels])
            if time.monotonic() - saved >= COMMIT_SECONDS:
                _save(busy, cache)
                saved = time.monotonic()
            if time.monotonic() - trimmed >= TRIM_SECONDS:
                _trim_heap()
                trimmed = time.monotonic()
            if n_done < len(needed):
                progress(what, n_done, len(needed))
    finally:
        # What is finished is kept, whatever stopped the rest.
        pool.shutdown(cancel_futures=True)
        _save(busy, cache)
        _trim_heap()
    progress(what, len(needed), len(needed))


Prepared = dict[Preparation, NDArray[np.float32]]


def _decode_files(
    needed: Sequence[str],
    files: Mapping[str, tuple[Path, Stat]],
    busy: Sequence[_Lane],
    pool: ThreadPoolExecutor,
    n_threads: int,
) -> Iterator[tuple[str, Prepared]]:
    """Yield each file's arrays by preparation, in order, while the next ones are decoded."""
    # On a CPU a window is decoded by all cores, and then goes through the networks on all cores.
    in_turns = all(lane.extractor.on_cpu for lane in busy)
    window = max(2 * max(lane.size for lane in busy), 4 * n_threads)
    left = iter(needed)
    futures: deque[tuple[str, Future[Prepared]]] = deque()
    budget = PixelBudget()
    for _ in needed:
        if not (in_turns and futures):
            for name in islice(left, window - len(futures)):
                wants = dict.fromkeys(ln.extractor.pixels for ln in busy if name in ln.needed)
                futures.append((name, pool.submit(_prepare, *files[name], list(wants), budget)))
            if in_turns:
                wait(job for _, job in futures)
        name, job = futures.popleft()
        yield name, job.result()


def _save(lanes: Iterable[_Lane], cache: FeatureCache) -> None:
    for lane in lanes:
        lane.save(cache)


def _trim_heap() -> None:
    """Give free memory back to the system, where the C library is glibc.

    It keeps freed tensors of up to 32 MB between the rows that stay, and ever more of them: after
    3,000 images of 1024 px 0.85 GB on top of the 0.28 in use.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None
    if trim is not None:
        trim(0)


def _prepare(
    path: Path, stat: Stat, preparations: Sequence[Preparation], budget: PixelBudget
) -> Prepared:
    with budget.hold(path):
        image = load_image(path)
        if read_stat(path) != stat:
            raise UserError(
                f"{path} changed while it was read",
                hint="run the same command again",
                code="changed-data",
            )
        made: Prepared = {}
        return {one: _prepare_once(one, image, made) for one in preparations}


def _prepare_once(one: Preparation, image: Image.Image, made: Prepared) -> NDArray[np.float32]:
    """Return it from `made`, or put it there. No recursive closure: it would keep images alive."""
    if one not in made:
        if isinstance(one, Joined):
            parts = [_prepare_once(part, image, made) for part in one.inputs]
            made[one] = one.join(parts, image.size)
        else:
            made[one] = one.prepare(image)
    return made[one]


def extract_texts(
    texts: Iterable[str], encoder: Encoder, *, cache: FeatureCache
) -> dict[str, Features]:
    """Return the row of each text, from the cache or by the encoder."""
    keys = {text: key_of_text(text) for text in sorted(set(texts))}
    known = cache.read(encoder.identity, "text", list(keys.values()))
    missing = [text for text, key in keys.items() if key not in known]
    if missing:
        made = encoder.encode_texts(missing)
        fresh = {keys[text]: row for text, row in zip(missing, made, strict=True)}
        cache.write(encoder.identity, "text", fresh)
        known |= fresh
    return {text: known[key] for text, key in keys.items()}


def extract_files(
    paths: Sequence[Path],
    extractors: Sequence[Extractor],
    *,
    cache_dir: Path,
    progress: Progress,
    pace: Pace = AUTO,
) -> list[Features]:
    """Return features of image files, for each extractor (n_paths, d); see `extract`.

    Keeps the cache within its bound.
    """
    with FeatureCache(cache_dir) as cache:
        asks = [Rows(extractor, paths) for extractor in extractors]
        found, _ = extract(asks, [], cache=cache, progress=progress, pace=pace)
        cache.prune(read_max_bytes(), share=KEPT_SHARE)
    return [np.stack([rows[path] for path in paths]) for rows in found]
