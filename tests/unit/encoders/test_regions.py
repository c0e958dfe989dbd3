"""Regions of a picture: found, cut where they touch, and enlarged."""

import numpy as np
import pytest
from PIL import Image

from dreambench.encoders.regions import RegionsExtractor, cut_in_two, enlarge, find_regions
from dreambench.encoders.registry import load_encoder
from dreambench.encoders.segmentation import load_segmenter


def disc(row, column, radius, side=64):
    rows, columns = np.mgrid[:side, :side]
    return (rows - row) ** 2 + (columns - column) ** 2 <= radius**2


def test_regions_that_lie_apart_come_the_largest_first_and_crumbs_are_left_out():
    small, large, crumb = disc(16, 16, 8), disc(40, 44, 12), disc(60, 4, 2)
    found = find_regions(small | large | crumb)
    assert [region.is_cut for region in found] == [False, False]
    assert np.array_equal(found[0].mask, large)
    assert np.array_equal(found[1].mask, small)
    assert find_regions(np.zeros((8, 8), bool)) == []


def test_what_touches_is_cut_at_its_narrowest_place():
    left, right = disc(32, 18, 12), disc(32, 42, 13)
    whole, *halves = find_regions(left | right)
    assert np.array_equal(whole.mask, left | right)
    assert [half.is_cut for half in halves] == [True, True]
    for half, own in zip(halves, (right, left), strict=True):
        assert (half.mask & own).sum() > 0.97 * half.mask.sum()
    assert np.array_equal(halves[0].mask | halves[1].mask, whole.mask)
    assert not (halves[0].mask & halves[1].mask).any()


@pytest.mark.parametrize("mask", [disc(32, 32, 14), np.eye(9, dtype=bool), np.ones((2, 9), bool)])
def test_any_region_has_two_halves(mask):
    one, other = cut_in_two(mask)
    assert one.any() and other.any()
    assert np.array_equal(one ^ other, mask)


def test_a_single_pixel_has_none():
    assert cut_in_two(disc(3, 3, 0, side=8)) == []


def test_a_region_fills_the_networks_input_and_zeros_the_rest():
    pixels = np.ones((3, 40, 40), np.float32)
    made = enlarge(pixels, disc(10, 30, 5, side=40), 64)
    assert made.shape == (3, 64, 64)
    assert made[:, 32, 32] == pytest.approx([1, 1, 1], abs=1e-3)
    assert made[:, 0, 0] == pytest.approx([0, 0, 0], abs=1e-3)
    assert 0.42 < (made[0] > 0.5).mean() < 0.6


def test_a_subject_has_the_same_features_wherever_it_lies_and_however_small():
    dino, clip = load_encoder("mini-vit", "dino"), load_encoder("mini-clip", "clip")
    extractor = RegionsExtractor(dino, clip, load_segmenter("mini-segmenter"), nouns=["dog"])
    rng = np.random.default_rng(0)
    one, other = (Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)) for _ in range(2))

    def paste(image, side, left, top):
        canvas = Image.new("RGB", (64, 64), (90, 120, 60))
        canvas.paste(image.resize((side, side), Image.Resampling.BILINEAR), (left, top))
        mask = np.zeros((64, 64), bool)
        mask[top : top + side, left : left + side] = True
        return canvas, [mask]

    images, masks = zip(
        paste(one, 40, 10, 10), paste(one, 20, 40, 2), paste(other, 40, 10, 10), strict=True
    )
    n_dino = dino.encode_images(images[:1]).shape[1]
    found = extractor.split(extractor.encode_masked(images, masks), n_dino)
    assert (found["region-share"][:, 0] > 0).all() and not found["region-share"][:, 1:].any()
    for kind in ("region-dino", "region-clip"):
        large, small, stranger = found[kind][:, 0]
        assert large @ small > 0.9
        assert large @ small > large @ stranger + 0.05
    assert found["region-dino"].shape == (3, 4, n_dino)
