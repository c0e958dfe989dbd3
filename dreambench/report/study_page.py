"""What a user study showed as blocks of a page: the paper's Table 2, agreement, and metrics."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from dreambench.artifacts.study import (
    Asks,
    Findings,
    FollowRow,
    PairRow,
    Share,
    StudyResults,
)
from dreambench.errors import UserError
from dreambench.report.model import (
    Block,
    Bullets,
    Cell,
    Document,
    Figure,
    Heading,
    Interval,
    Links,
    Paragraph,
    PValue,
    Table,
)

FIDELITY: Mapping[Asks, str] = {"subject": "subject fidelity", "prompt": "prompt fidelity"}
UNDECIDED, ONE_RATER = "undecided", "one rater"
SIMULATED = "Simulated raters"
FOLLOWING = "following.png"
MAX_FAILED = 30
"""Raters who failed that a page names; the table has all."""


def describe_raters(results: StudyResults) -> str:
    """Return who answered, so that what was simulated never stands as people's opinion."""
    n = results.everyone.n_raters
    if results.simulated:
        return f"{n} simulated raters (a program, not people)"
    return f"{n} people" if n != 1 else "1 person"


def make_study_document(results: StudyResults, *, files: Collection[str] = ()) -> Document:
    """Return the page of a study's results; of `files`, which lie beside it, it shows and links."""
    what = f"{SIMULATED}: user study" if results.simulated else "User study"
    blocks: list[Block] = [
        Heading(f"{what} on {results.protocol}", 1),
        *make_study_blocks(results, files=files),
        Heading("Agreement"),
        Paragraph(
            "Krippendorff's alpha (nominal) of left, right and neither over the questions that two "
            "raters or more answered: 1 is full agreement, 0 what chance gives."
        ),
        make_agreement_table(results.everyone),
        Heading("Sides"),
        Paragraph(
            "Share of decided answers for the left image, and a two-sided sign test over raters "
            "who chose one side more often. Sides are balanced in each pair of methods, so that a "
            "habit of raters favours none."
        ),
        make_side_table(results.everyone),
        *_describe_checks(results),
        Heading("What the numbers depend on"),
        *_describe_recipe(results),
    ]
    if files:
        kinds = {"Tables, unrounded": ".csv", "All results": ".json", "Figures for a paper": ".pdf"}
        blocks += [
            Heading("Files"),
            Links(
                [
                    (words, [(name, name) for name in files if name.endswith(suffix)])
                    for words, suffix in kinds.items()
                    if any(name.endswith(suffix) for name in files)
                ]
            ),
        ]
    return Document(blocks)


def make_study_blocks(results: StudyResults, *, files: Collection[str] = ()) -> list[Block]:
    """Return what stands on any page: preferences, strengths, and which metric follows raters."""
    found = results.everyone
    blocks: list[Block] = [
        Paragraph(
            f"Answers of {describe_raters(results)} to {results.n_questionnaires} questionnaires "
            f"({found.n_answers:,} answers about {results.n_comparisons:,} comparisons). Each "
            "comparison counts as its majority of raters decided; one without a majority is "
            f"undecided. 95 % intervals resample {results.resampled}; subjects and methods stay. "
            "A number without an interval has too few of them, or all are alike."
        ),
        Heading("Preference"),
        make_preference_table(results, found, "majority"),
    ]
    if results.passed is not None:
        n_failed = sum(not row.passed for row in results.raters)
        blocks += [
            Paragraph(f"Without the {n_failed} who failed the checks:"),
            make_preference_table(results, results.passed, "majority"),
        ]
    blocks += [
        Paragraph("Shares of single answers:"),
        make_preference_table(results, found, "answers"),
        Heading("Strengths"),
        Paragraph(
            "Bradley-Terry with ties, over single answers: the natural logarithm of each method's "
            "strength, with a mean of 0. A difference of 1 is odds of 2.7 to 1 among decided "
            "answers."
        ),
        make_strength_table(found),
    ]
    if results.metrics:
        blocks += [
            Heading("Which metric follows " + ("them" if results.simulated else "people")),
            Paragraph(
                "How often a metric gives the higher score to the very image that the majority "
                "prefers, where it prefers one. A coin has .500; one rater, held against the "
                "majority of the others, is what can be hoped for. Equal scores, and an undecided "
                "rater, count a half."
            ),
            *([Figure(FOLLOWING, "How often each metric agrees with the majority, with intervals")]
              if FOLLOWING in files else []),
            make_following_table(results, found),
        ]  # fmt: skip
        for asks in _list_asks(found):
            table = make_category_table(results, found, asks)
            if len(table.columns) > 2:
                blocks += [Paragraph(f"By prompt category, {FIDELITY[asks]}:"), table]
    return blocks


def make_study_section(results: StudyResults) -> list[Block]:
    """Return what stands in the report of a run that a study had images of."""
    title = f"{SIMULATED}: user study" if results.simulated else "User study"
    below = [
        Heading(block.text, 3) if isinstance(block, Heading) else block
        for block in make_study_blocks(results)
    ]
    origin = f"Study {results.study}, answers {results.answers}, {results.code}."
    return [Heading(title), *below, Paragraph(origin)]


def check_study_fits(results: StudyResults, protocol_digest: str, recipe: str | None) -> None:
    """Refuse to show a study beside a run that it had no images of.

    Raises:
        UserError: `other-study`.
    """
    is_of_run = any(method.digests.recipe == recipe for method in results.methods)
    if results.protocol_digest != protocol_digest or not is_of_run:
        names = ", ".join(method.name for method in results.methods)
        raise UserError(
            f"study {results.study} had no images of this run: it is of {names} on "
            f"{results.protocol}",
            hint="name the results of a study of this run",
            code="other-study",
        )


def _list_asks(found: Findings) -> list[Asks]:
    return list(dict.fromkeys(row.asks for row in found.pairs))


def _show(share: Share) -> Cell:
    """Return a share with its interval; alone where it has none, for which studies have reasons."""
    if share.low is None:
        return share.mean
    return Interval(share.mean, share.low, share.high)


def make_preference_table(results: StudyResults, found: Findings, of: str) -> Table:
    """Return shares as the paper's Table 2 has them: a row a method, and one for undecided.

    With more than two methods there are these rows for each pair. `of` is what `PairRow.of` says.
    """
    rows: list[dict[str, Cell]] = []
    by_pair: dict[tuple[str, str], dict[Asks, PairRow]] = {}
    for row in found.pairs:
        if row.of == of:
            by_pair.setdefault((row.first, row.second), {})[row.asks] = row
    for pair, of_pair in by_pair.items():
        head: dict[str, Cell] = {"pair": " / ".join(pair)} if len(by_pair) > 1 else {}
        for name, part in zip(
            (*pair, UNDECIDED), ("prefers_first", "prefers_second", "undecided"), strict=True
        ):
            shares = {FIDELITY[asks]: _show(getattr(row, part)) for asks, row in of_pair.items()}
            # First stands what differs in each row.
            rows.append({"prefers": name, **head, **shares})
        rows.append(
            {
                "prefers": f"n ({'comparisons' if of == 'majority' else of})", **head,
                **{FIDELITY[asks]: row.undecided.n for asks, row in of_pair.items()},
            }
        )  # fmt: skip
    name = "preference" if of == "majority" else "preference-answers"
    return Table.from_rows(name if found is results.everyone else f"{name}-passed", rows)


def make_strength_table(found: Findings) -> Table:
    """Return the strength of each method, one column a question, the strongest first."""
    by_method: dict[str, dict[str, Cell]] = {}
    for row in found.strengths:
        by_method.setdefault(row.method, {})[FIDELITY[row.asks]] = _show(row.strength)
    rows: list[dict[str, Cell]] = [{"method": name, **cells} for name, cells in by_method.items()]
    return Table.from_rows("strengths", rows)


def make_agreement_table(found: Findings) -> Table:
    """Return Krippendorff's alpha of each question."""
    return Table.from_rows(
        "agreement",
        [
            {"question": FIDELITY[row.asks], "alpha": _show(row.alpha), "n": row.alpha.n}
            for row in found.agreement
        ],
    )


def make_side_table(found: Findings) -> Table:
    """Return how often the left side was chosen, and the test of it."""
    return Table.from_rows(
        "sides",
        [
            {
                "question": FIDELITY[row.asks], "left": _show(row.left),
                "raters more left": row.n_left, "raters more right": row.n_right,
                "p": PValue(row.p),
            }
            for row in found.sides
        ],
    )  # fmt: skip


def title_metric(results: StudyResults, name: str | None) -> str:
    """Return what tables call a metric; None is one rater."""
    titles = {info.name: info.title for info in results.metrics}
    return ONE_RATER if name is None else titles.get(name, name)


def make_following_table(results: StudyResults, found: Findings) -> Table:
    """Return how often each metric agrees with the majority, over all prompt categories."""
    rows: dict[str | None, dict[str, Cell]] = {}
    for row in found.follows:
        if row.family is None:
            cells = rows.setdefault(row.metric, {"metric": title_metric(results, row.metric)})
            cells[FIDELITY[row.asks]] = _show(row.agrees)
    return Table.from_rows("following", list(rows.values()))


def make_category_table(results: StudyResults, found: Findings, asks: Asks) -> Table:
    """Return how often each metric agrees with the majority in each prompt category."""
    rows: dict[str | None, dict[str, Cell]] = {}
    for row in (row for row in found.follows if row.asks == asks):
        cells = rows.setdefault(row.metric, {"metric": title_metric(results, row.metric)})
        if row.family is not None:
            cells[row.family] = _show(row.agrees)
    return Table.from_rows(f"following-{asks}-by-category", list(rows.values()))


def list_overall(found: Findings) -> Sequence[FollowRow]:
    """Return the rows over all prompt categories."""
    return [row for row in found.follows if row.family is None]


def make_rater_table(results: StudyResults) -> Table:
    """Return how each rater did in the checks."""
    return Table.from_rows(
        "raters",
        [
            {
                "code": row.rater, "questionnaire": row.questionnaire, "answers": row.n_answers,
                "checks": row.n_checks, "wrong": row.n_wrong,
                "passed": "yes" if row.passed else "no",
            }
            for row in results.raters
        ],
    )  # fmt: skip


def _describe_checks(results: StudyResults) -> list[Block]:
    failed = [row for row in results.raters if not row.passed]
    n_checks = sum(row.n_checks for row in results.raters)
    if not n_checks:
        text = "This study has no checks of whether raters look."
        return [Heading("Checks"), Paragraph(text)]
    text = (
        f"{len(failed)} of {len(results.raters)} failed: they got two or more of their checks "
        "wrong, which ask for the photo of the item, or of what the text names, beside a photo of "
        "something else. Checks are in no other number."
    )
    blocks: list[Block] = [Heading("Checks"), Paragraph(text)]
    if failed:
        shown = [
            f"{row.rater}, questionnaire {row.questionnaire}: {row.n_wrong} of {row.n_checks} wrong"
            for row in failed[:MAX_FAILED]
        ]
        more = len(failed) - len(shown)
        blocks.append(Bullets([*shown, *([f"and {more} more"] if more > 0 else [])]))
    return blocks


def _describe_recipe(results: StudyResults) -> list[Block]:
    versions = ", ".join(f"{name} {version}" for name, version in results.packages.items())
    recipes = [
        f"{method.name}: "
        + ", ".join(
            f"{name} {value}" for name, value in method.digests.model_dump().items() if value
        )
        for method in results.methods
    ]
    n_sheets = len(results.raters)
    blocks: list[Block] = [
        Paragraph(
            f"Study {results.study}, answers {results.answers} ({n_sheets} of "
            f"{results.n_expected} expected), seed {results.seed}, {results.code}, {versions}. "
            "Methods:"
        ),
        Bullets(recipes),
    ]
    signatures = [str(info.signature) for info in results.metrics if info.signature]
    if signatures:
        blocks += [Paragraph("Signatures:"), Bullets(signatures, is_code=True)]
    return blocks


def list_study_tables(results: StudyResults) -> list[Table]:
    """Return the tables that are written as CSV."""
    found = [results.everyone, *([results.passed] if results.passed else [])]
    tables = [
        *(make_preference_table(results, one, "majority") for one in found),
        *(make_preference_table(results, one, "answers") for one in found),
        make_strength_table(results.everyone),
        make_agreement_table(results.everyone),
        make_side_table(results.everyone),
        make_rater_table(results),
    ]  # fmt: skip
    if results.metrics:
        tables.append(make_following_table(results, results.everyone))
        tables += [
            make_category_table(results, results.everyone, asks)
            for asks in _list_asks(results.everyone)
        ]
    if results.simulated:
        return [_mark_simulated(table) for table in tables]
    return tables


def _mark_simulated(table: Table) -> Table:
    rows = [{**row, "raters": "simulated"} for row in table.rows]
    return Table(table.name, [*table.columns, "raters"], rows)
