"""Do pairs share what they should, and nothing else? Checked on the pixels, not only on the labels.

A leak is an AssertionError that names it: a pair builder that leaks a factor is a bug of ours, and every figure made with it
would be false.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from pretrain.good_views.moving_mnist.config import DIGIT_SIZE, SceneConfig
from pretrain.good_views.moving_mnist.factors import Sharing
from pretrain.good_views.moving_mnist.pairs import Factors, PairBatch
from pretrain.good_views.moving_mnist.pools import World

# Standard deviations that chance may stray; over seven sharings of three factors it does so once in a hundred thousand runs.
TOLERANCE = 5.0


def check_pairs(batch: PairBatch, world: World, scene: SceneConfig, sharing: Sharing) -> None:
    """Raises AssertionError for pixels that are not what the labels say, a shared factor that differs in any pair, or a
    factor that is not shared and yet agrees more often than independent draws would. Wants a few hundred pairs."""
    _check_pixels(batch.view_1, batch.factors_1, world)
    _check_pixels(batch.view_2[:, None], batch.factors_2, world)
    first, second = batch.factors_1, batch.factors_2
    digit, background = "digit" in sharing.factors, "background" in sharing.factors
    _check_choice("digit", first.digit, second.digit, shared=digit)
    _check_choice(
        "digit image",
        first.digit_index,
        second.digit_index,
        shared=digit and scene.same_digit == "instance",
        free=digit,
    )
    _check_choice("background", first.background, second.background, shared=background)
    _check_choice(
        "background image",
        first.background_index,
        second.background_index,
        shared=background and scene.same_background == "image",
        free=background,
    )
    _check_crops(first.crop, second.crop)
    if "position" in sharing.factors:
        assert torch.equal(first.position, second.position), "position is shared, and yet differs between the views"
    else:
        _check_uncorrelated("position", first.position, second.position)


def _check_pixels(view: Tensor, factors: Factors, world: World) -> None:
    """view (B, T, 3, H, W) against its labels, drawn once more by whole-array operations."""
    count, num_frames, _, height, width = view.shape
    frames = view.numpy()
    rows = torch.arange(height)[None, :] + factors.crop[:, 1:]
    columns = torch.arange(width)[None, :] + factors.crop[:, :1]
    images = world.backgrounds.images[
        factors.background_index.numpy()[:, None, None, None],
        np.arange(3)[None, :, None, None],
        rows.numpy()[:, None, :, None],
        columns.numpy()[:, None, None, :],
    ]
    down = torch.arange(height)[None, None, :] - factors.offsets[:, :, 1:]
    across = torch.arange(width)[None, None, :] - factors.offsets[:, :, :1]
    padded = np.zeros((len(world.digits), DIGIT_SIZE + 2, DIGIT_SIZE + 2), dtype=np.uint8)
    padded[:, 1:-1, 1:-1] = world.digits.images
    ink = padded[
        factors.digit_index.numpy()[:, None, None, None],
        (down.clamp(-1, DIGIT_SIZE) + 1).numpy()[:, :, :, None],
        (across.clamp(-1, DIGIT_SIZE) + 1).numpy()[:, :, None, :],
    ]
    expected = np.maximum(images[:, None], ink[:, :, None])
    wrong = (expected != frames).reshape(count, -1).any(1).sum()
    assert wrong == 0, f"{wrong} of {count} views of {num_frames} frames do not show what their labels say"
    assert torch.equal(factors.digit, torch.from_numpy(world.digits.labels)[factors.digit_index])
    assert torch.equal(factors.background, torch.from_numpy(world.backgrounds.labels)[factors.background_index])


def _check_choice(name: str, first: Tensor, second: Tensor, *, shared: bool, free: bool = False) -> None:
    """free: neither shared nor independent (the image, where only its class is shared)."""
    agreement = (first == second).double().mean().item()
    if shared:
        assert agreement == 1, f"{name} is shared, and yet differs in {1 - agreement:.1%} of the pairs"
        return
    if free:
        assert agreement < 1, f"another {name} of the class is wanted, and yet all pairs show the same one"
        return
    # What independent draws from the two views' own frequencies would give.
    values = torch.cat((first, second)).unique()
    chance = sum((first == value).double().mean().item() * (second == value).double().mean().item() for value in values)
    limit = chance + TOLERANCE * math.sqrt(max(chance * (1 - chance), 1 / len(first)) / len(first))
    assert agreement <= limit, (
        f"{name} is not shared, and yet agrees in {agreement:.1%} of the pairs ({chance:.1%} by chance)"
    )


def _check_crops(first: Tensor, second: Tensor) -> None:
    """No view may tell where the other's crop lies."""
    if first.float().std(0).min() > 0:
        _check_uncorrelated("crop", first.float(), second.float())


def _check_uncorrelated(name: str, first: Tensor, second: Tensor) -> None:
    """first, second (B, 2). Of independent draws the correlation of each axis has a deviation of 1 / sqrt(B)."""
    for axis in range(first.shape[1]):
        correlation = torch.corrcoef(torch.stack((first[:, axis], second[:, axis])).double())[0, 1].item()
        assert abs(correlation) <= TOLERANCE / math.sqrt(len(first)), (
            f"{name} is not shared, and yet correlates by {correlation:.2f} along {'xy'[axis]}"
        )
