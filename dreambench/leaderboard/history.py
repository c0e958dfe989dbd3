"""A record held against those that are there: what changed, what is gone, what is there twice."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TypeGuard

from dreambench.analysis.checking import FAILED, FLAGGED, NOT_CHECKED, PASSED, Verified, judge
from dreambench.artifacts.manifest import flatten
from dreambench.artifacts.record import STATUSES, Record
from dreambench.errors import UserError, name_some
from dreambench.leaderboard.records import Opened, find_records, open_record

MOST = 1e-3
"""How far a number may move when a record's scores are made again."""
FLOOR_MOST = 5e-3
"""How far the floor of a machine may lie from that of another."""
MAY_CHANGE = frozenset((
    "status", "re_scored", "re_run", "withdrawn", "paper_url", "code_url", "images_url",
    "sessions", "files", "metrics", "reference_bounds", "replicates", "floor",
))  # fmt: skip
"""What of a record may change under its digest; the numbers among it by MOST."""
CELL = ["replicate", "subject", "prompt", "index"]


class Board:
    """The records that were there before, by the path of each; none in an empty folder.

    Raises:
        UserError: there is no such folder, or what lies in it are no records.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        is_empty = folder.is_dir() and not any(folder.iterdir())
        self.folders = [] if is_empty else find_records(folder)

    @cached_property
    def opened(self) -> Mapping[Path, Opened]:
        """Those of them that are sound, by the path that their content has."""
        found = {}
        for folder in self.folders:
            try:
                one = open_record(folder)
            except UserError:
                continue
            found[one.record.path] = one
        return found

    def find_gone(self, path: Path) -> list[tuple[Path, str]]:
        """Return the records of the board that a folder of records lacks, and a line for each."""
        return [
            (one.relative_to(self.folder), "it was on the board, and is not here")
            for one in self.folders
            if not (path / one.relative_to(self.folder)).is_dir()
        ]


def check_changes(opened: Opened, board: Board | None) -> Iterator[Verified]:
    """Look what changed in a record that was on the board."""
    if board is None:
        return
    old = board.opened.get(opened.record.path)
    if old is None:
        yield Verified("changes", PASSED, ["it is new"])
        return
    yield judge("changes", _find_changes(old, opened), "what may not change did not")


def _find_changes(old: Opened, new: Opened) -> list[str]:
    before, after = (one.record.model_dump(mode="json") for one in (old, new))
    faults = []
    for key in before:
        if key in MAY_CHANGE:
            continue
        flat = flatten(before[key], key), flatten(after[key], key)
        faults += [
            f"{name} was {flat[0].get(name)}, and is {flat[1].get(name)}"
            for name in {**flat[0], **flat[1]}
            if flat[0].get(name) != flat[1].get(name)
        ]
    faults += _find_moved(old.record, new.record)
    if gone := sorted(set(old.record.metrics) - set(new.record.metrics)):
        faults.append(f"it lost the metrics {name_some(gone)}")
        return faults
    return faults + _find_moved_cells(old, new)


def _find_moved(old: Record, new: Record) -> list[str]:
    """Return which numbers moved by more than MOST, or are not what they were at all."""
    faults = []
    for key in ("metrics", "reference_bounds", "replicates", "floor"):
        before, after = (flatten(one.model_dump(mode="json")[key], key) for one in (old, new))
        for name, value in before.items():
            other = after.get(name)
            if _is_number(value) and _is_number(other) and ".info." not in name:
                if not abs(value - other) <= MOST:
                    faults.append(f"{name} was {value}, and is {other}")
            elif other != value and not name.endswith("no_interval"):
                faults.append(f"{name} was {value}, and is {other}")
    return faults


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _find_moved_cells(old: Opened, new: Opened) -> list[str]:
    before, after = (one.cells.set_index(CELL) for one in (old, new))
    if set(before.index) - set(after.index):
        return ["it lost cells"]
    same = after.loc[before.index]
    faults = []
    if not before["sha256"].equals(same["sha256"]):
        faults.append("the SHA-256 of images changed")
    for metric in old.record.metrics:
        gap = (before[metric] - same[metric]).abs()
        is_off = (gap > MOST) | (before[metric].isna() != same[metric].isna())
        if is_off.any():
            faults.append(f"{int(is_off.sum())} cells of {metric} moved by more than {MOST}")
    return faults


def check_status(opened: Opened, board: Board | None) -> Iterator[Verified]:
    """Look whether a record says of itself what only who measured it again can say."""
    record = opened.record
    old = board.opened.get(record.path) if board is not None else None
    faults, flags = [], []
    claims = {"re-scored": record.re_scored, "re-run": record.re_run}
    for name, claim in claims.items():
        if claim is None:
            continue
        key = name.replace("-", "_")
        if old is None or getattr(old.record, key) != claim:
            flags.append(f"it says that it was {name}: believe it where a maintainer wrote it")
        gaps = [
            abs(mean - own)
            for metric, mean in claim.means.items()
            if metric in record.metrics
            and mean is not None
            and (own := record.metrics[metric].whole.mean) is not None
        ]
        if set(claim.means) - set(record.metrics) or not math.isfinite(claim.largest_difference):
            faults.append(f"it was {name} in metrics that it does not have")
        if name == "re-scored" and max(gaps, default=0.0) > MOST:
            faults.append(f"it was {name}, and a mean differs by {max(gaps):.4f}")
    if old is not None:
        order = {status: index for index, status in enumerate(STATUSES)}
        if order[record.status] < order[old.record.status]:
            faults.append(f"it was {old.record.status}, and is {record.status}")
    if record.withdrawn:
        flags.append(f"it is withdrawn: {record.withdrawn}")
    if faults:
        yield Verified("status", FAILED, faults)
    else:
        yield judge("status", flags, record.status, worst=FLAGGED)


def check_duplicates(
    opened: Opened, others: Sequence[Opened], board: Board | None
) -> Iterator[Verified]:
    """Look whether another record has the same images."""
    before = {} if board is None else board.opened
    here = {one.record.path for one in others}
    every = [one for one in others if one is not opened]
    every += [one for path, one in before.items() if path not in here]
    faults, flags = [], []
    for other in every:
        path = other.record.path
        n_same = len(opened.sums & other.sums)
        if path == opened.record.path or (n_same and n_same == len(opened.sums)):
            faults.append(f"it has the images of {path.as_posix()}")
        elif n_same:
            flags.append(f"{n_same} of its images are those of {path.as_posix()}")
    if faults:
        yield Verified("duplicates", FAILED, faults)
    else:
        yield judge("duplicates", flags, "no other record has its images", worst=FLAGGED)


def check_floor(
    opened: Opened, others: Sequence[Opened], board: Board | None
) -> Iterator[Verified]:
    """Hold the floor that a record names against the record of that row."""
    floor, record = opened.record.floor, opened.record
    if floor is None:
        return
    for other in [*others, *(board.opened.values() if board is not None else [])]:
        digests = other.record.digests
        if digests.recipe != floor.recipe or digests.protocol != record.digests.protocol:
            continue
        gaps = {
            name: abs(mean - value)
            for name, mean in floor.means.items()
            if name in other.record.metrics and mean is not None
            and (value := other.record.metrics[name].whole.mean) is not None
        }  # fmt: skip
        off = [f"{name} by {gap:.4f}" for name, gap in gaps.items() if not gap <= FLOOR_MOST]
        lines = [f"it differs from {other.name}: {name_some(off)}"] if off else []
        yield judge("floor", lines, f"it is that of {other.name}", worst=FLAGGED)
        return
    yield Verified("floor", NOT_CHECKED, [f"there is no record of {floor.name} beside it"])
