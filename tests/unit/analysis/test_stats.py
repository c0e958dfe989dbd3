"""Statistics against values that can be worked out by hand, and rules that hold for all values."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dreambench.analysis.pairing import compare_paired
from dreambench.analysis.stats import (
    adjust_holm,
    compute_bootstrap_p,
    estimate_by_bootstrap,
    estimate_mean,
    estimate_table,
    mean_by_subject,
    why_no_interval,
)
from dreambench.metrics.registry import load_own_metrics


def scores(rows):
    columns = ["subject", "family", "metric", "value", "n_pairs"]
    return pd.DataFrame(rows, columns=columns).assign(prompt_id="red", kind="live")


def test_pairs_are_weighted_within_a_subject_and_subjects_count_alike():
    frame = scores(
        [
            ["a", "art", "dino", 0.2, 1],
            ["a", "art", "dino", 0.8, 3],
            ["b", "art", "dino", 0.5, 1],
        ]
    )
    values = mean_by_subject(frame).set_index("subject")["value"]
    assert values["a"] == pytest.approx((0.2 + 3 * 0.8) / 4)
    assert estimate_table(frame)["mean"].item() == pytest.approx((0.65 + 0.5) / 2)


def test_interval_is_students():
    # Worked out: mean 2, s = 1, n = 3, t(.975, 2) = 4.30265.
    found = estimate_mean(np.array([1.0, 2.0, 3.0]))
    assert (found.mean, found.n_subjects) == (2.0, 3)
    assert found.high - found.mean == pytest.approx(4.30265 / np.sqrt(3), abs=1e-4)


def test_interval_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(2000):
        found = estimate_mean(rng.normal(0.5, 0.1, size=8))
        hits += found.low <= 0.5 <= found.high
    assert 0.935 < hits / 2000 < 0.965


def test_one_subject_has_no_interval_and_none_has_no_mean():
    found = estimate_mean(np.array([1.0]))
    assert np.isnan(found.low)
    assert why_no_interval(1, found.low) == why_no_interval(1, None)
    assert why_no_interval(1, None) is not None
    assert why_no_interval(2, 0.3) is None
    none = estimate_mean(np.array([]))
    assert np.isnan(none.mean)
    assert why_no_interval(0, none.low) not in (None, why_no_interval(1, None))


def test_subjects_that_are_all_alike_do_not_claim_that_every_subject_is():
    # What a cosine of a vector with itself comes to, in 32 bits, differs from 1 a little.
    for values in (np.ones(8), 1 - 1e-6 * np.arange(8)):
        found = estimate_mean(values, bounds=(0.0, 1.0))
        assert (found.mean, found.n_subjects) == (values.mean(), 8)
        assert np.isnan([found.low, found.high]).all()
        assert why_no_interval(8, found.low) not in (
            None, why_no_interval(0, None), why_no_interval(1, None)
        )  # fmt: skip
    assert estimate_mean(1 - 1e-4 * np.arange(8)).low < 1


def test_paired_difference_is_sharper_than_two_intervals():
    rng = np.random.default_rng(1)
    base = rng.normal(0.5, 0.2, size=10)

    def rows(shift):
        return [[f"s{i}", "art", "dino", v + shift[i], 1] for i, v in enumerate(base)]

    gains = 0.05 + 0.01 * np.linspace(-1, 1, 10)
    found = compare_paired(scores(rows(gains)), scores(rows(np.zeros(10))))
    assert found["mean"].item() == pytest.approx(0.05)
    assert 0.04 < found["low"].item() < 0.05


def test_pairing_uses_common_subjects_only():
    first = scores([["a", "art", "dino", 1.0, 1], ["b", "art", "dino", 9.0, 1]])
    second = scores([["a", "art", "dino", 0.4, 1]])
    found = compare_paired(first, second)
    assert found["n_subjects"].item() == 1
    assert found["mean"].item() == pytest.approx(0.6)


@pytest.mark.parametrize("name", load_own_metrics())
def test_an_interval_ends_where_the_range_does(name):
    bounds = {name: load_own_metrics()[name].bounds}
    low, high = bounds[name]
    for end, other in ((high, 1.0), (low, -1.0)):
        rim = end if np.isfinite(end) else 5 * other
        # One subject of five is far inside: a symmetric interval would pass the rim.
        rows = [[str(i), "art", name, rim, 1] for i in range(4)]
        rows.append(["4", "art", name, rim - other, 1])
        (found,) = estimate_table(scores(rows), bounds=bounds).itertuples()
        free = estimate_mean(np.array([row[3] for row in rows]))
        assert found.mean == free.mean
        assert (found.low, found.high) == (max(free.low, low), min(free.high, high))
        assert low <= found.low < found.mean < found.high <= high


def test_a_mean_that_rounding_puts_outside_of_its_range_stays_in_its_interval():
    found = estimate_mean(np.array([1.000001] * 99 + [0.99998]), bounds=(-1.0, 1.0))
    assert found.low <= found.mean <= found.high
    assert found.mean > 1


p_values = st.lists(st.floats(0, 1), min_size=1, max_size=12)
with_gaps = st.lists(st.one_of(st.floats(0, 1), st.just(float("nan"))), max_size=12)


@given(p_values)
def test_holm_lowers_no_p_stays_below_one_and_keeps_their_order(values):
    found = adjust_holm(np.array(values))
    assert (found >= values).all() and (found <= 1).all()
    order = np.argsort(values, kind="stable")
    assert (np.diff(found[order]) >= 0).all()
    assert found.min() == min(1.0, min(values) * len(values))


@given(p_values, st.randoms(use_true_random=False))
def test_holm_depends_on_no_order(values, random):
    order = random.sample(range(len(values)), len(values))
    shuffled = adjust_holm(np.array(values)[order])
    assert shuffled.tolist() == adjust_holm(np.array(values))[order].tolist()


@given(with_gaps)
def test_holm_leaves_what_was_not_tested_out(values):
    values = np.array(values, np.float64)
    found = adjust_holm(values)
    tested = ~np.isnan(values)
    assert (np.isnan(found) == ~tested).all()
    assert found[tested].tolist() == adjust_holm(values[tested]).tolist()


def test_a_bootstrap_t_interval_is_skewed_as_the_subjects_are():
    values = np.random.default_rng(5).exponential(1, 10)
    plain, found = estimate_mean(values), estimate_by_bootstrap(values)
    assert found.mean == plain.mean
    assert found == estimate_by_bootstrap(values)
    above, below = found.high - found.mean, found.mean - found.low
    assert above > 1.3 * below
    # Of values drawn from a normal distribution it is Student's, nearly.
    many = np.random.default_rng(6).normal(0, 1, 200)
    plain, found = estimate_mean(many), estimate_by_bootstrap(many)
    assert found.low == pytest.approx(plain.low, abs=0.01)
    assert found.high == pytest.approx(plain.high, abs=0.01)


def test_a_bootstrap_t_interval_ends_where_the_range_does_and_has_the_same_gaps():
    values = np.array([0.9, 0.95, 1.0, 1.0, 1.0, 1.0, 0.2, 1.0])
    assert estimate_by_bootstrap(values, bounds=(0.0, 1.0)).low >= 0
    assert estimate_by_bootstrap(values, bounds=(0.0, 1.0)).high <= 1
    for none in ([], [0.3], [0.3, 0.3, 0.3]):
        assert np.isnan(estimate_by_bootstrap(np.array(none)).low)


def test_the_bootstrap_t_test_is_the_interval_turned_round():
    values = np.random.default_rng(7).exponential(1, 10)
    interval = estimate_by_bootstrap(values)
    for end, side in ((interval.low, 1), (interval.high, -1)):
        assert compute_bootstrap_p(values - (end - side * 1e-2)) < 0.05
        assert compute_bootstrap_p(values - (end + side * 1e-2)) > 0.05
    assert compute_bootstrap_p(np.zeros(8)) == 1.0
    assert compute_bootstrap_p(np.ones(8)) < 0.001
    assert np.isnan(compute_bootstrap_p(np.array([0.3])))


@pytest.mark.parametrize("n", [8, 10])
def test_the_bootstrap_t_holds_skewed_means_more_often(n):
    draws = np.random.default_rng(8).exponential(1, (300, n))
    held = {
        estimate.__name__: np.mean([
            found.low <= 1 <= found.high for found in (estimate(values) for values in draws)
        ])
        for estimate in (estimate_mean, estimate_by_bootstrap)
    }  # fmt: skip
    assert held["estimate_by_bootstrap"] > held["estimate_mean"] + 0.02
