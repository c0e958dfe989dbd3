"""Ranks: one more than the number of methods that are shown to be better."""

import numpy as np
import pandas as pd
import pytest
from scored_runs import frame, info_of

from dreambench.analysis.comparison import compare_paired
from dreambench.analysis.stats import compute_t_p, estimate_mean, smallest_p
from dreambench.leaderboard.ranking import rank_methods

N_SUBJECTS = 8
BASE = np.linspace(0.2, 0.8, N_SUBJECTS)
NOISE = np.random.default_rng(0).normal(0, 0.01, (9, N_SUBJECTS))
NOISE -= NOISE.mean(axis=1, keepdims=True)


def scores_of(values, metric="dino", family="art"):
    return frame(*((f"s{n}", family, "p", metric, value) for n, value in enumerate(values)))


def rank(*values, metric="dino"):
    named = {f"m{n}": scores_of(one, metric) for n, one in enumerate(values)}
    return rank_methods(named, info_of(metric))


def test_a_clear_order_is_ranked_one_by_one():
    found = rank(BASE + NOISE[0], BASE + 0.3 + NOISE[1], BASE + 0.6 + NOISE[2])
    assert found.ranks == {"m0": 3, "m1": 2, "m2": 1}
    assert found.n_shown == len(found.pairs) == 3
    assert {pair.better for pair in found.pairs} == {"m1", "m2"}


def test_lower_is_better_where_the_metric_says_so():
    assert not info_of("pixel-match").higher_is_better
    found = rank(BASE + NOISE[0], BASE + 0.3 + NOISE[1], metric="pixel-match")
    assert found.ranks == {"m0": 1, "m1": 2}


def test_methods_that_no_test_tells_apart_share_a_rank_and_the_next_one_is_skipped():
    found = rank(BASE + NOISE[0], BASE + NOISE[1], BASE + NOISE[2], BASE - 0.4 + NOISE[3])
    assert found.ranks == {"m0": 1, "m1": 1, "m2": 1, "m3": 4}
    assert found.n_shown == 3


def test_equal_methods_share_a_rank_and_their_p_is_one():
    found = rank(BASE, BASE)
    assert found.ranks == {"m0": 1, "m1": 1}
    assert found.pairs[0].p == 1 and found.pairs[0].better == ""


def test_one_that_is_shown_better_never_shares_a_rank():
    """Of two directly tested ones, or where a third one stands between them."""
    wide = np.array([0.9, -0.7] * 4)
    # m0 > m1 varies as one of the pair does; m1 > m2 is steady; m0 and m2 are not told apart.
    values = [BASE + 0.5 + NOISE[0], BASE + 0.1 + NOISE[1], BASE + wide * 0.5 + NOISE[2]]
    for order in ([0, 1, 2], [2, 1, 0], [1, 2, 0]):
        found = rank(*(values[n] for n in order))
        for pair in found.pairs:
            if pair.better:
                worse = pair.second if pair.better == pair.first else pair.first
                assert found.ranks[pair.better] < found.ranks[worse]


def test_better_by_way_of_a_third_counts():
    from dreambench.leaderboard import ranking  # noqa: PLC0415

    def pair(first, second, better):
        return ranking.Pair(first, second, 0, 0, 0, 8, 0.1, 0.1, better)

    pairs = [pair("a", "b", "a"), pair("b", "c", "b"), pair("a", "c", "")]
    assert ranking._count_better(["a", "b", "c"], pairs) == {"a": 1, "b": 2, "c": 3}


def test_holm_runs_over_all_pairs():
    """A difference that one test alone would show is not shown among many."""
    noise = NOISE[8]
    small = BASE + 3 * noise.std(ddof=1) / np.sqrt(N_SUBJECTS) + noise  # t is 3.
    alone = rank(BASE, small)
    among = rank(BASE, small, *(BASE + NOISE[n] for n in range(2, 8)))
    pair = among.pairs[0]
    assert alone.pairs[0].better == "m1" and alone.pairs[0].p == pair.p < 0.05
    assert pair.better == "" and pair.p_holm > 0.05 and pair.p_holm > pair.p


def test_of_missing_cells_only_those_that_both_have_count():
    whole = pd.concat(
        [
            frame(*((f"s{n}", "art", prompt, "dino", v + add) for n, v in enumerate(BASE)))
            for prompt, add in (("easy", 0.5), ("hard", 0.0))
        ]
    )
    # It lacks the easy prompt of half of the subjects, and one subject as a whole.
    lacks = (whole["prompt_id"] == "easy") & whole["subject"].isin(["s0", "s1", "s2", "s3"])
    part = whole[~lacks & (whole["subject"] != "s7")]
    part = part.assign(value=part["value"] + 0.1)
    found = rank_methods({"whole": whole, "part": part}, info_of("dino"))
    assert found.pairs[0].n_subjects == 7
    assert found.pairs[0].mean == pytest.approx(-0.1)


@pytest.mark.parametrize("metric", ["dino-lro", "clip-t"])
def test_differences_are_those_of_the_comparison(metric):
    """Over the metric's own prompts: property prompts are left out of one of the two."""
    rng, info = np.random.default_rng(2), info_of(metric)
    assert info.prompts == ("all" if metric == "clip-t" else "not-property")
    frames = [
        frame(
            *(
                (f"s{n}", family, prompt, metric, rng.uniform())
                for n in range(5)
                for prompt, family in (("red", "property"), ("oil", "art"), ("city", "art"))
            )
        )
        for _ in range(2)
    ]
    own = frames
    if info.prompts == "not-property":
        own = [one[one["family"] != "property"] for one in frames]
    expected = compare_paired(*own).iloc[0]
    (pair,) = rank_methods(dict(zip("ab", frames, strict=True)), info).pairs
    assert pair.mean == pytest.approx(expected["mean"])
    assert (pair.low, pair.high) == pytest.approx((expected["low"], expected["high"]))


def test_the_order_of_rows_and_of_methods_changes_nothing():
    values = [BASE + NOISE[0], BASE + 0.1 + NOISE[1], BASE + 0.3 + NOISE[2]]
    named = {f"m{n}": scores_of(one) for n, one in enumerate(values)}
    mixed = {name: named[name].iloc[::-1] for name in ("m2", "m0", "m1")}
    assert rank_methods(named, info_of("dino")).ranks == rank_methods(mixed, info_of("dino")).ranks


@pytest.mark.parametrize("n_subjects", [0, 1])
def test_too_few_subjects_show_nothing(n_subjects):
    found = rank(BASE[:n_subjects], BASE[:n_subjects] + 0.5)
    assert set(found.ranks.values()) <= {1} and found.n_shown == 0
    assert all(np.isnan(pair.p) for pair in found.pairs)


def test_one_method_is_first_and_one_without_a_number_has_no_rank():
    assert rank(BASE).ranks == {"m0": 1}
    empty, other = scores_of([np.nan] * N_SUBJECTS), scores_of(BASE, "clip-t")
    found = rank_methods({"a": scores_of(BASE), "b": empty, "c": other}, info_of("dino"))
    assert found.ranks == {"a": 1} and found.pairs == ()


def test_t_p_agrees_with_the_interval():
    rng = np.random.default_rng(3)
    for shift in (0.0, 0.5, 0.9, 2.0):
        values = rng.normal(shift, 1, 8)
        found = estimate_mean(values)
        assert (compute_t_p(values) <= 0.05) == (found.low > 0 or found.high < 0)
    assert compute_t_p(np.full(8, 0.3)) == smallest_p(8)
    assert compute_t_p(np.zeros(4)) == 1.0 and np.isnan(compute_t_p(np.ones(1)))


@pytest.mark.parametrize("kind", ["normal", "skewed", "heavy", "unequal"])
def test_methods_that_do_not_differ_rarely_get_different_ranks(kind):
    """In at most 5 % of boards with 8 subjects, also where subjects are skewed or unlike."""
    rng = np.random.default_rng(7)
    info, n_boards, n_wrong = info_of("dino"), 60, 0
    draw = {
        "normal": lambda: rng.normal(0.5, 0.1, (6, N_SUBJECTS)),
        "skewed": lambda: rng.beta(5, 1, (6, N_SUBJECTS)),
        "heavy": lambda: 0.5 + 0.05 * rng.standard_t(3, (6, N_SUBJECTS)),
        "unequal": lambda: 0.5 + np.linspace(0.02, 0.2, 6)[:, None] * rng.normal(size=(6, 8)),
    }[kind]
    for _ in range(n_boards):
        named = {f"m{n}": scores_of(one) for n, one in enumerate(draw())}
        n_wrong += rank_methods(named, info).n_shown > 0
    # 3 are expected at most; 8 or more of 60 happen once in a hundred at 5 %.
    assert n_wrong < 8
