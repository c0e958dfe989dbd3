"""The tables of a board and of its rows, unrounded, as pages show them and files beside them hold.

Texts of records are cut where they are longer than a page has room for; record.json has them whole.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from dreambench.analysis.stats import estimate_table
from dreambench.artifacts.record import Record
from dreambench.artifacts.results import Part
from dreambench.config.protocol import PRIOR_PROMPT_ID
from dreambench.leaderboard.board import SHOWN, Board, Entry
from dreambench.report.model import Cell, Interval, PValue, Table

SHORT, LONG = 80, 400
"""Letters of a text in a table, and of one on a page."""


def cut(text: str, n_letters: int = SHORT) -> str:
    """Return a text that is no longer than there is room for, marked where it was cut."""
    return text if len(text) <= n_letters else text[: n_letters - 1].rstrip() + "…"


def name_base_model(record: Record) -> str:
    """Return the name of a record's base model, or that nobody said which."""
    model = record.method.base_model
    return "unknown" if model is None or not model.name else cut(model.name)


def find_labels(entries: Sequence[Entry]) -> dict[str, str]:
    """Return what tables and plots call each record, by digest: its method, and which if twice."""
    names = [entry.record.method.name for entry in entries]
    return {
        entry.digest: name if names.count(name) == 1 else f"{name} {entry.digest[:6]}"
        for entry, name in zip(entries, names, strict=True)
    }


def make_board_table(board: Board) -> Table:
    """Return a row for each record, ranked ones first: who made it, and ranks and means by name."""
    rows: list[dict[str, Cell]] = []
    ordered = board.sort(next(iter(board.infos))) if board.infos else list(board.entries)
    for entry in [*ordered, *board.apart]:
        record = entry.record
        row: dict[str, Cell] = {
            "record": entry.digest, "method": record.method.name, "title": cut(record.method.title),
            "track": cut(record.method.track), "base_model": name_base_model(record),
            "status": record.status, "evaluator": record.evaluator,
            "not ranked": cut(entry.why_apart, LONG) or None,
        }  # fmt: skip
        for name, ranking in board.rankings.items():
            row[f"{name} rank"] = ranking.ranks.get(entry.digest)
            row[name] = _find_interval(record, name)
        rows.append(row)
    return Table.from_rows("board", rows)


def make_pairs_table(board: Board) -> Table:
    """Return every comparison that the ranks follow from, in each metric of the board."""
    names = find_labels(board.entries)
    rows: list[dict[str, Cell]] = [
        {
            "metric": metric, "first": names[pair.first], "second": names[pair.second],
            "difference": Interval(_known(pair.mean), _known(pair.low), _known(pair.high)),
            "n_subjects": pair.n_subjects, "p": _known(pair.p), "p_holm": _known(pair.p_holm),
            "better": names.get(pair.better) or None,
        }
        for metric, ranking in board.rankings.items()
        for pair in ranking.pairs
    ]  # fmt: skip
    return Table.from_rows("pairs", rows)


def make_metrics_table(entry: Entry, board: Board) -> Table:
    """Return the means of all metrics of a record beside bounds, floor and replicates."""
    record, rows = entry.record, []
    for name in sort_metrics(record):
        metric = record.metrics[name]
        bounds = record.reference_bounds.get(name)
        ranking = board.rankings.get(name)
        rank = ranking.ranks.get(entry.digest) if ranking and not entry.why_apart else None
        row: dict[str, Cell] = {
            "metric": metric.info.heading,
            "mean": Interval.of(metric.whole),
            "rank": rank,
            "property prompts": Interval.of(metric.property) if metric.property else None,
            "copy bound": bounds.copy_bound if bounds else None,
            "faithful bound": bounds.faithful_bound if bounds else None,
        }
        if record.floor is not None:
            row[f"floor ({record.floor.name})"] = record.floor.means.get(name)
        for again in record.replicates:
            row[f"replicate {again.replicate}"] = again.means.get(name)
        row["scored"] = f"{metric.n_scored} of {metric.n_expected}"
        rows.append(row)
    return Table.from_rows("metrics", rows)


def make_category_table(entry: Entry) -> Table:
    """Return the means of each prompt category."""
    record = entry.record
    names = list_shown(record)
    categories = dict.fromkeys(
        category for name in names for category in record.metrics[name].by_category
    )
    rows: list[dict[str, Cell]] = []
    for category in categories:
        row: dict[str, Cell] = {"category": category}
        for name in names:
            part = record.metrics[name].by_category.get(category)
            if part is not None:
                row[record.metrics[name].info.heading] = Interval.of(part)
        rows.append(row)
    return Table.from_rows("categories", rows)


def make_subject_table(entry: Entry) -> Table:
    """Return the mean of each subject."""
    record = entry.record
    rows: list[dict[str, Cell]] = [
        {"subject": subject}
        | {
            record.metrics[name].info.heading: record.metrics[name].by_subject.get(subject)
            for name in list_shown(record)
        }
        for subject in record.subjects
    ]
    return Table.from_rows("subjects", rows)


@lru_cache(maxsize=1)
def compute_prompts(entry: Entry) -> dict[str, dict[str, Interval]]:
    """Return the mean over subjects of each prompt by metric, with its interval.

    The last entry's are kept, since its page and its file both show them.
    """
    record = entry.record
    names = list_shown(record)
    scores = entry.scores[
        entry.scores["metric"].isin(names) & (entry.scores["prompt_id"] != PRIOR_PROMPT_ID)
    ]
    bounds = {name: record.metrics[name].info.bounds for name in names}
    found: dict[str, dict[str, Interval]] = {name: {} for name in record.prompts}
    for row in estimate_table(scores, by=["prompt_id"], bounds=bounds).itertuples():
        cell = Interval(float(row.mean), _known(row.low), _known(row.high))
        found.setdefault(str(row.prompt_id), {})[str(row.metric)] = cell
    return found


def make_prompt_table(entry: Entry) -> Table:
    """Return the mean over subjects of each prompt, which is named by its text."""
    record = entry.record
    texts = {prompt.id: cut(prompt.text) for prompt in record.protocol.prompts}
    rows: list[dict[str, Cell]] = []
    for prompt, cells in compute_prompts(entry).items():
        row: dict[str, Cell] = {"prompt": texts.get(prompt, prompt)}
        for name in list_shown(record):
            if name in cells:
                row[record.metrics[name].info.heading] = cells[name]
        rows.append(row)
    return Table.from_rows("prompts", rows)


def make_comparison_table(entry: Entry, board: Board, metric: str) -> Table:
    """Return what the tests of one metric say of a record and each other one of its board."""
    titles = {other.digest: cut(other.record.method.title) for other in board.entries}
    place = {other.digest: index for index, other in enumerate(board.sort(metric))}
    ours = [p for p in board.rankings[metric].pairs if entry.digest in (p.first, p.second)]
    rows: list[dict[str, Cell]] = []
    for pair in sorted(ours, key=lambda p: place[p.first] + place[p.second]):
        is_first = pair.first == entry.digest
        sign = 1 if is_first else -1
        ends = (pair.low, pair.high) if is_first else (-pair.high, -pair.low)
        verdict = "no difference shown"
        if pair.better:
            verdict = "better" if pair.better == entry.digest else "worse"
        rows.append(
            {
                "than": titles[pair.second if is_first else pair.first],
                "this row is": verdict,
                f"difference in {board.infos[metric].title}": Interval(
                    _known(sign * pair.mean), _known(ends[0]), _known(ends[1])
                ),
                "p (Holm)": PValue(_known(pair.p_holm)),
            }
        )
    return Table.from_rows("comparison", rows)


def make_long_table(entry: Entry) -> Table:
    """Return every mean of a record's page, one a line."""
    record = entry.record
    rows: list[dict[str, Cell]] = []

    def add(part: str, name: str, metric: str, cell: Cell) -> None:
        if cell is not None:
            rows.append({"part": part, "name": name, "metric": metric, "mean": cell})

    for metric, found in record.metrics.items():
        add("whole", "", metric, Interval.of(found.whole))
        add("property", "", metric, Interval.of(found.property) if found.property else None)
        for category, part in found.by_category.items():
            add("category", category, metric, Interval.of(part))
        for subject, value in found.by_subject.items():
            add("subject", subject, metric, Interval(value, None, None))
    for prompt, cells in compute_prompts(entry).items():
        for metric, cell in cells.items():
            add("prompt", prompt, metric, cell)
    return Table.from_rows("row", rows)


def make_board_data(board: Board) -> Mapping[str, Any]:
    """Return what a board says, for programs."""
    record = board.first
    return {
        "protocol": record.protocol.model_dump(mode="json"),
        "digests": {"protocol": record.digests.protocol, "data": record.digests.data},
        "metrics": {name: info.model_dump(mode="json") for name, info in board.infos.items()},
        "ranks": {name: dict(ranking.ranks) for name, ranking in board.rankings.items()},
        "records": {
            entry.digest: {
                "method": entry.record.method.name,
                "path": entry.record.path.as_posix(),
                "status": entry.record.status,
                "not_ranked": entry.why_apart,
                "means": {
                    name: entry.record.metrics[name].whole.model_dump(mode="json")
                    for name in board.infos
                    if name in entry.record.metrics
                },
            }
            for entry in [*board.entries, *board.apart]
        },
    }


def sort_metrics(record: Record) -> list[str]:
    """Return the metrics of a record that were measured: a board's own first."""
    known = [
        name for name, metric in record.metrics.items() if metric.info.signature is not None
    ]  # fmt: skip
    return [*(name for name in SHOWN if name in known), *(n for n in known if n not in SHOWN)]


def list_shown(record: Record) -> list[str]:
    """Return the measured metrics that a board shows, or all where a record has none of them."""
    names = sort_metrics(record)
    return [name for name in names if name in SHOWN] or names


def _find_interval(record: Record, metric: str) -> Cell:
    found = record.metrics.get(metric)
    return None if found is None else _of(found.whole)


def _of(part: Part) -> Interval | None:
    return None if part.mean is None else Interval.of(part)


def _known(value: float) -> float | None:
    return None if value != value else float(value)  # noqa: PLR0124  (NaN)
