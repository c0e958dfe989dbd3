"""What a study shows: who is preferred, how far people agree, and which metric follows them."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Sequence
from itertools import combinations

import evalica
import numpy as np
import pandas as pd
from scipy import stats as scipy_stats
from scipy.sparse import csr_array

from dreambench.artifacts.results import MetricInfo
from dreambench.artifacts.study import (
    AgreementRow,
    Answers,
    Comparison,
    Findings,
    FollowRow,
    PairRow,
    SideRow,
    StrengthRow,
    Study,
    StudyResults,
    make_share,
)
from dreambench.errors import UserError
from dreambench.machine.environment import describe_code
from dreambench.storage.files import digest
from dreambench.study.resampling import (
    Resamples,
    draw_resamples,
    estimate_share,
    make_interval,
)
from dreambench.study.votes import (
    FIRST,
    SECOND,
    UNDECIDED,
    check_raters,
    count_votes,
    decide,
    leave_out,
    make_votes,
)

PACKAGES = ("evalica", "numpy", "pandas", "scipy")
N_STRENGTHS = 400
"""Resamples in which strengths are fitted."""
TOLERANCE, N_STEPS = 1e-6, 1000
"""Of the fit of strengths."""
SAME_SCORE = 1e-9
"""Scores this close prefer neither image."""
_UNBOUNDED = (-np.inf, np.inf)
Outcome = tuple[str, str, int]
"""First method, second method, and which of them a vote is for."""


def analyse(study: Study, answers: Sequence[Answers], *, seed: int = 0) -> StudyResults:
    """Return what the answers show, of everyone and without those who failed the checks.

    Raises:
        UserError: no question about a comparison was answered.
    """
    raters = check_raters(study, answers)
    passed = leave_out(answers, raters)
    everyone, resampled = find_all(study, answers, seed=seed)
    return StudyResults(
        study=study.digest(),
        simulated=any(one.simulated for one in answers),
        protocol=study.protocol,
        protocol_digest=study.protocol_digest,
        methods=study.methods,
        metrics=study.metrics,
        n_questionnaires=len({one.questionnaire for one in answers}),
        n_expected=study.n_raters,
        n_comparisons=len(study.comparisons),
        resampled=resampled,
        answers=digest([one.model_dump(mode="json") for one in answers]),
        raters=raters,
        everyone=everyone,
        passed=find_all(study, passed, seed=seed)[0] if 0 < len(passed) < len(answers) else None,
        seed=seed,
        packages={name: importlib.metadata.version(name) for name in PACKAGES},
        code=describe_code(),
    )


def find_all(study: Study, answers: Sequence[Answers], *, seed: int) -> tuple[Findings, str]:
    """Return all that is said of some answers, and what their intervals resample.

    Raises:
        UserError: no question about a comparison was answered.
    """
    votes = make_votes(study, answers)
    if votes.empty:
        raise UserError(
            "nobody answered a question about a comparison",
            hint="name the answers of people who went through a questionnaire",
            code="no-answers",
        )
    pairs, strengths, agreement, sides, follows = [], [], [], [], []
    what = ""
    for asks in dict.fromkeys(votes["asks"]):
        own, questions, drawn = resample(votes, asks, seed=seed)
        what = drawn.what
        pairs += find_pairs(asks, own, questions, drawn)
        strengths += _find_strengths(asks, study, own, drawn)
        agreement.append(_find_agreement(asks, own, questions, drawn))
        sides.append(find_side(asks, own, drawn))
        follows += _find_following(asks, study, own, questions, drawn)
    return Findings(
        n_raters=len({one.rater for one in answers}), n_answers=len(votes), pairs=pairs,
        strengths=strengths, agreement=agreement, sides=sides, follows=follows,
    ), what  # fmt: skip


def resample(
    votes: pd.DataFrame, asks: str, *, seed: int
) -> tuple[pd.DataFrame, pd.DataFrame, Resamples]:
    """Return the votes on one kind of question, a row for each question, and resamples of both."""
    own = votes[votes["asks"] == asks].reset_index(drop=True)
    columns = ["questionnaire", "first", "second", "family"]
    questions = count_votes(own).loc[asks].join(own.groupby("comparison")[columns].first())
    questions = questions.reset_index()
    return own, questions, draw_resamples(own, questions, seed=seed)


def find_pairs(
    asks: str, votes: pd.DataFrame, questions: pd.DataFrame, drawn: Resamples
) -> list[PairRow]:
    """Return shares of each pair of methods, by majority (the paper's Table 2) and by answer."""
    chosen_again = choose_again(votes, questions, drawn)
    rows = []
    for first, second in dict.fromkeys(zip(questions["first"], questions["second"], strict=True)):
        for of, frame, column, counts in (
            ("majority", questions, "majority", drawn.questions),
            ("answers", votes, "vote", drawn.answers),
        ):
            is_own = ((frame["first"] == first) & (frame["second"] == second)).to_numpy()
            chosen = frame[column].to_numpy()[is_own]
            again = chosen_again[:, is_own] if of == "majority" else chosen[None]
            shares = [
                estimate_share(
                    (chosen == vote).astype(np.float64),
                    counts[:, is_own],
                    again=(again == vote).astype(np.float64),
                    widening=drawn.widening,
                )
                for vote in (FIRST, SECOND, UNDECIDED)
            ]
            row = {
                "asks": asks, "of": of, "first": first, "second": second,
                "prefers_first": shares[0], "prefers_second": shares[1], "undecided": shares[2],
            }  # fmt: skip
            rows.append(PairRow.model_validate(row))
    return rows


def choose_again(votes: pd.DataFrame, questions: pd.DataFrame, drawn: Resamples) -> np.ndarray:
    """Return the majority of each question among the raters of each resample.

    (1, questions) where questions keep their raters, else (resamples, questions).
    """
    if drawn.raters is None:
        fixed: np.ndarray = questions["majority"].to_numpy()[None]
        return fixed
    places = {name: number for number, name in enumerate(questions["comparison"])}
    own, shape = votes["vote"].to_numpy(), (len(places), len(votes))
    of_vote = [places[name] for name in votes["comparison"]]
    first, second, neither = (
        (csr_array(((own == vote) * 1.0, (of_vote, range(len(votes)))), shape) @ drawn.raters.T).T
        for vote in (FIRST, SECOND, UNDECIDED)
    )
    return decide(first, second, neither)


def _find_strengths(
    asks: str, study: Study, votes: pd.DataFrame, drawn: Resamples
) -> list[StrengthRow]:
    """Return the strength of each method with its interval."""
    names = [method.name for method in study.methods]
    groups, of_vote = _group_votes(votes)
    membership = np.eye(len(groups))[of_vote]
    found = fit_strengths(groups, membership.sum(axis=0), names)
    resampled = np.array(
        [
            fit_strengths(groups, counts, names)
            for counts in drawn.answers[:N_STRENGTHS] @ membership
        ]
    )
    n_votes = [int(((votes["first"] == n) | (votes["second"] == n)).sum()) for n in names]
    return [
        StrengthRow.model_validate(
            {
                "asks": asks, "method": name,
                "strength": make_interval(
                    found[place], resampled[:, place], widening=drawn.widening, n=n_votes[place],
                    bounds=_UNBOUNDED,
                ),
            }
        )
        for place, name in enumerate(names)
    ]  # fmt: skip


def _group_votes(votes: pd.DataFrame) -> tuple[list[Outcome], np.ndarray]:
    """Return the outcomes that there are (first, second, vote), and the place of each vote's."""
    keys = list(zip(votes["first"], votes["second"], votes["vote"], strict=True))
    places = {key: number for number, key in enumerate(dict.fromkeys(keys))}
    return list(places), np.array([places[key] for key in keys])


def fit_strengths(
    outcomes: Sequence[Outcome], counts: np.ndarray, names: Sequence[str]
) -> np.ndarray:
    """Return log strengths of methods, mean 0: Bradley-Terry with ties (Davidson 1970).

    The first is preferred with a chance of a / (a + b + 2 v sqrt(a b)), neither with the rest of
    both, and v is fitted too (Newman 2023). `counts` says how often there was each outcome. One
    undecided answer is added to each pair, so that a method that was always preferred has a finite
    strength.
    """
    pairs = list(combinations(names, 2))
    winner = {FIRST: evalica.Winner.X, SECOND: evalica.Winner.Y, UNDECIDED: evalica.Winner.Draw}
    scores = evalica.newman(
        [*(first for first, _, _ in outcomes), *(first for first, _ in pairs)],
        [*(second for _, second, _ in outcomes), *(second for _, second in pairs)],
        [*(winner[vote] for _, _, vote in outcomes), *[evalica.Winner.Draw] * len(pairs)],
        index=pd.Index(names),
        weights=[*counts.tolist(), *[1.0] * len(pairs)],
        tolerance=TOLERANCE,
        limit=N_STEPS,
    ).scores
    found = scores.to_dict()
    logs = np.log([found[name] for name in names])
    centred: np.ndarray = logs - logs.mean()
    return centred


def _find_agreement(
    asks: str, votes: pd.DataFrame, questions: pd.DataFrame, drawn: Resamples
) -> AgreementRow:
    """Return Krippendorff's alpha of left, right and neither, over questions that two answered.

    Sides are even, and so chance is. Of first and second method it would leave out what people
    agree on most: that one method is better throughout.
    """
    sides = pd.DataFrame(
        {name: votes["is_left"] == value for name, value in (("left", 1.0), ("right", 0.0))}
    )
    by_question = sides.groupby(votes["comparison"]).sum().loc[questions["comparison"]]
    counts = np.column_stack([by_question.to_numpy(), questions["n_undecided"].to_numpy()])
    is_shared = counts.sum(axis=1) >= 2
    shared = counts[is_shared]
    if not len(shared):
        nothing = make_share(float("nan"), float("nan"), float("nan"), 0)
        return AgreementRow.model_validate({"asks": asks, "alpha": nothing})
    # Who gave which rating does not count for alpha: a column is a question.
    ratings = pd.DataFrame([np.repeat([1.0, 2.0, 3.0], row).tolist() for row in shared]).T
    alpha = make_interval(
        evalica.alpha(ratings).alpha,
        compute_alphas(shared, drawn.questions[:, is_shared]),
        widening=drawn.widening,
        n=len(shared),
        bounds=(-1.0, 1.0),
    )
    return AgreementRow.model_validate({"asks": asks, "alpha": alpha})


def compute_alphas(counts: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Return nominal alpha of each resample: (resamples,) from `times` (resamples, questions).

    `counts` (questions, choices) are the votes of each question, two or more. The same as
    `evalica.alpha` of questions that are there so often (Krippendorff 2018, section 12.3), for
    all resamples at once. NaN where all votes are alike.
    """
    each = counts.sum(axis=1, keepdims=True)
    agreeing = times @ (counts * (counts - 1) / (each - 1)).sum(axis=1)
    by_choice = times @ counts
    n = by_choice.sum(axis=1)
    expected = n**2 - (by_choice**2).sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        alphas: np.ndarray = 1 - (n - 1) * (n - agreeing) / expected
    alphas[expected == 0] = np.nan
    return alphas


def find_side(asks: str, votes: pd.DataFrame, drawn: Resamples) -> SideRow:
    """Return the share of the left side among decided answers, and a sign test over raters.

    Answers of one person have that person's habit in common; so raters are the sample.
    """
    left = votes["is_left"].to_numpy()
    is_decided = ~np.isnan(left)
    share = estimate_share(left[is_decided], drawn.answers[:, is_decided], widening=drawn.widening)
    more = (2 * votes["is_left"] - 1).groupby(votes["rater"]).sum()
    n_left, n_right = int((more > 0).sum()), int((more < 0).sum())
    p = scipy_stats.binomtest(n_left, n_left + n_right).pvalue if n_left + n_right else None
    return SideRow.model_validate(
        {"asks": asks, "left": share, "n_left": n_left, "n_right": n_right, "p": p}
    )


def _find_following(
    asks: str, study: Study, votes: pd.DataFrame, questions: pd.DataFrame, drawn: Resamples
) -> list[FollowRow]:
    """Return how often each metric prefers what the majority does, overall and by category.

    Only questions with a decided majority count. A metric that has both images alike agrees by
    half. The first rows are of one rater, held against the majority of the others.
    """
    comparisons = {one.id: one for one in study.comparisons}
    is_decided = (questions["majority"] != UNDECIDED).to_numpy()
    decided, counts = questions[is_decided], drawn.questions[:, is_decided]
    shown = [comparisons[name] for name in decided["comparison"]]
    majority = decided["majority"].to_numpy()
    agreeing, others = _hold_against_others(votes, questions)
    of_votes = votes["family"].to_numpy()[others]
    measured: dict[str | None, tuple[np.ndarray, np.ndarray, np.ndarray]] = {
        None: (agreeing, of_votes, drawn.answers[:, others])
    }
    for info in study.metrics:
        agrees = [_agree(info, one, m) for one, m in zip(shown, majority, strict=True)]
        measured[info.name] = (np.array(agrees), decided["family"].to_numpy(), counts)
    families = list(dict.fromkeys(one.family for one in study.comparisons))
    rows = []
    for name, (values, of_family, drawn_counts) in measured.items():
        is_known = ~np.isnan(values)
        if not is_known.any():
            continue
        for family in (None, *families) if len(families) > 1 else (None,):
            kept = is_known if family is None else is_known & (of_family == family)
            share = estimate_share(values[kept], drawn_counts[:, kept], widening=drawn.widening)
            rows.append(
                FollowRow.model_validate(
                    {"asks": asks, "metric": name, "family": family, "agrees": share}
                )
            )
    return rows


def _agree(info: MetricInfo, one: Comparison, majority: int) -> float:
    """Return 1 where a metric prefers what the majority does, 0 where not, 1/2 for alike images."""
    first, second = (image.scores.get(info.name) for image in (one.first_image, one.second_image))
    if first is None or second is None:
        return float("nan")
    difference = (first - second) * (1 if info.higher_is_better else -1)
    return 0.5 if abs(difference) < SAME_SCORE else float((difference > 0) == (majority == FIRST))


def _hold_against_others(
    votes: pd.DataFrame, questions: pd.DataFrame
) -> tuple[np.ndarray, np.ndarray]:
    """Return whether each person agrees with a decided majority of the others, and for which votes.

    Someone undecided agrees by half, as a metric that has both images alike.
    """
    counts = questions.set_index("comparison").loc[
        votes["comparison"], ["n_first", "n_second", "n_undecided"]
    ]
    own = votes["vote"].to_numpy()
    others = [
        counts[name].to_numpy() - (own == vote)
        for name, vote in (("n_first", FIRST), ("n_second", SECOND), ("n_undecided", UNDECIDED))
    ]
    majority = decide(*others)
    is_decided = majority != UNDECIDED
    agrees = np.where(own == UNDECIDED, 0.5, (own == majority).astype(np.float64))
    return agrees[is_decided], is_decided
