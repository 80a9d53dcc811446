"""Operations drawn once for a pair: exact against slow references, shared where they must be, pure, and refused in time."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from pretrain.views.paired_ops import ChannelSplit, FrequencySplit, PatchDistance
from pretrain.views.photometric import Blur, apply_blur
from scipy import ndimage
from skimage import color

from pretrain.base.errors import ConfigError, DataError
from pretrain.views.paired import KeepChannels, Residual, apply_keep_channels, apply_residual, draw_pair, split_kernel
from pretrain.views.pipeline import ViewMaker
from pretrain.views.recipes import (
    CenterCrop,
    ColorJitter,
    HorizontalFlip,
    JigsawSpec,
    RandomResizedCrop,
    Recipe,
    drawn_once,
)
from pretrain.views.rng import PAIR_STREAM, sample_generator

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
    blur = Blur(split_kernel(2.0), 2.0)
    found = apply_residual(Residual(blur), image)
    assert found[15, 15].tolist() == [255] * 3
    difference = image.astype(int) - apply_blur(blur, image) + 128
    np.testing.assert_array_equal(found, difference.clip(0, 255))
    assert (difference != found).sum() == 3


@pytest.mark.parametrize("sigma", [0.3, 1.0, 2.5])
def test_the_taps_hold_all_but_a_trace_of_the_gaussian(sigma):
    from scipy.special import erfc

    assert split_kernel(sigma) % 2 == 1
    assert erfc((split_kernel(sigma) // 2 + 0.5) / sigma / 2**0.5) < 1e-4


@pytest.mark.parametrize("distance", [0, 7, 20])
def test_patches_lie_at_exactly_the_distance(distance):
    image = noise(60, 70)
    places = set()
    for index in range(200):
        first, second = draw_pair(
            PatchDistance(24, distance), sample_generator(seed=0, epoch=0, index=index, stream=PAIR_STREAM),
            height=60, width=70, size=24,
        )  # fmt: skip
        assert (second.top - first.top, second.left - first.left) == (distance, distance)
        assert first.top >= 0 and second.top + 24 <= 60 and second.left + 24 <= 70
        places.add((first.top, first.left))
    assert {top for top, _ in places} == set(range(60 - 24 - distance + 1))  # every place can come
    one, other = views(Recipe("r", (PatchDistance(24, distance),)), image, size=24)
    if distance < 24:  # the overlap, pixel by pixel
        np.testing.assert_array_equal(one[distance:, distance:], other[: 24 - distance, : 24 - distance])
    assert any(np.array_equal(one, image[t : t + 24, x : x + 24]) for t in range(37) for x in range(47))


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
    from pretrain.views.colour import colour_space

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
    change = KeepChannels("rgb", kept)
    np.testing.assert_array_equal(apply_keep_channels(change, image), apply_keep_channels(change, other))
    other[..., kept[0]] ^= 64  # control: a kept channel shows
    assert not np.array_equal(apply_keep_channels(change, image), apply_keep_channels(change, other))


def kinds(op, count=400):
    """(class of view 1's change, class of view 2's change, kept channels) of many images."""
    found = []
    for index in range(count):
        rng = sample_generator(seed=3, epoch=0, index=index, stream=PAIR_STREAM)
        found.append(draw_pair(op, rng, height=48, width=48, size=48))
    return found


def test_which_view_gets_which_part_is_drawn_for_the_image():
    pairs = kinds(ChannelSplit("lab", swap=0.5))
    assert all({first.kept, second.kept} == {(0,), (1, 2)} for first, second in pairs)
    swapped = sum(first.kept == (1, 2) for first, _ in pairs)
    assert 150 < swapped < 250
    assert all(first.kept == (0,) for first, _ in kinds(ChannelSplit("lab", swap=0)))
    assert all(first.kept == (1, 2) for first, _ in kinds(ChannelSplit("lab", swap=1)))
    frequencies = kinds(FrequencySplit(1.0))
    assert all({type(first), type(second)} == {Blur, Residual} for first, second in frequencies)
    assert 150 < sum(isinstance(first, Residual) for first, _ in frequencies) < 250


def test_a_split_happens_with_its_probability_and_to_both_views_or_none():
    pairs = kinds(ChannelSplit("lab", p=0.25))
    assert all((first is None) == (second is None) for first, second in pairs)
    assert 70 < sum(first is not None for first, _ in pairs) < 130


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
    assert [drawn_once(op) for op in (*shared.ops, *apart.ops)] == [True, True, False, False]


RECIPES = [
    Recipe("frequency", (RandomResizedCrop(shared=True), ColorJitter(0.4, 0.4, 0.4, 0.1, p=0.8), FrequencySplit(1.0))),
    Recipe("distance", (PatchDistance(16, 12), HorizontalFlip())),
    Recipe("colour", (RandomResizedCrop(), HorizontalFlip(), ChannelSplit("ydbdr"))),
]


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
def test_pairs_are_a_pure_function_and_pickle(recipe):
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
    blur = Blur(split_kernel(1.0), 1.0)
    np.testing.assert_array_equal(split[0], apply_blur(blur, plain[0]))
    np.testing.assert_array_equal(split[1], apply_residual(Residual(blur), plain[1]))


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


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
def test_what_pairs_cannot_be_is_refused_at_the_start(recipe):
    with pytest.raises(ConfigError, match="expected 2 views, found 3"):
        ViewMaker(recipe, image_size=32, num_views=3)
    with pytest.raises(ConfigError, match=r"type method\.jigsaw=false"):
        ViewMaker(recipe, image_size=32, patch_size=16)


def test_an_unknown_space_is_refused_at_the_start_with_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'ydbdr'"):
        ViewMaker(Recipe("r", (WHOLE, ChannelSplit("ydbdb"))), image_size=32)


def test_patches_of_the_jigsaw_have_no_partner_to_share_with():
    with pytest.raises(ConfigError, match="shared"):
        JigsawSpec(crop=RandomResizedCrop(shared=True))
