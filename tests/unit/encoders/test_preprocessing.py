"""Preprocessing: which pixels of an image an encoder is given, against torchvision."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from dreambench.encoders.preprocessing import IMAGENET, OPENAI, Pixels

SIZES = [(224, 224), (256, 224), (248, 224), (518, 518), (64, 64), (257, 224)]


def test_frames_of_8000_shapes_are_those_of_torchvision():
    rng = np.random.default_rng(0)
    sides = rng.integers(16, 4000, (8000, 2))
    sides[:1000, 1] = sides[:1000, 0]
    mismatches = []
    for index, (width, height) in enumerate(sides.tolist()):
        resize_px, crop_px = SIZES[index % len(SIZES)]
        size, left, top = Pixels(resize_px, crop_px, *IMAGENET).frame((width, height))
        resized = functional.resize(torch.empty(1, height, width, device="meta"), [resize_px])
        assert min(resized.shape[1:]) == resize_px
        # Each place holds its own number, so that the first one says where the crop begins.
        grid = torch.arange(size[0] * size[1]).view(1, size[1], size[0])
        first = int(functional.center_crop(grid, [crop_px])[0, 0, 0])
        if (size[1], size[0], top * size[0] + left) != (*resized.shape[1:], first):
            mismatches.append((width, height, resize_px, crop_px))
    assert not mismatches


@pytest.mark.parametrize("size", [(300, 200), (333, 500), (64, 64), (1024, 768), (511, 513)])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_pixels_are_those_of_torchvision(size, interpolation):
    noise = np.random.default_rng(1).integers(0, 256, (size[1], size[0], 3), np.uint8)
    image = Image.fromarray(noise)
    theirs = v2.Compose([
        v2.Resize(256, v2.InterpolationMode(interpolation)), v2.CenterCrop(224), v2.ToImage(),
        v2.ToDtype(torch.float32, scale=True), v2.Normalize(*OPENAI),
    ])  # fmt: skip
    ours = Pixels(256, 224, *OPENAI, interpolation=interpolation).prepare(image)
    assert np.abs(ours - theirs(image).numpy()).max() < 1e-6


@pytest.mark.parametrize("side", [16, 63, 224, 255, 256, 257, 512, 1024, 2999])
def test_a_square_image_is_cut_as_it_always_was(side):
    size, left, top = Pixels(256, 224, *IMAGENET).frame((side, side))
    assert (size, left, top) == ((256, 256), 16, 16)
