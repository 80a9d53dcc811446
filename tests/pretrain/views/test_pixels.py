"""What is done to bytes: compared with Pillow, torchvision and timm on photographs, within the limits that pixels.py states."""

from __future__ import annotations

import functools
import math
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import skimage
import torch
import torchvision.transforms.functional as F
from PIL import Image, ImageFilter, ImageOps
from scipy import stats

from pretrain.views import pixels
from pretrain.views.operations import (
    CMC_OPS,
    RAND_AUGMENT_OPS,
    Change,
    Frame,
    PillowBlur,
    RandAugment,
    amount_of,
)
from pretrain.views.pipeline import draw_view
from pretrain.views.recipes import RECIPES
from pretrain.views.rng import sample_generator

PHOTOS = ("astronaut.png", "coffee.png", "motorcycle_left.png")
FILL = (124, 116, 104)


def photo(name):
    """uint8 (H, W, 3) of a picture that scikit-image carries in its package."""
    return _photo(name).copy()


@functools.cache
def _photo(name):
    return np.asarray(Image.open(Path(skimage.__file__).parent / "data" / name).convert("RGB"))


@pytest.fixture(scope="module")
def views():
    """Photographs at the size of a view."""
    return [np.array(Image.fromarray(photo(name)).resize((224, 224))) for name in PHOTOS]


def stated():
    """Function -> (mean, largest) difference in levels, out of the module's own table."""
    rows = [line.split("|")[1:-1] for line in pixels.__doc__.splitlines() if line.startswith("| ")]
    return {cells[0].strip(): (float(cells[2]), int(cells[3].split(",")[0])) for cells in rows[1:]}


STATED = stated()


def assert_within(row, pairs):
    """Every pair of images (ours, reference) differs by no more than the row of the table says."""
    mean, largest = STATED[row]
    for ours, reference in pairs:
        assert ours.dtype == np.uint8 and ours.shape == reference.shape
        difference = np.abs(ours.astype(int) - reference)
        assert difference.mean() <= mean, f"{row}: mean {difference.mean():.3f}"
        assert difference.max() <= largest, f"{row}: largest {difference.max()}"


def compared(images, ours, reference):
    return [(ours(image), np.asarray(reference(Image.fromarray(image)), dtype=int)) for image in images]


# --- resize -----------------------------------------------------------------------------------------------------------

SIZES = [(480, 640), (375, 500), (300, 300), (225, 224), (224, 260), (400, 150), (150, 400), (30, 600), (600, 7)]
SMALL = [(224, 224), (100, 100), (223, 31), (1, 1), (1, 224), (7, 3), (60, 224)]


@pytest.mark.parametrize("side", [224, 64, 255, 1])
def test_resize_is_pillows(side):
    """Shrinking, enlarging, either of them along one axis alone, extreme aspects and boxes of one pixel."""
    whole = np.array(Image.fromarray(photo("astronaut.png")).resize((640, 600)))
    for height, width in SIZES + SMALL:
        resize_is_pillows(whole[:height, :width], side)


def resize_is_pillows(box, side):
    expected = np.asarray(Image.fromarray(np.ascontiguousarray(box)).resize((side, side), Image.Resampling.BILINEAR))
    enlarging = side >= max(box.shape[:2])
    row = "resize, both axes enlarging" if enlarging else "resize, an axis shrinking"
    assert_within(row, [(pixels.resize(box, height=side, width=side), expected)])


def test_resize_over_boxes_as_they_are_drawn(views):
    """200 boxes of InfoMin's crop: within 1/255 of Pillow's on average, and in no pixel by more than two levels."""
    op, image = RECIPES["infomin"].ops[0], photo("motorcycle_left.png")
    means, nearest = [], []
    for index in range(200):
        crop = op.draw(sample_generator(seed=0, epoch=0, index=index), Frame(*image.shape[:2], 96))
        box = image[crop.top : crop.top + crop.height, crop.left : crop.left + crop.width]
        picture = Image.fromarray(np.ascontiguousarray(box))
        expected = np.asarray(picture.resize((96, 96), Image.Resampling.BILINEAR), dtype=int)
        means.append(np.abs(op.apply(crop, image) - expected).mean())
        nearest.append(np.abs(np.asarray(picture.resize((96, 96), Image.Resampling.NEAREST)) - expected).mean())
    assert max(means) < 0.5 and np.mean(means) < 0.25
    assert min(nearest) > 1  # the control: another filter is seen


def test_resizing_takes_a_mirrored_read_only_image():
    image = photo("chelsea.png")[:, ::-1]
    image.setflags(write=False)
    expected = np.asarray(Image.fromarray(np.ascontiguousarray(image)).resize((64, 48), Image.Resampling.BILINEAR))
    assert_within("resize, an axis shrinking", [(pixels.resize(image, height=48, width=64), expected)])


# --- colours ----------------------------------------------------------------------------------------------------------

FACTORS = (0.0, 0.2, 0.63, 1.0, 1.37, 1.9)


@pytest.mark.parametrize(
    ("row", "reference"),
    [
        ("brightness", F.adjust_brightness),
        ("contrast", F.adjust_contrast),
        ("saturation", F.adjust_saturation),
        ("sharpness", F.adjust_sharpness),
    ],
)
def test_blends_are_torchvisions(row, reference, views):
    for factor in FACTORS:
        assert_within(
            row,
            compared(
                views, lambda x, f=factor: getattr(pixels, row)(x, f), lambda picture, f=factor: reference(picture, f)
            ),
        )
    changed = compared(views, lambda x: getattr(pixels, row)(x, 1.2), lambda picture: reference(picture, 1.1))
    with pytest.raises(AssertionError, match=row):  # the control: a tenth more is seen
        assert_within(row, changed)


def test_hue_is_torchvisions_but_for_the_rounding_of_hsv(views):
    for turns in (-0.5, -0.2, -0.03, 0.004, 0.05, 0.1, 0.2, 0.5):
        assert_within(
            "shift_hue",
            compared(views, lambda x, t=turns: pixels.shift_hue(x, t), lambda p, t=turns: F.adjust_hue(p, t)),
        )
    changed = compared(views, lambda x: pixels.shift_hue(x, 0.1), lambda p: F.adjust_hue(p, 0.08))
    with pytest.raises(AssertionError, match="shift_hue"):
        assert_within("shift_hue", changed)
    np.testing.assert_array_equal(pixels.shift_hue(views[0], 0.003), views[0])  # less than a step of 1/255


def test_grey_is_pillows_luma(views):
    assert_within("grey", compared(views, pixels.grey, lambda picture: F.to_grayscale(picture, 3)))


def test_a_grey_view_is_one_plane_and_every_operation_takes_it_for_three(views):
    """Whatever follows grey in a recipe gives the bytes that it gives of three planes of their own, and writes into neither."""
    shared = pixels.grey(views[0])
    assert shared.strides[2] == 0 and not shared.flags.writeable
    copied = shared.copy()
    changes = [
        Change(name, amount_of(name, 7.0, negative=True), bicubic) for name in RAND_AUGMENT_OPS for bicubic in (0, 1)
    ]
    steps = [lambda x, c=change: RandAugment().apply((c,), x) for change in changes]
    steps += [pixels.mirror, pixels.grey, lambda x: pixels.shift_hue(x, 0.1)]
    steps += [lambda x, s=sigma: pixels.gaussian_blur(x, kernel=23, sigma=s) for sigma in (0.1, 0.7, 2.0)]
    for step in steps:
        np.testing.assert_array_equal(step(shared), step(copied))
    np.testing.assert_array_equal(shared, copied)
    planes = np.empty((2, 3, 224, 224), dtype=np.uint8)
    pixels.planes_into(planes[0], shared)
    pixels.planes_into(planes[1], copied)
    np.testing.assert_array_equal(planes[0], planes[1])
    assert pixels.gaussian_blur(shared, kernel=23, sigma=1.0).strides[2] == 0  # the blur's work is one plane's


@pytest.mark.parametrize(
    ("row", "reference"), [("autocontrast", ImageOps.autocontrast), ("equalize", ImageOps.equalize)]
)
def test_stretching_is_pillows_to_the_bit(row, reference, views):
    dull = [view // 2 + 30 for view in views]
    flat = [np.full((9, 9, 3), (3, 130, 250), dtype=np.uint8)]
    assert_within("autocontrast, equalize", compared(views + dull + flat, getattr(pixels, row), reference))


# --- blur -------------------------------------------------------------------------------------------------------------


def test_moco_s_blur_is_near_pillows_boxes(views):
    for radius in (0.1, 0.2, 0.3, 0.35, 0.4, 0.5, 1.0, 1.5, 2.0):
        blur = ImageFilter.GaussianBlur(radius)
        assert_within(
            "gaussian_blur",
            compared(views, lambda x, r=radius: PillowBlur().apply(r, x), lambda p, b=blur: p.filter(b)),
        )


@pytest.mark.parametrize("sigma", [0.3, 1.0, 2.0])
def test_blur_is_torchvisions_of_floats(sigma, views):
    for image in (view[:80, :96] for view in views):
        expected = F.gaussian_blur(torch.from_numpy(image.transpose(2, 0, 1).copy()).double(), [23, 23], [sigma] * 2)
        found = pixels.gaussian_blur(image, kernel=23, sigma=sigma)
        assert np.abs(found - expected.permute(1, 2, 0).numpy()).max() < 0.65


# --- RandAugment against timm's ---------------------------------------------------------------------------------------


def timm_op(name, magnitude, *, negative, bicubic, monkeypatch):
    """timm's operation with nothing left to chance."""
    from timm.data import auto_augment

    resample = Image.Resampling.BICUBIC if bicubic else Image.Resampling.BILINEAR
    monkeypatch.setattr(auto_augment.random, "random", lambda: 0.9 if negative else 0.1)
    return auto_augment.AugmentOp(
        name, prob=1.0, magnitude=magnitude, hparams={"img_mean": FILL, "interpolation": resample}
    )


ROWS = {  # operation -> the row of the table that limits its difference; the others are equal to the bit
    "Rotate": "warp", "ShearX": "warp", "ShearY": "warp", "TranslateXRel": "translate", "TranslateYRel": "translate",
    "Color": "saturation", "Contrast": "contrast", "Brightness": "brightness", "Sharpness": "sharpness",
}  # fmt: skip


@pytest.mark.parametrize("name", RAND_AUGMENT_OPS)
@pytest.mark.parametrize(("magnitude", "negative"), [(10.0, False), (9.3, True), (2.7, False)])
def test_each_operation_of_randaugment_is_timms(name, magnitude, negative, views, monkeypatch):
    pytest.importorskip("timm")
    for bicubic in (False, True) if ROWS.get(name) in ("warp", "translate") else (False,):
        theirs = timm_op(name, magnitude, negative=negative, bicubic=bicubic, monkeypatch=monkeypatch)
        change = Change(name, amount_of(name, magnitude, negative=negative), bicubic)
        row = ROWS.get(name)
        if row == "warp":
            row = "warp, bicubic" if bicubic else "warp, bilinear"
        for ours, expected in compared(views, lambda x, change=change: RandAugment().apply((change,), x), theirs):
            if row is None:
                np.testing.assert_array_equal(ours, expected)
            else:
                if row.startswith("warp"):  # the seam to the fill, one pixel wide, is soft here and hard there
                    inside = (np.abs(expected - FILL).max(2) > 0) & (np.abs(ours.astype(int) - FILL).max(2) > 0)
                    inside = np.lib.stride_tricks.sliding_window_view(np.pad(inside, 1), (3, 3)).all((2, 3))
                    ours, expected = ours[inside], expected[inside]
                assert_within(row, [(ours, expected)])


def test_control_the_other_sign_is_another_picture(views, monkeypatch):
    pytest.importorskip("timm")
    theirs = timm_op("ShearX", 10.0, negative=False, bicubic=False, monkeypatch=monkeypatch)
    change = Change("ShearX", amount_of("ShearX", 10.0, negative=True), False)
    with pytest.raises(AssertionError, match="warp, bilinear: mean"):
        assert_within("warp, bilinear", compared(views, lambda x: RandAugment().apply((change,), x), theirs))


def drawn_by_us(count):
    changes = []
    for index in range(count):
        changes += RandAugment().draw(sample_generator(seed=1, epoch=0, index=index), Frame(90, 120, 32))
    return changes


def drawn_by_timm(count):
    """(name, arguments) of what timm's transform, as the reference sets it up, applies to `count` images."""
    from timm.data.auto_augment import rand_augment_transform

    transform = rand_augment_transform("rand-m10-n2-mstd0.5", {"translate_const": 100, "img_mean": FILL})
    found = []
    for op in transform.ops:
        op.aug_fn = lambda image, *arguments, name=op.name, **_: found.append((name, arguments)) or image
    random.seed(1)
    np.random.seed(1)
    for _ in range(count):
        transform(None)
    return found


def test_randaugment_draws_as_timm_does():
    """The same number of changes, of each kind, of each sign, and magnitudes of one distribution: two samples, fixed seeds."""
    pytest.importorskip("timm")
    ours, theirs = drawn_by_us(6000), drawn_by_timm(6000)
    assert abs(len(ours) - len(theirs)) < 4 * math.sqrt(2 * 12000 * 0.25)
    counts = [Counter(change.name for change in ours), Counter(name for name, _ in theirs)]
    assert set(counts[0]) == set(counts[1]) == set(RAND_AUGMENT_OPS)
    table = [[count[name] for name in RAND_AUGMENT_OPS] for count in counts]
    assert stats.chi2_contingency(table).pvalue > 1e-3
    assert stats.chi2_contingency([table[0], table[1][:1] + [2 * n for n in table[1][1:]]]).pvalue < 1e-3  # the control
    for name in ("Rotate", "ShearX", "TranslateYRel", "Color", "SolarizeAdd"):
        amounts = [change.amount for change in ours if change.name == name]
        assert stats.ks_2samp(amounts, [arguments[0] for kind, arguments in theirs if kind == name]).pvalue > 1e-3
    wider = [1.02 * change.amount for change in ours if change.name == "Rotate"]
    assert stats.ks_2samp(wider, [a[0] for kind, a in theirs if kind == "Rotate"]).pvalue < 1e-3  # the control


def test_randaugment_draws_with_replacement_and_its_magnitude_is_a_clipped_normal():
    rng = np.random.default_rng(0)
    always = RandAugment(p_each=1.0)
    drawn = [always.draw(rng, Frame(90, 120, 32)) for _ in range(9000)]
    pairs = Counter((first.name, second.name) for first, second in drawn)
    table = [pairs[first, second] for first in RAND_AUGMENT_OPS for second in RAND_AUGMENT_OPS]
    assert stats.chisquare(table).pvalue > 1e-3  # uniform over all 225 pairs, an operation with itself among them
    rotations = np.array([abs(change.amount) / 3 for pair in drawn for change in pair if change.name == "Rotate"])
    below = rotations[rotations < 10]
    assert stats.binomtest(len(below), len(rotations), 0.5).pvalue > 1e-3
    assert stats.kstest(10 - below, stats.halfnorm(scale=0.5).cdf).pvalue > 1e-3
    shares = Counter(len(changes) for changes in (RandAugment().draw(rng, Frame(90, 120, 32)) for _ in range(4000)))
    assert stats.chisquare([shares[0], shares[1], shares[2]], [1000, 2000, 1000]).pvalue > 1e-3


def test_cmc_v2_s_randaugment_changes_no_colour():
    """Its list [specification 1.6]: only AutoContrast and Sharpness touch values, and those of a place, not a hue."""
    (op,) = (op for op in RECIPES["cmc_v2"].ops if isinstance(op, RandAugment))
    assert op.ops == CMC_OPS and len(op.ops) == 8
    names = Counter()
    for index in range(4000):
        frame = Frame(90, 120, 32)
        changes = draw_view(RECIPES["cmc_v2"], sample_generator(seed=0, epoch=0, index=index), frame)[-1]
        names.update(change.name for change in changes)
    assert stats.chisquare([names[name] for name in CMC_OPS]).pvalue > 1e-3 and set(names) == set(CMC_OPS)
