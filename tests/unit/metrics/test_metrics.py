"""Metrics: values that can be worked out by hand, what a copier earns, and their pages."""

import math

import numpy as np
import pytest
from conftest import REPOSITORY
from PIL import ImageOps

from dreambench.encoders.parts import HashExtractor
from dreambench.metrics.base import (
    SubjectCounts,
    SubjectFeatures,
    compute_reference_similarity,
    compute_text_similarity,
)
from dreambench.metrics.copying import (
    compute_copied_pixels,
    compute_copy_index,
    compute_leak,
)
from dreambench.metrics.identification import compute_retrieval
from dreambench.metrics.joint import compute_joint
from dreambench.metrics.prompt_fidelity import compute_prompt_lift, compute_prompt_rank
from dreambench.metrics.registry import load_own_metrics
from dreambench.metrics.subject_fidelity import (
    compute_anchors,
    compute_left_out_similarity,
    compute_left_self_out,
    normalise,
)
from dreambench.mini.training.data import make_identity
from dreambench.mini.validation.truth import PROMPT_PLACES
from dreambench.mini.world.renderer import Shot, render
from dreambench.mini.world.scenes import PHOTO_PLACES
from dreambench.storage.images import load_image

METRICS = load_own_metrics()
PAPER = ["dino", "clip-i", "clip-t", "div", "pres"]
OF_TWO = ["pair-dino", "pair-clip-i"]


def unit(rng, n, d=16, around=None, spread=1.0):
    rows = rng.normal(size=(n, d)) * spread + (0 if around is None else around)
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture
def world():
    """Photos of a subject, photos of others, new pictures of it: clouds around two directions."""
    rng = np.random.default_rng(0)
    own, other = unit(rng, 1)[0], unit(rng, 1)[0]
    return {
        "photos": unit(rng, 5, around=own, spread=0.12),
        "others": unit(rng, 9, around=other, spread=0.12),
        "new": unit(rng, 40, around=own, spread=0.12),
        "rng": rng,
    }


def test_left_out_similarity_by_hand():
    photos = np.array([[1, 0], [0, 1], [0.6, 0.8]], np.float32)
    image = np.array([[1, 0]], np.float32)
    # Cosines 1, 0, 0.6: the nearest is left out.
    assert compute_left_out_similarity(image, photos) == pytest.approx([0.3])
    assert np.isnan(compute_left_out_similarity(image, photos[:1])).all()


def test_a_copy_earns_what_a_photo_earns_and_no_more(world):
    photos = world["photos"]
    copies = compute_left_out_similarity(photos, photos)
    assert copies == pytest.approx(compute_left_self_out(photos))
    floor, ceiling = compute_anchors(photos, world["others"])
    assert normalise(copies, floor, ceiling).mean() == pytest.approx(1)
    strangers = compute_left_out_similarity(world["others"], photos)
    assert abs(normalise(strangers, floor, ceiling).mean()) < 0.2


def test_normalising_between_equal_anchors_is_not_a_number():
    assert np.isnan(normalise(np.array([0.5]), 0.4, 0.4)).all()
    assert np.isnan(normalise(np.array([0.5]), np.nan, 0.4)).all()


def test_copy_index_is_one_for_a_copy_and_zero_for_real_photos(world):
    photos = world["photos"]
    assert compute_copy_index(photos, photos) == pytest.approx(np.ones(5))
    # Each photo against the others: two real photos are never called copies.
    for index in range(5):
        others = np.delete(photos, index, axis=0)
        gaps = photos @ photos.T - 2 * np.eye(5)
        if gaps[index].max() < gaps[np.ix_(*[[i for i in range(5) if i != index]] * 2)].max():
            assert compute_copy_index(photos[index : index + 1], others) == [0]
    assert compute_copy_index(world["others"], photos).max() == 0
    twice = np.concatenate([photos, photos[:1]])
    assert np.isnan(compute_copy_index(world["new"], twice)).all()


def test_leak_by_hand():
    photos = np.array([[1, 0]], np.float32)
    others = np.array([[0.6, 0.8], [0.2, np.sqrt(0.96)]], np.float32)
    images = np.array([[1, 0], [0.7, np.sqrt(0.51)], [0, 1]], np.float32)
    # In common 0.4: (1 - 0.4) / 0.6, (0.7 - 0.4) / 0.6, and below nothing.
    assert compute_leak(images, photos, others) == pytest.approx([1, 0.5, 0], abs=1e-6)
    assert np.isnan(compute_leak(images, photos, others[:0])).all()


def test_retrieval_by_hand_and_against_the_definition(world):
    photos = np.array([[1, 0], [0.8, 0.6]], np.float32)
    distractors = np.array([[0.96, 0.28], [0, 1]], np.float32)
    image = np.array([[1, 0]], np.float32)
    # Ranking: photo (1), distractor (.96), photo (.8), distractor (0): AP = (1/1 + 2/3) / 2.
    first, precision = compute_retrieval(image, photos, distractors)
    assert first == [1]
    assert precision == pytest.approx([(1 + 2 / 3) / 2])
    # A distractor that is as near as the nearest photo counts before it.
    first, _ = compute_retrieval(image, photos, photos[:1])
    assert first == [0]
    rng = world["rng"]
    images, own, foreign = unit(rng, 20, 4), unit(rng, 3, 4), unit(rng, 7, 4)
    first, precision = compute_retrieval(images, own, foreign)
    for row, image in enumerate(images):
        cosines = np.concatenate([own, foreign]) @ image
        hits = np.argsort(-cosines) < 3
        ranks = np.flatnonzero(hits) + 1
        assert precision[row] == pytest.approx(np.mean(np.arange(1, 4) / ranks))
        assert first[row] == float(hits[0])


def test_prompt_rank_by_hand():
    texts = np.eye(4, dtype=np.float32)
    image = np.array([[0.5, 0.1, 0.6, 0.5]], np.float32)
    # Its own text is the first: one is better, one is less, one ties.
    assert compute_prompt_rank(image, texts, [0]) == pytest.approx([(1 + 0.5) / 3])
    assert compute_prompt_rank(image, texts, [2]) == [1]
    assert np.isnan(compute_prompt_rank(image, texts[:1], [0])).all()


def test_prompt_lift_by_hand():
    texts = np.eye(2, dtype=np.float32)
    photos = np.array([[0.1, 0.9], [0.3, 0.7]], np.float32)
    image = np.array([[0.5, 0.1]], np.float32)
    # With the first text photos score .2 on average, deviation .1414.
    assert compute_prompt_lift(image, photos, texts, [0]) == pytest.approx([0.3 / 0.02**0.5])
    assert compute_prompt_lift(image, photos, texts, [1])[0] < 0


@pytest.mark.parametrize(
    ("subject", "rank", "lift", "match", "wanted"),
    [
        (1, 1, 3, 0, 1), (0, 1, 5, 0, 0), (1, 0.75, 3, 0, 0), (1, 0.2, 3, 0, 0), (1, 1, 9, 1, 0),
        (1, 1, -1, 0, 0), (0.25, 1, 3, 0, 0.5), (1, 1, 0.75, 0, 0.5), (1, 1, 3, 0.97, 1),
        (1, 1, 3, 0.985, 0), (1, 1, 3, 0.9775, 0.5), (1, 0.875, 1.5, 0, 0.5),
    ],
)  # fmt: skip
def test_joint_is_low_if_either_is_and_nothing_for_a_copy(subject, rank, lift, match, wanted):
    found = compute_joint(*(np.array([float(v)]) for v in (subject, rank, lift, match)))
    assert found == pytest.approx([wanted])


def test_hash_finds_copies_mirrored_shrunk_and_compressed_but_not_new_pictures(tmp_path):
    identity = make_identity("heldout", 2)
    reader = HashExtractor()
    photos = [render(Shot(identity, seed, PHOTO_PLACES[seed])).image for seed in range(3)]
    photos[0].save(tmp_path / "copy.jpg", quality=80)
    copies = [
        photos[0], ImageOps.mirror(photos[1]), photos[2].resize((200, 200)),
        load_image(tmp_path / "copy.jpg"),
    ]  # fmt: skip
    new = [render(Shot(identity, 50 + n, place)).image for n, place in enumerate(PROMPT_PLACES)]
    rows = reader.encode_images([*copies, *new])
    found = compute_copied_pixels(rows, reader.encode_images(photos))
    assert found[:4].tolist() == [1, 1, 1, 1]
    assert found[4:].mean() < 0.2


def unit_rows(*angles):
    radians = np.deg2rad(angles)
    return np.stack([np.cos(radians), np.sin(radians)], axis=1).astype(np.float32)


def test_reference_similarity_is_the_mean_over_all_references():
    found = compute_reference_similarity(unit_rows(0, 90), unit_rows(0, 60))
    assert found == pytest.approx([(1 + 0.5) / 2, (0 + np.cos(np.deg2rad(30))) / 2], abs=1e-6)


def test_pasting_the_references_back_earns_the_mean_with_self_pairs():
    photos = unit_rows(0, 60, 120)
    copy_bound = (photos @ photos.T).mean()
    assert compute_reference_similarity(photos, photos).mean() == pytest.approx(copy_bound)


def test_text_similarity_is_row_by_row():
    found = compute_text_similarity(unit_rows(0, 90), unit_rows(60, 90))
    assert found == pytest.approx([0.5, 1.0], abs=1e-6)


def seen(**parts):
    """What a metric sees of a subject; only the parts that a test is about."""
    by_kind = ("images", "photos", "distractors", "class_images", "distances")
    fields = {key: {} for key in by_kind}
    texts = {"texts": np.empty((0, 2), np.float32), "own_text": (), "prompt_ids": ()}
    return SubjectFeatures(**{**fields, **texts, **parts})


def test_diversity_is_the_mean_over_pairs_of_each_prompt():
    gaps = {"beach": np.array([1.0, 9.0, 4.0]), "red": np.array([])}
    features = seen(prompt_ids=("beach",) * 3 + ("red",), distances=gaps)
    beach, red = METRICS["div"].compute(features)
    assert beach == pytest.approx((1 + 9 + 4) / 3)
    assert np.isnan(red)
    assert METRICS["div"].count_pairs(features) == [3, 0]


def test_prior_preservation_sees_class_images_alone():
    photos = unit_rows(0, 60)
    found = seen(
        images={"dino": unit_rows(45)}, photos={"dino": photos},
        class_images={"dino": unit_rows(90, 0)},
    )  # fmt: skip
    wanted = [np.cos(np.deg2rad(30)) / 2, (1 + 0.5) / 2]
    assert METRICS["pres"].compute(found) == pytest.approx(wanted, abs=1e-6)
    assert METRICS["pres"].count_pairs(found) == 2


def test_text_similarity_is_with_each_images_own_prompt():
    texts = unit_rows(0, 60)
    found = seen(images={"clip": unit_rows(0, 0, 60)}, texts=texts, own_text=(0, 1, 1))
    assert METRICS["clip-t"].compute(found) == pytest.approx([1, 0.5, 1], abs=1e-6)


def test_pairs_that_there_should_be():
    counts = SubjectCounts(
        n_photos=5, n_images=7, n_class_images=3, images_per_prompt=(4, 2, 1)
    )  # fmt: skip
    found = {name: metric.n_expected(counts) for name, metric in METRICS.items()}
    assert [found.pop(name) for name in PAPER] == [35, 35, 7, 6 + 1 + 0, 15]
    assert [found.pop(name) for name in OF_TWO] == [35, 35]
    assert set(found.values()) == {7}


def test_the_papers_metrics_come_first_and_are_marked():
    assert list(METRICS)[:5] == PAPER
    assert [name for name, metric in METRICS.items() if "paper" in metric.tags] == PAPER
    assert {metric.prompts for name, metric in METRICS.items() if name in PAPER} == {"all"}
    others = [metric for name, metric in METRICS.items() if name not in PAPER + OF_TWO]
    assert {metric.prompts for metric in others} == {"not-property"}
    worse = {name for name, metric in METRICS.items() if not metric.higher_is_better}
    worse -= {"pair-twice", "pair-swapped"}
    assert worse == {"pres", "copy", "copy-pixels", "leak", "pixel-match"}
    places = [metric.place for metric in METRICS.values()]
    assert len(set(places)) == len(places)


def test_every_metric_has_a_page_with_what_it_cannot_see():
    folder = REPOSITORY / "docs" / "metrics"
    assert {path.stem for path in folder.glob("*.md")} == {*METRICS, "index"}
    for name in METRICS:
        text = (folder / f"{name}.md").read_text()
        for part in ("Formula.", "Source.", "Range.", "Version.", "What it cannot see."):
            assert f"**{part}**" in text, f"{name} lacks {part}"


IDENTITIES = {
    "dino": "D@1", "clip": "C@2", "mask": "S@3", "hash": "H@4", "perceptual": "P@5",
    "thumbnail": "T@6", "held-out": "shown:single", "regions": "R@7",
}  # fmt: skip


def test_signature_carries_what_the_metric_reads_and_nothing_else():
    assert METRICS["joint"].signature(IDENTITIES).startswith("Joint|v2|D@1|C@2|S@3|T@6|")
    assert "C@2" not in METRICS["copy"].signature(IDENTITIES)
    for metric in METRICS.values():
        parts = metric.signature(IDENTITIES).split("|")
        assert parts[:2] == [metric.title, f"v{metric.version}"]
        assert [part for part in parts if part in IDENTITIES.values()] == [
            IDENTITIES[name] for name in metric.inputs
        ]
        assert parts[-1] == f"mean:{metric.average}"


def test_signature_changes_with_each_part_of_the_recipe():
    signatures = {metric.signature(IDENTITIES) for metric in METRICS.values()}
    assert len(signatures) == len(METRICS)
    for metric in METRICS.values():
        plain = metric.signature(IDENTITIES)
        for name in metric.inputs:
            assert metric.signature(IDENTITIES | {name: "other"}) != plain
        assert metric.signature(IDENTITIES, code="abc") != plain


def test_results_say_of_a_metric_what_it_is_and_whether_it_was_measured():
    info = METRICS["joint"].describe(IDENTITIES, code={})
    assert info.signature == METRICS["joint"].signature(IDENTITIES)
    assert (info.bounds, info.heading, info.prompts) == ((0, 1), "Joint (up)", "not-property")
    without = {name: text for name, text in IDENTITIES.items() if name != "mask"}
    assert METRICS["joint"].describe(without, code={}).signature is None
    assert METRICS["div"].describe(IDENTITIES, code={}).bounds == (0, math.inf)
    lift = METRICS["prompt-lift"].describe(IDENTITIES, code={})
    assert (lift.low, lift.high) == (None, None)
    assert METRICS["pres"].describe(IDENTITIES, code={}).heading == "PRES (down)"
