"""Photographic texture from the pictures that scikit-image carries in its own package.

In: a random generator and a size. Out: a crop (H, W, 3) uint8 RGB of a bundled photo, rotated, scaled and re-coloured.
The files are read where the wheel put them; nothing is ever downloaded (`skimage.data.*` functions may, so none is called).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
import skimage
from PIL import Image

from pretrain.base.errors import DataError

PHOTO_FILES = (
    "astronaut.png",
    "brick.png",
    "camera.png",
    "cell.png",
    "chelsea.png",
    "coffee.png",
    "coins.png",
    "grass.png",
    "gravel.png",
    "hubble_deep_field.jpg",
    "ihc.png",
    "moon.png",
    "motorcycle_left.png",
    "page.png",
    "retina.jpg",
    "rocket.jpg",
)
_NUM_LEVELS = 4
# Rec. 601 luma: the grey axis around which hue turns.
LUMA = np.array([0.299, 0.587, 0.114], np.float32)
_TO_YIQ = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
_FROM_YIQ = np.linalg.inv(_TO_YIQ)


@lru_cache(maxsize=1)
def photo_pyramids() -> tuple[tuple[np.ndarray, ...], ...]:
    """Every bundled photo as a pyramid of `_NUM_LEVELS` halvings, each (H, W, 3) uint8 RGB. Read once a process.

    Raises DataError when the installed scikit-image lacks one of the files.
    """
    folder = Path(skimage.__file__).parent / "data"
    pyramids = []
    for name in PHOTO_FILES:
        try:  # PIL rather than OpenCV, whose libpng grumbles on stderr about one file's colour profile
            with Image.open(folder / name) as file:
                levels = [np.asarray(file.convert("RGB"))]
        except OSError as error:
            raise DataError(
                f"expected scikit-image's bundled photo {folder / name}, found none that can be read: "
                "pip install --force-reinstall scikit-image"
            ) from error
        while len(levels) < _NUM_LEVELS:
            levels.append(cv2.pyrDown(levels[-1]))
        pyramids.append(tuple(levels))
    return tuple(pyramids)


def hue_matrix(angle: float, saturation: float) -> np.ndarray:
    """(3, 3) float32 colour matrix that turns hue by `angle` radians around the grey axis and scales saturation.

    Keeps luma and greys: each row sums to 1 and LUMA @ matrix == LUMA (YIQ rotation).
    """
    cosine, sine = saturation * np.cos(angle), saturation * np.sin(angle)
    turn = np.array([[1, 0, 0], [0, cosine, -sine], [0, sine, cosine]])
    return (_FROM_YIQ @ turn @ _TO_YIQ).astype(np.float32)


def photo_crop(
    rng: np.random.Generator,
    height: int,
    width: int,
    *,
    zoom: tuple[float, float] = (0.5, 3.0),
    photos: Sequence[str] = PHOTO_FILES,
) -> np.ndarray:
    """Random crop of one of `photos`, names out of PHOTO_FILES: (height, width, 3) uint8 RGB.

    Any rotation; `zoom` bounds the source pixels per output pixel (log-uniform); mirrored at the photo's border. A pyramid
    level near the scale is read, so shrinking does not alias.
    """
    pyramid = photo_pyramids()[PHOTO_FILES.index(photos[int(rng.integers(len(photos)))])]
    step = float(np.exp(rng.uniform(*np.log(zoom))))
    level = min(max(round(np.log2(step)), 0), _NUM_LEVELS - 1)
    source = pyramid[level]
    step /= 2**level
    angle = rng.uniform(0, 2 * np.pi)
    # output -> source, as WARP_INVERSE_MAP wants it
    linear = step * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    if rng.random() < 0.5:
        linear[:, 0] *= -1
    margin = 0.1
    centre = rng.uniform(margin, 1 - margin, 2) * source.shape[1::-1]
    offset = centre - linear @ (width / 2, height / 2)
    return cv2.warpAffine(
        source,
        np.column_stack([linear, offset]),
        (width, height),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REFLECT_101,
    )


def recolour(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Random hue, saturation, contrast and brightness; sometimes a duotone. (H, W, 3) uint8 -> the same.

    After it, hue carries nothing of which photo (or class) the pixels came from.
    """
    mean = np.array(cv2.mean(image)[:3])
    contrast = rng.uniform(0.6, 1.4)
    if rng.random() < 0.5:
        tint = random_colour(rng) / 255 + 0.1
        matrix = contrast * np.outer(tint / (LUMA @ tint), LUMA)
    else:
        matrix = contrast * hue_matrix(rng.uniform(0, 2 * np.pi), rng.uniform(0.1, 0.6))
    level = rng.uniform(60, 185) * 0.7 + 0.3 * float(LUMA @ mean)
    target = level * (matrix @ mean) / max(float(LUMA @ (matrix @ mean)), 1.0)
    affine = np.column_stack([matrix, target - matrix @ mean]).astype(np.float32)
    return cv2.transform(image, affine)


def random_colour(rng: np.random.Generator) -> np.ndarray:
    """One RGB colour, (3,) float32 in 0..255: any hue, muted, any value.

    Muted because vivid random colours would tell one image from all others: a contrastive encoder would then learn
    colours (views keep most of the hue), and no shapes.
    """
    hue, saturation, value = rng.uniform(0, 6), 0.5 * rng.random() ** 1.5, rng.uniform(0.25, 0.98)
    wheel = np.clip(np.abs((hue + np.array([0.0, 4.0, 2.0])) % 6 - 3) - 1, 0, 1)
    return (255 * value * (1 - saturation * (1 - wheel))).astype(np.float32)
