"""RandAugment: levels by hand, pixels against torchvision or the definition, statistics of drawing."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
import torchvision.transforms.functional as F
from PIL import Image
from pretrain.views.randaugment import Change, amount_of, apply_change, draw_changes
from torchvision.transforms import InterpolationMode

from pretrain.views.recipes import RAND_AUGMENT_OPS, RandAugment

FILL = (124, 116, 104)


def noise(height=40, width=50):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def changed(name, amount, *, bicubic=False, image=None):
    return apply_change(Change(name, amount, bicubic, FILL), noise() if image is None else image)


@pytest.mark.parametrize(
    ("name", "at_10", "at_5"),
    [
        ("Rotate", 30, 15), ("ShearX", 0.3, 0.15), ("ShearY", 0.3, 0.15),
        ("TranslateXRel", 0.45, 0.225), ("TranslateYRel", 0.45, 0.225),
        ("Color", 1.9, 1.0), ("Contrast", 1.9, 1.0), ("Brightness", 1.9, 1.0), ("Sharpness", 1.9, 1.0),
        ("Posterize", 4, 2), ("Solarize", 256, 128), ("SolarizeAdd", 110, 55),
        ("AutoContrast", 0, 0), ("Equalize", 0, 0), ("Invert", 0, 0),
    ],
)  # fmt: skip
def test_levels_are_the_specified_ones(name, at_10, at_5):
    assert amount_of(name, 10.0, negative=False) == pytest.approx(at_10)
    assert amount_of(name, 5.0, negative=False) == pytest.approx(at_5)
    signed = name in ("Rotate", "ShearX", "ShearY", "TranslateXRel", "TranslateYRel")
    assert amount_of(name, 10.0, negative=True) == pytest.approx(-at_10 if signed else at_10)


def test_whole_numbers_are_cut_not_rounded():
    assert amount_of("Posterize", 9.99, negative=False) == 3
    assert amount_of("Solarize", 9.99, negative=False) == 255
    assert amount_of("SolarizeAdd", 9.99, negative=False) == 109


TORCHVISION = [
    ("AutoContrast", 0, F.autocontrast),
    ("Equalize", 0, F.equalize),
    ("Invert", 0, F.invert),
    ("Posterize", 4, lambda image: F.posterize(image, 4)),
    ("Posterize", 1, lambda image: F.posterize(image, 1)),
    ("Solarize", 100, lambda image: F.solarize(image, 100)),
    ("Color", 1.9, lambda image: F.adjust_saturation(image, 1.9)),
    ("Contrast", 1.7, lambda image: F.adjust_contrast(image, 1.7)),
    ("Brightness", 1.9, lambda image: F.adjust_brightness(image, 1.9)),
    ("Sharpness", 1.9, lambda image: F.adjust_sharpness(image, 1.9)),
]


@pytest.mark.parametrize(("name", "amount", "reference"), TORCHVISION)
def test_colour_operations_equal_torchvision(name, amount, reference):
    dull = noise() // 2 + 30  # leaves AutoContrast something to do
    np.testing.assert_array_equal(changed(name, amount, image=dull), np.asarray(reference(Image.fromarray(dull))))
    assert not np.array_equal(changed(name, amount, image=dull), dull)  # the control


@pytest.mark.parametrize(("bicubic", "mode"), [(False, InterpolationMode.BILINEAR), (True, InterpolationMode.BICUBIC)])
@pytest.mark.parametrize("degrees", [30.0, -17.0])
def test_rotation_equals_torchvision(bicubic, mode, degrees):
    expected = F.rotate(Image.fromarray(noise()), degrees, interpolation=mode, fill=list(FILL))
    np.testing.assert_array_equal(changed("Rotate", degrees, bicubic=bicubic), np.asarray(expected))


def test_the_two_filters_differ():
    assert not np.array_equal(changed("Rotate", 20.0), changed("Rotate", 20.0, bicubic=True))


@pytest.mark.parametrize("name", ["TranslateXRel", "TranslateYRel"])
@pytest.mark.parametrize("sign", [1, -1])
def test_translation_moves_by_a_share_of_the_side_and_fills(name, sign):
    axis = 1 if name == "TranslateXRel" else 0
    side = noise().shape[axis]
    pixels = side // 5
    moved = np.moveaxis(changed(name, sign * 0.2), axis, 0)
    before = np.moveaxis(noise(), axis, 0)
    if sign > 0:
        kept, source, uncovered = moved[:-pixels], before[pixels:], moved[-pixels:]
    else:
        kept, source, uncovered = moved[pixels:], before[:-pixels], moved[:pixels]
    np.testing.assert_array_equal(kept, source)
    assert (uncovered == FILL).all()


@pytest.mark.parametrize("name", ["ShearX", "ShearY"])
def test_shear_moves_each_line_in_proportion_to_its_number(name):
    """A step edge: along line i the edge lies at x = edge - shear (i + 1/2), where PIL's pixel centres are."""
    image = np.zeros((40, 40, 3), dtype=np.uint8)
    image[:, 20:] = 255
    image = image if name == "ShearX" else image.transpose(1, 0, 2).copy()
    sheared = changed(name, 0.3, image=image)[:, :, 0].astype(float)
    lines = sheared if name == "ShearX" else sheared.T
    for number in range(0, 40, 5):
        edge = 20 - 0.3 * (number + 0.5)
        width_of_dark = np.sum(1 - lines[number, :26] / 255)  # right of that the fill begins
        assert width_of_dark == pytest.approx(edge, abs=0.51)


def test_solarize_add_lifts_the_dark_half_only():
    image = np.array([0, 17, 18, 127, 128, 255], dtype=np.uint8).reshape(1, 6, 1).repeat(3, 2)
    assert changed("SolarizeAdd", 110, image=image)[0, :, 0].tolist() == [110, 127, 128, 237, 128, 255]


def test_solarize_at_full_level_is_nothing():
    np.testing.assert_array_equal(changed("Solarize", 256), noise())


def test_posterize_keeps_the_leading_bits():
    np.testing.assert_array_equal(changed("Posterize", 3), noise() & 0b11100000)
    assert changed("Posterize", 0).max() == 0


@pytest.mark.parametrize("name", RAND_AUGMENT_OPS)
@pytest.mark.parametrize("shape", [(1, 1), (7, 3)])
def test_every_operation_keeps_shape_and_type(name, shape):
    image = noise(*shape)
    for magnitude in (0.0, 6.3, 10.0):
        result = changed(name, amount_of(name, magnitude, negative=True), image=image)
        assert result.shape == image.shape and result.dtype == np.uint8


def test_draws_follow_the_specification():
    rng, count = np.random.default_rng(0), 6000
    draws = [draw_changes(RandAugment(), rng) for _ in range(count)]
    lengths = Counter(len(changes) for changes in draws)
    for length, share in ((0, 0.25), (1, 0.5), (2, 0.25)):
        assert abs(lengths[length] / count - share) < 4 * math.sqrt(share * (1 - share) / count)
    changes = [change for drawn in draws for change in drawn]
    names = Counter(change.name for change in changes)
    assert set(names) == set(RAND_AUGMENT_OPS)
    assert all(abs(names[name] / len(changes) - 1 / 15) < 4.5 * math.sqrt(14 / 225 / len(changes)) for name in names)
    same = np.mean([drawn[0].name == drawn[1].name for drawn in draws if len(drawn) == 2])
    assert 0.03 < same < 0.11  # 1/15: with replacement
    assert abs(np.mean([change.bicubic for change in changes]) - 0.5) < 4 * 0.5 / math.sqrt(len(changes))
    rotations = np.array([change.amount for change in changes if change.name == "Rotate"])
    assert abs(np.mean(rotations > 0) - 0.5) < 4 * 0.5 / math.sqrt(len(rotations))
    assert 0.4 < np.mean(np.abs(rotations) == 30.0) < 0.6  # half of N(10, 0.5) is clipped to 10
    # E|clipped N| = 10 - 0.5 / sqrt(2 pi)
    assert np.abs(rotations).mean() / 3 == pytest.approx(10 - 0.5 / math.sqrt(2 * math.pi), abs=0.06)
    assert all(change.fill == FILL for change in changes)


def test_probability_zero_and_one_and_a_list_of_ones_own():
    rng = np.random.default_rng(0)
    assert draw_changes(RandAugment(p_each=0.0), rng) == ()
    drawn = draw_changes(RandAugment(num_ops=3, p_each=1.0, ops=("Invert",), magnitude_std=0.0), rng)
    assert [change.name for change in drawn] == ["Invert"] * 3
