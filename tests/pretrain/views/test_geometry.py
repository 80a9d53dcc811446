"""Crops against torchvision, given equal parameters, and the statistics of drawing them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torchvision.transforms.functional as F
from PIL import Image
from pretrain.views.geometry import Crop, apply_centre, apply_crop, apply_flip, draw_crop, draw_flip, place_centre
from torchvision.transforms import InterpolationMode

from pretrain.views.recipes import CenterCrop, HorizontalFlip, RandomResizedCrop


def noise(height=90, width=120, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("box", [(0, 0, 90, 120), (13, 40, 50, 31), (5, 6, 1, 1), (30, 0, 60, 80)])
@pytest.mark.parametrize("size", [24, 64, 100])
def test_resized_crop_equals_torchvision(box, size):
    expected = F.resized_crop(Image.fromarray(noise()), *box, [size, size], InterpolationMode.BILINEAR)
    np.testing.assert_array_equal(apply_crop(Crop(*box, size), noise()), np.asarray(expected))


@pytest.mark.parametrize("shape", [(90, 120), (121, 77), (64, 64), (40, 400)])
@pytest.mark.parametrize("size", [32, 63, 224])
def test_evaluation_crop_equals_torchvision(shape, size):
    image = noise(*shape)
    resized = F.resize(Image.fromarray(image), round(size * 256 / 224), InterpolationMode.BILINEAR)
    expected = F.center_crop(resized, [size, size])
    box = place_centre(CenterCrop(256 / 224), height=shape[0], width=shape[1], size=size)
    np.testing.assert_array_equal(apply_centre(box, image), np.asarray(expected))


def test_flip_mirrors_left_and_right():
    np.testing.assert_array_equal(apply_flip(noise()), np.asarray(F.hflip(Image.fromarray(noise()))))
    rng = np.random.default_rng(0)
    drawn = [draw_flip(HorizontalFlip(0.3), rng) is not None for _ in range(2000)]
    assert abs(np.mean(drawn) - 0.3) < 4 * math.sqrt(0.21 / 2000)
    assert draw_flip(HorizontalFlip(0.0), rng) is None and draw_flip(HorizontalFlip(1.0), rng) is not None


@pytest.mark.parametrize("shape", [(300, 400), (37, 61), (500, 100), (10, 1000), (3, 2), (1, 1)])
def test_drawn_boxes_lie_inside(shape):
    rng = np.random.default_rng(0)
    for _ in range(200):
        crop = draw_crop(RandomResizedCrop((0.2, 1.0)), rng, height=shape[0], width=shape[1], size=32)
        assert 0 <= crop.top <= shape[0] - crop.height and 0 <= crop.left <= shape[1] - crop.width
        assert crop.height >= 1 and crop.width >= 1


def test_area_and_ratio_are_drawn_as_specified():
    """In a square image boxes with a scale up to 0.5 always fit, so that nothing is rejected and the laws are exact."""
    rng, side = np.random.default_rng(0), 2000
    crops = [draw_crop(RandomResizedCrop((0.2, 0.5)), rng, height=side, width=side, size=1) for _ in range(4000)]
    areas = np.array([crop.height * crop.width / side**2 for crop in crops])
    log_ratios = np.log([crop.width / crop.height for crop in crops])
    for values, low, high in ((areas, 0.2, 0.5), (log_ratios, math.log(3 / 4), math.log(4 / 3))):
        assert values.min() > low - 2e-3 and values.max() < high + 2e-3
        assert abs(values.mean() - (low + high) / 2) < 4 * (high - low) / math.sqrt(12 * len(values))
        assert abs(values.std() - (high - low) / math.sqrt(12)) < 0.03 * (high - low)
    tops = np.array([crop.top / (side - crop.height) for crop in crops])
    assert abs(tops.mean() - 0.5) < 4 / math.sqrt(12 * len(tops))


def test_boxes_that_never_fit_fall_back_to_the_centre():
    """Ten tries cannot fit a ratio of at least 3/4 with 20 % of the area into 10 x 1000."""
    rng = np.random.default_rng(0)
    wide = draw_crop(RandomResizedCrop((0.2, 1.0)), rng, height=10, width=1000, size=8)
    assert wide == Crop(0, (1000 - 13) // 2, 10, 13, 8)
    tall = draw_crop(RandomResizedCrop((0.2, 1.0)), rng, height=1000, width=10, size=8)
    assert tall == Crop((1000 - 13) // 2, 0, 13, 10, 8)
