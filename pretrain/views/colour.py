"""Colour spaces on float tensors, and back to RGB.

RGB in [0, 1], (..., 3, H, W) of any device and dtype, to the three channels of the space in its own units. Gamma-coded sRGB goes in and comes out; only Lab and XYZ take the gamma off (IEC 61966-2-1).

| space  | channels                        | definition                                                          |
|--------|---------------------------------|---------------------------------------------------------------------|
| rgb    | R, G, B in [0, 1]               | unchanged                                                            |
| lab    | L in 0..100, a, b               | CIE 1976, white D65 of the 2 degree observer                         |
| xyz    | X, Y, Z                         | CIE 1931 of linear sRGB, Y of white = 1                              |
| yuv    | Y in [0, 1], U +-0.436, V +-0.615 | PAL, luma of ITU-R BT.601                                           |
| ypbpr  | Y in [0, 1], Pb, Pr +-0.5       | analogue component video, BT.601                                     |
| ycbcr  | Y 16..235, Cb, Cr 16..240       | BT.601, 8-bit studio swing (values are not rounded)                  |
| ydbdr  | Y in [0, 1], Db, Dr +-1.333     | SECAM                                                                |
| yiq    | Y in [0, 1], I +-0.596, Q +-0.523 | NTSC                                                               |
| hsv    | H in [0, 1) of a turn, S, V in [0, 1] | hexcone; H of a grey is 0                                      |

Mean and standard deviation bring a space to about [-1, 1]. rgb, lab and ydbdr: the figures of docs/specification.md 4. The others:
middle and half of the range that the channel has over the RGB cube, which is the rule by which Lab's figures there are made
(over the cube, a runs from -86.2 to 98.2: middle 6.0, half 92.2).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pretrain.base.errors import ConfigError, did_you_mean

Triple = tuple[float, float, float]
Matrix = tuple[Triple, Triple, Triple]

# Rows are channels. Y of the video spaces is BT.601's luma 0.299 R + 0.587 G + 0.114 B; the differences are scalings of
# B - Y and R - Y, written so that no rounded table enters.
_LUMA = (0.299, 0.587, 0.114)
_TO_YIQ: Matrix = (
    _LUMA,
    (0.59590059, -0.27455667, -0.32134392),
    (0.21153661, -0.52273617, 0.31119955),
)
_TO_XYZ: Matrix = ((0.412453, 0.357580, 0.180423), (0.212671, 0.715160, 0.072169), (0.019334, 0.119193, 0.950227))
WHITE_D65: Triple = (0.95047, 1.0, 1.08883)
_LAB_KNEE = 6 / 29  # below it (cubed: 0.008856 of white) the cube root gives way to a straight line


def _luma_differences(blue: float, red: float) -> Matrix:
    """Y, blue (B - Y), red (R - Y)."""
    y = _LUMA
    return (
        y,
        (-blue * y[0], -blue * y[1], blue * (1 - y[2])),
        (red * (1 - y[0]), -red * y[1], -red * y[2]),
    )


_TO_YPBPR = _luma_differences(0.5 / (1 - _LUMA[2]), 0.5 / (1 - _LUMA[0]))
_TO_YUV = _luma_differences(0.436 / (1 - _LUMA[2]), 0.615 / (1 - _LUMA[0]))
_TO_YDBDR = _luma_differences(1.333 / (1 - _LUMA[2]), -1.333 / (1 - _LUMA[0]))  # SECAM turns Dr round
_SWING: Triple = (219.0, 224.0, 224.0)
_TO_YCBCR: Matrix = tuple(  # type: ignore[assignment]
    tuple(scale * value for value in row) for scale, row in zip(_SWING, _TO_YPBPR, strict=True)
)


@dataclass(frozen=True)
class ColourSpace:
    """One space.

    channels: their names.
    mean, std: of the channels, see the module.
    linear: to_space is a matrix and an offset.
    to_space, to_rgb: (..., 3, H, W) -> (..., 3, H, W), differentiable almost everywhere, nothing clipped.
    """

    name: str
    channels: tuple[str, str, str]
    mean: Triple
    std: Triple
    linear: bool
    to_space: Callable[[Tensor], Tensor]
    to_rgb: Callable[[Tensor], Tensor]

    def normalize(self, values: Tensor) -> Tensor:
        """(values - mean) / std, channel by channel."""
        return (values - _column(self.mean, values)) / _column(self.std, values)

    def denormalize(self, values: Tensor) -> Tensor:
        """Inverse of `normalize`."""
        return values * _column(self.std, values) + _column(self.mean, values)


def colour_space(name: str) -> ColourSpace:
    """The space called `name` (any case). Raises ConfigError that names the nearest one."""
    if name.lower() in COLOUR_SPACES:
        return COLOUR_SPACES[name.lower()]
    hint = did_you_mean(name.lower(), COLOUR_SPACES, shown="'{}'", cutoff=0.3)
    raise ConfigError(f"colour space: expected one of {', '.join(COLOUR_SPACES)}, found {name!r}{hint}")


def _column(values: Sequence[float], like: Tensor) -> Tensor:
    return torch.tensor(values, device=like.device, dtype=like.dtype).view(3, 1, 1)


def _multiply(matrix: Tensor, values: Tensor) -> Tensor:
    # einsum, not matmul: channels are the third axis from the end, whatever stands before it.
    return torch.einsum("ij,...jhw->...ihw", matrix.to(values.device, values.dtype), values)


def _unchanged(values: Tensor) -> Tensor:
    return values


def _linear_space(
    name: str, channels: tuple[str, str, str], matrix: Matrix, *, offset: Triple = (0.0, 0.0, 0.0), std: Triple | None = None,
    mean: Triple | None = None,
) -> ColourSpace:  # fmt: skip
    forward = torch.tensor(matrix, dtype=torch.float64)
    backward = torch.linalg.inv(forward)  # in float64: printed inverses are rounded
    low = forward.clamp(max=0).sum(1) + torch.tensor(offset, dtype=torch.float64)
    high = forward.clamp(min=0).sum(1) + torch.tensor(offset, dtype=torch.float64)

    def to_space(rgb: Tensor) -> Tensor:
        return _multiply(forward, rgb) + _column(offset, rgb)

    def to_rgb(values: Tensor) -> Tensor:
        return _multiply(backward, values - _column(offset, values))

    middle, half = ((low + high) / 2).tolist(), ((high - low) / 2).tolist()
    return ColourSpace(name, channels, mean or tuple(middle), std or tuple(half), True, to_space, to_rgb)


def linear_from_srgb(values: Tensor) -> Tensor:
    """Take sRGB's gamma off; values outside [0, 1] follow the same two curves."""
    curve = ((values.clamp(min=0.04045) + 0.055) / 1.055) ** 2.4
    return torch.where(values > 0.04045, curve, values / 12.92)


def srgb_from_linear(values: Tensor) -> Tensor:
    """Put sRGB's gamma on; below 0.0031308, negative values included, it is a straight line."""
    curve = 1.055 * values.clamp(min=0.0031308) ** (1 / 2.4) - 0.055
    return torch.where(values > 0.0031308, curve, values * 12.92)


_XYZ_FROM_LINEAR = torch.tensor(_TO_XYZ, dtype=torch.float64)
_LINEAR_FROM_XYZ = torch.linalg.inv(_XYZ_FROM_LINEAR)


def _rgb_to_xyz(rgb: Tensor) -> Tensor:
    return _multiply(_XYZ_FROM_LINEAR, linear_from_srgb(rgb))


def _xyz_to_rgb(xyz: Tensor) -> Tensor:
    return srgb_from_linear(_multiply(_LINEAR_FROM_XYZ, xyz))


def _rgb_to_lab(rgb: Tensor) -> Tensor:
    ratio = _rgb_to_xyz(rgb) / _column(WHITE_D65, rgb)
    root = ratio.clamp(min=_LAB_KNEE**3) ** (1 / 3)
    x, y, z = torch.where(ratio > _LAB_KNEE**3, root, ratio / (3 * _LAB_KNEE**2) + 4 / 29).unbind(-3)
    return torch.stack((116 * y - 16, 500 * (x - y), 200 * (y - z)), dim=-3)


def _lab_to_rgb(lab: Tensor) -> Tensor:
    lightness, a, b = lab.unbind(-3)
    y = (lightness + 16) / 116
    root = torch.stack((y + a / 500, y, y - b / 200), dim=-3)
    ratio = torch.where(root > _LAB_KNEE, root**3, 3 * _LAB_KNEE**2 * (root - 4 / 29))
    return _xyz_to_rgb(ratio * _column(WHITE_D65, lab))


def _rgb_to_hsv(rgb: Tensor) -> Tensor:
    red, green, blue = rgb.unbind(-3)
    value, low = rgb.amax(-3), rgb.amin(-3)
    chroma = value - low
    safe = torch.where(chroma > 0, chroma, torch.ones_like(chroma))
    sixth = torch.where(
        value == red,
        ((green - blue) / safe) % 6,
        torch.where(value == green, (blue - red) / safe + 2, (red - green) / safe + 4),
    )
    hue = torch.where(chroma > 0, sixth / 6 % 1, torch.zeros_like(sixth))
    saturation = chroma / torch.where(value > 0, value, torch.ones_like(value))
    return torch.stack((hue, saturation, value), dim=-3)


def _hsv_to_rgb(hsv: Tensor) -> Tensor:
    hue, saturation, value = hsv.unbind(-3)

    def channel(offset: int) -> Tensor:
        position = (offset + hue * 6) % 6
        return value - value * saturation * torch.minimum(position, 4 - position).clamp(0, 1)

    return torch.stack((channel(5), channel(3), channel(1)), dim=-3)


_XYZ_HALF: Triple = tuple(sum(row) / 2 for row in _TO_XYZ)  # type: ignore[assignment]
_HALF: Triple = (0.5, 0.5, 0.5)

COLOUR_SPACES = {
    space.name: space
    for space in (
        ColourSpace("rgb", ("R", "G", "B"), (0.43, 0.42, 0.39), (0.27, 0.26, 0.27), True, _unchanged, _unchanged),
        ColourSpace(
            "lab", ("L", "a", "b"), (50.0, 6.025, -6.6895), (50.0, 92.208, 101.1675), False, _rgb_to_lab, _lab_to_rgb
        ),
        ColourSpace("xyz", ("X", "Y", "Z"), _XYZ_HALF, _XYZ_HALF, False, _rgb_to_xyz, _xyz_to_rgb),
        _linear_space("yuv", ("Y", "U", "V"), _TO_YUV),
        _linear_space("ypbpr", ("Y", "Pb", "Pr"), _TO_YPBPR),
        _linear_space("ycbcr", ("Y", "Cb", "Cr"), _TO_YCBCR, offset=(16.0, 128.0, 128.0)),
        _linear_space("ydbdr", ("Y", "Db", "Dr"), _TO_YDBDR, mean=(0.434, -0.049, -0.028), std=(0.500, 1.169, 1.321)),
        _linear_space("yiq", ("Y", "I", "Q"), _TO_YIQ),
        ColourSpace("hsv", ("H", "S", "V"), _HALF, _HALF, False, _rgb_to_hsv, _hsv_to_rgb),
    )
}
