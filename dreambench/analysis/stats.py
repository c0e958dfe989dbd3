"""From rows to numbers: means over pairs, then subjects; intervals and tests over subjects.

Subjects are what is sampled from a larger world, so they alone are the sample. Images of one
subject come from one trained model and are not independent. What prompts and images add by chance
is in the spread of the subjects' means already; to resample them as well would count it twice. The
prompts are a protocol's own, frozen and not sampled: an interval speaks of these prompts.
`reports/benchmarks/coverage.md` shows how often the intervals and the test are right.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import numpy as np
import pandas as pd
from scipy import special  # Student's t; scipy.stats takes half a second to import

from dreambench.types import Bounds

CONFIDENCE = 0.95
MAX_EXACT_SUBJECTS = 16
"""Up to here all 2^n sign flips are counted; above, N_FLIPS of them are drawn."""
N_FLIPS = 9999
N_RESAMPLES = 9999
"""Draws of the bootstrap-t."""
Way = Literal["student-t", "bootstrap-t"]
"""How intervals and tests are made: by Student's t and sign flips, or both by the bootstrap-t."""
MIN_BOOTSTRAP_SUBJECTS = 6
"""Below it, resamples of so few values are too much alike for their quantiles to mean anything."""
UNBOUNDED: Bounds = (-np.inf, np.inf)
SAME = 1e-5
"""Values this close are equal but for the rounding of 32-bit embeddings."""


@dataclass(frozen=True)
class Estimate:
    """A mean over subjects with its interval, NaN where there is none (`why_no_interval`)."""

    mean: float
    low: float
    high: float
    n_subjects: int


def mean_by_subject(scores: pd.DataFrame, *, by: Sequence[str] = ()) -> pd.DataFrame:
    """Mean over all pairs of a subject: columns metric, (by...), subject, value.

    Each row of scores is itself a mean over `n_pairs`, and is weighted with them.
    """
    keys = ["metric", *by, "subject"]
    weighted = scores.assign(total=scores["value"] * scores["n_pairs"])
    sums = weighted.groupby(keys, sort=False)[["total", "n_pairs"]].sum().reset_index()
    sums["value"] = sums["total"] / sums["n_pairs"]
    return sums[[*keys, "value"]]


def estimate_mean(values: np.ndarray, *, bounds: Bounds = UNBOUNDED) -> Estimate:
    """Mean of one value a subject with a Student-t interval (subjects are the sample).

    A t interval, since with as few subjects as there are a percentile bootstrap over them is too
    narrow, and one over images much too narrow; strongly skewed subjects are a limit of all
    (`reports/benchmarks/coverage.md`). It ends where the range of the values does (`bounds`), which
    their mean cannot leave, so that its coverage stays the same. One subject has no interval, and
    subjects that all have the same value (a share of 1 in each) have none either: it would have no
    width, and claim that all other subjects are so. The bounds are then NaN, and `why_no_interval`
    says why.
    """
    values = np.asarray(values, np.float64)
    n = len(values)
    if n == 0:
        return Estimate(float("nan"), float("nan"), float("nan"), 0)
    mean = float(values.mean())
    if np.ptp(values) < SAME:
        return Estimate(mean, float("nan"), float("nan"), n)
    half = float(special.stdtrit(n - 1, 0.5 + CONFIDENCE / 2) * values.std(ddof=1) / np.sqrt(n))
    # Rounding may put the mean itself a last digit outside of its range.
    least, most = min(bounds[0], mean), max(bounds[1], mean)
    return Estimate(mean, max(mean - half, least), min(mean + half, most), n)


def _draw_ratios(values: np.ndarray, *, seed: int) -> np.ndarray:
    """Return t of resamples of the values around their mean; those of one value alone are left out.

    This is the bootstrap-t (Efron and Tibshirani 1993, section 12.5): the quantiles of t are those
    of the subjects themselves, skewed as they are, and not Student's.
    """
    n = len(values)
    rng = np.random.default_rng(seed)
    samples = values[rng.integers(n, size=(N_RESAMPLES, n))]
    errors = samples.std(axis=1, ddof=1) / np.sqrt(n)
    varied = np.ptp(samples, axis=1) >= SAME
    found: np.ndarray = (samples.mean(axis=1) - values.mean())[varied] / errors[varied]
    return found


def estimate_by_bootstrap(
    values: np.ndarray, *, bounds: Bounds = UNBOUNDED, seed: int = 0
) -> Estimate:
    """Mean of one value a subject with a bootstrap-t interval, cut at `bounds`.

    It covers the true mean more often than Student's where subjects are skewed, and is wider
    (`reports/benchmarks/coverage.md`). There is none where `estimate_mean` has none.
    """
    values = np.asarray(values, np.float64)
    plain = estimate_mean(values, bounds=bounds)
    if np.isnan(plain.low):
        return plain
    n, mean = len(values), plain.mean
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(_draw_ratios(values, seed=seed), [tail, 1 - tail])
    error = float(values.std(ddof=1) / np.sqrt(n))
    least, most = min(bounds[0], mean), max(bounds[1], mean)
    return Estimate(
        mean, max(mean - float(high) * error, least), min(mean - float(low) * error, most), n
    )


def compute_bootstrap_p(differences: np.ndarray, *, seed: int = 0) -> float:
    """Two-sided p-value of the hypothesis that the mean difference is zero, by the bootstrap-t.

    Differences may be skewed, where the sign-flip test takes them as symmetric. NaN below two
    subjects; 1 for subjects that are all zero.
    """
    differences = np.asarray(differences, np.float64)
    n = len(differences)
    if n < 2:
        return float("nan")
    if np.abs(differences).max() < SAME:
        return 1.0
    if np.ptp(differences) < SAME:
        return 1 / (N_RESAMPLES + 1)
    ratios = _draw_ratios(differences, seed=seed)
    found = differences.mean() / (differences.std(ddof=1) / np.sqrt(n))
    above, below = (ratios >= found).sum(), (ratios <= found).sum()
    return float(min(1.0, 2 * (min(above, below) + 1) / (len(ratios) + 1)))


def estimate_table(
    scores: pd.DataFrame,
    *,
    by: Sequence[str] = (),
    bounds: Mapping[str, Bounds] = MappingProxyType({}),
) -> pd.DataFrame:
    """Return estimates for each metric (and group): metric, (by...), mean, low, high, n_subjects.

    `bounds` are the ends of each metric's range; intervals of others have none.
    """
    subjects = mean_by_subject(scores, by=by)
    keys = ["metric", *by]
    rows = []
    for key, values in subjects.groupby(keys, sort=False)["value"]:
        names = key if isinstance(key, tuple) else (key,)
        found = estimate_mean(values.to_numpy(), bounds=bounds.get(names[0], UNBOUNDED))
        rows.append([*names, found.mean, found.low, found.high, found.n_subjects])
    return pd.DataFrame(rows, columns=[*keys, "mean", "low", "high", "n_subjects"])


def why_no_interval(n_subjects: int, low: float | None) -> str | None:
    """Why an estimate of so many subjects has no interval; None when it has one, from `low` on."""
    if low is not None and not np.isnan(low):
        return None
    if n_subjects < 2:
        return "one subject does not show how subjects differ" if n_subjects else "no subject"
    return "subjects with the same value do not show how subjects differ"


def compute_sign_flip_p(differences: np.ndarray, *, seed: int = 0) -> float:
    """Two-sided p-value of the hypothesis that paired differences are symmetric around zero.

    `differences` has one value a subject. Were the methods alike, either could have been the first
    in each subject: the share of sign flips whose mean is as far from zero. All 2^n flips up to
    MAX_EXACT_SUBJECTS; above, N_FLIPS seeded draws with the outcome itself among them (Phipson and
    Smyth 2010). What is equal but for rounding is equal. NaN below two subjects.
    """
    differences = np.asarray(differences, np.float64)
    n = len(differences)
    if n < 2:
        return float("nan")
    largest = np.abs(differences).max()
    if largest < SAME:
        return 1.0
    from scipy.stats import permutation_test  # noqa: PLC0415  (slow import)

    found = permutation_test(
        # At most 1 in size and to 12 digits, so that sums in another order are ties, not more.
        (differences / largest,),
        lambda flipped, axis: flipped.mean(axis=axis).round(12),
        permutation_type="samples",
        vectorized=True,
        n_resamples=2**n if n <= MAX_EXACT_SUBJECTS else N_FLIPS,
        rng=np.random.default_rng(seed),
    )
    return float(found.pvalue)


def compute_t_p(differences: np.ndarray) -> float:
    """Two-sided p-value of the hypothesis that the mean difference is zero, by Student's t.

    It says the same as whether the interval of `estimate_mean` holds zero, at any level: the
    sign-flip test of a few subjects has no p-value small enough for an adjustment over the pairs of
    many methods. NaN below two subjects; differences without a spread get the smallest p-value of
    that test, since Student's t has none for them.
    """
    differences = np.asarray(differences, np.float64)
    n = len(differences)
    if n < 2:
        return float("nan")
    if np.abs(differences).max() < SAME:
        return 1.0
    if np.ptp(differences) < SAME:
        return smallest_p(n)
    t = differences.mean() / (differences.std(ddof=1) / np.sqrt(n))
    return float(2 * special.stdtr(n - 1, -abs(t)))


def smallest_p(n_subjects: int, way: Way = "student-t") -> float:
    """The smallest p-value that a test of so many subjects can give; NaN below two subjects."""
    if n_subjects < 2:
        return float("nan")
    if way == "bootstrap-t":
        return 2 / (N_RESAMPLES + 1)
    return 2 / (2**n_subjects if n_subjects <= MAX_EXACT_SUBJECTS else N_FLIPS + 1)


def adjust_holm(p_values: np.ndarray) -> np.ndarray:
    """Holm's step-down adjustment (1979): (m,) -> (m,), over all p-values given.

    What has no p-value (NaN) stays so, and is none of the m.
    """
    p_values = np.asarray(p_values, np.float64)
    adjusted = np.full(len(p_values), np.nan)
    tested = np.flatnonzero(~np.isnan(p_values))
    order = tested[np.argsort(p_values[tested], kind="stable")]
    steps = p_values[order] * (len(order) - np.arange(len(order)))
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return adjusted
