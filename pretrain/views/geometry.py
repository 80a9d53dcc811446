"""Crops and flips. Parameters are drawn apart from pixels, so that another back end can apply the same draw.

In: an operation's strengths and a generator -> parameters; parameters and uint8 (H, W, 3) -> uint8 (H, W, 3).
Semantics: torchvision's RandomResizedCrop, Resize and CenterCrop on PIL images, bilinear with antialiasing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image

from pretrain.views.recipes import CenterCrop, HorizontalFlip, RandomResizedCrop

CROP_TRIES = 10


@dataclass(frozen=True)
class Crop:
    """A box in pixels of the source, to be resized to `size` x `size`."""

    top: int
    left: int
    height: int
    width: int
    size: int


@dataclass(frozen=True)
class CentreBox:
    """Resize the whole image to (height, width), then cut `size` x `size` at (top, left)."""

    height: int
    width: int
    top: int
    left: int
    size: int


@dataclass(frozen=True)
class Flip:
    """Mirror left and right."""


def draw_crop(op: RandomResizedCrop, rng: np.random.Generator, *, height: int, width: int, size: int) -> Crop:
    """Ten tries at an area and an aspect ratio whose box fits; then the largest central box of an allowed ratio."""
    low, high = op.ratio
    for _ in range(CROP_TRIES):
        area = height * width * rng.uniform(*op.scale)
        ratio = math.exp(rng.uniform(math.log(low), math.log(high)))
        box_width, box_height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < box_width <= width and 0 < box_height <= height:
            top = int(rng.integers(height - box_height + 1))
            left = int(rng.integers(width - box_width + 1))
            return Crop(top, left, box_height, box_width, size)
    box_height, box_width = height, width
    if width < low * height:
        box_height = max(1, round(width / low))
    elif width > high * height:
        box_width = max(1, round(height * high))
    return Crop((height - box_height) // 2, (width - box_width) // 2, box_height, box_width, size)


def apply_crop(crop: Crop, image: np.ndarray) -> np.ndarray:
    """Cut, then resize: the filter sees nothing outside the box, as in torchvision."""
    box = image[crop.top : crop.top + crop.height, crop.left : crop.left + crop.width]
    return _resize(box, height=crop.size, width=crop.size)


def place_centre(op: CenterCrop, *, height: int, width: int, size: int) -> CentreBox:
    """Shorter side to round(size x resize_ratio), longer side in proportion (rounded down), then the centre."""
    shorter = round(size * op.resize_ratio)
    if height <= width:
        new_height, new_width = shorter, int(shorter * width / height)
    else:
        new_height, new_width = int(shorter * height / width), shorter
    top, left = round((new_height - size) / 2), round((new_width - size) / 2)
    return CentreBox(new_height, new_width, top, left, size)


def apply_centre(box: CentreBox, image: np.ndarray) -> np.ndarray:
    """Resize and cut."""
    resized = _resize(image, height=box.height, width=box.width)
    return resized[box.top : box.top + box.size, box.left : box.left + box.size]


def draw_flip(op: HorizontalFlip, rng: np.random.Generator) -> Flip | None:
    """None: the image stays as it is."""
    return Flip() if rng.random() < op.p else None


def apply_flip(image: np.ndarray) -> np.ndarray:
    """Mirror left and right (a view of the same memory)."""
    return image[:, ::-1]


def _resize(image: np.ndarray, *, height: int, width: int) -> np.ndarray:
    picture = Image.fromarray(np.ascontiguousarray(image))
    return np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR))
