"""What an experiment tracker is told during a run: losses, and images as they come."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from dreambench.errors import UserError, name_error, read_message, suggest
from dreambench.plugins import find_code_file, is_reference
from dreambench.runs.run_folder import Run
from dreambench.storage.files import read_json
from dreambench.storage.images import load_image

N_IMAGES, COLUMNS = 24, 6
"""Of a subject, in a sheet."""

logger = logging.getLogger(__name__)


class Tracker(ABC):
    """Takes what is worth watching of runs. `folder` is where it may keep files.

    What it raises is said once, and the run continues without it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @abstractmethod
    def log_losses(self, run: str, subject: str, losses: Sequence[Mapping[str, float]]) -> None:
        """Take the losses of each step of training on a subject, by their names."""

    @abstractmethod
    def log_images(self, run: str, subject: str, sheet: Image.Image) -> None:
        """Take the images of a subject, in rows on an RGB sheet."""

    def close(self) -> None:
        """Write what is not written yet."""
        return


class TensorBoard(Tracker):
    """Writes event files; `tensorboard --logdir FOLDER` shows them."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        try:
            from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415  (slow import)
        except ImportError as error:
            raise UserError(
                "--track tensorboard needs TensorBoard, which is not installed",
                hint='pip install "dreambench[track]"',
                code="missing-package",
            ) from error
        self._make = SummaryWriter
        self._writers: dict[str, Any] = {}

    def _writer(self, run: str) -> Any:
        if run not in self._writers:
            self._writers[run] = self._make(str(self.folder / run))  # type: ignore[no-untyped-call]
        return self._writers[run]

    def log_losses(self, run: str, subject: str, losses: Sequence[Mapping[str, float]]) -> None:
        """See `Tracker`: a curve for each loss of a subject."""
        for step, values in enumerate(losses, start=1):
            for name, value in values.items():
                self._writer(run).add_scalar(f"{name} loss/{subject}", value, step)

    def log_images(self, run: str, subject: str, sheet: Image.Image) -> None:
        """See `Tracker`."""
        self._writer(run).add_image(subject, np.asarray(sheet), dataformats="HWC")

    def close(self) -> None:
        """See `Tracker`."""
        for writer in self._writers.values():
            writer.close()


TRACKERS: Mapping[str, type[Tracker]] = {"tensorboard": TensorBoard}


def open_tracker(name: str, folder: Path) -> Tracker:
    """Return a tracker by its name, or that of `FILE.py:Class`.

    Raises:
        UserError: there is none of that name, its code fails, or a package is missing.
    """
    if is_reference(name):
        found = find_code_file(name, option="--track").load().value
        if not (isinstance(found, type) and issubclass(found, Tracker)):
            raise UserError(
                f"{name} is not a Tracker",
                hint="inherit from dreambench.runs.tracking.Tracker",
                code="not-a-tracker",
            )
        return found(folder)
    if name not in TRACKERS:
        raise UserError(
            f"there is no tracker '{name}'",
            hint=suggest(name, TRACKERS) or f"there is {', '.join(TRACKERS)}, or FILE.py:Class",
            code="unknown-name",
        )
    return TRACKERS[name](folder)


class Tracking:
    """Tells a tracker of each subject that is done; of none where there is no tracker."""

    def __init__(self, tracker: Tracker | None = None) -> None:
        self._tracker = tracker

    def tell(self, run: Run, subject: str) -> None:
        """Tell of a subject's losses and images, as far as they are there."""
        if self._tracker is None:
            return
        name = f"{run.protocol.name}-{run.folder.name}"
        try:
            path = run.train_dir(subject) / "losses.json"
            if path.is_file():
                self._tracker.log_losses(name, subject, read_json(path))
            if made := run.made_images(subject)[:N_IMAGES]:
                self._tracker.log_images(name, subject, _lay_out([path for _, path in made]))
        except Exception as error:
            self._fail(error)

    def close(self) -> None:
        """Have the tracker write what is left."""
        if self._tracker is not None:
            try:
                self._tracker.close()
            except Exception as error:
                self._fail(error)

    def _fail(self, error: Exception) -> None:
        self._tracker = None
        logger.warning(
            "The tracker failed, and is not used from now on: %s: %s",
            name_error(error), read_message(error),
        )  # fmt: skip


def _lay_out(paths: Sequence[Path]) -> Image.Image:
    images = [load_image(path) for path in paths]
    side = images[0].width
    sheet = Image.new("RGB", (side * min(COLUMNS, len(images)), side * -(-len(images) // COLUMNS)))
    for index, image in enumerate(images):
        sheet.paste(image, (side * (index % COLUMNS), side * (index // COLUMNS)))
    return sheet
