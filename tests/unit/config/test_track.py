"""The track of a row: one place writes it, and reads of it what trains."""

import pytest

from dreambench.config.track import is_tuned, name_track
from dreambench.leaderboard.known import find_shipped_recipe, find_track
from dreambench.methods.registry import describe_track


@pytest.mark.parametrize(
    ("settings", "n_references", "track"),
    [
        ({}, None, "tuned, all photos"),
        ({"n_photos": 0}, None, "tuned, all photos"),
        ({"n_photos": 1}, None, "tuned, 1 photo"),
        ({"n_photos": 3}, 1, "tuned, 3 photos"),
        ({}, 2, "tuned, 2 photos"),
        ({}, 0, "no photos"),
    ],
)
def test_a_track_says_how_many_photos_a_method_may_use(settings, n_references, track):
    assert name_track(settings, tunes=True, n_references=n_references) == track
    free = name_track(settings, tunes=False, n_references=n_references)
    assert free == track.replace("tuned", "tuning-free")


@pytest.mark.parametrize(
    ("track", "found"),
    [
        ("tuned, all photos", True), ("tuned", True), ("tuning-free, 1 photo", False),
        ("tunedness", False), ("no photos", False), ("oracle", False), ("", False), (None, False),
    ],
)  # fmt: skip
def test_only_what_changes_weights_is_tuned(track, found):
    assert is_tuned(track) == found


@pytest.mark.parametrize("name", ["dreambooth", "dreambooth-1-photo", "class-only", "real-images"])
def test_a_record_is_checked_against_the_track_that_a_run_has(name):
    recipe = find_shipped_recipe(name)
    settings = recipe.settings_for("mini")
    assert find_track(recipe.method, settings) == describe_track(recipe, "mini")


def test_no_setting_that_a_record_claims_makes_class_only_see_photos():
    assert find_track("class-only", {"n_photos": 3}) == "no photos"
