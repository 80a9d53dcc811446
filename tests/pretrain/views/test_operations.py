"""The augmentations: pixels against torchvision or a slow definition given equal parameters, and the statistics of drawing."""

from __future__ import annotations

import math
import random
from collections import Counter
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import torch
import torchvision.transforms.functional as F
from PIL import Image
from torchvision.transforms import InterpolationMode

from pretrain.base.errors import ConfigError
from pretrain.views import recipe_file
from pretrain.views.operations import (
    AUGMENTATIONS,
    JITTER_STEPS,
    RAND_AUGMENT_OPS,
    CenterCrop,
    Change,
    ColorJitter,
    Crop,
    Frame,
    GaussianBlur,
    Grayscale,
    HorizontalFlip,
    Jitter,
    Operation,
    PillowBlur,
    RandAugment,
    RandomResizedCrop,
    amount_of,
    resized_crop,
)
from pretrain.views.pipeline import ViewMaker
from pretrain.views.pixels import gaussian_blur, gaussian_taps
from pretrain.views.recipe_file import load_recipe, write_recipe
from pretrain.views.recipes import RECIPES

FRAME = Frame(90, 120, 32)
FILL = (124, 116, 104)


def noise(height=40, width=50, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def draws(op, count, frame=FRAME):
    """What was drawn, without the times at which nothing was."""
    rng = np.random.default_rng(0)
    return [drawn for drawn in (op.draw(rng, frame) for _ in range(count)) if drawn is not None]


def assert_a_level(found, expected):
    """Equal but for rounding; test_pixels.py has the differences on photographs."""
    assert np.abs(found.astype(int) - np.asarray(expected)).max() <= 1


def assert_share(found, expected, count):
    assert abs(found / count - expected) < 4 * math.sqrt(expected * (1 - expected) / count)


def assert_uniform(values, low, high):
    values = np.asarray(values)
    margin = 0.01 * (high - low)
    assert low <= values.min() < low + margin and high - margin < values.max() <= high
    assert abs(values.mean() - (low + high) / 2) < 4 * (high - low) / math.sqrt(12 * len(values))


# --- one class is enough ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Negative(Operation[bool]):
    """An augmentation as somebody would add it."""

    p: float = 0.5
    overrides: ClassVar = {"blur_sigma": "p"}

    def draw(self, rng, frame):
        return True if rng.random() < self.p else None

    def apply(self, parameters, image, view=0):
        return 255 - image


def test_an_augmentation_is_added_by_one_class(tmp_path, monkeypatch):
    """Recipe files, overrides and the pipeline work from the class; only the table of names knows it."""
    monkeypatch.setitem(recipe_file.OPERATIONS, "Negative", Negative)
    (tmp_path / "r.yaml").write_text("name: r\nops: [{op: CenterCrop, resize_ratio: 1}, {op: Negative, p: 1.0}]")
    recipe = load_recipe(tmp_path / "r.yaml")
    write_recipe(tmp_path / "again.yaml", recipe)
    assert load_recipe(tmp_path / "again.yaml") == recipe
    image = noise(32, 32)
    made = ViewMaker(recipe, image_size=32)(image, seed=0, epoch=0, index=0).images
    assert all(np.array_equal(view.permute(1, 2, 0).numpy(), 255 - image) for view in made)
    changed = recipe_file.recipe_of(recipe_file.recipe_to_plain(recipe), {"blur_sigma": 0.0, "crop_scale": None})
    made = ViewMaker(changed, image_size=32)(image, seed=0, epoch=0, index=0).images
    assert all(np.array_equal(view.permute(1, 2, 0).numpy(), image) for view in made)


def test_applying_draws_nothing():
    """The same parameters give the same pixels: nothing in `apply` may use a global generator."""
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    rng = np.random.default_rng(0)
    for op in RECIPES["infomin"].ops:
        drawn = next(drawn for drawn in (op.draw(rng, Frame(40, 50, 16)) for _ in range(50)) if drawn)
        np.testing.assert_array_equal(op.apply(drawn, noise()), op.apply(drawn, noise()))
    assert before[0] == random.getstate() and before[1] == np.random.get_state()[1].tolist()
    assert torch.equal(before[2], torch.get_rng_state())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GaussianBlur(kernel=22), "odd number of taps, found 22"),
        (lambda: RandAugment(ops=("Rotat",)), "found.*Rotat'"),
        (lambda: RandomResizedCrop(scale=(0.5, 0.1)), "0 < low <= high <= 1 as its scale"),
        (lambda: RandomResizedCrop(ratio=(0, 1)), "0 < low <= high as its ratio"),
        (lambda: HorizontalFlip(1.5), r"p in \[0, 1\], found 1.5"),
    ],
)
def test_strengths_that_cannot_be_are_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


def test_every_class_of_the_file_can_stand_in_a_recipe():
    assert set(AUGMENTATIONS) == {cls for cls in Operation.__subclasses__() if cls.__module__.endswith(".operations")}


# --- crops and the flip -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("box", [(0, 0, 90, 120), (13, 40, 50, 31), (5, 6, 1, 1), (30, 0, 60, 80)])
def test_resized_crop_is_torchvisions(box):
    image = noise(90, 120)
    for size in (24, 64, 100):
        expected = F.resized_crop(Image.fromarray(image), *box, [size, size], InterpolationMode.BILINEAR)
        assert_a_level(RandomResizedCrop().apply(Crop(*box, size), image), expected)


@pytest.mark.parametrize("shape", [(90, 120), (121, 77), (64, 64), (40, 400)])
def test_evaluation_crop_is_torchvisions(shape):
    image, op = noise(*shape), CenterCrop(256 / 224)
    for size in (32, 63, 224):
        resized = F.resize(Image.fromarray(image), round(size * 256 / 224), InterpolationMode.BILINEAR)
        expected = F.center_crop(resized, [size, size])
        assert_a_level(op.apply(op.draw(None, Frame(*shape, size)), image), expected)


def test_flip_mirrors_left_and_right_with_its_probability():
    flipped = HorizontalFlip().apply(True, noise())
    np.testing.assert_array_equal(flipped, np.asarray(F.hflip(Image.fromarray(noise()))))
    assert_share(len(draws(HorizontalFlip(0.3), 2000)), 0.3, 2000)
    assert len(draws(HorizontalFlip(0.0), 50)) == 0 and len(draws(HorizontalFlip(1.0), 50)) == 50


@pytest.mark.parametrize("shape", [(300, 400), (500, 100), (10, 1000), (3, 2), (1, 1)])
def test_drawn_boxes_lie_inside(shape):
    for crop in draws(RandomResizedCrop((0.2, 1.0)), 200, Frame(*shape, 32)):
        assert 0 <= crop.top <= shape[0] - crop.height and 0 <= crop.left <= shape[1] - crop.width
        assert crop.height >= 1 and crop.width >= 1


def test_area_and_ratio_are_drawn_as_specified():
    """In a square image boxes with a scale up to 0.5 always fit, so that nothing is rejected and the laws are exact."""
    side = 2000
    crops = draws(RandomResizedCrop((0.2, 0.5)), 4000, Frame(side, side, 1))
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
    rng, op = np.random.default_rng(0), RandomResizedCrop((0.2, 1.0))
    assert op.draw(rng, Frame(10, 1000, 8)) == Crop(0, (1000 - 13) // 2, 10, 13, 8)
    assert op.draw(rng, Frame(1000, 10, 8)) == Crop((1000 - 13) // 2, 0, 13, 10, 8)


def test_cropping_leaves_the_image_and_takes_a_mirrored_one():
    image = noise()[:, ::-1]
    image.setflags(write=False)
    assert resized_crop(Crop(0, 0, 40, 50, 16), image).shape == (16, 16, 3)


# --- colour and blur --------------------------------------------------------------------------------------------------

ADJUST = {
    "brightness": F.adjust_brightness,
    "contrast": F.adjust_contrast,
    "saturation": F.adjust_saturation,
    "hue": F.adjust_hue,
}
JITTER = ColorJitter(0.8, 0.4, 1.5, 0.2, p=0.8)


def smooth():
    """Slopes of bright and dark, coloured and dull: no two neighbours far apart in hue."""
    y, x = np.mgrid[:40, :50]
    return np.stack([40 + 4 * x, 200 - 3 * y, 60 + x + 2 * y], 2).astype(np.uint8)


def test_jitter_in_order_is_torchvisions_and_the_order_counts():
    factors = {"brightness": 1.3, "contrast": 0.5, "saturation": 1.7, "hue": -0.17}
    results = []
    for order in (JITTER_STEPS, JITTER_STEPS[::-1], ("hue", "contrast", "brightness", "saturation")):
        expected = Image.fromarray(smooth())
        for step in order:
            expected = ADJUST[step](expected, factors[step])
        results.append(JITTER.apply(Jitter(order=order, **factors), smooth()).astype(int))
        assert np.abs(results[-1] - np.asarray(expected)).mean() < 1
    assert np.abs(results[0] - results[1]).mean() > 3


def test_jitter_is_drawn_as_specified():
    applied = draws(JITTER, 5000)
    assert_share(len(applied), 0.8, 5000)
    # A strength above 1 is cut at 0: a negative factor would turn the image inside out.
    ranges = {"brightness": (0.2, 1.8), "contrast": (0.6, 1.4), "saturation": (0, 2.5), "hue": (-0.2, 0.2)}
    for name, (low, high) in ranges.items():
        assert_uniform([getattr(jitter, name) for jitter in applied], low, high)
    assert len({jitter.order for jitter in applied}) == 24
    assert len(draws(ColorJitter(0.4, 0.4, 0.4, 0.4, p=1.0), 50)) == 50


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
def test_blur_is_the_float_gaussian_rounded(kernel):
    for sigma in (0.1, 0.5, 1.0, 2.0):
        blurred = GaussianBlur(kernel=kernel).apply(sigma, noise())
        assert np.abs(blurred - slow_blur(noise(), kernel, sigma)).max() < 0.65


def test_blur_keeps_flat_colour_and_is_nothing_at_small_sigma():
    flat = np.full((9, 9, 3), (3, 130, 250), dtype=np.uint8)
    np.testing.assert_array_equal(gaussian_blur(flat, kernel=23, sigma=2.0), flat)  # narrower than the kernel, too
    np.testing.assert_array_equal(gaussian_blur(noise(), kernel=23, sigma=0.1), noise())
    assert noise().std() > 4 * gaussian_blur(noise(), kernel=23, sigma=2.0).std()  # the control


@pytest.mark.parametrize(
    ("kernel", "sigma", "kept"), [(23, 2.0, 17), (23, 0.5, 5), (23, 0.1, 1), (7, 2.0, 7), (1, 2.0, 1)]
)
def test_taps_are_the_gaussian_s_without_those_that_count_for_nothing(kernel, sigma, kept):
    offsets = np.arange(kept) - kept // 2
    expected = np.exp(-(offsets**2) / (2 * sigma**2))
    np.testing.assert_allclose(gaussian_taps(kernel, sigma), expected / expected.sum(), rtol=1e-12)


@pytest.mark.parametrize("op", [GaussianBlur(), PillowBlur(), Grayscale(0.2)], ids=lambda op: type(op).__name__)
def test_blurs_and_grey_are_drawn_as_specified(op):
    applied = draws(op, 4000)
    assert_share(len(applied), op.p, 4000)
    if not isinstance(op, Grayscale):
        assert_uniform(applied, 0.1, 2.0)


# --- RandAugment ------------------------------------------------------------------------------------------------------


def changed(name, amount, *, bicubic=False, image=None):
    return RandAugment().apply((Change(name, amount, bicubic),), noise() if image is None else image)


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
def test_colour_operations_are_torchvisions(name, amount, reference):
    dull = noise() // 2 + 30  # leaves AutoContrast something to do
    assert_a_level(changed(name, amount, image=dull), reference(Image.fromarray(dull)))
    assert not np.array_equal(changed(name, amount, image=dull), dull)  # the control


@pytest.mark.parametrize("name", ["TranslateXRel", "TranslateYRel"])
@pytest.mark.parametrize("sign", [1, -1])
def test_translation_moves_by_a_share_of_the_side_and_fills(name, sign):
    axis = 1 if name == "TranslateXRel" else 0
    pixels = noise().shape[axis] // 5
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


def test_solarize_and_posterize_by_hand():
    image = np.array([0, 17, 18, 127, 128, 255], dtype=np.uint8).reshape(1, 6, 1).repeat(3, 2)
    assert changed("SolarizeAdd", 110, image=image)[0, :, 0].tolist() == [110, 127, 128, 237, 128, 255]
    np.testing.assert_array_equal(changed("Solarize", 256), noise())  # full level is nothing
    np.testing.assert_array_equal(changed("Posterize", 3), noise() & 0b11100000)
    assert changed("Posterize", 0).max() == 0


@pytest.mark.parametrize("name", RAND_AUGMENT_OPS)
def test_every_operation_keeps_shape_and_type(name):
    for image in (noise(1, 1), noise(7, 3)):
        for magnitude in (0.0, 6.3, 10.0):
            result = changed(name, amount_of(name, magnitude, negative=True), image=image)
            assert result.shape == image.shape and result.dtype == np.uint8


def test_draws_follow_the_specification():
    count = 6000
    drawn = draws(RandAugment(), count)
    lengths = Counter(len(changes) for changes in drawn)
    for length, share in ((0, 0.25), (1, 0.5), (2, 0.25)):
        assert_share(lengths[length], share, count)
    changes = [change for changes in drawn for change in changes]
    names = Counter(change.name for change in changes)
    assert set(names) == set(RAND_AUGMENT_OPS)
    assert all(abs(names[name] / len(changes) - 1 / 15) < 4.5 * math.sqrt(14 / 225 / len(changes)) for name in names)
    same = np.mean([changes[0].name == changes[1].name for changes in drawn if len(changes) == 2])
    assert 0.03 < same < 0.11  # 1/15: with replacement
    assert_share(sum(change.bicubic for change in changes), 0.5, len(changes))
    rotations = np.array([change.amount for change in changes if change.name == "Rotate"])
    assert_share((rotations > 0).sum(), 0.5, len(rotations))
    assert 0.4 < np.mean(np.abs(rotations) == 30.0) < 0.6  # half of N(10, 0.5) is clipped to 10
    # E|clipped N| = 10 - 0.5 / sqrt(2 pi)
    assert np.abs(rotations).mean() / 3 == pytest.approx(10 - 0.5 / math.sqrt(2 * math.pi), abs=0.06)


def test_probability_zero_and_one_and_a_list_of_ones_own():
    rng = np.random.default_rng(0)
    assert RandAugment(p_each=0.0).draw(rng, FRAME) == ()
    drawn = RandAugment(num_ops=3, p_each=1.0, ops=("Invert",), magnitude_std=0.0).draw(rng, FRAME)
    assert [change.name for change in drawn] == ["Invert"] * 3
