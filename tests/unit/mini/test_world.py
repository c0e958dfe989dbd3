"""The renderer: what the words say is what the pixels show."""

import numpy as np
import pytest

from dreambench.mini.world.accessories import ACCESSORIES
from dreambench.mini.world.bodies import CLASSES, LIVE
from dreambench.mini.world.identities import interpolate_identity, sample_identity
from dreambench.mini.world.parts import make_parts
from dreambench.mini.world.renderer import (
    PROPERTIES,
    VIEWS,
    Shot,
    make_caption,
    render,
    render_together,
)
from dreambench.mini.world.scenes import SCENES
from dreambench.mini.world.shapes import Camera, Light, Paint, Part, draw
from dreambench.mini.world.styles import STYLES


def identity(class_name="dog", seed=0):
    return sample_identity(np.random.default_rng(seed), class_name)


def test_world_is_as_large_as_promised():
    assert len(CLASSES) >= 12
    assert len(LIVE) >= 3
    assert len(SCENES) >= 12


def test_equal_shots_give_equal_pixels():
    shot = Shot(identity(), 7, "in the snow")
    first, second = render(shot), render(shot)
    assert first.image.tobytes() == second.image.tobytes()
    assert (first.mask == second.mask).all()


@pytest.mark.parametrize("class_name", CLASSES)
def test_subject_fills_a_good_part_of_the_frame_in_each_view(class_name):
    for view in (None, *VIEWS):
        mask = render(Shot(identity(class_name), 3, view=view)).mask
        assert 0.04 < mask.mean() < 0.6
        border = np.concatenate([mask[0], mask[:, 0], mask[:, -1]])
        assert not border.any()


def test_mask_marks_the_pixels_that_change_with_the_identity():
    one, two = (render(Shot(identity("ball", seed), 5, "on the beach")) for seed in (1, 2))
    changed = np.abs(np.asarray(one.image, int) - np.asarray(two.image, int)).max(-1) > 8
    either = one.mask | two.mask
    grown = either | np.roll(either, 1, 0) | np.roll(either, -1, 0)
    grown |= np.roll(grown, 1, 1) | np.roll(grown, -1, 1)
    # Outside the subject only its shadow may differ.
    assert changed[grown].mean() > 0.5
    assert changed[~grown].mean() < 0.12


def test_accessory_is_not_part_of_the_mask():
    bare = render(Shot(identity(), 11))
    dressed = render(Shot(identity(), 11, accessory="top-hat"))
    assert dressed.mask.sum() < bare.mask.sum()


def test_only_live_classes_wear_something():
    with pytest.raises(ValueError, match="wears nothing"):
        make_parts(identity("mug"), accessory="red-hat")


@pytest.mark.parametrize("accessory", ACCESSORIES)
@pytest.mark.parametrize("class_name", LIVE)
def test_accessories_show(class_name, accessory):
    bare = np.asarray(render(Shot(identity(class_name), 11)).image, int)
    dressed = np.asarray(render(Shot(identity(class_name), 11, accessory=accessory)).image, int)
    assert (np.abs(bare - dressed).max(-1) > 12).mean() > 0.004


def test_red_subject_is_red():
    picture = render(Shot(identity("mug", 4), 2, property_name="red"))
    red, green, blue = np.asarray(picture.image, float)[picture.mask].mean(0)
    assert red > 1.5 * green
    assert red > 1.5 * blue


@pytest.mark.parametrize("property_name", PROPERTIES)
def test_properties_change_the_subject(property_name):
    plain = np.asarray(render(Shot(identity("cat", 4), 2)).image, int)
    changed = np.asarray(
        render(Shot(identity("cat", 4), 2, property_name=property_name)).image, int
    )
    assert (np.abs(plain - changed).max(-1) > 15).mean() > 0.004


@pytest.mark.parametrize("style", [*STYLES, "marble"])
def test_styles_change_the_picture(style):
    plain = np.asarray(render(Shot(identity(), 2, "in the jungle")).image, int)
    painted = np.asarray(render(Shot(identity(), 2, "in the jungle", style=style)).image, int)
    assert (np.abs(plain - painted).max(-1) > 20).mean() > 0.03


def test_captions_speak_the_language_of_the_prompts():
    shot = Shot(identity(), 0, "in the jungle", accessory="red-hat")
    assert make_caption(shot) == "a dog wearing a red hat in the jungle"
    assert make_caption(shot, identifier="sks") == "a sks dog wearing a red hat in the jungle"
    assert make_caption(Shot(identity(), 0, style="oil-painting")) == "an oil painting of a dog"
    assert make_caption(Shot(identity(), 0, property_name="red")) == "a red dog"


def test_interpolation_ends_at_both_identities():
    first, second = identity(seed=1), identity(seed=2)
    assert interpolate_identity(first, second, 0.0) == first
    assert interpolate_identity(first, second, 1.0).shape == second.shape
    with pytest.raises(ValueError, match="one class"):
        interpolate_identity(first, identity("mug"), 0.5)


def test_nearer_part_hides_the_farther_one():
    red, blue = Paint((1, 0, 0)), Paint((0, 0, 1))
    parts = [
        Part("ellipsoid", (0, 0, 0.5), (0.3, 0.3, 0.3), red),
        Part("box", (0, 0, -0.5), (0.8, 0.8, 0.1), blue),
    ]
    layer = draw(
        parts, Camera(0, 0), size_px=32, scale_px=16, center_px=(16, 16), light=Light(specular=0)
    )
    assert layer.part[16, 16] == 0
    assert layer.part[16, 26] == 1
    assert not layer.mask[0, 0]


def test_two_subjects_stand_side_by_side_each_with_its_own_pixels():
    dog, mug = identity("dog"), identity("mug")
    for seed in range(6):
        found = render_together([Shot(dog, seed, "on the beach"), Shot(mug, seed)])
        one, other = found.masks
        assert not (one & other).any()
        assert min(one.mean(), other.mean()) > 0.03
        left, right = (np.nonzero(mask)[1].mean() for mask in (one, other))
        assert abs(left - right) > 20
    again = render_together([Shot(dog, 5, "on the beach"), Shot(mug, 5)])
    assert again.image.tobytes() == found.image.tobytes()
    alone = render_together([Shot(dog, 5, "on the beach")])
    assert np.array_equal(alone.masks[0], found.masks[0] | alone.masks[0])


def test_each_of_two_has_what_its_own_shot_says():
    dog, cat = identity("dog"), identity("cat")
    plain = render_together([Shot(dog, 3), Shot(cat, 3)])
    red = render_together([Shot(dog, 3, property_name="red"), Shot(cat, 3)])
    before, after = (np.asarray(one.image, float) for one in (plain, red))
    changed = np.abs(before - after).sum(-1) > 30
    assert changed[plain.masks[0]].mean() > 0.5
    assert not changed[plain.masks[1]].any()
