"""The summary: which prompts a mean is over, what was counted, and what has no interval."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from scored_runs import frame, info_of, make_part_of

from dreambench.analysis.stats import why_no_interval
from dreambench.analysis.summary import make_summary, mean_reference_bounds
from dreambench.artifacts.failures import Failure, write_failures
from dreambench.artifacts.image_set import read_image_set
from dreambench.artifacts.results import (
    COLUMNS,
    ScoreTable,
    read_reference_bounds,
    read_scores,
    read_summary,
)

BOUNDS = pd.DataFrame(columns=["subject", "metric", "n_photos", "copy_bound", "faithful_bound"])
SUBJECTS = ("dog", "mug", "cat")


@pytest.fixture
def images(copied):
    """The image set of a finished run."""
    return read_image_set(copied)


def summarise(images, scores, *infos):
    """The metrics of a summary of these scores."""
    return make_summary(images, ScoreTable(scores, infos, {"dino": "E"}), BOUNDS).metrics


def rows_of(metric, values, family="art"):
    return [(s, family, family, metric, v) for s, v in zip(SUBJECTS, values, strict=True)]


def test_a_metric_of_the_paper_is_over_all_prompts_with_property_prompts_apart_as_well(images):
    scores = frame(*rows_of("dino", [0.5, 0.6, 0.9]), *rows_of("dino", [0.1, 0.4, 0.1], "property"))
    found = summarise(images, scores, info_of("dino", n_expected=8))["dino"]
    wanted = np.array([0.3, 0.5, 0.5])
    assert found.whole.mean == pytest.approx(wanted.mean())
    half = stats.t.ppf(0.975, 2) * wanted.std(ddof=1) / np.sqrt(3)
    assert (found.whole.low, found.whole.high) == pytest.approx(
        (wanted.mean() - half, wanted.mean() + half)
    )
    assert found.whole.n_subjects == 3
    assert found.property.mean == pytest.approx(0.2)
    assert (found.n_scored, found.n_expected) == (6, 8)
    assert found.whole.no_interval is None


def test_another_metric_leaves_property_prompts_out(images):
    scores = frame(
        *rows_of("joint", [0.5, 0.6, 0.9]), *rows_of("joint", [0.1, 0.4, 0.1], "property")
    )
    found = summarise(images, scores, info_of("joint"))["joint"]
    assert found.whole.mean == pytest.approx(2 / 3)
    assert found.property.mean == pytest.approx(0.2)
    assert found.n_scored == 6


def test_without_property_prompts_there_is_no_such_part(images):
    scores = frame(*rows_of("dino", [0.5, 0.6, 0.9]), *rows_of("joint", [0.1, 0.2, 0.3]))
    found = summarise(images, scores, info_of("dino"), info_of("joint"))
    assert found["dino"].property is None
    assert found["joint"].property is None


def test_property_prompts_alone_are_the_whole_of_a_metric_of_the_paper(images):
    scores = frame(
        *rows_of("dino", [0.5, 0.6, 0.9], "property"),
        *rows_of("joint", [0.1, 0.2, 0.3], "property"),
    )
    found = summarise(images, scores, info_of("dino"), info_of("joint"))
    assert found["dino"].whole.mean == pytest.approx(2 / 3)
    assert found["dino"].property is None
    assert (found["joint"].whole.mean, found["joint"].whole.n_subjects) == (None, 0)
    assert found["joint"].property.mean == pytest.approx(0.2)


def test_where_nothing_was_scored_there_is_no_number(images):
    why = "no segmenter"
    info = info_of("joint", signature=None, not_measured=why, n_expected=8)
    found = summarise(images, pd.DataFrame(columns=COLUMNS), info)["joint"]
    assert (found.whole.mean, found.whole.low, found.whole.high) == (None, None, None)
    assert (found.whole.n_subjects, found.n_scored, found.n_expected) == (0, 0, 8)
    assert found.whole.no_interval == why_no_interval(0, None)
    assert found.info.not_measured == why


def test_subjects_count_alike_and_pairs_within_one_by_their_number():
    scores = frame(*rows_of("dino", [0.2, 0.8, 0.5])).assign(subject=["a", "a", "b"])
    scores["n_pairs"] = [1, 3, 1]
    part = make_part_of(scores, info_of("dino"))
    assert part.mean == pytest.approx((0.65 + 0.5) / 2)
    assert part.n_subjects == 2


def test_an_interval_ends_at_the_range_of_its_metric():
    part = make_part_of(frame(*rows_of("joint", [0.01, 0.02, 0.9])), info_of("joint"))
    assert part.low == 0
    assert part.mean == pytest.approx(0.31)
    assert part.high == 1
    free = make_part_of(frame(*rows_of("prompt-lift", [0.01, 0.02, 0.9])), info_of("prompt-lift"))
    assert free.low < 0


@pytest.mark.parametrize(("values", "n"), [([0.4], 1), ([0.4, 0.4], 2)])
def test_no_interval_is_said_why(values, n):
    rows = [(f"s{i}", "art", "p", "dino", value) for i, value in enumerate(values)]
    part = make_part_of(frame(*rows), info_of("dino"))
    assert (part.mean, part.low, part.high, part.n_subjects) == (0.4, None, None, n)
    assert part.no_interval == why_no_interval(n, None)


def test_reference_bounds_are_means_over_subjects_without_gaps():
    rows = [
        ["a", "dino", 2, 0.75, 0.5],
        ["b", "dino", 1, 1.0, np.nan],
        ["a", "clip-i", 2, 0.9, 0.8],
    ]
    found = mean_reference_bounds(pd.DataFrame(rows, columns=BOUNDS.columns))
    assert found == {
        "dino": {"copy_bound": 0.875, "faithful_bound": 0.5},
        "clip-i": {"copy_bound": 0.9, "faithful_bound": 0.8},
    }


def test_a_summary_carries_what_its_numbers_depend_on(images):
    table, bounds = read_scores(images), read_reference_bounds(images)
    found = make_summary(images, table, bounds)
    assert found == read_summary(images)
    manifest = images.manifest
    assert found.digests == manifest.digests
    assert found.encoders == read_scores(images).identities
    assert found.encoders.items() >= manifest.encoders.items()
    assert found.code == manifest.session.code
    assert (found.method, found.protocol) == ("quick", "tiny v1")
    assert (found.n_images, found.n_images_expected, found.partial) == (12, 12, False)
    assert list(found.metrics) == [info.name for info in table.metrics]
    for name, entry in found.metrics.items():
        assert entry.n_scored == table.frame.loc[table.frame["metric"] == name, "n_pairs"].sum()


def test_missing_images_and_failures_are_counted(images):
    unit = images.plan.images[0]
    images.find_image(unit).unlink()
    failure = Failure(
        stage="generate", subject=unit.subject, error="ValueError", message="no dog", n_images=1,
        traceback="failures/x.txt",
    )  # fmt: skip
    write_failures(images.folder, [failure])
    found = make_summary(images, read_scores(images), BOUNDS)
    assert (found.n_images, found.n_images_expected, found.partial) == (11, 12, True)
    assert found.n_failed == 1
    assert found.failures["generate"][0].subjects == [unit.subject]
