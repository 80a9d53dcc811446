"""Colour operations against torchvision, the blur against a slow float convolution."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
import torch
import torchvision.transforms.functional as F
from PIL import Image, ImageFilter
from pretrain.views.photometric import (
    JITTER_STEPS,
    Blur,
    BoxBlur,
    Jitter,
    apply_blur,
    apply_box_blur,
    apply_grey,
    apply_jitter,
    draw_blur,
    draw_box_blur,
    draw_grey,
    draw_jitter,
    gaussian_taps,
)

from pretrain.views.recipes import ColorJitter, GaussianBlur, Grayscale, PillowBlur


def noise(height=40, width=50):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


ADJUST = {
    "brightness": F.adjust_brightness,
    "contrast": F.adjust_contrast,
    "saturation": F.adjust_saturation,
    "hue": F.adjust_hue,
}


@pytest.mark.parametrize("step", JITTER_STEPS)
@pytest.mark.parametrize("strength", [0.0, 0.2, 0.9, 1.0, 1.37, 1.8])
def test_each_jitter_step_equals_torchvision(step, strength):
    factor = (strength - 0.9) / 2 if step == "hue" else strength
    factors = dict.fromkeys(JITTER_STEPS, 1.0) | {"hue": 0.0, step: factor}
    expected = ADJUST[step](Image.fromarray(noise()), factor)
    np.testing.assert_array_equal(apply_jitter(Jitter(order=(step,), **factors), noise()), np.asarray(expected))


def test_jitter_in_order_equals_torchvision_and_the_order_counts():
    factors = {"brightness": 1.6, "contrast": 0.5, "saturation": 1.7, "hue": -0.17}
    results = []
    for order in (JITTER_STEPS, JITTER_STEPS[::-1], ("hue", "contrast", "brightness", "saturation")):
        expected = Image.fromarray(noise())
        for step in order:
            expected = ADJUST[step](expected, factors[step])
        results.append(apply_jitter(Jitter(order=order, **factors), noise()))
        np.testing.assert_array_equal(results[-1], np.asarray(expected))
    assert not np.array_equal(results[0], results[1])


def test_jitter_is_drawn_as_specified():
    rng = np.random.default_rng(0)
    drawn = [draw_jitter(ColorJitter(0.8, 0.4, 1.5, 0.2, p=0.8), rng) for _ in range(5000)]
    applied = [jitter for jitter in drawn if jitter is not None]
    assert abs(len(applied) / 5000 - 0.8) < 4 * math.sqrt(0.16 / 5000)
    # A strength above 1 is cut at 0: a negative factor would turn the image inside out.
    for name, low, high in (
        ("brightness", 0.2, 1.8),
        ("contrast", 0.6, 1.4),
        ("saturation", 0, 2.5),
        ("hue", -0.2, 0.2),
    ):
        values = np.array([getattr(jitter, name) for jitter in applied])
        assert low <= values.min() < low + 0.01 * (high - low) and high - 0.01 * (high - low) < values.max() <= high
        assert abs(values.mean() - (low + high) / 2) < 4 * (high - low) / math.sqrt(12 * len(values))
    assert len({jitter.order for jitter in applied}) == 24
    assert draw_jitter(ColorJitter(0.4, 0.4, 0.4, 0.4, p=1.0), rng) is not None


def slow_blur(image, kernel, sigma):
    """The definition: sum over taps of the mirrored image, in float64."""
    radius = kernel // 2
    taps = np.array([math.exp(-((offset - radius) ** 2) / (2 * sigma**2)) for offset in range(kernel)])
    taps /= taps.sum()
    padded = np.pad(image.astype(float), ((radius, radius), (radius, radius), (0, 0)), mode="reflect")
    height, width = image.shape[:2]
    rows = sum(taps[i] * padded[i : i + height] for i in range(kernel))
    return sum(taps[i] * rows[:, i : i + width] for i in range(kernel))


@pytest.mark.parametrize("kernel", [3, 7, 23])
@pytest.mark.parametrize("sigma", [0.1, 0.5, 1.0, 2.0])
def test_blur_is_the_float_gaussian_rounded(kernel, sigma):
    assert np.abs(apply_blur(Blur(kernel, sigma), noise()) - slow_blur(noise(), kernel, sigma)).max() < 0.501


@pytest.mark.parametrize("sigma", [0.3, 2.0])
def test_blur_equals_torchvision(sigma):
    expected = F.gaussian_blur(torch.from_numpy(noise().transpose(2, 0, 1).copy()), [23, 23], [sigma, sigma])
    difference = apply_blur(Blur(23, sigma), noise()).astype(int) - expected.permute(1, 2, 0).numpy()
    assert np.abs(difference).max() <= 1 and (difference != 0).mean() < 1e-3


def test_blur_keeps_flat_colour_and_is_nothing_at_small_sigma():
    flat = np.full((9, 9, 3), (3, 130, 250), dtype=np.uint8)
    np.testing.assert_array_equal(apply_blur(Blur(23, 2.0), flat), flat)  # narrower than the kernel, too
    np.testing.assert_array_equal(apply_blur(Blur(23, 0.1), noise()), noise())
    assert noise().std() > 4 * apply_blur(Blur(23, 2.0), noise()).std()  # the control
    assert gaussian_taps(23, 2.0).sum() == pytest.approx(1) and len(gaussian_taps(23, 2.0)) == 23


def test_box_blur_is_pillows():
    expected = Image.fromarray(noise()).filter(ImageFilter.GaussianBlur(1.3))
    np.testing.assert_array_equal(apply_box_blur(BoxBlur(1.3), noise()), np.asarray(expected))


def test_grey_equals_torchvision():
    expected = F.rgb_to_grayscale(Image.fromarray(noise()), 3)
    np.testing.assert_array_equal(apply_grey(noise()), np.asarray(expected))


@pytest.mark.parametrize(
    ("draw", "op", "field"),
    [(draw_blur, GaussianBlur(), "sigma"), (draw_box_blur, PillowBlur(), "radius"), (draw_grey, Grayscale(0.2), None)],
)
def test_blurs_and_grey_are_drawn_as_specified(draw, op, field):
    rng = np.random.default_rng(0)
    applied = [drawn for drawn in (draw(op, rng) for _ in range(4000)) if drawn is not None]
    assert abs(len(applied) / 4000 - op.p) < 4 * math.sqrt(op.p * (1 - op.p) / 4000)
    if field is not None:
        values = np.array([getattr(drawn, field) for drawn in applied])
        assert 0.1 <= values.min() < 0.12 and 1.98 < values.max() <= 2.0
        assert abs(values.mean() - 1.05) < 4 * 1.9 / math.sqrt(12 * len(values))


def test_applying_draws_nothing():
    """The same parameters give the same pixels: nothing in `apply` may use a global generator."""
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    jitter = Jitter(JITTER_STEPS, 1.2, 0.7, 1.5, 0.1)
    np.testing.assert_array_equal(apply_jitter(jitter, noise()), apply_jitter(jitter, noise()))
    assert before[0] == random.getstate() and before[1] == np.random.get_state()[1].tolist()
    assert torch.equal(before[2], torch.get_rng_state())
