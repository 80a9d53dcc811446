"""The augmentations. Each is one class: its fields are its strengths, `draw` draws parameters, `apply` changes pixels.

To add an augmentation: write a frozen dataclass below `Operation` in this file and add it to AUGMENTATIONS at the end. A recipe
(recipes.py, or a recipe file) then holds `{op: ClassName, field: value}`; nothing else needs to know the class. Operations that
give the two views of an image different halves of it are in paired.py and written the same way.

Semantics: torchvision's RandomResizedCrop, Resize, CenterCrop, ColorJitter and Grayscale on PIL images (8-bit rounding and
clipping after every step, hue in 8-bit HSV), timm's RandAugment. pixels.py has how each is computed and how near to those it is.
Source of the defaults: docs/specification.md 1.6 and 1.7.
"""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, Literal, NamedTuple, TypeVar

import cv2
import numpy as np

from pretrain.base.errors import ConfigError
from pretrain.views import pixels
from pretrain.views.rng import uniform

Range = tuple[float, float]
Parameters = TypeVar("Parameters")
Self = TypeVar("Self", bound="Operation[Any]")


class Frame(NamedTuple):
    """Sizes in pixels: `height` and `width` of the source image, `size` of the square view."""

    height: int
    width: int
    size: int


class Operation(ABC, Generic[Parameters]):
    """One operation of a recipe. Subclasses are frozen dataclasses; their fields are the keys of a recipe file."""

    shared: bool = False  # drawn once for the two views of an image instead of once for each
    is_crop: bool = False  # a recipe has one crop, and begins with it
    overrides: ClassVar[Mapping[str, str]] = {}  # key of a run's `views.` configuration -> the field that it replaces

    @property
    def smallest_side(self) -> int:
        """Pixels that the shorter side of every image must have."""
        return 1

    def override(self: Self, key: str, value: Any) -> Self:
        """This operation with the value of `overrides[key]` replaced."""
        return dataclasses.replace(self, **{self.overrides[key]: value})  # type: ignore[type-var]

    def prepare(self) -> None:
        """Raise ConfigError or CheckpointError for what would otherwise fail at the first image only."""

    @abstractmethod
    def draw(self, rng: np.random.Generator, frame: Frame) -> Parameters | None:
        """Parameters for `apply`; None leaves the image as it is. The only place that uses random numbers."""

    @abstractmethod
    def apply(self, parameters: Parameters, image: np.ndarray, view: int = 0) -> np.ndarray:
        """uint8 (H, W, 3) -> uint8 (H, W, 3). view: number of the view; only paired operations look at it."""


def check_probability(name: str, field: str, value: float) -> None:
    """Raise ConfigError for a value outside [0, 1]."""
    if not 0 <= value <= 1:
        raise ConfigError(f"{name}: expected {field} in [0, 1], found {value}")


# --- crops and the flip -----------------------------------------------------------------------------------------------

CROP_TRIES = 10


class Crop(NamedTuple):
    """A box in pixels of the source, to be resized to `size` x `size`."""

    top: int
    left: int
    height: int
    width: int
    size: int


def resized_crop(crop: Crop, image: np.ndarray) -> np.ndarray:
    """Cut, then resize: the filter sees nothing outside the box, as in torchvision."""
    box = image[crop.top : crop.top + crop.height, crop.left : crop.left + crop.width]
    return pixels.resize(box, height=crop.size, width=crop.size)


@dataclass(frozen=True)
class RandomResizedCrop(Operation[Crop]):
    """A random box, resized bilinearly with antialiasing.

    scale: area of the box as a share of the image, uniform in this range.
    ratio: width / height of the box, log-uniform in this range.
    shared: the same box for both views of a pair.
    """

    scale: Range = (0.2, 1.0)
    ratio: Range = (3 / 4, 4 / 3)
    shared: bool = False
    is_crop = True
    overrides: ClassVar[Mapping[str, str]] = {"crop_scale": "scale"}

    def __post_init__(self) -> None:
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ConfigError(f"RandomResizedCrop: expected 0 < low <= high <= 1 as its scale, found {self.scale}")
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise ConfigError(f"RandomResizedCrop: expected 0 < low <= high as its ratio, found {self.ratio}")

    def draw(self, rng: np.random.Generator, frame: Frame) -> Crop:
        """Ten tries at an area and an aspect ratio whose box fits; then the largest central box of an allowed ratio."""
        height, width, size = frame
        low, high = self.ratio
        for _ in range(CROP_TRIES):
            area = height * width * uniform(rng, *self.scale)
            ratio = math.exp(uniform(rng, math.log(low), math.log(high)))
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

    def apply(self, parameters: Crop, image: np.ndarray, view: int = 0) -> np.ndarray:
        return resized_crop(parameters, image)


class CentreBox(NamedTuple):
    """Resize the whole image to (height, width), then cut `size` x `size` at (top, left)."""

    height: int
    width: int
    top: int
    left: int
    size: int


@dataclass(frozen=True)
class CenterCrop(Operation[CentreBox]):
    """The evaluation crop: the shorter side becomes `resize_ratio` x the view's size, then the centre is cut."""

    resize_ratio: float = 256 / 224
    is_crop = True

    def draw(self, rng: np.random.Generator | None, frame: Frame) -> CentreBox:
        """Draws nothing. The longer side is rounded down, as in torchvision."""
        height, width, size = frame
        shorter = round(size * self.resize_ratio)
        if height <= width:
            new_height, new_width = shorter, int(shorter * width / height)
        else:
            new_height, new_width = int(shorter * height / width), shorter
        top, left = round((new_height - size) / 2), round((new_width - size) / 2)
        return CentreBox(new_height, new_width, top, left, size)

    def apply(self, parameters: CentreBox, image: np.ndarray, view: int = 0) -> np.ndarray:
        height, width, top, left, size = parameters
        resized = pixels.resize(image, height=height, width=width)
        return np.ascontiguousarray(resized[top : top + size, left : left + size])


@dataclass(frozen=True)
class HorizontalFlip(Operation[Literal[True]]):
    """Mirror left and right.

    p: probability.
    shared: both views of a pair or none.
    """

    p: float = 0.5
    shared: bool = False

    def __post_init__(self) -> None:
        check_probability("HorizontalFlip", "p", self.p)

    def draw(self, rng: np.random.Generator, frame: Frame) -> Literal[True] | None:
        return True if rng.random() < self.p else None

    def apply(self, parameters: Literal[True], image: np.ndarray, view: int = 0) -> np.ndarray:
        return pixels.mirror(image)


TAIL_SIGMAS = 4  # a Gaussian's taps end where 6e-5 of its weight is left out

# --- colour and blur --------------------------------------------------------------------------------------------------

# Strength x of the paper's colour jitter is (0.8 x, 0.8 x, 0.8 x, 0.2 x) [specification 3]; hue ends at half a turn.
JITTER_SCALE = (0.8, 0.8, 0.8, 0.2)
MAX_JITTER_STRENGTH = 2.5
JITTER_STEPS = ("brightness", "contrast", "saturation", "hue")


class Jitter(NamedTuple):
    """`order`: a permutation of JITTER_STEPS. Factors: 1 leaves as is. `hue`: shift in turns, within [-0.5, 0.5]."""

    order: tuple[str, ...]
    brightness: float
    contrast: float
    saturation: float
    hue: float


@dataclass(frozen=True)
class ColorJitter(Operation[Jitter]):
    """Four changes in random order, all of them or none.

    brightness, contrast, saturation: s draws a factor uniform in [max(0, 1 - s), 1 + s].
    hue: the shift is uniform in [-hue, hue] turns, at most 0.5.
    p: probability.
    """

    brightness: float
    contrast: float
    saturation: float
    hue: float
    p: float
    overrides: ClassVar[Mapping[str, str]] = {"jitter_strength": "brightness, contrast, saturation, hue"}

    def override(self, key: str, value: float) -> ColorJitter:
        """The paper's jitter of strength `value` with this one's p."""
        brightness, contrast, saturation, hue = (value * scale for scale in JITTER_SCALE)
        return ColorJitter(brightness, contrast, saturation, hue, p=self.p)

    def draw(self, rng: np.random.Generator, frame: Frame) -> Jitter | None:
        if rng.random() >= self.p:
            return None
        order = tuple(JITTER_STEPS[step] for step in rng.permutation(len(JITTER_STEPS)).tolist())
        brightness, contrast, saturation = (
            uniform(rng, max(0.0, 1 - strength), 1 + strength)
            for strength in (self.brightness, self.contrast, self.saturation)
        )
        return Jitter(order, brightness, contrast, saturation, uniform(rng, -self.hue, self.hue))

    def apply(self, parameters: Jitter, image: np.ndarray, view: int = 0) -> np.ndarray:
        for step in parameters.order:
            if step == "brightness":
                image = pixels.brightness(image, parameters.brightness)
            elif step == "contrast":
                image = pixels.contrast(image, parameters.contrast)
            elif step == "saturation":
                image = pixels.saturation(image, parameters.saturation)
            else:
                image = pixels.shift_hue(image, parameters.hue)
        return image


@dataclass(frozen=True)
class GaussianBlur(Operation[float]):
    """Exact Gaussian blur. The default of 23 taps belongs to 224 px and is not scaled with the view's size.

    kernel: taps, an odd number; SimCLR's rule is a tenth of the side (7 at 64 px).
    sigma: standard deviation in pixels, uniform in this range.
    p: probability.
    """

    kernel: int = 23
    sigma: Range = (0.1, 2.0)
    p: float = 0.5
    overrides: ClassVar[Mapping[str, str]] = {"blur_kernel": "kernel", "blur_sigma": "sigma"}

    def __post_init__(self) -> None:
        if self.kernel < 1 or self.kernel % 2 == 0:
            raise ConfigError(f"the blur's kernel: expected an odd number of taps, found {self.kernel}")

    def draw(self, rng: np.random.Generator, frame: Frame) -> float | None:
        return uniform(rng, *self.sigma) if rng.random() < self.p else None

    def apply(self, parameters: float, image: np.ndarray, view: int = 0) -> np.ndarray:
        return pixels.gaussian_blur(image, kernel=self.kernel, sigma=parameters)


@dataclass(frozen=True)
class PillowBlur(Operation[float]):
    """MoCo v2's blur: Pillow's GaussianBlur, which repeats the edge.

    DEVIATION: the Gaussian itself; Pillow approximates it by three boxes (see pixels.py for the difference).
    radius: its standard deviation in pixels, uniform in this range.
    p: probability.
    """

    radius: Range = (0.1, 2.0)
    p: float = 0.5
    overrides: ClassVar[Mapping[str, str]] = {"blur_sigma": "radius"}

    def draw(self, rng: np.random.Generator, frame: Frame) -> float | None:
        return uniform(rng, *self.radius) if rng.random() < self.p else None

    def apply(self, parameters: float, image: np.ndarray, view: int = 0) -> np.ndarray:
        kernel = 2 * math.ceil(TAIL_SIGMAS * parameters) + 1
        return pixels.gaussian_blur(image, kernel=kernel, sigma=parameters, border=cv2.BORDER_REPLICATE)


@dataclass(frozen=True)
class Grayscale(Operation[Literal[True]]):
    """Pillow's luma (ITU-R 601-2) in all three channels with probability `p`."""

    p: float = 0.2

    def draw(self, rng: np.random.Generator, frame: Frame) -> Literal[True] | None:
        return True if rng.random() < self.p else None

    def apply(self, parameters: Literal[True], image: np.ndarray, view: int = 0) -> np.ndarray:
        return pixels.grey(image)


# --- RandAugment [specification 1.6] ----------------------------------------------------------------------------------
#
# | operation                              | amount at magnitude m in [0, 10] | at 10   |
# |----------------------------------------|----------------------------------|---------|
# | Rotate                                 | +-30 m/10 degrees                | +-30    |
# | ShearX/Y                               | +-0.3 m/10                       | +-0.3   |
# | TranslateX/YRel                        | +-0.45 m/10 of the side          | +-0.45  |
# | Color, Contrast, Brightness, Sharpness | factor 1.8 m/10 + 0.1            | 1.9     |
# | Posterize                              | keep int(4 m/10) bits            | 4       |
# | Solarize                               | invert from int(256 m/10) on     | nothing |
# | SolarizeAdd                            | add int(110 m/10) below 128      | 110     |
# | AutoContrast, Equalize, Invert         | -                                |         |

MAX_MAGNITUDE = 10.0
SIGNED_SPANS = {"Rotate": 30.0, "ShearX": 0.3, "ShearY": 0.3, "TranslateXRel": 0.45, "TranslateYRel": 0.45}
WHOLE_SPANS = {"Posterize": 4, "Solarize": 256, "SolarizeAdd": 110}
ENHANCERS = {
    "Color": pixels.saturation,
    "Contrast": pixels.contrast,
    "Brightness": pixels.brightness,
    "Sharpness": pixels.sharpness,
}
THRESHOLDS = {"Posterize": pixels.posterize, "Solarize": pixels.solarize, "SolarizeAdd": pixels.solarize_add}
RECOLOURS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "AutoContrast": pixels.autocontrast,
    "Equalize": pixels.equalize,
    "Invert": pixels.invert,
}
RAND_AUGMENT_OPS = (  # the order is part of the draw
    "AutoContrast", "Equalize", "Invert", "Rotate", "Posterize", "Solarize", "SolarizeAdd", "Color", "Contrast",
    "Brightness", "Sharpness", "ShearX", "ShearY", "TranslateXRel", "TranslateYRel",
)  # fmt: skip
# What changes no colour: CMC's towers see colours apart, and colours changed at random would be all that they share.
CMC_OPS = ("AutoContrast", "Identity", "Rotate", "Sharpness", "ShearX", "ShearY", "TranslateXRel", "TranslateYRel")
KNOWN_OPS = (*RAND_AUGMENT_OPS, "Identity")


class Change(NamedTuple):
    """One of RAND_AUGMENT_OPS with its amount (the table above) and, for warps, the filter."""

    name: str
    amount: float
    bicubic: bool


def amount_of(name: str, magnitude: float, *, negative: bool) -> float:
    """The table above. `negative` counts only for the signed operations."""
    level = magnitude / MAX_MAGNITUDE
    if name in SIGNED_SPANS:
        return (-1 if negative else 1) * level * SIGNED_SPANS[name]
    if name in ENHANCERS:
        return level * 1.8 + 0.1
    return float(int(level * WHOLE_SPANS[name])) if name in WHOLE_SPANS else 0.0


@dataclass(frozen=True)
class RandAugment(Operation[tuple[Change, ...]]):
    """Random operations out of a list, near full magnitude.

    num_ops: draws, with replacement.
    magnitude, magnitude_std: each draw's magnitude is normal with these, clipped to [0, 10].
    p_each: probability that a draw is applied.
    ops: names out of KNOWN_OPS.
    fill: RGB of what a warp uncovers.
    """

    num_ops: int = 2
    magnitude: float = 10.0
    magnitude_std: float = 0.5
    p_each: float = 0.5
    ops: tuple[str, ...] = RAND_AUGMENT_OPS
    fill: tuple[int, int, int] = (124, 116, 104)

    def __post_init__(self) -> None:
        unknown = set(self.ops) - set(KNOWN_OPS)
        if unknown or not self.ops:
            raise ConfigError(f"RandAugment: expected ops out of {', '.join(KNOWN_OPS)}, found {self.ops}")

    def draw(self, rng: np.random.Generator, frame: Frame) -> tuple[Change, ...]:
        """The changes that are applied this time: between none and `num_ops`.

        Every draw takes the same values from the generator whether it is applied or not, so that two settings of `p_each`
        or `magnitude` can be compared on the same randomness.
        """
        changes = []
        for _ in range(self.num_ops):
            name = self.ops[int(rng.integers(len(self.ops)))]
            applied, negative, bicubic = rng.random(3).tolist()
            magnitude = min(max(rng.normal(self.magnitude, self.magnitude_std), 0.0), MAX_MAGNITUDE)
            if applied < self.p_each:
                changes.append(Change(name, amount_of(name, magnitude, negative=negative < 0.5), bicubic < 0.5))
        return tuple(changes)

    def apply(self, parameters: tuple[Change, ...], image: np.ndarray, view: int = 0) -> np.ndarray:
        for change in parameters:
            image = self._change(change, image)
        return image

    def _change(self, change: Change, image: np.ndarray) -> np.ndarray:
        name, amount, _ = change
        if name == "Identity":
            return image
        if name in SIGNED_SPANS:
            return self._warp(change, image)
        if name in ENHANCERS:
            return ENHANCERS[name](image, amount)
        return THRESHOLDS[name](image, int(amount)) if name in THRESHOLDS else RECOLOURS[name](image)

    def _warp(self, change: Change, image: np.ndarray) -> np.ndarray:
        """Rotate about the centre; shear and translate move the content by -amount (a warp maps output to input)."""
        name, amount, bicubic = change
        height, width = image.shape[:2]
        if name == "TranslateXRel":
            return pixels.translate(image, amount * width, axis=1, bicubic=bicubic, fill=self.fill)
        if name == "TranslateYRel":
            return pixels.translate(image, amount * height, axis=0, bicubic=bicubic, fill=self.fill)
        shears: dict[str, pixels.Affine] = {"ShearX": (1, amount, 0, 0, 1, 0), "ShearY": (1, 0, 0, amount, 1, 0)}
        matrix = shears[name] if name in shears else pixels.rotation(amount, height=height, width=width)
        return pixels.warp(image, matrix, bicubic=bicubic, fill=self.fill)


# Every class of this file that a recipe may name.
AUGMENTATIONS: tuple[type[Operation[Any]], ...] = (
    RandomResizedCrop,
    CenterCrop,
    HorizontalFlip,
    ColorJitter,
    GaussianBlur,
    PillowBlur,
    Grayscale,
    RandAugment,
)
