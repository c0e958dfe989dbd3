"""Intervals of a study: raters and comparisons are both samples, and so both resampled.

Each questionnaire has comparisons and raters of its own. Where there are enough, whole
questionnaires are drawn again, and with them both. Where there are few, raters and comparisons are
drawn each for themselves, and an answer counts as often as the two together (the crossed, or
pigeonhole, bootstrap: Owen 2007); that is on the wide side, since the chance in a single answer is
then drawn twice, and a majority is that of the raters who were drawn. Subjects and methods stay: an
interval speaks of these.
`reports/benchmarks/user-study.md` shows how often the intervals contain the true value.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats as scipy_stats

from dreambench.analysis.stats import CONFIDENCE
from dreambench.artifacts.study import Share, make_share

N_RESAMPLES = 1000
MIN_SHEETS = 8
"""Questionnaires from which on they are drawn whole."""
MIN_UNITS = 3
"""Raters and comparisons below which there is no interval."""


@dataclass(frozen=True)
class Resamples:
    """How often each answer counts in each resample, and each question: (N_RESAMPLES, n) each.

    `raters` says how often the rater of each answer was drawn; None where whole questionnaires
    were, in which each question keeps its raters. `widening` is what an interval of so few is
    widened by, as Student's t does; NaN where there is too little for any interval. `what` says in
    words what was drawn.
    """

    answers: np.ndarray
    questions: np.ndarray
    raters: np.ndarray | None
    widening: float
    what: str


def draw_resamples(votes: pd.DataFrame, questions: pd.DataFrame, *, seed: int) -> Resamples:
    """Draw resamples of votes (`votes.make_votes`) and of their questions.

    `questions` has the columns comparison and questionnaire, in any order.
    """
    rng = np.random.default_rng(seed)
    sheets, of_vote = _number(votes["questionnaire"])
    if len(sheets) >= MIN_SHEETS:
        counts = _draw(len(sheets), rng)
        place = {sheet: number for number, sheet in enumerate(sheets)}
        of_question = [place[sheet] for sheet in questions["questionnaire"]]
        return Resamples(
            counts[:, of_vote], counts[:, of_question], None, _widen(len(sheets)),
            f"{len(sheets)} questionnaires, each with its raters and comparisons",
        )  # fmt: skip
    raters, of_rater = _number(votes["rater"])
    comparisons, of_comparison = _number(votes["comparison"])
    by_rater, by_comparison = _draw(len(raters), rng), _draw(len(comparisons), rng)
    place = {name: number for number, name in enumerate(comparisons)}
    least = min(len(raters), len(comparisons))
    return Resamples(
        by_rater[:, of_rater] * by_comparison[:, of_comparison],
        by_comparison[:, [place[name] for name in questions["comparison"]]],
        by_rater[:, of_rater],
        _widen(least) if least >= MIN_UNITS else float("nan"),
        f"{len(raters)} raters and {len(comparisons)} comparisons, crossed",
    )


def _number(names: pd.Series) -> tuple[list[object], np.ndarray]:
    """Return the names that there are, sorted, and the place of each row's among them."""
    codes, found = pd.factorize(names, sort=True)
    return list(found), codes


def _draw(n: int, rng: np.random.Generator) -> np.ndarray:
    """Return how often each of n things is drawn, in each resample."""
    return rng.multinomial(n, np.full(n, 1 / n), size=N_RESAMPLES).astype(np.float64)


def _widen(n: int) -> float:
    if n < 2:
        return float("nan")
    tail = 0.5 + CONFIDENCE / 2
    ratio = scipy_stats.t.ppf(tail, n - 1) / scipy_stats.norm.ppf(tail)
    return float(ratio * np.sqrt(n / (n - 1)))


def make_interval(
    found: float,
    resampled: np.ndarray,
    *,
    widening: float,
    n: int,
    bounds: tuple[float, float] = (0.0, 1.0),
) -> Share:
    """Return a number with the quantiles of its resamples, widened around it and cut at `bounds`.

    There is no interval where all resamples are alike, since it would claim that all others are,
    nor where a tenth of them has no value.
    """
    known = resampled[~np.isnan(resampled)]
    if (
        np.isnan(found) or np.isnan(widening) or len(known) < 0.9 * len(resampled)
        or np.ptp(known) < 1e-9
    ):  # fmt: skip
        return make_share(found, float("nan"), float("nan"), n)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(known, [tail, 1 - tail])
    low, high = found - (found - low) * widening, found + (high - found) * widening
    low, high = max(min(low, found), bounds[0]), min(max(high, found), bounds[1])
    return make_share(found, low, high, n)


def estimate_share(
    values: np.ndarray, counts: np.ndarray, *, widening: float, again: np.ndarray | None = None
) -> Share:
    """Return the mean of values in [0, 1] with its interval; `counts` (resamples, n) of them.

    `again` (resamples or 1, n) are the values in each resample, where these differ. A majority of
    raters drawn again is undecided more often or less; so their mean is set to the mean that was
    found.
    """
    if not len(values):
        return make_share(float("nan"), float("nan"), float("nan"), 0)
    found, totals = float(values.mean()), counts.sum(axis=1)
    drawn = values[None] if again is None else again
    with np.errstate(invalid="ignore", divide="ignore"):
        resampled = np.einsum("rn,rn->r", counts, np.broadcast_to(drawn, counts.shape)) / totals
    if len(drawn) > 1:
        resampled += found - np.nanmean(resampled)
    return make_interval(found, resampled, widening=widening, n=len(values))
