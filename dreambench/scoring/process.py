"""Scores in a process of their own, which no method's code has seen.

A method may leave hooks, patches or settings behind that would change what encoders compute, for
itself, for the methods after it, and in the cache for everybody. So images are scored where only
this package ran: a child process.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from dreambench.artifacts.image_set import ImageSet, read_image_set
from dreambench.encoders.extraction import AUTO, Pace
from dreambench.errors import UserError
from dreambench.machine.child_process import ChildEndedError, ChildProcess, Handler
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
        _child = ChildProcess(
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
    that of the image set, which may have been made on other machines.
    """

    metrics: Sequence[str] = ()
    encoders: Mapping[str, str] = field(default_factory=dict)
    conventions: Sequence[str] = ()
    cache_dir: Path
    data_dir: Path | None = None
    pace: Pace = AUTO
    device: str | None = None


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
            _child.ask(_pack(images, request), progress)
    except ChildEndedError as error:
        is_kept = False
        raise UserError(
            f"the process that scores ended with exit code {error.exit_code}",
            hint="run the same command again, on a machine with more free memory if it ran out",
            code="scoring-ended",
        ) from error
    except BaseException as error:
        is_kept &= isinstance(error, UserError)
        raise
    finally:
        if not is_kept:
            stop_scoring()


def _pack(images: ImageSet, request: ScoreRequest) -> dict[str, Any]:
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
        "pace": [request.pace.n_workers, request.pace.batch_size],
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
        device=packed["device"],
    )  # fmt: skip
    return images, request


def make_handler() -> Handler:
    """Return what answers requests to score."""
    return _score


def _score(packed: Mapping[str, Any], progress: Progress) -> None:
    os.chdir(packed["working_dir"])
    for key in [key for key in os.environ if key.startswith(_OWN)]:
        del os.environ[key]
    os.environ.update(packed["environment"])
    score_here(*_unpack(packed), progress=progress)
