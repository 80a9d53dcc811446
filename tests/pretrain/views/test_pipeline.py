"""ViewMaker: determined by its arguments, shapes, order of operations; normalisation against the formula."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torchvision.transforms.functional as F
from PIL import Image

from pretrain.base.contract import IMAGENET_MEAN, IMAGENET_STD, InputContract
from pretrain.base.errors import ConfigError
from pretrain.views.operations import CenterCrop, ColorJitter, Frame, Grayscale, HorizontalFlip, RandomResizedCrop
from pretrain.views.pipeline import ViewMaker, apply_ops, draw_view, normalize
from pretrain.views.recipes import RECIPES, Recipe
from pretrain.views.rng import sample_generator
from tests.cases import each


def smooth(height=60, width=80):
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 3 % 256, y * 4 % 256, (x + y) * 2 % 256], 2).astype(np.uint8)


def equal(first, second):
    return all(
        torch.equal(getattr(first, name), getattr(second, name)) for name in ("images", "patches", "permutation")
    )


@each("name", RECIPES)
def test_every_recipe_gives_bytes_of_the_asked_sizes(name):
    make = ViewMaker(RECIPES[name], image_size=32, num_views=3, patch_size=16)
    sample = make(smooth(), seed=0, epoch=0, index=0)
    assert sample.images.shape == (3, 3, 32, 32) and sample.patches.shape == (9, 3, 16, 16)
    assert sample.images.dtype == sample.patches.dtype == torch.uint8 and sample.permutation.dtype == torch.int64
    assert sample.images.is_contiguous() and sample.patches.is_contiguous()
    bare = ViewMaker(RECIPES[name], image_size=32, num_views=1)(smooth(), seed=0, epoch=0, index=0)
    assert bare.patches is None and bare.permutation is None
    assert torch.equal(bare.images, sample.images[:1])  # number of views and patches change no other view


def test_views_depend_on_the_arguments_alone_and_the_image_is_not_touched():
    make, image = ViewMaker(RECIPES["infomin"], image_size=32, patch_size=16), smooth()
    image.setflags(write=False)
    first = make(image, seed=1, epoch=2, index=3)
    make(smooth(), seed=9, epoch=9, index=9)
    again = ViewMaker(RECIPES["infomin"], image_size=32, patch_size=16)(image, seed=1, epoch=2, index=3)
    assert equal(first, again)
    for other in ({"seed": 2}, {"epoch": 3}, {"index": 4}):
        changed = make(image, **{"seed": 1, "epoch": 2, "index": 3, **other})
        assert not torch.equal(changed.images, first.images) and not torch.equal(changed.patches, first.patches)
    assert not torch.equal(first.images[0], first.images[1])


def test_operations_are_applied_in_the_recipe_s_order():
    """Grey before jitter gives a grey view, jitter before grey another one."""
    image = smooth()
    crop, jitter, grey = CenterCrop(1.0), ColorJitter(0.8, 0.8, 0.8, 0.0, p=1.0), Grayscale(1.0)

    def view(*ops):
        return ViewMaker(Recipe("r", ops), image_size=32)(image, seed=0, epoch=0, index=0).images[0]

    jittered = view(crop, jitter).permute(1, 2, 0).numpy()
    expected = np.asarray(F.to_grayscale(Image.fromarray(jittered), 3))
    assert np.abs(view(crop, jitter, grey).permute(1, 2, 0).numpy().astype(int) - expected).max() <= 1
    assert not torch.equal(view(crop, grey, jitter), view(crop, jitter, grey))


def test_a_moco_view_is_torchvisions_functions_in_sequence():
    adjust = {
        "brightness": F.adjust_brightness, "contrast": F.adjust_contrast,
        "saturation": F.adjust_saturation, "hue": F.adjust_hue,
    }  # fmt: skip
    orders = set()
    for index in range(25):
        rng = sample_generator(seed=0, epoch=0, index=index)
        recipe = RECIPES["moco_v1"]
        drawn = draw_view(recipe, rng, Frame(60, 80, 32))
        expected = Image.fromarray(smooth())
        for op, parameters in zip(recipe.ops, drawn, strict=True):
            if parameters is None:
                continue
            match op:
                case RandomResizedCrop():
                    box = (parameters.top, parameters.left, parameters.height, parameters.width)
                    expected = F.resized_crop(expected, *box, [32, 32])
                case HorizontalFlip():
                    expected = F.hflip(expected)
                case ColorJitter():
                    for step in parameters.order:
                        expected = adjust[step](expected, getattr(parameters, step))
                case Grayscale():
                    expected = F.to_grayscale(expected, 3)
        difference = np.abs(apply_ops(recipe.ops, drawn, smooth()).astype(int) - np.asarray(expected))
        assert difference.mean() < 1.5, f"image {index}"
        orders.add(tuple(parameters is not None for parameters in drawn))
    assert len(orders) > 3  # the control: not every operation was applied every time


@each("shape", [(1, 1), (1, 200), (300, 2)])
def test_tiny_and_thin_images_still_give_views(shape):
    make = ViewMaker(RECIPES["infomin"], image_size=32, patch_size=16)
    for index in range(20):
        assert make(smooth(*shape), seed=0, epoch=0, index=index).images.shape == (2, 3, 32, 32)


def test_sizes_below_one_are_refused():
    with pytest.raises(ConfigError, match="image_size=0"):
        ViewMaker(RECIPES["linear"], image_size=0)


def test_normalize_is_the_formula_in_either_channel_order():
    images = torch.randint(0, 256, (2, 5, 3, 4, 6), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    values = normalize(images, InputContract())
    for channel in range(3):
        expected = (images[:, :, channel].double() / 255 - IMAGENET_MEAN[channel]) / IMAGENET_STD[channel]
        torch.testing.assert_close(values[:, :, channel].double(), expected, rtol=1e-6, atol=1e-6)
    flipped = InputContract(channel_order="BGR", mean=IMAGENET_MEAN[::-1], std=IMAGENET_STD[::-1])
    assert torch.equal(normalize(images, flipped), values.flip(-3))
    assert images.dtype == torch.uint8  # untouched


def test_normalize_equals_torchvision_and_gives_the_asked_format():
    images = torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    values = normalize(images, InputContract(), channels_last=True)
    expected = F.normalize(images.float() / 255, list(IMAGENET_MEAN), list(IMAGENET_STD))
    torch.testing.assert_close(values, expected, rtol=1e-6, atol=1e-6)
    assert values.is_contiguous(memory_format=torch.channels_last)
    half = normalize(images, InputContract(), dtype=torch.bfloat16)
    assert half.dtype == torch.bfloat16 and torch.equal(half, values.contiguous().to(torch.bfloat16))
