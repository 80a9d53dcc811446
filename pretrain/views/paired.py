"""Operations that split an image between the two views of a pair: drawn once, applied to each view differently.

| operation      | one view                     | the other                   |
|----------------|------------------------------|-----------------------------|
| FrequencySplit | blur(x)                      | x - blur(x) + 128           |
| PatchDistance  | the patch at (x, y)          | the patch at (x + d, y + d) |
| ChannelSplit   | channel 1 of a colour space  | channels 2 and 3            |

Which view is which is drawn with probability `swap` (a patch's place apart), so that the one query encoder learns both
kinds. That draw is itself shared by the views: whoever sees one kind knows the other, which is up to ln 2 = 0.69 nats of
information at swap 0.5, none at 0 or 1. It is the same at every setting of a sweep and is not taken off.

Source: docs/specification.md 3 (frequency, spatial distance, colour spaces). How to add one: see operations.py; the class goes
into PAIRED at the end of this file.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import Any

import numpy as np
import torch

from pretrain.base.errors import ConfigError, DataError
from pretrain.views.colour import ColourSpace, colour_space
from pretrain.views.generator_file import FrozenGenerator, referenced_generator
from pretrain.views.operations import (
    TAIL_SIGMAS,
    Crop,
    Frame,
    Operation,
    Parameters,
    check_probability,
    resized_crop,
)
from pretrain.views.pixels import gaussian_blur

MAX_SPLIT_SIGMA = 100.0
MID_GREY = 128


class PairedOperation(Operation[Parameters]):
    """An operation whose `apply` depends on the view: 0 or 1."""

    shared = True


@dataclass(frozen=True)
class FrequencySplit(PairedOperation[bool]):
    """Low frequencies in one view, blur(x); the rest in the other, x - blur(x) + mid grey.

    sigma: of the Gaussian, in pixels of the view.
    swap: probability that the first view gets the rest.
    """

    sigma: float
    swap: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.sigma <= MAX_SPLIT_SIGMA:
            raise ConfigError(f"FrequencySplit: expected 0 < sigma <= {MAX_SPLIT_SIGMA:g} pixels, found {self.sigma}")
        check_probability("FrequencySplit", "swap", self.swap)

    def draw(self, rng: np.random.Generator, frame: Frame) -> bool:
        """Whether the views are swapped; the same value is drawn at every sigma."""
        return rng.random() < self.swap

    def apply(self, parameters: bool, image: np.ndarray, view: int = 0) -> np.ndarray:
        """The blurred image, or the residual in bytes.

        A difference beyond [-128, 127] is clipped: only next to the hardest edges. Where nothing is clipped, blur(x) + the
        residual - 128 is x again, byte by byte.
        """
        blurred = gaussian_blur(image, kernel=split_kernel(self.sigma), sigma=self.sigma)
        if (view == 0) != parameters:
            return blurred
        return np.clip(image.astype(np.int16) - blurred + MID_GREY, 0, 255).astype(np.uint8)


def split_kernel(sigma: float) -> int:
    """Taps (odd) of the Gaussian that splits frequencies."""
    return 2 * ceil(TAIL_SIGMAS * sigma) + 1


@dataclass(frozen=True)
class PatchDistance(PairedOperation[Crop]):
    """Two squares of the image as it is, at (x, y) and (x + distance, y + distance). A crop.

    patch: side of a square in pixels; resized to the view's size where that is another.
    distance: in pixels, in both directions.
    """

    patch: int = 64
    distance: int = 64
    is_crop = True

    def __post_init__(self) -> None:
        if self.patch < 1 or self.distance < 0:
            raise ConfigError(
                f"PatchDistance: expected a patch of 1 px or more and a distance of 0 px or more, found {self.patch} "
                f"and {self.distance}"
            )

    @property
    def smallest_side(self) -> int:
        return self.patch + self.distance

    def draw(self, rng: np.random.Generator, frame: Frame) -> Crop:
        """The first view's square. Raises DataError for an image that two squares do not fit into."""
        needed = self.smallest_side
        if min(frame.height, frame.width) < needed:
            raise DataError(
                f"two patches of {self.patch} px at a distance of {self.distance} px: expected images whose shorter side "
                f"has {needed} px or more, found {frame.height} x {frame.width}; use larger images, or a smaller distance"
            )
        top, left = int(rng.integers(frame.height - needed + 1)), int(rng.integers(frame.width - needed + 1))
        return Crop(top, left, self.patch, self.patch, frame.size)

    def apply(self, parameters: Crop, image: np.ndarray, view: int = 0) -> np.ndarray:
        offset = view * self.distance
        moved = parameters._replace(top=parameters.top + offset, left=parameters.left + offset)
        return resized_crop(moved, image)


@dataclass(frozen=True)
class ChannelSplit(PairedOperation[bool]):
    """One view keeps the first channel of a colour space, the other the second and third.

    space: a name in colour.py.
    p: probability of splitting at all.
    swap: probability that the first view gets channels 2 and 3.
    generator: file of a learned generator that starts from `space`; the channels are then the generator's.
    sha256: of that file.
    """

    space: str
    p: float = 1.0
    swap: float = 0.5
    generator: str | None = None
    sha256: str | None = None

    def __post_init__(self) -> None:
        check_probability("ChannelSplit", "p", self.p)
        check_probability("ChannelSplit", "swap", self.swap)
        if (self.generator is None) != (self.sha256 is None):
            raise ConfigError("ChannelSplit: expected generator and sha256 together, found one of them")

    def prepare(self) -> None:
        channel_source(self)

    def draw(self, rng: np.random.Generator, frame: Frame) -> bool | None:
        applied, swap = rng.random(2) < (self.p, self.swap)
        return bool(swap) if applied else None

    def apply(self, parameters: bool, image: np.ndarray, view: int = 0) -> np.ndarray:
        return keep_channels(channel_source(self), (0,) if (view == 0) != parameters else (1, 2), image)


def channel_source(op: ChannelSplit) -> ColourSpace | FrozenGenerator:
    """The colour space, or the generator that starts from it.

    Raises ConfigError for an unknown space, a generator of another space, and a file that is absent or has another hash.
    """
    source = colour_space(op.space)
    if op.generator is None or op.sha256 is None:
        return source
    frozen = referenced_generator(op.generator, op.sha256)
    if frozen.record.config.space != source.name:
        raise ConfigError(
            f"ChannelSplit: the generator starts from {frozen.record.config.space}, found space: {op.space}"
        )
    return frozen


def keep_channels(source: ColourSpace | FrozenGenerator, kept: tuple[int, ...], image: np.ndarray) -> np.ndarray:
    """uint8 (H, W, 3) -> the same with the channels that are not `kept` at their mean: a function of the kept ones alone.

    So by data processing such views share no more than the channels do. Colours outside RGB's cube are clipped to it.
    """
    rgb = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))).float() / 255
    channels = source.to_space(rgb)
    alone = torch.tensor(source.mean, dtype=channels.dtype)[:, None, None].expand_as(channels).clone()
    alone[list(kept)] = channels[list(kept)]
    back = source.to_rgb(alone).clamp(0, 1).mul(255).round().to(torch.uint8)
    return np.ascontiguousarray(back.numpy().transpose(1, 2, 0))


# Every class of this file that a recipe may name.
PAIRED: tuple[type[Operation[Any]], ...] = (FrequencySplit, PatchDistance, ChannelSplit)
