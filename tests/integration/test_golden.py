"""The scorer proves itself on known values, and finds each planted fault by name."""

from dataclasses import replace

import numpy as np
import pytest
from conftest import REAL_PHOTOS

from dreambench.analysis.summary import mean_reference_bounds
from dreambench.datasets.index import find_dataset
from dreambench.datasets.subjects import Subject, load_subjects
from dreambench.encoders.registry import ENCODERS
from dreambench.errors import UserError
from dreambench.metrics.reference_bounds import compute_reference_bounds
from dreambench.scoring.reference_values import check_golden, load_golden

MINI = load_subjects(find_dataset("mini"))
VIT, CLIP = ENCODERS["mini-vit"], ENCODERS["mini-clip"]


@pytest.mark.parametrize("spec", [VIT, CLIP], ids=["vit", "clip"])
def test_minis_encoders_meet_their_golden_values(spec):
    check = check_golden(spec, MINI, load_golden("mini"))
    assert check.passed, check.gaps[check.gaps["off"]]
    assert check.cause == ""
    assert check.mean_found == pytest.approx(check.mean_known, abs=2e-5)


def change_pixels(spec, **parts):
    return replace(spec, pixels=replace(spec.pixels, **parts))


FAULTS = {
    "bilinear": ({"interpolation": "bilinear"}, ("resized", "bilinear", "bicubic is right")),
    "squash": ({"fit": "squash"}, ("fitted", "squash", "crop is right")),
    "mean": (
        {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)},
        ("mean and deviation", "0.5 are right"),
    ),
}


@pytest.mark.parametrize("spec", [VIT, CLIP], ids=["vit", "clip"])
@pytest.mark.parametrize("fault", [*FAULTS, "fp16"])
def test_a_planted_fault_is_caught_and_named(spec, fault):
    if fault == "fp16":
        broken, said = replace(spec, precision="fp16"), ("fp16", "fp32 is right")
    else:
        parts, said = FAULTS[fault]
        broken = change_pixels(spec, **parts)
    check = check_golden(broken, MINI, load_golden("mini"))
    assert not check.passed
    assert all(fact in check.cause for fact in said)


def test_another_pooling_is_caught_and_named():
    broken = replace(VIT, pooling="mean-patches")
    check = check_golden(broken, MINI, load_golden("mini"))
    assert not check.passed
    assert all(fact in check.cause for fact in ("pooling", "mean-patches", "cls is right"))


@pytest.mark.parametrize("spec", [VIT, CLIP], ids=["vit", "clip"])
def test_swapped_subjects_are_caught_and_named(spec):
    dog, dog2 = (s for s in MINI if s.name in ("dog", "dog2"))
    swapped = [
        replace(s, photos={"dog": dog2, "dog2": dog}[s.name].photos)
        if s.name in ("dog", "dog2")
        else s
        for s in MINI
    ]
    check = check_golden(spec, swapped, load_golden("mini"))
    assert not check.passed
    assert "photos of dog, dog2 " in check.cause


def test_a_fault_that_no_setting_explains_says_so():
    # Two faults at once: no single change repairs them.
    broken = change_pixels(VIT, interpolation="bilinear", fit="squash")
    check = check_golden(broken, MINI, load_golden("mini"))
    assert not check.passed
    assert broken.identity().split("|")[0] in check.cause
    for setting in ("interpolation", "bicubic is right", "crop is right"):
        assert setting not in check.cause


def test_golden_values_of_the_paper_give_its_real_images_row():
    table = load_golden("dreambooth").table
    assert len(table) == 30
    # Table 1 of the paper: .774 DINO, .885 CLIP-I, with self-pairs.
    assert table["dino_with_self"].mean() == pytest.approx(0.774, abs=5e-4)
    assert table["clip_i_with_self"].mean() == pytest.approx(0.885, abs=5e-4)
    assert table["dino_without_self"].mean() == pytest.approx(0.7213, abs=5e-5)
    rows = {row["subject"]: row for _, row in table.iterrows()}
    for row in rows.values():
        n = row["n_images"]
        for metric in ("dino", "clip_i"):
            # The two kinds of pairs are one number: with = (1 + (n - 1) without) / n.
            wanted = (1 + (n - 1) * row[f"{metric}_without_self"]) / n
            assert row[f"{metric}_with_self"] == pytest.approx(wanted, abs=2e-3)
    with pytest.raises(UserError) as caught:
        load_golden("somebody's")
    assert caught.value.code == "unknown-name"
    assert "somebody's" in caught.value.problem


@pytest.mark.skipif(not REAL_PHOTOS.is_dir(), reason="needs the real photos")
def test_golden_values_are_of_the_shipped_subjects():
    subjects = load_subjects(find_dataset("dreambooth", photos_dir=REAL_PHOTOS))
    table = load_golden("dreambooth").table
    counts = dict(zip(table["subject"], table["n_images"], strict=True))
    assert {s.name: len(s.photos) for s in subjects} == counts


def test_reference_bounds_by_hand():
    angle = np.deg2rad([0, 60, 90])
    rows = np.stack([np.cos(angle), np.sin(angle)], axis=1).astype(np.float32)
    three = Subject("x", "dog", "live", ("a", "b", "c"), ("", "", ""))
    one = Subject("y", "dog", "live", ("a",), ("",))
    vectors = {"dino": dict(zip("abc", rows, strict=True))}
    frame = compute_reference_bounds([three, one], vectors)
    pairs = [0.5, 0.0, np.cos(np.deg2rad(30))]
    first, second = frame.itertuples()
    assert first.faithful_bound == pytest.approx(np.mean(pairs), abs=1e-6)
    assert first.copy_bound == pytest.approx((3 + 2 * sum(pairs)) / 9, abs=1e-6)
    assert second.copy_bound == pytest.approx(1)
    assert np.isnan(second.faithful_bound)
    assert (first.metric, first.n_photos, second.n_photos) == ("dino", 3, 1)
    means = mean_reference_bounds(frame)["dino"]
    assert means["copy_bound"] == pytest.approx((first.copy_bound + 1) / 2)
    assert means["faithful_bound"] == first.faithful_bound
    assert mean_reference_bounds(frame[frame["subject"] == "y"])["dino"]["faithful_bound"] is None
