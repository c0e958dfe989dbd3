"""Images that another program made, scored as a run is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from dreambench.analysis.comparison import Scored
from dreambench.analysis.summary import summarise
from dreambench.artifacts.image_set import ImageSet, hold_folder
from dreambench.artifacts.results import read_conventions
from dreambench.encoders.pace import Pace
from dreambench.machine.devices import pick_device
from dreambench.metrics.conventions import find_convention
from dreambench.progress import Progress, no_progress
from dreambench.report.writing import write_report
from dreambench.scoring.external import ExternalRequest, load_external, open_results
from dreambench.scoring.process import (
    ScoreRequest,
    extract_on_all,
    score_apart,
    score_here,
)
from dreambench.storage.shipped import cache_dir as default_cache_dir


@dataclass(frozen=True)
class ExternalOutcome:
    """What scoring external images gave; `conventions` is None unless asked for."""

    images: ImageSet
    scored: Scored
    conventions: pd.DataFrame | None
    paths: Sequence[Path]


def score_external(
    request: ExternalRequest,
    *,
    conventions: Sequence[str] = (),
    out: Path = Path("scores"),
    device: str = "auto",
    cache_dir: Path | None = None,
    pace: Pace | None = None,
    n_workers: int = 1,
    apart: bool = True,
    progress: Progress = no_progress,
) -> ExternalOutcome:
    """Score external images by a protocol, and write OUT/PROTOCOL/NAME as a run's results are.

    `conventions` are other scorers' rules to score by as well. `n_workers` processes extract
    features. Not `apart` saves the seconds that another process takes to start, where no method's
    code ever ran in this one.

    Raises:
        ImageSetError: the images are not exactly the protocol's set.
        UserError: a name is unknown, or a folder cannot be read or written.
    """
    for name in conventions:
        find_convention(name)
    cache = cache_dir or default_cache_dir()
    images = load_external(
        request, out, device=pick_device(device), cache_dir=cache, progress=progress
    )
    with hold_folder(images.folder):
        images = open_results(images)
        asked = ScoreRequest(
            metrics=request.metrics, encoders=request.encoders, conventions=conventions,
            cache_dir=cache, data_dir=request.data_dir, pace=pace or Pace(),
        )  # fmt: skip
        if n_workers > 1:
            extract_on_all(images, asked, n_workers=n_workers, progress=progress)
        score = score_apart if apart else score_here
        score(images, asked, progress=progress)
        table = read_conventions(images) if conventions else None
        summarise(images)
        scored, paths = write_report(images, [])
    return ExternalOutcome(images, scored[0], table, paths)
