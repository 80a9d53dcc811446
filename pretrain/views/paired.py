"""Operations that are drawn once for the two views of an image and applied to each differently.

In: an operation and the pair's generator -> (what view 1 gets, what view 2 gets); then uint8 (H, W, 3) -> uint8 (H, W, 3).
Source: infomin.md 3 (frequency, spatial distance, colour spaces).

| operation      | one view                     | the other                       |
|----------------|------------------------------|---------------------------------|
| FrequencySplit | blur(x)                      | x - blur(x) + 128               |
| PatchDistance  | the patch at (x, y)          | the patch at (x + d, y + d)     |
| ChannelSplit   | channel 1 of a colour space  | channels 2 and 3                |

Which view is which is drawn with probability `swap` (a patch's place apart), so that the one query encoder learns both
kinds. That draw is itself shared by the views: whoever sees one kind knows the other, which is up to ln 2 = 0.69 nats of
information at swap 0.5, none at 0 or 1. It is the same at every setting of a sweep and is not taken off.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from pretrain.base.errors import ConfigError, DataError
from pretrain.views import geometry
from pretrain.views.colour import colour_space
from pretrain.views.generator_file import embedded_generator
from pretrain.views.geometry import Crop, Flip
from pretrain.views.paired_ops import ChannelSplit, FrequencySplit, PatchDistance
from pretrain.views.photometric import Blur, apply_blur
from pretrain.views.recipes import HorizontalFlip, Op, RandomResizedCrop, Recipe

MID_GREY = 128
TAIL_SIGMAS = 4  # a Gaussian's taps end where 6e-5 of its weight is left out


@dataclass(frozen=True)
class Residual:
    """What `blur` takes away."""

    blur: Blur


@dataclass(frozen=True)
class KeepChannels:
    """The channels of `space`, or of the generator, that a view keeps; the others become their mean (colour.py says over what)."""

    space: str
    kept: tuple[int, ...]
    generator: str | None = None


Half = Crop | Flip | Blur | Residual | KeepChannels | None


class ChannelSource(Protocol):
    """Where channels come from: a colour space, or whatever else maps RGB to three channels and back."""

    @property
    def to_space(self) -> Callable[[Tensor], Tensor]:
        """RGB float (3, H, W) in [0, 1] -> three channels (3, H, W)."""

    @property
    def to_rgb(self) -> Callable[[Tensor], Tensor]:
        """The way back; what leaves [0, 1] is clipped afterwards."""

    @property
    def mean(self) -> tuple[float, float, float]:
        """What stands for a channel that is not kept."""


def check_pairs(recipe: Recipe, *, num_views: int, with_patches: bool) -> None:
    """Raise ConfigError where pairs cannot be made of what is asked."""
    if num_views != 2:
        raise ConfigError(f"recipe {recipe.name} makes pairs of views; expected 2 views, found {num_views}")
    if with_patches:
        raise ConfigError(
            f"recipe {recipe.name} makes pairs of views, and jigsaw patches would show what each of them lacks; "
            "type method.jigsaw=false"
        )
    for op in recipe.ops:
        if isinstance(op, ChannelSplit):
            channel_source(op.space, op.generator)


def draw_pair(op: Op, rng: np.random.Generator, *, height: int, width: int, size: int) -> tuple[Half, Half]:
    """What view 1 and view 2 get. Raises DataError for an image smaller than a PatchDistance needs.

    The same values are taken from the generator at every strength, so that two settings can be compared on the same
    randomness.
    """
    match op:
        case RandomResizedCrop():
            crop = geometry.draw_crop(op, rng, height=height, width=width, size=size)
            return crop, crop
        case HorizontalFlip():
            flip = geometry.draw_flip(op, rng)
            return flip, flip
        case PatchDistance():
            return _draw_patches(op, rng, height=height, width=width, size=size)
        case FrequencySplit():
            blur = Blur(split_kernel(op.sigma), op.sigma)
            return _swapped(blur, Residual(blur), swap=rng.random() < op.swap)
        case ChannelSplit():
            applied, swap = rng.random(2) < (op.p, op.swap)
            if not applied:
                return None, None
            first, second = (KeepChannels(op.space, kept, op.generator) for kept in ((0,), (1, 2)))
            return _swapped(first, second, swap=bool(swap))
    raise AssertionError(f"{op} is drawn for each view")


def _swapped(first: Half, second: Half, *, swap: bool) -> tuple[Half, Half]:
    return (second, first) if swap else (first, second)


def _draw_patches(
    op: PatchDistance, rng: np.random.Generator, *, height: int, width: int, size: int
) -> tuple[Crop, Crop]:
    needed = op.smallest_side
    if min(height, width) < needed:
        raise DataError(too_small(op, f"found {height} x {width}"))
    top, left = int(rng.integers(height - needed + 1)), int(rng.integers(width - needed + 1))
    return (
        Crop(top, left, op.patch, op.patch, size),
        Crop(top + op.distance, left + op.distance, op.patch, op.patch, size),
    )


def too_small(op: PatchDistance, found: str) -> str:
    """What to say of an image that two patches do not fit into."""
    return (
        f"two patches of {op.patch} px at a distance of {op.distance} px: expected images whose shorter side has "
        f"{op.smallest_side} px or more, {found}; use larger images, or a smaller distance"
    )


def split_kernel(sigma: float) -> int:
    """Taps (odd) of the Gaussian that splits frequencies."""
    return 2 * ceil(TAIL_SIGMAS * sigma) + 1


def apply_residual(residual: Residual, image: np.ndarray) -> np.ndarray:
    """x - blur(x) + 128 in bytes. A difference beyond [-128, 127] is clipped: only next to the hardest edges.

    Where nothing is clipped, blur(x) + this - 128 is x again, byte by byte.
    """
    difference = image.astype(np.int16) - apply_blur(residual.blur, image) + MID_GREY
    return np.clip(difference, 0, 255).astype(np.uint8)


def apply_keep_channels(change: KeepChannels, image: np.ndarray) -> np.ndarray:
    """RGB bytes of the kept channels beside the others' means: a function of the kept channels alone.

    So by data processing such views share no more than the channels do. Colours outside RGB's cube are clipped to it.
    """
    source = channel_source(change.space, change.generator)
    rgb = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))).float() / 255
    channels = source.to_space(rgb)
    alone = torch.tensor(source.mean, dtype=channels.dtype)[:, None, None].expand_as(channels).clone()
    kept = list(change.kept)
    alone[kept] = channels[kept]
    back = source.to_rgb(alone).clamp(0, 1).mul(255).round().to(torch.uint8)
    return np.ascontiguousarray(back.numpy().transpose(1, 2, 0))


def channel_source(space: str, generator: str | None = None) -> ChannelSource:
    """The colour space of that name, or the generator (ChannelSplit.generator) that starts from it.

    Raises ConfigError for an unknown space and for a generator of another, CheckpointError for text that is no generator.
    """
    source = colour_space(space)
    if generator is None:
        return source
    frozen = embedded_generator(generator)
    if frozen.record.config.space != source.name:
        raise ConfigError(f"ChannelSplit: the generator starts from {frozen.record.config.space}, found space: {space}")
    return frozen
