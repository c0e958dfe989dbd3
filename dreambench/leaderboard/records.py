"""Records as they lie in a folder of records, found and read with their cells. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pandas as pd

from dreambench.analysis.comparison import Scored
from dreambench.artifacts.cells import make_scores
from dreambench.artifacts.record import FILE_NAME, Record, read_cells, read_record
from dreambench.artifacts.results import MetricSummary, ScoreTable, Summary
from dreambench.errors import UserError
from dreambench.storage.paths import walk_folders

PLACE = ["subject", "prompt", "index"]
"""The columns of cells that say which of a replicate one is."""
DEPTH = 3
"""How far below a folder of records each lies: PROTOCOL/METHOD/DIGEST."""


@dataclass(frozen=True)
class Opened:
    """A record with its cells, and the folder in which they lie."""

    folder: Path
    record: Record
    cells: pd.DataFrame

    @property
    def name(self) -> str:
        """What is said of it: its method with its digest."""
        return f"{self.record.method.name} ({self.record.digest})"

    @cached_property
    def table(self) -> ScoreTable:
        """The scores of its first replicate."""
        return self.read_replicate(1)

    def read_replicate(self, replicate: int) -> ScoreTable:
        """Return the scores of a replicate, as they follow from the cells."""
        record = self.record
        infos = tuple(entry.info for entry in record.metrics.values())
        scores = make_scores(self.cells, list(record.metrics), replicate=replicate)
        return ScoreTable(scores, infos, record.encoders)

    @cached_property
    def sums(self) -> frozenset[str]:
        """The SHA-256 of all images, of its replicates too."""
        return frozenset(self.cells["sha256"].dropna())

    @cached_property
    def scored(self) -> Scored:
        """The record as tables and comparisons take it."""
        record, session = self.record, self.record.sessions[-1]
        recipe = record.recipe
        summary = Summary(
            method=record.method.name,
            protocol=f"{record.protocol.name} v{record.protocol.version}",
            partial=record.partial,
            n_images=record.n_images,
            n_images_expected=record.n_images_expected,
            interval=record.interval,
            metrics={
                name: MetricSummary(
                    info=entry.info, whole=entry.whole, property=entry.property,
                    n_scored=entry.n_scored, n_expected=entry.n_expected,
                )
                for name, entry in record.metrics.items()
            },
            reference_bounds={
                name: {"copy_bound": one.copy_bound, "faithful_bound": one.faithful_bound}
                for name, one in record.reference_bounds.items()
            },
            digests=record.digests,
            encoders=record.encoders,
            device=session.compute.device,
            precision=record.precision,
            packages=session.packages,
            python=session.python,
            code=session.code,
            track=record.method.track,
            settings=None if recipe is None else recipe.settings,
            method_code=record.method.code or None,
            n_failed=record.n_failed,
            failures=record.failures,
            images=record.images,
            cut_texts=record.cut_texts,
            problems=record.problems,
        )  # fmt: skip
        return Scored(record.method.name, self.table, summary)


def open_record(folder: Path) -> Opened:
    """Read a record and its cells.

    Raises:
        UserError: it is none, or not a sound one.
    """
    record = read_record(folder)
    return Opened(folder, record, read_cells(folder, record))


def find_records(path: Path) -> list[Path]:
    """Return the folders of records below a folder, or the folder itself where it is one.

    A folder that lies where a record's does counts as one, whatever it holds.

    Raises:
        UserError: there is none.
    """
    below = [] if (path / FILE_NAME).is_file() else list(walk_folders(path))
    found = [
        one
        for one in [path, *below]
        if (one / FILE_NAME).is_file() or len(one.relative_to(path).parts) == DEPTH
    ]
    if not found:
        raise UserError(
            f"there is no record in {path}",
            hint="make one with: dreambench submit RUN --out DIR",
            code="not-a-record",
        )
    return sorted(found)


def is_board(path: Path, folders: Sequence[Path]) -> bool:
    """Return whether a folder is one of records, and not a part of one."""
    return all(len(folder.relative_to(path).parts) == DEPTH for folder in folders)


def open_all(path: Path) -> list[Opened]:
    """Read all records of a folder of records.

    Raises:
        UserError: one of them is not sound; see `dreambench leaderboard check`.
    """
    return [open_record(folder) for folder in find_records(path)]
