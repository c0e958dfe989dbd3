"""`dreambench leaderboard comment`: what a pull request with records would change. No torch.

The records come from strangers: their text is plain text in what a renderer makes of this document.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from dreambench.analysis.checking import PASSED
from dreambench.analysis.comparison import Scored, compare_scored
from dreambench.config.protocol import Protocol
from dreambench.errors import UserError
from dreambench.leaderboard.checks import Checked, check_paths
from dreambench.leaderboard.history import Board
from dreambench.leaderboard.known import is_known_protocol
from dreambench.leaderboard.records import Opened
from dreambench.report.model import Block, Bullets, Document, Heading, Paragraph, Table
from dreambench.report.notes import make_comparison_notes
from dreambench.report.tables import make_comparison_table, make_main_table

BASELINES = ("class-only", "copy-reference")
"""The rows that every new one is shown alongside: no photo, and a photo itself."""
N_NEIGHBOURS = 2
MAX_LINES = 20
"""Faults of a check that are shown."""


def make_comment(
    paths: Sequence[Path], records: Path, *, protocol: Protocol | None = None
) -> Document:
    """Return what checks find in new or changed records, and their rows alongside those there are.

    `records` is a folder of records that are there already; those of `paths` that are the same as
    there are left out.

    Raises:
        UserError: a path holds no record.
    """
    board = Board(records)
    checked = check_paths(paths, board=records, protocol=protocol)
    new = [one for one in checked if one.opened is None or not _is_there(one.opened, board)]
    blocks: list[Block] = [Heading("Records", 1)]
    if not new:
        return Document([*blocks, Paragraph("No record is new, and none changed.")])
    n_failed = sum(not one.passed for one in new)
    verdict = "no check failed" if not n_failed else f"{n_failed} failed a check"
    blocks.append(Paragraph(f"New or changed: {len(new)}; {verdict}."))
    for one in new:
        blocks += _show_checks(one)
    for one in new:
        if one.opened is not None and one.passed:
            blocks += _show_rows(one.opened, board, protocol)
    return Document(blocks)


def _is_there(opened: Opened, board: Board) -> bool:
    old = board.opened.get(opened.record.path)
    return old is not None and old.record == opened.record


def _show_checks(one: Checked) -> list[Block]:
    name = str(one.folder) if one.opened is None else one.opened.record.path.as_posix()
    n_passed = sum(found.outcome == PASSED for found in one.found)
    lines = [
        f"{found.outcome}, {found.what}: {line}"
        for found in one.found
        if found.outcome != PASSED
        for line in found.lines[:MAX_LINES]
    ]
    words = f"{n_passed} of {len(one.found)} checks passed."
    blocks: list[Block] = [
        Heading(f"{name}: {'passed' if one.passed else 'failed'}"), Paragraph(words),
    ]  # fmt: skip
    return [*blocks, Bullets(lines)] if lines else blocks


def _show_rows(opened: Opened, board: Board, named: Protocol | None) -> list[Block]:
    """Return a record's row alongside the baselines, and its differences to its neighbours."""
    record = opened.record
    blocks: list[Block] = [Heading(f"{record.method.title}, {record.path.as_posix()}")]
    if why := _why_not_ranked(opened, named):
        blocks.append(Paragraph(f"It is shown and not ranked: {why}."))
    others = [one for one in board.opened.values() if _is_comparable(opened, one)]
    baselines = [one for one in others if one.record.method.name in BASELINES]
    neighbours = [] if why else _find_neighbours(opened, others)
    rows = _name_apart([opened, *baselines, *neighbours])
    blocks.append(make_main_table(rows))
    lacking = set(BASELINES) - {one.record.method.name for one in [opened, *baselines]}
    if lacking:
        blocks.append(Paragraph(f"There is no comparable record of {', '.join(sorted(lacking))}."))
    if len(rows) > 1:
        try:
            table = compare_scored(rows)
        except UserError as error:
            return [*blocks, Paragraph(f"No difference is tested: {error.problem}")]
        compared: Table = make_comparison_table(table, rows[0].infos)
        blocks += [
            Paragraph("Differences, paired by subject and prompt:"),
            compared,
            Bullets(make_comparison_notes(table)),
        ]
    return blocks


def _why_not_ranked(opened: Opened, named: Protocol | None) -> str:
    record = opened.record
    if not is_known_protocol(record, named):
        return "its protocol is not known"
    if record.partial:
        return "it is partial"
    return "it is withdrawn" if record.withdrawn else ""


def _is_comparable(opened: Opened, other: Opened) -> bool:
    """Return whether two records are of one protocol, and of the same signatures."""
    mine, its = opened.record, other.record
    if its.path == mine.path or its.digests.protocol != mine.digests.protocol or its.withdrawn:
        return False
    return all(
        name not in its.metrics or its.metrics[name].info.signature == entry.info.signature
        for name, entry in mine.metrics.items()
        if entry.info.listed
    )


def _find_neighbours(opened: Opened, others: Sequence[Opened]) -> list[Opened]:
    """Return the whole records whose mean of the protocol's first metric is nearest."""
    metric = opened.record.protocol.metrics[0]
    mean = _find_mean(opened, metric)
    near = [
        (abs(its - mean), index, one)
        for index, one in enumerate(others)
        if not one.record.partial
        and one.record.method.name not in BASELINES
        and mean is not None
        and (its := _find_mean(one, metric)) is not None
    ]
    return [one for _, _, one in sorted(near, key=lambda entry: entry[:2])[:N_NEIGHBOURS]]


def _find_mean(opened: Opened, metric: str) -> float | None:
    entry = opened.record.metrics.get(metric)
    return None if entry is None else entry.whole.mean


def _name_apart(every: Sequence[Opened]) -> list[Scored]:
    """Return records as rows; those of one name have their digests behind it."""
    names = [one.record.method.name for one in every]
    return [
        replace(one.scored, name=one.name) if names.count(name) > 1 else one.scored
        for one, name in zip(every, names, strict=True)
    ]
