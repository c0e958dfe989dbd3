"""Metrics of two subjects in one picture: values by hand, and what each fault does to each."""

import numpy as np
import pytest

from dreambench.metrics.base import Member, SubjectFeatures
from dreambench.metrics.region_matching import NONE, match_regions
from dreambench.metrics.registry import load_own_metrics

METRICS = load_own_metrics()
A, B, BETWEEN = np.eye(3)[0], np.eye(3)[1], np.array([0.6, 0.6, np.sqrt(0.28)])


def picture(*regions, nouns=None, cut=False, whole=None):
    """Regions by their looks, their classes (the looks, where nothing is said), and halves."""
    rows = list(regions) if whole is None else [whole, *regions]
    looks = np.zeros((4, 3))
    looks[: len(rows)] = np.reshape(rows, (-1, 3))
    shares, cuts, classes = np.zeros(4), np.zeros(4), looks.copy()
    shares[: len(rows)] = 0.2
    if cut:
        cuts[1 : len(rows)] = 1
    if nouns is not None:
        classes[: len(nouns)] = nouns
    return looks, shares, cuts, classes


def see(*pictures, shares_noun=False):
    looks, shares, cuts, classes = (np.stack(part) for part in zip(*pictures, strict=True))
    members = [
        Member({"region-dino": own[None], "region-clip": own[None], "dino": own[None]}, noun=own)
        for own in (A, B)
    ]
    return SubjectFeatures(
        images={
            "region-dino": looks, "region-clip": classes, "region-share": shares,
            "region-cut": cuts,
        },
        photos={}, distractors={}, class_images={}, texts=np.empty((0, 0)),
        own_text=[0] * len(pictures), prompt_ids=["x"] * len(pictures), distances={},
        members=members, shares_noun=shares_noun,
    )  # fmt: skip


def measure(name, *pictures, **options):
    return METRICS[name].compute(see(*pictures, **options)).tolist()


RIGHT, OTHER_ORDER = picture(A, B), picture(B, A)
TWICE, MISSING, MERGED, NOTHING = picture(A, A), picture(B), picture(BETWEEN), picture()
SWAPPED = picture(A, B, nouns=[B, A])
TOUCHING = picture(A, B, cut=True, whole=BETWEEN)
ONE_WITH_TWO_ENDS = picture(BETWEEN, BETWEEN, cut=True, whole=A)
TWO_OF_ONE_TOUCHING = picture(A, A, cut=True, whole=BETWEEN)
EVERY = (
    RIGHT,
    OTHER_ORDER,
    SWAPPED,
    TOUCHING,
    TWICE,
    TWO_OF_ONE_TOUCHING,
    MISSING,
    MERGED,
    NOTHING,
)


def test_each_fault_is_seen_by_the_metric_that_is_for_it():
    assert measure("pair-both", *EVERY) == [1, 1, 1, 1, 0, 0, 0, 0, 0]
    assert measure("pair-twice", *EVERY) == [0, 0, 0, 0, 1, 1, 0, 0, 0]
    assert measure("pair-swapped", *EVERY) == [0, 0, 1, 0, 0, 0, 0, 0, 0]
    own = measure("pair-own-dino", *EVERY)
    assert own == pytest.approx([1, 1, 1, 1, 0.5, 0.5, 0.5, 0.3, 0])
    assert measure("pair-own-clip-i", RIGHT, SWAPPED, MISSING) == [1, 0, 0.5]


def test_two_ends_of_one_subject_are_not_two():
    assert measure("pair-both", ONE_WITH_TWO_ENDS) == [0]
    assert measure("pair-twice", ONE_WITH_TWO_ENDS) == [0]
    assert measure("pair-own-dino", ONE_WITH_TWO_ENDS) == [0.5]


def test_nothing_is_swapped_where_both_have_one_noun():
    assert np.isnan(measure("pair-swapped", RIGHT, SWAPPED, shares_noun=True)).all()
    assert measure("pair-both", RIGHT, TWICE, shares_noun=True) == [1, 0]


def test_no_two_subjects_have_one_region_and_the_sum_is_greatest():
    # Both are most like the first region; the sum is greatest where the second goes without it.
    likeness = np.array([[[0.9, 0.8], [0.2, 0.7]]])
    found = match_regions(np.ones((1, 2)), np.zeros((1, 2)), likeness)
    assert found.own.tolist() == [[0, 1]]
    assert found.own_likeness() == pytest.approx(np.array([[0.9, 0.7]]))
    none = match_regions(np.zeros((1, 2)), np.zeros((1, 2)), likeness)
    assert none.own.tolist() == [[NONE, NONE]]
    assert none.nearest().tolist() == [[NONE, NONE]]


def test_the_fields_metric_is_the_mean_of_two_whatever_the_numbers_of_photos():
    rows = np.array([A, B, BETWEEN], np.float32)
    members = [Member({"dino": np.stack([A])}, A), Member({"dino": np.stack([B, B, A])}, B)]
    seen = SubjectFeatures(
        images={"dino": rows}, photos={"dino": np.stack([A, B, B, A])}, distractors={},
        class_images={}, texts=np.empty((0, 0)), own_text=[0, 0, 0], prompt_ids=["x"] * 3,
        distances={}, members=members,
    )  # fmt: skip
    found = METRICS["pair-dino"].compute(seen)
    assert found == pytest.approx([(1 + 1 / 3) / 2, (0 + 2 / 3) / 2, 0.6], abs=1e-6)
    assert METRICS["pair-dino"].count_pairs(seen) == 4


def test_the_fields_metric_does_not_see_a_swap_or_one_subject_twice():
    """A whole picture's row is the mean of what is in it: then any two as near are as good."""
    whole = {"right": A + B, "twice": A + A}
    rows = np.stack([row / np.linalg.norm(row) for row in whole.values()]).astype(np.float32)
    seen = see(RIGHT, TWICE)
    seen = SubjectFeatures(**{**vars(seen), "images": {"dino": rows}, "photos": {}})
    right, twice = METRICS["pair-dino"].compute(seen)
    assert right - twice < 0.21 < 0.5 == 1 - measure("pair-own-dino", TWICE)[0]
