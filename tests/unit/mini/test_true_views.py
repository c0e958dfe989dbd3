"""Nearness to the true picture: what is the same view is near, and subjects are the sample."""

import numpy as np
import pandas as pd
import pytest

from dreambench.datasets.index import find_dataset
from dreambench.datasets.subjects import load_subjects
from dreambench.mini.real_images import find_identity
from dreambench.mini.validation.views import NEARNESS, _Eye, compare, estimate_differences
from dreambench.mini.world.renderer import Shot, render


def test_the_same_view_is_nearer_than_another():
    (car,) = load_subjects(find_dataset("mini"), names=["car"])
    identity = find_identity(car)
    true, same, front = (
        render(Shot(identity, seed, view=view))
        for seed, view in ((1, "seen from the side"), (2, "seen from the side"), (3, None))
    )
    eye = _Eye()
    rows = eye.look([p.image for p in (true, same, front)], [p.mask for p in (true, same, front)])
    itself, near, far = (compare(rows, at, rows, 0) for at in range(3))
    assert set(itself) == set(NEARNESS)
    assert list(itself.values()) == pytest.approx([1.0] * len(NEARNESS), abs=1e-5)
    assert all(near[name] > far[name] for name in ("dino", "clip", "outline"))
    # An image in which nothing is found is compared as a whole.
    rows = eye.look([true.image, front.image], [true.mask, np.zeros_like(front.mask)])
    assert compare(rows, 1, rows, 0)["outline"] < 1


def test_differences_are_paired_by_subject():
    rows = [
        {"method": method, "subject": subject, "prompt_id": "top", "k": k}
        | dict.fromkeys(NEARNESS, value + offset + (0.2 if k else -0.2))
        for method, offset in (("a", 0.1), ("b", 0.0))
        for subject, value in (("dog", 0.1), ("cat", 0.8), ("mug", 0.5))
        for k in (0, 1)
    ]
    rows[0] |= {"dino": rows[0]["dino"] + 0.02}
    found = estimate_differences(pd.DataFrame(rows), "a", "b")
    one = found[(found["prompt_id"] == "all") & (found["number"] == "dino")].iloc[0]
    assert one["n_subjects"] == 3
    assert one["mean"] == pytest.approx(0.1 + 0.01 / 3)
    assert 0 < one["low"] < one["mean"], "the subjects' own level is not noise"
