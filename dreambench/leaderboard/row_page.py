"""The values of a record's page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dreambench.artifacts.failures import describe_failures
from dreambench.artifacts.manifest import flatten
from dreambench.artifacts.record import Record
from dreambench.artifacts.steering import describe_steering
from dreambench.leaderboard.board import Board, Entry
from dreambench.leaderboard.board_page import count, name_board
from dreambench.leaderboard.citing import make_bibtex
from dreambench.leaderboard.tables import (
    LONG,
    cut,
    make_category_table,
    make_comparison_table,
    make_metrics_table,
    make_prompt_table,
    make_subject_table,
    name_base_model,
    sort_metrics,
)
from dreambench.report.html.pages import make_slug
from dreambench.report.html.tables import show_table
from dreambench.report.model import Cell, Table

MAX_LINES = 30
"""Of failures, settings and missing images, on a page."""
EVALUATORS = {
    "authors": "the method's authors", "third-party": "a third party",
    "maintainers": "the maintainers of the board",
}  # fmt: skip
MADE_OF = (
    "Over all prompts. A mean is over a subject's images, and an interval over subjects; their "
    "spread says how far a number depends on who is shown."
)


def make_row_values(entry: Entry, board: Board) -> dict[str, Any]:
    """Return the values of a record's page, but for its thumbnails and where its board is."""
    record = entry.record
    recipe = record.recipe
    return {
        "page": "row", "record": record, "protocol": record.protocol,
        "title": cut(record.method.title) or record.method.name,
        "board_heading": f"Leaderboard: {name_board(board)}",
        "summary": _summarise(entry, board),
        "evaluator": EVALUATORS[record.evaluator],
        "why_apart": cut(entry.why_apart, LONG),
        "facts": _list_facts(record),
        "addresses": [
            (name, address)
            for name, address in (
                ("Paper", record.paper_url), ("Code", record.code_url),
                ("Images", record.images_url),
            )
            if address
        ],
        "sections": _make_sections(entry, board),
        "notes": _list_notes(record),
        "settings": _flatten(recipe.settings) if recipe else [],
        "digests": _flatten(
            record.digests.model_dump(exclude_none=True)
            | {"record": record.digest}
            | {f"code of {name}": value for name, value in record.method.code.items()}
        ),
        "sessions": show_table(_make_sessions_table(record), "Made and scored on"),
        "signatures": [record.metrics[name].info.signature for name in sort_metrics(record)],
        "check_words": _explain_check(record),
        "commands": _list_commands(record),
        "bibtex": make_bibtex(record),
    }  # fmt: skip


def _summarise(entry: Entry, board: Board) -> str:
    record = entry.record
    if entry.why_apart or not board.infos:
        return f"Not ranked on {name_board(board)}."
    name, info = next(iter(board.infos.items()))
    ranking = board.rankings[name]
    rank = ranking.ranks.get(entry.digest)
    if entry.is_reference:
        return "A reference, which has no rank: it shows an end of the scale."
    if rank is None:
        return f"{info.title} was not measured, so that it has no rank in it."
    ours = [pair for pair in ranking.pairs if entry.digest in (pair.first, pair.second)]
    n_better = sum(bool(pair.better) and pair.better != entry.digest for pair in ours)
    n_worse = sum(pair.better == entry.digest for pair in ours)
    n_open = len(ours) - n_better - n_worse
    return (
        f"Rank {rank} of {len(ranking.ranks)} on {record.protocol.name} by {info.title}: shown to "
        f"be better than {count(n_worse, 'other method')} and worse than {n_better or 'none'}; "
        f"no difference is shown from {n_open or 'none'}."
    )


def _list_facts(record: Record) -> list[tuple[str, str]]:
    method = record.method
    model = method.base_model
    source = cut(method.source, LONG)
    facts = {
        "Method": method.name,
        "Track": cut(method.track),
        "Source": source,
        "Base model": name_base_model(record)
        + (f", {cut(model.identity)}" if model and model.identity else ""),
        "Licence of the base model": cut(model.licence) if model else "",
        "Licence of the method": cut(method.licence),
        "Protocol": f"{record.protocol.name} v{record.protocol.version}: "
        + cut(record.protocol.title, LONG),
        "Images": f"{record.n_images} of {record.n_images_expected}, "
        + ("made by a run of dreambench" if record.origin == "run" else "made by another program"),
        "Intervals": cut(record.interval),
    }
    if record.replicates:
        facts["Replicates"] = f"{1 + len(record.replicates)}, each trained with seeds of its own"
    for name, again in (("Re-scored", record.re_scored), ("Re-run", record.re_run)):
        if again is not None:
            facts[name] = (
                f"{count(again.n_images, 'image')}, largest difference "
                f"{again.largest_difference:.2g}"
            )
    return [(name, text) for name, text in facts.items() if text]


def _make_sections(entry: Entry, board: Board) -> list[dict[str, Any]]:
    record = entry.record
    sections = [
        ("Means", _explain_means(record), make_metrics_table(entry, board)),
        ("By subject", MADE_OF, make_subject_table(entry)),
        ("By prompt category", "", make_category_table(entry)),
        ("By prompt", "Means over subjects.", make_prompt_table(entry)),
    ]
    main = next(iter(board.infos), None)
    if main is not None and not entry.why_apart:
        table = make_comparison_table(entry, board, main)
        if table.rows:
            words = (
                "Paired t-tests over the subjects. An interval is of one difference; the "
                "test, with Holm's adjustment over all pairs of the board, decides whether it is "
                "shown."
            )
            sections.append((f"Compared in {board.infos[main].title}", words, table))
    return [
        {
            "id": make_slug(title), "title": title, "words": words,
            "table": show_table(table, title),
        }
        for title, words, table in sections
        if _has_cells(table)
    ]  # fmt: skip


def _has_cells(table: Table) -> bool:
    return bool(table.rows) and len(table.columns) > 1


def _explain_means(record: Record) -> str:
    words = [
        "Property prompts are kept apart where a right image has to lose likeness.",
        "The copy bound is what a photo scores as an image, the faithful bound what a new photo of "
        "the subject would.",
    ]
    if record.floor is not None:
        words.append("The floor is a method that saw no photo, on the same machine.")
    if record.replicates:
        words.append("Replicates were trained again with other seeds, and show what chance does.")
    return " ".join(words)


def _list_notes(record: Record) -> list[str]:
    lines = [cut(line, LONG) for line in describe_failures(record.failures)]
    settings = None if record.recipe is None else record.recipe.settings
    lines += [cut(line, LONG) for line in describe_steering(settings)]
    if record.missing:
        n_missing = record.n_images_expected - record.n_images
        names = ", ".join(record.missing[:MAX_LINES])
        lines.append(f"{count(n_missing, 'image')} missing: {cut(names, LONG)}")
    problems = dict(record.problems) | dict(record.images.problems if record.images else {})
    lines += [
        f"{count(group.n_images, 'image')} {cut(kind)}, the first: {cut(' '.join(group.names[:1]))}"
        for kind, group in problems.items()
    ]
    lines += [cut(str(text), LONG) for text in record.cut_texts[:MAX_LINES]]
    lines += [
        f"{metric.info.title} was not measured: {cut(metric.info.not_measured, LONG)}"
        for metric in record.metrics.values()
        if metric.info.not_measured
    ]
    return lines[:MAX_LINES]


def _flatten(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [
        (cut(name), cut(str(value), LONG)) for name, value in list(flatten(values).items())[:100]
    ]


def _make_sessions_table(record: Record) -> Table:
    rows: list[dict[str, Cell]] = [
        {
            "started": cut(session.started),
            "dreambench": cut(str(session.code)),
            "device": cut(str(session.compute), LONG),
            "platform": f"{cut(session.platform)}, Python {cut(session.python)}",
            "packages": cut(
                ", ".join(f"{name} {version}" for name, version in session.packages.items()), LONG
            ),
        }
        for session in record.sessions[:MAX_LINES]
    ]
    return Table.from_rows("sessions", rows)


def _explain_check(record: Record) -> str:
    words = "The first command makes every mean again from the numbers of each image, in seconds."
    if record.images_url:
        words += " The second scores the images again, and says how far each number is off."
    if record.origin == "run":
        words += " The last runs the recipe again."
    return words


def _list_commands(record: Record) -> list[str]:
    folder = f"records/{record.path.as_posix()}"
    lines = [f"dreambench leaderboard check {folder}"]
    if record.images_url:
        lines.append(f"dreambench leaderboard check {folder} --images IMAGES")
    if record.origin == "run":
        lines.append(f"dreambench rerun {folder}")
    return lines
