"""The metrics on pictures whose truth is known."""

import importlib.metadata

import numpy as np
import pandas as pd
import pytest
from conftest import REPOSITORY, invoke
from PIL import Image

from dreambench.metrics.registry import load_own_metrics
from dreambench.mini.training.data import make_identity
from dreambench.mini.validation.page import write_trial
from dreambench.mini.validation.trial import (
    TRIVIAL,
    compute_correlations,
    compute_dominance,
    compute_highest_tau,
    compute_responses,
    load_draw,
)
from dreambench.mini.validation.truth import (
    DAMAGES,
    PASTES,
    PROMPT_PLACES,
    Paste,
    blend,
    damage,
    make_true_subject,
    paste,
)
from dreambench.mini.world.renderer import Shot, render
from dreambench.mini.world.scenes import PHOTO_PLACES


@pytest.fixture(scope="module")
def draw():
    return load_draw()


@pytest.fixture(scope="module")
def subject(draw):
    return make_true_subject(1, draw)


def sets(subject):
    found = {}
    for case in subject.cases:
        found.setdefault(case.set_name, []).append(case)
    return found


def difference(first, second):
    return np.abs(np.asarray(first, float) - np.asarray(second, float)).mean()


def test_blending_goes_from_one_individual_to_the_other():
    first, second = make_identity("heldout", 0), make_identity("heldout", 14)
    assert first.class_name == second.class_name
    assert blend(first, second, 0.0) == first
    assert np.allclose(blend(first, second, 1.0).tints, second.tints)
    pictures = [
        render(Shot(blend(first, second, share), 5, PROMPT_PLACES[0])).image
        for share in (0, 0.3, 0.6, 1.0)
    ]
    gaps = [difference(pictures[0], picture) for picture in pictures]
    assert gaps == sorted(gaps)
    assert gaps[0] == 0 < gaps[1]


def test_cases_are_what_their_names_say(subject, draw):
    found = sets(subject)
    n = len(PROMPT_PLACES)
    assert not set(PROMPT_PLACES) & set(PHOTO_PLACES)
    assert all(len(cases) == n for cases in found.values())
    photos = [picture.image.tobytes() for picture in subject.photos]
    assert all(case.image.tobytes() in photos for case in found["copy-reference"])
    assert all(case.image.tobytes() not in photos for case in found["faithful"])
    for name, cases in found.items():
        for case, faithful in zip(cases, found["faithful"], strict=True):
            if not name.startswith(("faithful", "right ", "lost ")):
                assert case.text == faithful.text
                assert difference(case.image, faithful.image) > 0
    for cause in ("view", "accessory", "colour asked"):
        for right, lost in zip(found[f"right {cause}"], found[f"lost {cause}"], strict=True):
            assert right.text == lost.text
            assert right.image.tobytes() != lost.image.tobytes()
            assert lost.truth == 0
            assert right.truth == 1 or (cause == "colour asked" and np.isnan(right.truth))
    assert {case.truth for name in PASTES for case in found[name]} == {0}
    assert {case.truth for case in found["wrong individual"]} == {0}
    kept, faithful = found["background kept"][0], found["faithful"][0]
    corner = (slice(0, 8), slice(0, 8))
    photo = np.asarray(subject.photos[0].background)[corner]
    assert difference(np.asarray(kept.image)[corner], photo) == 0
    assert difference(np.asarray(faithful.image)[corner], photo) > 5
    again = make_true_subject(1, draw)
    assert [c.image.tobytes() for c in again.cases] == [c.image.tobytes() for c in subject.cases]


def test_background_of_a_picture_is_the_place_without_its_subject():
    picture = render(Shot(make_identity("heldout", 3), 9, "on the beach"))
    gap = np.abs(np.asarray(picture.image, int) - np.asarray(picture.background, int)).max(-1)
    assert gap[picture.mask].mean() > 20
    # Outside of the subject only its shadow differs.
    assert np.median(gap[~picture.mask]) == 0
    assert paste(picture.image, picture.mask, picture.background).size == picture.image.size


def test_a_paste_lies_where_it_was_moved_and_leaves_the_rest():
    picture = render(Shot(make_identity("heldout", 3), 9, "on the beach"))
    other = Image.new("RGB", picture.image.size, (255, 0, 255))
    own, rest = np.asarray(picture.image), np.asarray(other)
    pasted = np.asarray(paste(picture.image, picture.mask, other))
    assert np.array_equal(pasted, np.where(picture.mask[..., None], own, rest))
    moved = np.asarray(paste(picture.image, picture.mask, other, Paste(move=(3, -4))))
    assert np.array_equal(moved[:-4, 3:], pasted[4:, :-3])
    mirrored = paste(picture.image, picture.mask, other, Paste(mirror=True))
    assert (np.asarray(mirrored) != rest).any(-1).sum() == pytest.approx(
        picture.mask.sum(), rel=0.03
    )
    half = np.asarray(paste(picture.image, picture.mask, other, Paste(opacity=0.5)), float)
    assert half[picture.mask] == pytest.approx((own + rest * 1.0)[picture.mask] / 2, abs=0.51)


@pytest.mark.parametrize("kind", ["blur", "crop", "JPEG"])
def test_damage_grows(kind, subject):
    image = subject.cases[0].image
    gaps = [difference(image, damage(image, kind, amount)) for amount in DAMAGES[kind]]
    assert gaps == sorted(gaps)
    assert gaps[0] > 0
    assert all(damage(image, kind, amount).size == image.size for amount in DAMAGES[kind])


def made_up(values):
    """A frame of one metric (`joint`) with one value a set of one subject."""
    truth = {"faithful": 1.0, "identity 0.3": 0.7, "identity 0.6": 0.4, "class only": 0.0}
    rows = [
        ["a", "faithful" if level == 0 else "identity", name, level, truth[name], "joint", value]
        for level, (name, value) in enumerate(zip(truth, values, strict=True))
    ]
    rows += [["a", "copy", "copy-reference", 2, 0.0, "joint", 0.0]]
    rows += [["a", "copy", "photo on scene", 1, np.nan, "joint", 2.0]]
    rows += [["a", "paste", name, 1, np.nan, "joint", 0.0] for name in PASTES]
    rows += [["a", "stranger", "wrong individual", 1, np.nan, "joint", 0.0]]
    return pd.DataFrame(
        rows, columns=["subject", "cause", "set_name", "level", "truth", "metric", "value"]
    )


def test_pairs_that_the_truth_does_not_order_count_in_tau_alone():
    """Three sets are wrong in truth; a metric that tells them apart is no worse for it."""
    values = [0.9, 0.7, 0.5, 0.2]
    frame = made_up(values)
    extra = frame.iloc[[3]].assign(set_name="wrong scene", value=0.1)
    frame = pd.concat([frame, extra], ignore_index=True)
    found = compute_correlations(frame).set_index("cause").loc["truth"]
    assert found["agreement"] == pytest.approx(1)
    # Six sets make 15 pairs; three of them the truth does not order.
    assert found["tau"] == pytest.approx((12 / 15) ** 0.5)
    assert compute_highest_tau(frame) == pytest.approx((12 / 15) ** 0.5)


def test_correlation_and_dominance_by_hand():
    right = compute_correlations(made_up([0.9, 0.7, 0.5, 0.0]))
    found = right.set_index("cause")["agreement"]
    assert found["truth"] == pytest.approx(1)
    assert found["identity"] == pytest.approx(1)
    # Faithful .9, copies 0 and 2: of the three pairs two are in order.
    assert found["copy"] == pytest.approx(1 / 3)
    wrong = compute_correlations(made_up([0.0, 0.5, 0.7, 0.9])).set_index("cause")["agreement"]
    assert wrong["identity"] == pytest.approx(-1)
    shares = compute_dominance(made_up([0.9, 0.7, 0.5, 0.0])).set_index("metric").loc["joint"]
    wanted = {"copy-reference": 0, "class only": 0, "photo on scene": 1}
    assert {name: shares[name] for name in wanted} == wanted
    table = compute_responses(made_up([0.9, 0.7, 0.5, 0.0]))
    assert table.loc["joint", "identity 0.3"] == 0.7


@pytest.mark.long
def test_trial_is_written_and_joint_follows_the_truth_better_than_dino(tmp_path):
    correlations, dominance, paths = write_trial(
        tmp_path, n_subjects=2, progress=lambda what, done, total: None
    )
    assert all(path.is_file() for path in paths)
    with Image.open(tmp_path / "responses.png") as picture:
        assert picture.width > 800
    found = correlations[correlations["cause"] == "truth"].set_index("metric")["agreement"]
    assert found["joint"] > found["dino"] + 0.2
    above = dominance.set_index("metric")
    assert (above.loc["joint", list(TRIVIAL)] < 0.5).all()
    pasted = [name for name in PASTES if name != "pasted, half"]
    assert (above.loc["joint", pasted] == 0).all()
    assert above.loc["dino", "copy-reference"] > 0.5
    page = (tmp_path / "page.md").read_text()
    assert "Kendall" in page
    # No number without its recipe.
    metrics = load_own_metrics()
    shown = {
        name for name, metric in metrics.items() if metric.unit == "image" and metric.takes != "two"
    }
    shown -= {"dino-held-out"}
    for name in ("correlations", "dominance", "responses"):
        table = pd.read_csv(tmp_path / f"{name}.csv")
        assert set(table["metric"]) == shown
        for row in table.itertuples():
            assert row.signature.startswith(f"{metrics[row.metric].title}|v")
        assert all(f"- `{signature}`" in page for signature in table["signature"])
    assert f"torch {importlib.metadata.version('torch')}" in page


def test_metrics_list_names_every_metric_and_its_formula():
    done = invoke("metrics", "list")
    lines = {line.split()[0]: line for line in done.stdout.splitlines() if line.startswith("  ")}
    pages = {path.stem for path in (REPOSITORY / "docs" / "metrics").glob("*.md")} - {"index"}
    assert set(lines) == pages
    for name, metric in load_own_metrics().items():
        assert metric.formula and metric.formula in lines[name]
        assert metric.title in lines[name]
        assert ("higher" in lines[name]) == metric.higher_is_better
