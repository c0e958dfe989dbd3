"""Scores in a process of their own, which no method's code has seen.

A method may leave hooks, patches or settings behind that would change what encoders compute, for
itself, for the methods after it, and in the cache for everybody. So images are scored where only
this package ran: a child process.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from dreambench.artifacts.image_set import ImageSet, read_image_set
from dreambench.encoders.feature_cache import FeatureCache
from dreambench.encoders.pace import AUTO, Pace, Shard
from dreambench.errors import UserError
from dreambench.machine.child_process import ChildEndedError, ChildProcess, Handler
from dreambench.machine.devices import count_cores, fixed_sums, spread_devices
from dreambench.progress import Progress
from dreambench.scoring.scorer import Scorer

# As they are when this module is imported, which is before any method's code is.
_ENVIRONMENT = dict(os.environ)
_SEARCH_PATH = list(sys.path)
_OWN = "DREAMBENCH_"

_child: ChildProcess | None = None


def start_scoring(device: str) -> None:
    """Start the process, so that it is ready when images are."""
    global _child  # noqa: PLW0603  (one for all calls: it takes seconds to start)
    if _child is None or not _child.is_there:
        _child = _start(device)


def _start(device: str) -> ChildProcess:
    return ChildProcess(
        make_handler, device=device, environment=_ENVIRONMENT, search_path=_SEARCH_PATH
    )


def stop_scoring() -> None:
    """End the process, if there is one."""
    global _child  # noqa: PLW0603
    if _child is not None:
        _child.close()
        _child = None


@dataclass(frozen=True, kw_only=True)
class ScoreRequest:
    """What to score an image set with, see `Scorer`.

    `data_dir` is where its photos were read from, see `read_image_set`; `device` another one than
    that of the image set, which may have been made on other machines. With a `shard` nothing is
    scored, and its features go into the cache; it takes `n_cores`, or 0: its part of all.
    """

    metrics: Sequence[str] = ()
    encoders: Mapping[str, str] = field(default_factory=dict)
    conventions: Sequence[str] = ()
    cache_dir: Path
    data_dir: Path | None = None
    pace: Pace = AUTO
    device: str | None = None
    shard: Shard | None = None
    n_cores: int = 0


def score_here(images: ImageSet, request: ScoreRequest, *, progress: Progress) -> None:
    """Write an image set's scores, and those under conventions that are asked for.

    Raises:
        UserError: as `Scorer` does.
    """
    if request.device is not None:
        manifest = images.manifest.model_copy(update={"device": request.device})
        images = replace(images, manifest=manifest)
    scorer = Scorer(
        images, metrics=request.metrics, encoders=request.encoders, cache_dir=request.cache_dir,
        progress=progress, pace=request.pace,
    )  # fmt: skip
    if request.shard is not None:
        n_cores = request.n_cores or max(1, count_cores() // request.shard.n_shards)
        scorer.pace = replace(request.pace, n_threads=request.pace.n_threads or n_cores)
        with fixed_sums(images.device, n_cores):
            scorer.extract_shard(request.shard, request.conventions)
        return
    scorer.score()
    if request.conventions:
        scorer.score_conventions(request.conventions)


def score_apart(images: ImageSet, request: ScoreRequest, *, progress: Progress) -> None:
    """Do the same in the process that ran no method's code.

    Raises:
        UserError: as `Scorer` does; or the process ended.
    """
    device = request.device or images.device
    start_scoring(device)
    # What metrics from outside left there reaches no other scores, and a GPU's memory is free for
    # the next method.
    outside = any(".py:" in name for name in [*request.metrics, *request.encoders.values()])
    is_kept = device == "cpu" and not outside
    try:
        if _child is not None:
            _child.ask(pack(images, request), progress)
    except ChildEndedError as error:
        is_kept = False
        raise _ended(error) from error
    except BaseException as error:
        is_kept &= isinstance(error, UserError)
        raise
    finally:
        if not is_kept:
            stop_scoring()


def extract_on_all(
    images: ImageSet, request: ScoreRequest, *, n_workers: int, progress: Progress
) -> None:
    """Fill the cache with an image set's features, by several processes; then scoring is quick.

    On a machine with several GPUs each has one of them in turn; on a CPU they share the cores.

    Raises:
        UserError: as `Scorer` does; or a process ended.
    """
    devices = spread_devices(request.device or images.device, n_workers)
    children = [_start(device) for device in devices]
    tell = add_up(progress)

    def extract(index: int) -> None:
        shard = replace(request, device=devices[index], shard=Shard(index, n_workers))
        children[index].ask(pack(images, shard), partial(tell, index))

    with ThreadPoolExecutor(n_workers, thread_name_prefix="extract") as pool:
        try:
            with FeatureCache(request.cache_dir) as cache:
                hash_ahead(images, cache)  # While they start.
            for job in as_completed([pool.submit(extract, index) for index in range(n_workers)]):
                job.result()
        except ChildEndedError as error:
            raise _ended(error) from error
        finally:
            for child in children:  # So that no thread waits for one any longer.
                child.close()


def hash_ahead(images: ImageSet, cache: FeatureCache) -> None:
    """Hash an image set's files once, for all processes that look into the cache."""
    files = [path for subject in images.subjects for path in subject.photos]
    files += [path for s in images.subjects for _, path in images.made_images(s.name)]
    cache.hash_files(files, n_threads=AUTO.count_threads())


def add_up(progress: Progress) -> Callable[[int, str, int, int], None]:
    """Return what workers tell their progress to, each with its number; their sum is passed on."""
    counts: dict[int, tuple[int, int]] = {}

    def tell(index: int, what: str, done: int, total: int) -> None:
        counts[index] = (done, total)
        together = list(counts.values())
        progress(what, sum(one for one, _ in together), sum(all_ for _, all_ in together))

    return tell


def _ended(error: ChildEndedError) -> UserError:
    return UserError(
        f"the process that scores ended with exit code {error.exit_code}",
        hint="run the same command again, on a machine with more free memory if it ran out",
        code="scoring-ended",
    )


def pack(images: ImageSet, request: ScoreRequest) -> dict[str, Any]:
    """Return a request as the process reads it; the folder holds all else of the image set."""
    data_dir, files, path = request.data_dir, images.files, images.protocol.path
    return {
        "folder": str(images.folder.absolute()),
        "files": files and {unit.relative_path: str(path) for unit, path in files.items()},
        "metrics": list(request.metrics),
        "encoders": dict(request.encoders),
        "conventions": list(request.conventions),
        "cache_dir": str(request.cache_dir.absolute()),
        "data_dir": None if data_dir is None else str(data_dir.absolute()),
        "protocol_path": None if path is None else str(path),
        "device": request.device,
        "pace": [request.pace.n_threads, request.pace.batch_size],
        "shard": request.shard and [request.shard.index, request.shard.n_shards],
        "n_cores": request.n_cores,
        "working_dir": str(Path.cwd()),
        "environment": {key: value for key, value in os.environ.items() if key.startswith(_OWN)},
    }


def _unpack(packed: Mapping[str, Any]) -> tuple[ImageSet, ScoreRequest]:
    data_dir = packed["data_dir"] and Path(packed["data_dir"])
    protocol_path = packed["protocol_path"] and Path(packed["protocol_path"])
    images = read_image_set(Path(packed["folder"]), data_dir=data_dir, near=protocol_path)
    if packed["files"] is not None:
        units = {unit.relative_path: unit for unit in images.plan.images}
        files = {units[name]: Path(path) for name, path in packed["files"].items()}
        images = replace(images, files=files)
    request = ScoreRequest(
        metrics=packed["metrics"], encoders=packed["encoders"], conventions=packed["conventions"],
        cache_dir=Path(packed["cache_dir"]), data_dir=data_dir, pace=Pace(*packed["pace"]),
        device=packed["device"], shard=packed["shard"] and Shard(*packed["shard"]),
        n_cores=packed["n_cores"],
    )  # fmt: skip
    return images, request


def make_handler() -> Handler:
    """Return what answers requests to score."""
    return _score


def _score(packed: Mapping[str, Any], progress: Progress) -> None:
    with suppress(FileNotFoundError):  # On another machine, where no path is relative to it.
        os.chdir(packed["working_dir"])
    for key in [key for key in os.environ if key.startswith(_OWN)]:
        del os.environ[key]
    os.environ.update(packed["environment"])
    score_here(*_unpack(packed), progress=progress)
