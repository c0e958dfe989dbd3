"""Boards: records that can be ranked together, with their ranks, and those that stand apart.

Two records share a board where protocol, photos and the signature of each metric that both have
are the same. Those that are partial or withdrawn are listed and never ranked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import pandas as pd

from dreambench.analysis.comparison import is_reference
from dreambench.artifacts.record import (
    FILE_NAME,
    THUMBNAILS_NAME,
    Record,
)
from dreambench.artifacts.results import MetricInfo
from dreambench.errors import UserError
from dreambench.leaderboard.checks import open_sound
from dreambench.leaderboard.ranking import Ranking, rank_in_all
from dreambench.storage.files import digest
from dreambench.storage.paths import check_tree

GROUPS: Mapping[str, tuple[str, ...]] = {
    "Overall": ("joint",),
    "Prompt fidelity": ("clip-t", "prompt-lift", "prompt-rank"),
    "Subject fidelity": ("dino", "clip-i", "dino-fg", "clip-i-fg"),
    "Copying": ("pixel-match", "copy"),
}
"""The metrics of a board side by side; a board is ranked by the first that it has."""
SHOWN = tuple(name for names in GROUPS.values() for name in names)


@dataclass(frozen=True, eq=False)
class Entry:
    """A record with the scores that its numbers follow from."""

    record: Record
    scores: pd.DataFrame = field(repr=False)
    thumbnails_path: Path | None = None

    @property
    def digest(self) -> str:
        """The record's digest, which names its pages."""
        return self.record.digest

    @property
    def why_apart(self) -> str:
        """Why it is not ranked; "" where it is."""
        record = self.record
        if record.withdrawn:
            return f"withdrawn: {record.withdrawn}"
        if record.partial:
            return f"partial: {record.n_images} of {record.n_images_expected} images" + (
                "" if record.n_images < record.n_images_expected else ", of less than its protocol"
            )
        return ""

    @property
    def is_reference(self) -> bool:
        """Whether it shows an end of the scale and competes with nobody."""
        return is_reference(self.record.method.name, self.record.method.track)

    def mean(self, metric: str) -> float | None:
        """The mean of a metric; None where it has none."""
        found = self.record.metrics.get(metric)
        return None if found is None else found.whole.mean


@dataclass(frozen=True)
class Board:
    """Records of one protocol, photos and signatures: whole ones by digest, and those apart."""

    entries: tuple[Entry, ...]
    apart: tuple[Entry, ...]

    @property
    def ranked(self) -> tuple[Entry, ...]:
        """The entries that have a rank: all but references."""
        return tuple(entry for entry in self.entries if not entry.is_reference)

    @property
    def first(self) -> Record:
        """A record that stands for what all have in common."""
        return (*self.entries, *self.apart)[0].record

    @cached_property
    def infos(self) -> dict[str, MetricInfo]:
        """What its metrics are, in the order of SHOWN: those that an entry has a mean in."""
        return {
            name: entry.record.metrics[name].info
            for name in SHOWN
            for entry in reversed(self.entries)
            if entry.mean(name) is not None
        }

    @cached_property
    def key(self) -> str:
        """Names its page: the digest of what its records have in common."""
        record = self.first
        signatures = {name: info.signature for name, info in self.infos.items()}
        return digest([record.digests.protocol, record.digests.data, signatures])

    @cached_property
    def rankings(self) -> dict[str, Ranking]:
        """The ranking in each of its metrics; the names in them are digests."""
        scores = {entry.digest: entry.scores for entry in self.ranked}
        return rank_in_all(scores, list(self.infos.values()))

    def sort(self, metric: str) -> list[Entry]:
        """Return the entries by rank in a metric, then by mean; those without a rank last."""
        info, ranks = self.infos[metric], self.rankings[metric].ranks

        def place(entry: Entry) -> tuple[float, float, str, str]:
            mean = entry.mean(metric) or 0.0
            rank = ranks.get(entry.digest, float("inf"))
            sign = -1 if info.higher_is_better else 1
            return rank, sign * mean, entry.record.method.name, entry.digest

        return sorted(self.entries, key=place)


def load_entries(records_dir: Path) -> list[Entry]:
    """Read all records of a folder, in the order of their digests.

    Raises:
        UserError: there is none, or one does not agree with itself (`checks.open_sound`).
    """
    check_tree(records_dir)
    paths = sorted(records_dir.glob(f"*/*/*/{FILE_NAME}"))
    if not paths:
        raise UserError(
            f"{records_dir} has no record in PROTOCOL/METHOD/DIGEST",
            hint="make one with: dreambench submit RUN --out " + str(records_dir),
            code="not-a-record",
        )
    entries = [_load_entry(path.parent) for path in paths]
    return sorted(entries, key=lambda entry: entry.digest)


def _load_entry(folder: Path) -> Entry:
    opened = open_sound(folder)
    has_thumbnails = THUMBNAILS_NAME in opened.record.files
    path = folder / THUMBNAILS_NAME if has_thumbnails else None
    return Entry(opened.record, opened.table.frame, path)


def make_boards(entries: Sequence[Entry]) -> list[Board]:
    """Sort records into boards, the one with most ranked records first.

    Records with more metrics come first, so that one that lacks some joins those that have them.
    """
    by_metrics = sorted(entries, key=lambda entry: (-len(_sign(entry)), entry.digest))
    groups: list[tuple[tuple[str, ...], dict[str, str], list[Entry]]] = []
    for entry in by_metrics:
        digests, signatures = entry.record.digests, _sign(entry)
        where = (entry.record.protocol.name, digests.protocol, digests.data)
        for known_where, known, members in groups:
            common = set(known) & set(signatures)
            agree = all(known[name] == signatures[name] for name in common)
            if known_where == where and agree and (common or not signatures):
                known.update(signatures)
                members.append(entry)
                break
        else:
            groups.append((where, dict(signatures), [entry]))
    boards = [
        Board(
            tuple(entry for entry in members if not entry.why_apart),
            tuple(entry for entry in members if entry.why_apart),
        )
        for _, _, members in groups
    ]
    return sorted(
        boards, key=lambda board: (-len(board.entries), board.first.protocol.name, board.key)
    )


def _sign(entry: Entry) -> dict[str, str]:
    """Return the signatures of what a board compares: its metrics, and those of the protocol."""
    compared = {*SHOWN, *entry.record.protocol.metrics}
    return {
        name: metric.info.signature
        for name, metric in entry.record.metrics.items()
        if name in compared and metric.info.signature is not None
    }
