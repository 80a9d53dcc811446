"""RandAugment as InfoMin uses it: two of fifteen operations, each applied half of the time, near full magnitude.

In: strengths and a generator -> the drawn changes; a change and uint8 (H, W, 3) -> uint8 (H, W, 3).
Source: infomin.md 1.6. `amount` is the operation's own unit, drawn once here, so that applying draws nothing.

| operation               | amount at magnitude m in [0, 10]       | at 10   |
|-------------------------|----------------------------------------|---------|
| Rotate                  | +-30 m/10 degrees                      | +-30    |
| ShearX/Y                | +-0.3 m/10                             | +-0.3   |
| TranslateX/YRel         | +-0.45 m/10 of the side                | +-0.45  |
| Color, Contrast, Brightness, Sharpness | factor 1.8 m/10 + 0.1   | 1.9     |
| Posterize               | keep int(4 m/10) bits                  | 4       |
| Solarize                | invert from int(256 m/10) on           | nothing |
| SolarizeAdd             | add int(110 m/10) below 128            | 110     |
| AutoContrast, Equalize, Invert | -                               |         |
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from pretrain.views.recipes import RandAugment

MAX_MAGNITUDE = 10.0
SIGNED_SPANS = {
    "Rotate": 30.0,
    "ShearX": 0.3,
    "ShearY": 0.3,
    "TranslateXRel": 0.45,
    "TranslateYRel": 0.45,
}
ENHANCERS = {
    "Color": ImageEnhance.Color,
    "Contrast": ImageEnhance.Contrast,
    "Brightness": ImageEnhance.Brightness,
    "Sharpness": ImageEnhance.Sharpness,
}
SOLARIZE_ADD_BELOW = 128


@dataclass(frozen=True)
class Change:
    """One operation with its amount (see the table above), and for warps the filter and the fill colour."""

    name: str
    amount: float
    bicubic: bool
    fill: tuple[int, int, int]


def amount_of(name: str, magnitude: float, *, negative: bool) -> float:
    """The table of the module's docstring. `negative` counts only for the signed operations."""
    level = magnitude / MAX_MAGNITUDE
    if name in SIGNED_SPANS:
        return (-1 if negative else 1) * level * SIGNED_SPANS[name]
    if name in ENHANCERS:
        return level * 1.8 + 0.1
    whole = {"Posterize": 4, "Solarize": 256, "SolarizeAdd": 110}
    return float(int(level * whole[name])) if name in whole else 0.0


def draw_changes(op: RandAugment, rng: np.random.Generator) -> tuple[Change, ...]:
    """The changes that are applied this time: between none and `num_ops`.

    Every draw takes the same values from the generator whether it is applied or not, so that two settings of `p_each`
    or `magnitude` can be compared on the same randomness.
    """
    changes = []
    for _ in range(op.num_ops):
        name = op.ops[int(rng.integers(len(op.ops)))]
        applied, negative, bicubic = rng.random(3) < (op.p_each, 0.5, 0.5)
        magnitude = float(np.clip(rng.normal(op.magnitude, op.magnitude_std), 0.0, MAX_MAGNITUDE))
        if applied:
            changes.append(Change(name, amount_of(name, magnitude, negative=bool(negative)), bool(bicubic), op.fill))
    return tuple(changes)


def apply_change(change: Change, image: np.ndarray) -> np.ndarray:
    """Apply one change."""
    if change.name == "Posterize":
        return image & np.uint8(0xFF & ~(0xFF >> int(change.amount)))
    if change.name == "SolarizeAdd":
        lifted = np.minimum(image, 255 - np.uint8(change.amount)) + np.uint8(change.amount)
        return np.where(image < SOLARIZE_ADD_BELOW, lifted, image)
    picture = Image.fromarray(np.ascontiguousarray(image))
    if change.name in SIGNED_SPANS:
        return np.asarray(_warp(change, picture))
    if change.name in ENHANCERS:
        return np.asarray(ENHANCERS[change.name](picture).enhance(change.amount))
    return np.asarray(_recolour(change, picture))


def _warp(change: Change, picture: Image.Image) -> Image.Image:
    """Rotate about the centre; shear and translate move the content by -amount (PIL maps output to input)."""
    resample = Image.Resampling.BICUBIC if change.bicubic else Image.Resampling.BILINEAR
    if change.name == "Rotate":
        return picture.rotate(change.amount, resample=resample, fillcolor=change.fill)
    matrices = {
        "ShearX": (1, change.amount, 0, 0, 1, 0),
        "ShearY": (1, 0, 0, change.amount, 1, 0),
        "TranslateXRel": (1, 0, change.amount * picture.width, 0, 1, 0),
        "TranslateYRel": (1, 0, 0, 0, 1, change.amount * picture.height),
    }
    matrix = matrices[change.name]
    return picture.transform(picture.size, Image.Transform.AFFINE, matrix, resample=resample, fillcolor=change.fill)


def _recolour(change: Change, picture: Image.Image) -> Image.Image:
    if change.name == "AutoContrast":
        return ImageOps.autocontrast(picture)
    if change.name == "Equalize":
        return ImageOps.equalize(picture)
    if change.name == "Invert":
        return ImageOps.invert(picture)
    assert change.name == "Solarize", change.name
    return ImageOps.solarize(picture, int(change.amount))
