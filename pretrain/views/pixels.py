"""What the augmentations do to bytes: uint8 (H, W, 3) RGB in, a new array of the same kind out; nothing is drawn here.

The definitions are Pillow's, 8-bit rounding and clipping after every step included; the means are matrices and filters of
OpenCV, tables of 256 bytes and torch's antialiased resize. The table says how far that may be from Pillow on photographs, in
grey levels of 255: the mean over a picture, and the largest. tests/pretrain/views/test_pixels.py reads and holds it; the rest
(invert, posterize, solarize, solarize_add) is equal to the bit. Where Pillow cuts to bytes, so does this, blur and warps apart.

| function                    | Pillow's counterpart           | mean  | largest                                    |
|-----------------------------|--------------------------------|-------|--------------------------------------------|
| resize, an axis shrinking   | resize, bilinear               | 0.2   | 1                                          |
| resize, both axes enlarging | the same                       | 0.25  | 1                                          |
| brightness                  | ImageEnhance.Brightness        | 0.01  | 1                                          |
| contrast                    | ImageEnhance.Contrast          | 0.1   | 1                                          |
| saturation                  | ImageEnhance.Color             | 0.6   | 1                                          |
| sharpness                   | ImageEnhance.Sharpness         | 0.01  | 1                                          |
| grey                        | convert("L")                   | 0.01  | 1                                          |
| shift_hue                   | HSV in bytes                   | 1     | 12                                         |
| autocontrast, equalize      | ImageOps                       | 0     | 0                                          |
| gaussian_blur               | GaussianBlur, three boxes      | 3     | 40                                         |
| translate                   | transform                      | 0.05  | 1                                          |
| warp, bilinear              | transform, rotate              | 0.6   | 1                                          |
| warp, bicubic               | the same, a = -1 for -0.75     | 1.5   | 20                                         |

Pillow's three boxes are no Gaussian at a small radius: over 100 photographs of COCO the means of the blur's difference average 0.7
at most (radius 0.4 or 0.7); the most detailed photograph has 2.8 at 0.35 and 1.2 or less outside 0.2 to 0.4.
"""

from __future__ import annotations

import math

import cv2
import numpy as np
import torch

# A view is too small to be shared among threads, and the loader's processes do that. Here and not only in a worker, which is
# forked: a pool of threads that was started before does not exist there.
cv2.setNumThreads(0)

_LUMA = (0.299, 0.587, 0.114)
_IDENTITY = np.eye(3, 4)
_GREY = np.array([(*_LUMA, 0.0)] * 3)
_RAMP = np.arange(256, dtype=np.float32)
# Added before OpenCV rounds to nearest, where Pillow cuts. A little less than a half: whole numbers must stay themselves.
_CUT = -0.4999
_NEGLIGIBLE = 2e-4  # a tap of a blur, as a share of the largest: what is left out is worth 0.03 levels
_SMOOTH = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]], dtype=np.float32) / 13  # Pillow's SMOOTH

# What F.interpolate(antialias=True) calls after its checks.
_filter = torch._C._nn._upsample_bilinear2d_aa

Affine = tuple[float, float, float, float, float, float]


def resize(image: np.ndarray, *, height: int, width: int) -> np.ndarray:
    """Bilinear with antialiasing: a triangle as wide as the step between samples, one pixel at least.

    torch has Pillow's own algorithm in SIMD, three times as fast; where nothing shrinks no antialiasing is needed.
    """
    if (height, width) == image.shape[:2]:
        return image
    if height >= image.shape[0] and width >= image.shape[1]:
        return cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
    box = np.ascontiguousarray(image if image.flags.writeable else image.copy())  # torch warns of what is read-only
    # `reshape` gives the batch axis the stride of a whole image; with another one torch works by planes, twice as long.
    # What can be said in numpy is: each call of torch costs microseconds, a sixth of the whole in all.
    pixels = torch.from_numpy(box.reshape(1, *box.shape).transpose(0, 3, 1, 2))
    # Rows first: the columns, which cost more, are then filtered in fewer of them. Pillow takes the columns first.
    for size in ((height, image.shape[1]), (height, width)):
        pixels = _filter(pixels, size, False, None)
    return np.ascontiguousarray(pixels.numpy()[0].transpose(1, 2, 0))


def planes_into(out: np.ndarray, image: np.ndarray) -> None:
    """uint8 (H, W, 3) -> `out`, uint8 (3, H, W) whose rows are contiguous: the layout of a batch."""
    plane = _only_plane(image)
    if plane is None:
        cv2.split(image, list(out))
    else:
        out[:] = plane


def mirror(image: np.ndarray) -> np.ndarray:
    """Left and right exchanged."""
    return cv2.flip(image, 1)


# --- colours ----------------------------------------------------------------------------------------------------------


def look_up(image: np.ndarray, table: np.ndarray) -> np.ndarray:
    """table: uint8 (256,) for all channels or (256, 3)."""
    return cv2.LUT(image, table if table.ndim == 1 else table[:, None])


def brightness(image: np.ndarray, factor: float) -> np.ndarray:
    """Blend with black; factors above 1 lighten."""
    return cv2.convertScaleAbs(image, alpha=factor, beta=_CUT)


def contrast(image: np.ndarray, factor: float) -> np.ndarray:
    """Blend with the mean of the grey image, rounded."""
    red, green, blue, _ = cv2.mean(image)
    mean = int(_LUMA[0] * red + _LUMA[1] * green + _LUMA[2] * blue + 0.5)
    return _multiply(image, factor * _IDENTITY, (1 - factor) * mean)


def saturation(image: np.ndarray, factor: float) -> np.ndarray:
    """Blend with the grey image."""
    return _multiply(image, factor * _IDENTITY + (1 - factor) * _GREY, 0.0)


def _multiply(image: np.ndarray, matrix: np.ndarray, offset: float) -> np.ndarray:
    """matrix (3, 4) whose last column is zero, times each pixel, plus `offset`: clipped and cut to bytes."""
    matrix[:, 3] = offset + _CUT
    return cv2.transform(image, matrix)


def grey(image: np.ndarray) -> np.ndarray:
    """Luma (ITU-R 601-2) in all three channels, which are one plane of memory, see `_thrice`."""
    return _thrice(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY))


def _thrice(plane: np.ndarray) -> np.ndarray:
    """uint8 (H, W) -> a read-only (H, W, 3) whose channels are that plane itself: what follows can do one instead of three."""
    image = np.ndarray((*plane.shape, 3), np.uint8, plane, strides=(*plane.strides, 0))
    image.flags.writeable = False
    return image


def _only_plane(image: np.ndarray) -> np.ndarray | None:
    """uint8 (H, W): the plane that `_thrice` was given; None for any other image."""
    return image[:, :, 0] if image.strides[2] == 0 else None


def shift_hue(image: np.ndarray, turns: float) -> np.ndarray:
    """Turn the hue of 8-bit HSV, cut to whole steps of 1/255 turn towards zero, as torchvision does.

    Pillow cuts hue and saturation to bytes, which OpenCV rounds: a shift of nothing changes colours there, and not here.
    """
    steps = int(turns * 255) % 256
    if steps == 0:
        return image
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV_FULL)
    rows = hsv.reshape(len(hsv), -1)
    turn = np.zeros(rows.shape[1], dtype=np.uint8)
    turn[::3] = steps
    rows += turn  # bytes wrap around, as the circle does
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL)


def autocontrast(image: np.ndarray) -> np.ndarray:
    """Stretch every channel from its smallest and largest value to 0 and 255."""
    table = np.empty((256, 3), dtype=np.uint8)
    for channel, plane in enumerate(cv2.split(image)):
        low, high, _, _ = cv2.minMaxLoc(plane)
        scale = 255.0 / (high - low) if high > low else 1.0
        offset = -low * scale if high > low else 0.0
        table[:, channel] = np.clip(np.arange(256) * scale + offset, 0, 255)
    return look_up(image, table)


def equalize(image: np.ndarray) -> np.ndarray:
    """Make the histogram of every channel as flat as Pillow does."""
    table = np.empty((256, 3), dtype=np.uint8)
    for channel in range(3):
        counts = cv2.calcHist([image], [channel], None, [256], [0, 256]).ravel().astype(np.int64)
        step = (counts.sum() - counts[np.flatnonzero(counts)[-1]]) // 255
        below = np.cumsum(counts) - counts
        table[:, channel] = np.arange(256) if step == 0 else np.minimum((below + step // 2) // step, 255)
    return look_up(image, table)


def invert(image: np.ndarray) -> np.ndarray:
    """255 minus every byte."""
    return cv2.bitwise_not(image)


def posterize(image: np.ndarray, bits: int) -> np.ndarray:
    """Keep the highest `bits` of every byte."""
    return image & np.uint8(0xFF & ~(0xFF >> bits))


def solarize(image: np.ndarray, threshold: int) -> np.ndarray:
    """Invert what is at or above `threshold`."""
    return look_up(image, np.where(threshold > _RAMP, _RAMP, 255 - _RAMP).astype(np.uint8))


def solarize_add(image: np.ndarray, amount: int, *, below: int = 128) -> np.ndarray:
    """Add `amount`, clipped, to what is below `below`."""
    return look_up(image, np.where(below > _RAMP, np.minimum(_RAMP + amount, 255), _RAMP).astype(np.uint8))


def sharpness(image: np.ndarray, factor: float) -> np.ndarray:
    """Blend with the image smoothed by a 3 x 3 filter; the outermost pixels stay as they are."""
    result = cv2.addWeighted(image, factor, cv2.filter2D(image, -1, _SMOOTH), 1 - factor, _CUT)
    result[[0, -1]] = image[[0, -1]]
    result[:, [0, -1]] = image[:, [0, -1]]
    return result


# --- blur and warps ---------------------------------------------------------------------------------------------------


def gaussian_taps(kernel: int, sigma: float) -> list[float]:
    """Gaussian at whole pixels, normalised: `kernel` taps at most, without those that count for nothing.

    In plain Python: for a dozen numbers numpy's calls take three times as long.
    """
    side = [math.exp(-(offset**2) / (2 * sigma**2)) for offset in range(1, kernel // 2 + 1)]
    side = [tap for tap in side if tap > _NEGLIGIBLE]
    total = 1 + 2 * sum(side)
    return [tap / total for tap in (*reversed(side), 1.0, *side)]


def gaussian_blur(image: np.ndarray, *, kernel: int, sigma: float, border: int = cv2.BORDER_REFLECT_101) -> np.ndarray:
    """Separable convolution in float32, rounded to nearest; by default the border is mirrored without repeating the edge.

    Taps that count for nothing are left out: of 23 taps, 5 matter at sigma 0.5, and multiplying by numbers too small for
    float32's normal range takes ten times as long. cv2.GaussianBlur on bytes quantises its taps to 8 bits and is off by up
    to 1.4 levels; this is off by 0.6.
    DEVIATION: the reference truncates to bytes, which darkens a blurred image by half a level on average.
    """
    taps = np.array(gaussian_taps(kernel, sigma))
    if len(taps) == 1:
        return image
    # OpenCV takes its 8-bit way where both filters are positive and sum to one; a hair more and less, it stays in float32.
    across, down = ((taps * hair).astype(np.float32) for hair in (1.0005, 1 / 1.0005))
    plane = _only_plane(image)
    if plane is not None:
        return _thrice(cv2.sepFilter2D(plane, -1, across, down, borderType=border))
    return cv2.sepFilter2D(image, -1, across, down, borderType=border)


def warp(image: np.ndarray, matrix: Affine, *, bicubic: bool, fill: tuple[int, int, int]) -> np.ndarray:
    """The pixel at (x, y) comes from (a x + b y + c, d x + e y + f), matrix (a, b, c, d, e, f), of centres at halves.

    That is Pillow's convention. DEVIATION: the outermost pixel mixes with the fill; Pillow's seam is hard.
    """
    a, b, c, d, e, f = matrix
    whole = np.array([[a, b, c + (a + b - 1) / 2], [d, e, f + (d + e - 1) / 2]])  # OpenCV's centres are whole numbers
    height, width = image.shape[:2]
    flags = (cv2.INTER_CUBIC if bicubic else cv2.INTER_LINEAR) | cv2.WARP_INVERSE_MAP
    # Pixels of four bytes, for which OpenCV has SIMD: the same bytes in three fifths of the time. Its bicubic filter has none.
    source = image if bicubic else cv2.cvtColor(image, cv2.COLOR_RGB2RGBA)
    border = (*fill, 0)
    warped = cv2.warpAffine(
        source, whole, (width, height), flags=flags, borderMode=cv2.BORDER_CONSTANT, borderValue=border
    )
    return warped if bicubic else cv2.cvtColor(warped, cv2.COLOR_RGBA2RGB)


def translate(
    image: np.ndarray, distance: float, *, axis: int, bicubic: bool, fill: tuple[int, int, int]
) -> np.ndarray:
    """`warp` by whole and broken pixels along `axis`: the pixel at x comes from x + distance. Equal to Pillow's but for rounding."""
    whole = round(distance)
    rest = distance - whole
    offsets = np.abs(np.arange(-2, 3) - rest)
    if bicubic:  # Pillow's has a = -1
        near, far = offsets**3 - 2 * offsets**2 + 1, -(offsets**3) + 5 * offsets**2 - 8 * offsets + 4
        taps = np.where(offsets < 1, near, np.where(offsets < 2, far, 0.0))
    else:
        taps = np.maximum(1 - offsets, 0.0)
    column = taps.reshape(-1, 1)
    kernel = column if axis == 0 else column.T
    moved = cv2.filter2D(image, -1, kernel, delta=_CUT, borderType=cv2.BORDER_REPLICATE) if rest else image
    side = image.shape[axis]
    before, after = min(max(-whole, 0), side), min(max(whole, 0), side)  # pixels uncovered
    if axis == 0:
        return cv2.copyMakeBorder(moved[after : side - before], before, after, 0, 0, cv2.BORDER_CONSTANT, value=fill)
    return cv2.copyMakeBorder(moved[:, after : side - before], 0, 0, before, after, cv2.BORDER_CONSTANT, value=fill)


def rotation(degrees: float, *, height: int, width: int) -> Affine:
    """The matrix for `warp` that turns an image counter-clockwise about its centre."""
    angle = math.radians(degrees)
    cos, sin = math.cos(angle), math.sin(angle)
    x, y = width / 2, height / 2
    return cos, -sin, x - cos * x + sin * y, sin, cos, y - sin * x - cos * y
