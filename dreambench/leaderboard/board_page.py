"""The values of a board's page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dreambench.analysis.comparison import ALPHA
from dreambench.artifacts.record import Record
from dreambench.artifacts.results import MetricInfo
from dreambench.leaderboard.board import GROUPS, Board, Entry
from dreambench.leaderboard.plane import Plane, Point, make_plane
from dreambench.leaderboard.tables import cut, find_labels, name_base_model
from dreambench.report.formatting import format_number
from dreambench.report.html.tables import show_table
from dreambench.report.model import Interval, Table

PLANE = ("clip-t", "dino")
WIDE, NARROW = (960.0, 560.0), (380.0, 460.0)
"""Sizes of the plot, for a desk and for a phone."""
SHORT_FORMULA = 120


def name_board(board: Board) -> str:
    """Return the heading of a board's page."""
    protocol = board.first.protocol
    return f"{protocol.name} v{protocol.version}"


def make_board_values(board: Board, others: Sequence[tuple[Board, str]]) -> dict[str, Any]:
    """Return the values of a board's page; `others` are further boards with their files."""
    record, infos = board.first, board.infos
    main = next(iter(infos), None)
    chosen = {"name": main, **_describe_ranking(board, main)} if main else {}
    values: dict[str, Any] = {
        "page": "board", "protocol": record.protocol, "digests": record.digests,
        "heading": f"Leaderboard: {name_board(board)}",
        "metrics": [_describe_metric(info) for info in infos.values()],
        "chosen": chosen,
        "size": describe_size(board),
        "groups": _count_groups(infos),
        "rows": _list_rows(board, main) if main else [],
        "bounds": _list_bounds(board),
        "reading": READING,
        "apart": [
            {"digest": entry.digest, "title": cut(entry.record.method.title),
             "name": entry.record.method.name, "why": cut(entry.why_apart, 400)}
            for entry in board.apart
        ],
        "others": [
            {"heading": f"{name_board(other)}: {count(len(other.ranked), 'method')}",
             "file": file, "why": _explain_difference(board.first, other.first)}
            for other, file in others
        ],
    }  # fmt: skip
    return values | {"varied": _find_varied(values["rows"])} | _make_plane_values(board)


def make_rankings_data(board: Board) -> dict[str, Any]:
    """Return what the page's script needs to rank by another metric."""
    return {
        name: _describe_ranking(board, name)
        | {
            "ranks": dict(board.rankings[name].ranks),
            "order": [entry.digest for entry in board.sort(name)],
        }
        for name in board.infos
    }


READING = (
    "A rank is one more than the number of methods that are shown to be better, directly or by way "
    "of a third one. Each pair is compared by a paired t-test over the subjects, with Holm's "
    f"adjustment over all pairs in that metric, at {format_number(ALPHA)}. So methods that share "
    "a rank are not equal: no test shows which of them is better. Within a rank the higher mean "
    "comes first, and a method may stand above one with a higher mean that varies more. References "
    "(real images, copied photos, the class alone) show the ends of the scale, and have no rank."
)


def count(n: int, noun: str) -> str:
    """Return how many there are, in words."""
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def describe_size(board: Board) -> str:
    """Return how much a ranked record of a board is made of."""
    record = board.first
    return (
        f"Each has {count(len(record.subjects), 'subject')}, "
        f"{count(len(record.prompts), 'prompt')} and "
        f"{count(record.protocol.n_images_per_prompt, 'image')} of each."
    )


def _describe_ranking(board: Board, name: str) -> dict[str, str]:
    info, ranking = board.infos[name], board.rankings[name]
    n_pairs = len(ranking.pairs)
    if n_pairs == 0:
        n_methods = "one method" if ranking.ranks else "no method yet"
        shown, meaning = f"There is {n_methods}, and nothing to compare it with.", ""
    else:
        shown = f"{ranking.n_shown} of {n_pairs} pairs of methods are shown to differ."
        meaning = "Where methods share a rank, no test shows which of them is better."
    return {
        "title": info.title, "formula": cut(info.formula, SHORT_FORMULA), "shown": shown,
        "meaning": meaning,
    }  # fmt: skip


def _describe_metric(info: MetricInfo) -> dict[str, Any]:
    return {
        "name": info.name, "title": cut(info.title, 40),
        "formula": cut(info.formula, SHORT_FORMULA),
        "better": "up" if info.higher_is_better else "down", "signature": info.signature,
    }  # fmt: skip


def _count_groups(infos: dict[str, MetricInfo]) -> list[tuple[str, int]]:
    counts = {title: sum(name in infos for name in names) for title, names in GROUPS.items()}
    return [(title, n) for title, n in counts.items() if n]


def _list_rows(board: Board, main: str) -> list[dict[str, Any]]:
    entries = board.sort(main)
    table = Table(
        "board",
        ["", *board.infos],
        [
            {
                name: Interval.of(metric.whole)
                for name in board.infos
                if (metric := entry.record.metrics.get(name)) is not None
                and metric.whole.mean is not None
            }
            for entry in entries
        ],
    )
    ranks = board.rankings[main].ranks
    return [
        {
            "digest": entry.digest, "rank": ranks.get(entry.digest, "-"),
            "title": cut(entry.record.method.title) or entry.record.method.name,
            "name": cut(entry.record.method.name, 40),
            "track": cut(entry.record.method.track, 40) or "unknown track",
            "facets": [
                ("Base model", name_base_model(entry.record)), ("Status", entry.record.status)
            ],
            "cells": cells[1:],
        }
        for entry, cells in zip(entries, show_table(table, "").rows, strict=True)
    ]  # fmt: skip


def _find_varied(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Return which facets differ between rows; one that is the same in all is not shown in each."""
    found: dict[str, set[str]] = {}
    for row in rows:
        for title, value in row["facets"]:
            found.setdefault(title, set()).add(value)
    return [title for title, values in found.items() if len(values) > 1]


def _list_bounds(board: Board) -> list[tuple[str, list[str]]]:
    """Return what the real photos score in each metric, for the foot of the table."""
    bounds = find_bounds(board)
    rows = []
    for title, key in (("Copy bound", "copy_bound"), ("Faithful bound", "faithful_bound")):
        values = [getattr(bounds.get(name), key, None) for name in board.infos]
        if any(value is not None for value in values):
            rows.append(
                (f"{title} of the photos", ["" if v is None else format_number(v) for v in values])
            )
    return rows


def find_bounds(board: Board) -> Any:
    """Return the reference bounds of the first record that has them; they are the photos' own."""
    found = (entry.record.reference_bounds for entry in board.entries)
    return next((bounds for bounds in found if bounds), {})


def _explain_difference(first: Record, other: Record) -> str:
    """Return why another board of the same protocol is one of its own."""
    if first.protocol.name != other.protocol.name:
        return ""
    if first.digests.protocol != other.digests.protocol:
        return "another version of the protocol"
    if first.digests.data != other.digests.data:
        return "other photos"
    names = [
        metric.info.title
        for name, metric in other.metrics.items()
        if name in first.metrics and metric.info.signature != first.metrics[name].info.signature
    ]
    return f"other encoders or versions of {cut(', '.join(names))}"


def _make_plane_values(board: Board) -> dict[str, Any]:
    names = find_labels(board.entries)
    points = [
        point for entry in board.entries if (point := _find_point(entry, names[entry.digest]))
    ]
    if len(points) < 2:
        return {"wide": None}
    lines = []
    bounds = find_bounds(board).get("dino")
    if bounds is not None:
        known = (("copy bound", bounds.copy_bound), ("faithful bound", bounds.faithful_bound))
        lines += [(title, value) for title, value in known if value is not None]
    floors = (entry.record.floor for entry in board.entries)
    floor = next((one for one in floors if one and one.means.get("dino") is not None), None)
    if floor is not None:
        lines.append((f"floor: {floor.name}", floor.means["dino"] or 0.0))
    words = {
        "copy bound": "the copy bound is what a photo scores as an image",
        "faithful bound": "the faithful bound is what a new photo of the subject would",
    }
    said = [words[title] for title, _ in lines if title in words]
    if floor is not None:
        said.append("the floor is a method that saw no photo")
    wide, narrow = (
        make_plane(points, lines, width=width, height=height) for width, height in (WIDE, NARROW)
    )
    return {
        "wide": wide, "narrow": narrow, "has_lines": bool(lines), "line_words": "; ".join(said),
        "plane_words": _describe_plane(wide),
    }  # fmt: skip


def _find_point(entry: Entry, name: str) -> Point | None:
    x, y = (entry.record.metrics.get(metric) for metric in PLANE)
    if x is None or y is None or x.whole.mean is None or y.whole.mean is None:
        return None
    x_ends, y_ends = (
        None if part.low is None or part.high is None else (part.low, part.high)
        for part in (x.whole, y.whole)
    )
    return Point(name, x.whole.mean, y.whole.mean, x_ends, y_ends, entry.is_reference)


def _describe_plane(plane: Plane) -> str:
    best = [mark.words for mark in plane.marks if mark.is_front]
    return (
        f"DINO against CLIP-T of {len(plane.marks)} methods; the table has all numbers. No other "
        f"method beats in both: {'; '.join(best)}."
    )
