"""Operations drawn once for a pair: exact against slow references, shared where they must be, and refused in time."""

from __future__ import annotations

import dataclasses
import pickle

import numpy as np
import pytest
import torch
from scipy import ndimage
from skimage import color

from pretrain.base.errors import ConfigError, DataError
from pretrain.views.colour import colour_space
from pretrain.views.operations import CenterCrop, ColorJitter, Frame, HorizontalFlip, RandomResizedCrop
from pretrain.views.paired import ChannelSplit, FrequencySplit, PatchDistance, keep_channels, split_kernel
from pretrain.views.pipeline import ViewMaker
from pretrain.views.pixels import gaussian_blur
from pretrain.views.recipes import Recipe
from pretrain.views.rng import PAIR_STREAM, sample_generator
from tests.cases import each

WHOLE = CenterCrop(resize_ratio=1.0)


def textured(height=48, width=60):
    y, x = np.mgrid[:height, :width]
    image = np.stack([128 + 60 * np.sin(x / 3), 120 + 50 * np.cos(y / 2), 100 + 40 * np.sin((x + y) / 4)], 2)
    return image.round().astype(np.uint8)


def noise(height=48, width=48):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def views(recipe, image, *, size=48, seed=0, epoch=0, index=0):
    made = ViewMaker(recipe, image_size=size)(image, seed=seed, epoch=epoch, index=index).images
    return made[0].permute(1, 2, 0).numpy(), made[1].permute(1, 2, 0).numpy()


def test_frequencies_are_scipys_gaussian_and_what_it_takes_away():
    image, sigma = textured(48, 48), 1.5
    low, high = views(Recipe("r", (WHOLE, FrequencySplit(sigma, swap=0))), image)
    blurred = np.stack(
        [ndimage.gaussian_filter(image[..., c].astype(float), sigma, mode="mirror", truncate=4) for c in range(3)], 2
    )
    assert np.abs(low - blurred).max() <= 0.51
    assert np.abs(high - (image - blurred + 128)).max() <= 0.51
    # Byte by byte the two make the image again.
    np.testing.assert_array_equal(low.astype(int) + high.astype(int) - 128, image)
    assert np.abs(low.astype(int) - high).max() > 20  # control: they are no copies of each other


def test_the_residual_clips_only_beyond_a_byte():
    image = np.zeros((31, 31, 3), dtype=np.uint8)
    image[15, 15] = 255  # a point: its residual is nearly 255 + 128
    found = FrequencySplit(2.0).apply(False, image, view=1)
    assert found[15, 15].tolist() == [255] * 3
    difference = image.astype(int) - gaussian_blur(image, kernel=split_kernel(2.0), sigma=2.0) + 128
    np.testing.assert_array_equal(found, difference.clip(0, 255))
    assert (difference != found).sum() == 3


@each("sigma", [0.3, 1.0, 2.5])
def test_the_taps_hold_all_but_a_trace_of_the_gaussian(sigma):
    from scipy.special import erfc

    assert split_kernel(sigma) % 2 == 1
    assert erfc((split_kernel(sigma) // 2 + 0.5) / sigma / 2**0.5) < 1e-4


@each("distance", [0, 7, 20])
def test_patches_lie_at_exactly_the_distance(distance):
    image = noise(60, 70)
    places = set()
    for index in range(200):
        rng = sample_generator(seed=0, epoch=0, index=index, stream=PAIR_STREAM)
        first = PatchDistance(24, distance).draw(rng, Frame(60, 70, 24))
        assert first.top >= 0 and first.top + distance + 24 <= 60 and first.left + distance + 24 <= 70
        places.add((first.top, first.left))
    assert {top for top, _ in places} == set(range(60 - 24 - distance + 1))  # every place can come
    one, other = views(Recipe("r", (PatchDistance(24, distance),)), image, size=24)
    (place,) = [(t, x) for t in range(37) for x in range(47) if np.array_equal(one, image[t : t + 24, x : x + 24])]
    top, left = place[0] + distance, place[1] + distance
    np.testing.assert_array_equal(other, image[top : top + 24, left : left + 24])


def test_patches_are_resized_to_another_view_size_and_refused_on_a_small_image():
    recipe = Recipe("r", (PatchDistance(24, 20),))
    assert views(recipe, noise(60, 60), size=32)[0].shape == (32, 32, 3)
    assert recipe.smallest_side == 44
    assert views(recipe, noise(44, 44), size=24)[0].shape == (24, 24, 3)
    with pytest.raises(DataError, match=r"shorter side has 44 px or more, found 43 x 90"):
        views(recipe, noise(43, 90), size=24)


def skimage_channels(space, image):
    convert = {"lab": color.rgb2lab, "ydbdr": color.rgb2ydbdr, "hsv": color.rgb2hsv}[space]
    back = {"lab": color.lab2rgb, "ydbdr": color.ydbdr2rgb, "hsv": color.hsv2rgb}[space]
    return convert(image), back


@pytest.mark.filterwarnings("ignore:.*negative Z.*", "ignore:.*Conversion from CIE-LAB.*")
@pytest.mark.parametrize("space", ["lab", "ydbdr", "hsv"])
def test_channels_are_skimages_with_the_mean_for_what_is_left_out(space):
    image = textured(48, 48)
    first, rest = views(Recipe("r", (WHOLE, ChannelSplit(space, swap=0))), image)
    for view, kept in ((first, [0]), (rest, [1, 2])):
        channels, back = skimage_channels(space, image)
        alone = np.broadcast_to(np.array(colour_space(space).mean), channels.shape).copy()
        alone[..., kept] = channels[..., kept]
        assert np.abs(view - (back(alone) * 255).clip(0, 255)).max() <= 1.01


@pytest.mark.parametrize("kept", [(0,), (1, 2)])
def test_a_view_is_a_function_of_its_own_channels(kept):
    """Two images that agree in the kept channels give the same view, whatever the others hold."""
    image = textured()
    other = image.copy()
    for channel in {0, 1, 2} - set(kept):
        other[..., channel] = 255 - other[..., channel]
    rgb = colour_space("rgb")
    np.testing.assert_array_equal(keep_channels(rgb, kept, image), keep_channels(rgb, kept, other))
    other[..., kept[0]] ^= 64  # control: a kept channel shows
    assert not np.array_equal(keep_channels(rgb, kept, image), keep_channels(rgb, kept, other))


def swaps(op, count=400):
    """Of many images: whether the views are swapped, None where the operation is not applied."""
    rngs = (sample_generator(seed=3, epoch=0, index=index, stream=PAIR_STREAM) for index in range(count))
    return [op.draw(rng, Frame(48, 48, 48)) for rng in rngs]


@pytest.mark.parametrize("op", [ChannelSplit("rgb"), FrequencySplit(1.0)], ids=lambda op: type(op).__name__)
def test_which_view_gets_which_part_is_drawn_for_the_image(op):
    assert 150 < sum(swaps(op)) < 250
    assert not any(swaps(dataclasses.replace(op, swap=0))) and all(swaps(dataclasses.replace(op, swap=1)))
    image = textured()
    for view in (0, 1):
        np.testing.assert_array_equal(op.apply(False, image, view), op.apply(True, image, 1 - view))
        assert not np.array_equal(op.apply(False, image, view), op.apply(True, image, view))


def test_a_split_happens_with_its_probability_and_to_both_views_or_none():
    assert 70 < sum(swap is not None for swap in swaps(ChannelSplit("lab", p=0.25))) < 130
    whole = Recipe("r", (WHOLE, ChannelSplit("rgb", p=0.5)))
    split = [
        [not np.array_equal(view, textured(48, 48)) for view in views(whole, textured(48, 48), index=i)]
        for i in range(20)
    ]
    assert all(first == second for first, second in split) and 0 < sum(first for first, _ in split) < 20


def test_shared_crops_and_flips_are_the_same_and_others_are_not():
    shared = Recipe("r", (RandomResizedCrop(shared=True), HorizontalFlip(shared=True)))
    apart = Recipe("r", (RandomResizedCrop(), HorizontalFlip()))
    flips = set()
    for index in range(20):
        first, second = views(shared, noise(), index=index)
        np.testing.assert_array_equal(first, second)
        flips.add(first.tobytes())
        assert not np.array_equal(*views(apart, noise(), index=index))
    assert len(flips) == 20


RECIPES = [
    Recipe("frequency", (RandomResizedCrop(shared=True), ColorJitter(0.4, 0.4, 0.4, 0.1, p=0.8), FrequencySplit(1.0))),
    Recipe("distance", (PatchDistance(16, 12), HorizontalFlip())),
    Recipe("colour", (RandomResizedCrop(), HorizontalFlip(), ChannelSplit("ydbdr"))),
]


@each("recipe", RECIPES)
def test_pairs_depend_on_the_arguments_alone_and_pickle(recipe):
    image = textured()
    image.setflags(write=False)
    make = ViewMaker(recipe, image_size=32)
    first = make(image, seed=1, epoch=2, index=3).images
    make(noise(), seed=5, epoch=6, index=7)
    again = pickle.loads(pickle.dumps(make))(image, seed=1, epoch=2, index=3).images
    assert torch.equal(first, again)
    assert first.dtype == torch.uint8 and first.shape == (2, 3, 32, 32) and first.is_contiguous()
    for other in ({"seed": 2}, {"epoch": 3}, {"index": 4}):
        assert not torch.equal(make(image, **{"seed": 1, "epoch": 2, "index": 3, **other}).images, first)


def test_the_pair_s_draw_changes_no_other_operation():
    """A split put behind leaves crop and jitter where they were: the views' own generators do not notice it."""
    ops = (RandomResizedCrop(), ColorJitter(0.4, 0.4, 0.4, 0.1, p=0.8))
    plain = views(Recipe("r", ops), textured())
    split = views(Recipe("r", (*ops, FrequencySplit(1.0, swap=0))), textured())
    np.testing.assert_array_equal(split[0], FrequencySplit(1.0).apply(False, plain[0], view=0))
    np.testing.assert_array_equal(split[1], FrequencySplit(1.0).apply(False, plain[1], view=1))


def test_the_pair_s_draw_is_none_of_the_first_view_s():
    """From one and the same stream, flip and swap would come together in every image."""
    recipe = Recipe("r", (WHOLE, HorizontalFlip(), FrequencySplit(1.0)))
    ramp = np.broadcast_to(np.linspace(0, 120, 48)[None, :, None], (48, 48, 3)).astype(np.uint8)
    together = 0
    for index in range(200):
        first, second = views(recipe, ramp, index=index)
        swapped = np.ptp(first) < np.ptp(second)  # the residual of a ramp is nearly flat
        if swapped:
            continue
        drawn = sample_generator(seed=0, epoch=0, index=index).random() < 0.5
        assert (first[24, 0, 0] > first[24, -1, 0]) == drawn
        together += drawn
    assert 30 < together < 70


@each("recipe", RECIPES)
def test_what_pairs_cannot_be_is_refused_at_the_start(recipe):
    with pytest.raises(ConfigError, match="expected 2 views, found 3"):
        ViewMaker(recipe, image_size=32, num_views=3)
    with pytest.raises(ConfigError, match=r"pass method\.jigsaw=false"):
        ViewMaker(recipe, image_size=32, patch_size=16)


def test_an_unknown_space_is_refused_at_the_start_with_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'ydbdr'"):
        ViewMaker(Recipe("r", (WHOLE, ChannelSplit("ydbdb"))), image_size=32)


@each(
    ("make", "message"),
    [
        (lambda: FrequencySplit(0), "expected 0 < sigma"),
        (lambda: FrequencySplit(float("nan")), "expected 0 < sigma"),
        (lambda: FrequencySplit(1.0, swap=1.5), r"swap in \[0, 1\], found 1.5"),
        (lambda: PatchDistance(0, 5), "a patch of 1 px or more"),
        (lambda: PatchDistance(64, -1), "a distance of 0 px or more"),
        (lambda: ChannelSplit("lab", p=-0.1), r"p in \[0, 1\]"),
        (lambda: ChannelSplit("lab", swap=2), r"swap in \[0, 1\]"),
        (lambda: ChannelSplit("lab", generator="g.safetensors"), "generator and sha256 together"),
    ],
)
def test_values_out_of_range_are_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()
