"""One decoded image -> its views and patches, as bytes. Normalisation comes later, on the training device.

In: uint8 (H, W, 3) and (seed, epoch, index). Out: SampleViews. The same arguments give the same views anywhere.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pretrain.base.contract import InputContract
from pretrain.base.errors import ConfigError
from pretrain.views import geometry, paired, photometric, randaugment
from pretrain.views.geometry import CentreBox, Crop, Flip
from pretrain.views.jigsaw import apply_patches, draw_patches, draw_permutation
from pretrain.views.paired import KeepChannels, Residual
from pretrain.views.photometric import Blur, BoxBlur, Grey, Jitter
from pretrain.views.randaugment import Change
from pretrain.views.recipes import (
    CenterCrop,
    ColorJitter,
    GaussianBlur,
    Grayscale,
    HorizontalFlip,
    Op,
    PillowBlur,
    RandAugment,
    RandomResizedCrop,
    Recipe,
    drawn_once,
)
from pretrain.views.rng import PAIR_STREAM, PATCHES_STREAM, PERMUTATION_STREAM, sample_generator

Drawn = Crop | CentreBox | Flip | Jitter | Blur | BoxBlur | Grey | Change | Residual | KeepChannels
# Position in the recipe -> what a view gets there of an operation that was drawn for the pair (None: nothing).
OfPair = Mapping[int, Drawn | None]


@dataclass(frozen=True)
class SampleViews:
    """What one image became. images: uint8 (V, 3, S, S) RGB. patches: uint8 (9, 3, P, P) row by row, and
    permutation: int64 (9,), the order in which the jigsaw head takes them; both None where no patches are made."""

    images: Tensor
    patches: Tensor | None
    permutation: Tensor | None


class ViewMaker:
    """Makes the views of one image by a recipe. Holds settings only, so that it is picklable and free to share."""

    def __init__(self, recipe: Recipe, *, image_size: int, num_views: int = 2, patch_size: int | None = None) -> None:
        """Sizes in pixels. patch_size None: no jigsaw patches.

        Raises ConfigError for sizes below 1, for a recipe of pairs that is asked for anything but two views or for
        patches, and for an unknown colour space.
        """
        if image_size < 1 or num_views < 1 or (patch_size is not None and patch_size < 1):
            raise ConfigError(f"views: expected sizes of at least 1, found {image_size=}, {num_views=}, {patch_size=}")
        if recipe.is_paired:
            paired.check_pairs(recipe, num_views=num_views, with_patches=patch_size is not None)
        self.recipe = recipe
        self.image_size = image_size
        self.num_views = num_views
        self.patch_size = patch_size

    def __call__(self, image: np.ndarray, *, seed: int, epoch: int, index: int) -> SampleViews:
        """image: uint8 (H, W, 3). Every view, the pair, the patches and the permutation draw from a generator of their own.

        Raises DataError for an image that is smaller than `recipe.smallest_side`.
        """
        height, width = image.shape[:2]
        views = []
        of_pair: tuple[OfPair, ...] = ({},) * self.num_views
        if self.recipe.is_paired:
            rng = sample_generator(seed=seed, epoch=epoch, index=index, stream=PAIR_STREAM)
            of_pair = draw_pairs(self.recipe, rng, height=height, width=width, size=self.image_size)
        for view in range(self.num_views):
            rng = sample_generator(seed=seed, epoch=epoch, index=index, view=view)
            drawn = draw_view(self.recipe, rng, height=height, width=width, size=self.image_size, of_pair=of_pair[view])
            views.append(apply_view(drawn, image))
        images = _to_tensor(np.stack(views))
        if self.patch_size is None:
            return SampleViews(images, None, None)
        rng = sample_generator(seed=seed, epoch=epoch, index=index, stream=PATCHES_STREAM)
        cut = draw_patches(self.recipe.patches, rng, height=height, width=width, patch_size=self.patch_size)
        order = sample_generator(seed=seed, epoch=epoch, index=index, stream=PERMUTATION_STREAM)
        permutation = torch.from_numpy(draw_permutation(order))
        return SampleViews(images, _to_tensor(apply_patches(cut, image)), permutation)


def draw_pairs(
    recipe: Recipe, rng: np.random.Generator, *, height: int, width: int, size: int
) -> tuple[OfPair, OfPair]:
    """What the operations that are drawn once for the pair do to view 1 and to view 2."""
    first: dict[int, Drawn | None] = {}
    second: dict[int, Drawn | None] = {}
    for position, op in enumerate(recipe.ops):
        if drawn_once(op):
            first[position], second[position] = paired.draw_pair(op, rng, height=height, width=width, size=size)
    return first, second


def draw_view(
    recipe: Recipe, rng: np.random.Generator, *, height: int, width: int, size: int, of_pair: OfPair | None = None
) -> tuple[Drawn, ...]:
    """The changes that make one view of an image of (height, width), in order; those not applied are left out.

    of_pair: this view's half of `draw_pairs`, for a recipe of pairs.
    """
    drawn: list[Drawn] = []
    for position, op in enumerate(recipe.ops):
        if drawn_once(op):
            assert of_pair is not None, "a recipe of pairs is drawn by draw_pairs first"
            half = of_pair[position]
            if half is not None:
                drawn.append(half)
        elif isinstance(op, RandomResizedCrop):
            drawn.append(geometry.draw_crop(op, rng, height=height, width=width, size=size))
        elif isinstance(op, CenterCrop):
            drawn.append(geometry.place_centre(op, height=height, width=width, size=size))
        elif isinstance(op, RandAugment):
            drawn.extend(randaugment.draw_changes(op, rng))
        else:
            one = _draw_optional(op, rng)
            if one is not None:
                drawn.append(one)
    return tuple(drawn)


def _draw_optional(op: Op, rng: np.random.Generator) -> Drawn | None:
    """The operations that either happen or not."""
    match op:
        case HorizontalFlip():
            return geometry.draw_flip(op, rng)
        case ColorJitter():
            return photometric.draw_jitter(op, rng)
        case GaussianBlur():
            return photometric.draw_blur(op, rng)
        case PillowBlur():
            return photometric.draw_box_blur(op, rng)
        case Grayscale():
            return photometric.draw_grey(op, rng)
    raise AssertionError(f"no drawing for {op}")


def apply_view(drawn: tuple[Drawn, ...], image: np.ndarray) -> np.ndarray:
    """Apply drawn changes in order: uint8 (H, W, 3) -> uint8 (S, S, 3)."""
    for change in drawn:
        image = _apply(change, image)
    return image


def _apply(change: Drawn, image: np.ndarray) -> np.ndarray:
    match change:
        case Crop():
            return geometry.apply_crop(change, image)
        case CentreBox():
            return geometry.apply_centre(change, image)
        case Flip():
            return geometry.apply_flip(image)
        case Jitter():
            return photometric.apply_jitter(change, image)
        case Blur():
            return photometric.apply_blur(change, image)
        case BoxBlur():
            return photometric.apply_box_blur(change, image)
        case Grey():
            return photometric.apply_grey(image)
        case Change():
            return randaugment.apply_change(change, image)
        case Residual():
            return paired.apply_residual(change, image)
        case KeepChannels():
            return paired.apply_keep_channels(change, image)


def _to_tensor(images: np.ndarray) -> Tensor:
    """uint8 (N, H, W, 3) -> contiguous (N, 3, H, W)."""
    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))


def normalize(
    images: Tensor, contract: InputContract, *, dtype: torch.dtype = torch.float32, channels_last: bool = False
) -> Tensor:
    """uint8 RGB (..., 3, H, W) on any device -> (x / 255 - mean) / std in the contract's channel order, as `dtype`.

    Computed in float32 whatever `dtype` is. channels_last: memory format of the result, for (N, 3, H, W) only.
    """
    if contract.channel_order == "BGR":
        images = images.flip(-3)
    mean, std = _constants(contract.mean, contract.std, images.device)
    values = images.to(torch.float32).div_(255).sub_(mean).div_(std).to(dtype)
    return values.contiguous(memory_format=torch.channels_last) if channels_last else values


@functools.cache
def _constants(
    mean: tuple[float, float, float], std: tuple[float, float, float], device: torch.device
) -> tuple[Tensor, Tensor]:
    """(3, 1, 1) each, made once a device: a copy from the host makes it wait for all that a GPU has been given to do."""
    with torch.inference_mode(False):
        one, two = (torch.tensor(values, device=device).view(3, 1, 1) for values in (mean, std))
    return one, two
