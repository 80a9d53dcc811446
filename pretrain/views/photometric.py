"""Colour jitter, blurs and grey. Parameters are drawn apart from pixels, so that another back end can apply them.

In: an operation's strengths and a generator -> parameters or None (not applied this time);
parameters and uint8 (H, W, 3) -> uint8 (H, W, 3).
Semantics: torchvision's ColorJitter and Grayscale on PIL images (8-bit rounding and clipping after every step, hue in
8-bit HSV); InfoMin's blur is an exact Gaussian, MoCo v2's is Pillow's box approximation.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image, ImageEnhance, ImageFilter

from pretrain.views.recipes import ColorJitter, GaussianBlur, Grayscale, PillowBlur

JITTER_STEPS = ("brightness", "contrast", "saturation", "hue")


@dataclass(frozen=True)
class Jitter:
    """`order`: a permutation of JITTER_STEPS. Factors: 1 leaves as is. `hue`: shift in turns, within [-0.5, 0.5]."""

    order: tuple[str, ...]
    brightness: float
    contrast: float
    saturation: float
    hue: float


@dataclass(frozen=True)
class Blur:
    """Taps (odd) and standard deviation in pixels of a normalised Gaussian."""

    kernel: int
    sigma: float


@dataclass(frozen=True)
class BoxBlur:
    """Radius of Pillow's GaussianBlur, in pixels."""

    radius: float


@dataclass(frozen=True)
class Grey:
    """Luma in all channels."""


def draw_jitter(op: ColorJitter, rng: np.random.Generator) -> Jitter | None:
    """Order and factors; None with probability 1 - p."""
    if rng.random() >= op.p:
        return None
    order = tuple(JITTER_STEPS[step] for step in rng.permutation(len(JITTER_STEPS)))
    brightness, contrast, saturation = (
        rng.uniform(max(0.0, 1 - strength), 1 + strength) for strength in (op.brightness, op.contrast, op.saturation)
    )
    return Jitter(order, brightness, contrast, saturation, rng.uniform(-op.hue, op.hue))


def apply_jitter(jitter: Jitter, image: np.ndarray) -> np.ndarray:
    """The four changes in their order."""
    picture = Image.fromarray(np.ascontiguousarray(image))
    for step in jitter.order:
        if step == "brightness":
            picture = ImageEnhance.Brightness(picture).enhance(jitter.brightness)
        elif step == "contrast":
            picture = ImageEnhance.Contrast(picture).enhance(jitter.contrast)
        elif step == "saturation":
            picture = ImageEnhance.Color(picture).enhance(jitter.saturation)
        else:
            picture = _shift_hue(picture, jitter.hue)
    return np.asarray(picture)


def _shift_hue(picture: Image.Image, turns: float) -> Image.Image:
    """Hue is a circle of 256 steps in 8-bit HSV; the shift is cut to whole steps towards zero, as torchvision does."""
    hue, saturation, value = picture.convert("HSV").split()
    shifted = Image.fromarray(
        np.asarray(hue) + np.uint8(int(turns * 255) % 256)
    )  # bytes wrap around, as the circle does
    return Image.merge("HSV", (shifted, saturation, value)).convert("RGB")


def draw_blur(op: GaussianBlur, rng: np.random.Generator) -> Blur | None:
    """Sigma; None with probability 1 - p."""
    return Blur(op.kernel, rng.uniform(*op.sigma)) if rng.random() < op.p else None


def gaussian_taps(kernel: int, sigma: float) -> np.ndarray:
    """Normalised Gaussian sampled at whole pixels, float64 (kernel,)."""
    offsets = np.arange(kernel) - kernel // 2
    taps = np.exp(-(offsets**2) / (2 * sigma**2))
    return taps / taps.sum()


def apply_blur(blur: Blur, image: np.ndarray) -> np.ndarray:
    """Separable convolution in float32, mirrored border without repeating the edge, rounded to nearest.

    cv2.GaussianBlur on bytes quantises its taps to 8 bits and is off by up to 1.4 levels; this is off by 0.5.
    DEVIATION: the reference truncates to bytes, which darkens a blurred image by half a level on average.
    """
    taps = gaussian_taps(blur.kernel, blur.sigma).astype(np.float32)
    floats = cv2.sepFilter2D(image, cv2.CV_32F, taps, taps, borderType=cv2.BORDER_REFLECT_101)
    return cv2.convertScaleAbs(floats)


def draw_box_blur(op: PillowBlur, rng: np.random.Generator) -> BoxBlur | None:
    """Radius; None with probability 1 - p."""
    return BoxBlur(rng.uniform(*op.radius)) if rng.random() < op.p else None


def apply_box_blur(blur: BoxBlur, image: np.ndarray) -> np.ndarray:
    """Pillow's GaussianBlur."""
    picture = Image.fromarray(np.ascontiguousarray(image))
    return np.asarray(picture.filter(ImageFilter.GaussianBlur(blur.radius)))


def draw_grey(op: Grayscale, rng: np.random.Generator) -> Grey | None:
    """None with probability 1 - p."""
    return Grey() if rng.random() < op.p else None


def apply_grey(image: np.ndarray) -> np.ndarray:
    """Pillow's luma, three times."""
    luma = np.asarray(Image.fromarray(np.ascontiguousarray(image)).convert("L"))
    return np.repeat(luma[:, :, None], 3, axis=2)
