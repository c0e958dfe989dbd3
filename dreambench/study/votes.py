"""Answers as votes between methods: a row an answer, the majority of each question, checks."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import pandas as pd

from dreambench.artifacts.study import Answers, RaterRow, Study

MAX_WRONG = 1
"""Checks that a person may get wrong by a slip; who clicks blindly gets more of six wrong."""
FIRST, UNDECIDED, SECOND = 1, 0, -1
COLUMNS = [
    "asks", "comparison", "questionnaire", "rater", "vote", "is_left", "first", "second", "family",
]  # fmt: skip


def make_votes(study: Study, answers: Sequence[Answers]) -> pd.DataFrame:
    """Return a row for each answer to a comparison, with COLUMNS; answers to checks are left out.

    `vote` is FIRST, SECOND or UNDECIDED; `is_left` is 1 for the left image, 0 for the right one,
    NaN for neither.
    """
    comparisons = {one.id: one for one in study.comparisons}
    rows = []
    for sheet in answers:
        for question in study.questionnaires[sheet.questionnaire - 1].questions:
            choice, one = sheet.answers.get(question.id), comparisons.get(question.of)
            if choice is None or one is None:
                continue
            is_left = np.nan if choice == "neither" else float(choice == "left")
            is_first = (choice == "left") == question.first_is_left
            vote = UNDECIDED if choice == "neither" else FIRST if is_first else SECOND
            rows.append(
                [
                    question.asks, one.id, sheet.questionnaire, sheet.rater, vote, is_left,
                    one.first, one.second, one.family,
                ]
            )  # fmt: skip
    return pd.DataFrame(rows, columns=COLUMNS)


def count_votes(votes: pd.DataFrame) -> pd.DataFrame:
    """Return the votes of each question: a row for each (asks, comparison).

    Columns: n_first, n_second, n_undecided, and `majority`: what more raters chose than anything
    else, UNDECIDED where that is nothing (1 : 1 : 1, which the paper says nothing of).
    """
    counts = pd.DataFrame(
        {
            name: (votes["vote"] == vote).groupby([votes["asks"], votes["comparison"]]).sum()
            for name, vote in (("n_first", FIRST), ("n_second", SECOND), ("n_undecided", UNDECIDED))
        }
    )
    first, second, neither = (
        counts[name].to_numpy() for name in ("n_first", "n_second", "n_undecided")
    )
    counts["majority"] = decide(first, second, neither)
    return counts


def decide(first: np.ndarray, second: np.ndarray, neither: np.ndarray) -> np.ndarray:
    """Return the majority of each question from its numbers of votes."""
    return np.where(
        (first > second) & (first > neither),
        FIRST,
        np.where((second > first) & (second > neither), SECOND, UNDECIDED),
    )


def check_raters(study: Study, answers: Sequence[Answers]) -> list[RaterRow]:
    """Return how each person did in the checks of each questionnaire that they answered."""
    checks = {check.id for check in study.checks}
    rows = []
    for sheet in answers:
        questions = study.questionnaires[sheet.questionnaire - 1].questions
        own = [question for question in questions if question.of in checks]
        given = [question for question in own if question.id in sheet.answers]
        n_wrong = sum(
            sheet.answers[question.id] != ("left" if question.first_is_left else "right")
            for question in given
        )
        rows.append(
            RaterRow(
                rater=sheet.rater, questionnaire=sheet.questionnaire,
                n_answers=len(sheet.answers) - len(given), n_checks=len(given), n_wrong=n_wrong,
                passed=n_wrong <= MAX_WRONG,
            )
        )  # fmt: skip
    return rows


def leave_out(answers: Sequence[Answers], raters: Collection[RaterRow]) -> list[Answers]:
    """Return the answers of those who passed their checks."""
    failed = {(row.questionnaire, row.rater) for row in raters if not row.passed}
    return [one for one in answers if (one.questionnaire, one.rater) not in failed]
