"""Features of image files and texts: each file is decoded once, each row computed once."""

from __future__ import annotations

import ctypes
import os
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from itertools import combinations, islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dreambench.encoders.base import Encoder, Extractor
from dreambench.encoders.feature_cache import (
    KEPT_SHARE,
    FeatureCache,
    key_of_pair,
    key_of_text,
    read_max_bytes,
)
from dreambench.encoders.file_stat import Stat, read_stat
from dreambench.encoders.lanes import DistanceLane, Lane, RowLane
from dreambench.encoders.pace import AUTO, Pace, Shard
from dreambench.encoders.preprocessing import Joined, Preparation
from dreambench.errors import UserError
from dreambench.progress import Progress
from dreambench.storage.images import PixelBudget, load_image
from dreambench.types import Features

COMMIT_SECONDS = 0.5
# Often enough that 3,000 images take the memory of 300 (`benchmarks/scoring.py`), and seldom enough
# that it costs under a hundredth.
TRIM_SECONDS = 2.0


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
        identity: RowLane(extractors[identity], contents, some, cache, pace)
        for identity, some in wanted.items()
    }
    of_distances = [
        DistanceLane(
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

    of_rows: Mapping[str, RowLane]
    of_distances: Sequence[DistanceLane]
    names: Mapping[Path, str]
    hashed: Mapping[Path, tuple[str, Stat]]

    @property
    def all(self) -> Sequence[Lane]:
        """Lanes of both kinds."""
        return [*self.of_rows.values(), *self.of_distances]

    def run(self, cache: FeatureCache, pace: Pace, progress: Progress) -> None:
        """Compute what is to do."""
        n_threads = pace.count_threads()
        _run_lanes(self.all, self.names, self.hashed, cache, n_threads, progress)


def _run_lanes(
    lanes: Sequence[Lane],
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
    busy: Sequence[Lane],
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


def _save(lanes: Iterable[Lane], cache: FeatureCache) -> None:
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
