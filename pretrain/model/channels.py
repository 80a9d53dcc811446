"""What a tower sees of a picture: uint8 RGB on the training device -> its normalised channels.

The loader ships RGB whatever the method, so that the split costs no worker anything and files and views stay the same.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from pretrain.base.contract import InputContract
from pretrain.views.colour import colour_space
from pretrain.views.pipeline import normalize

# Rows of YDbDr that a tower takes; "RGB" takes the picture as it is.
_ROWS = {"Y": (0,), "DbDr": (1, 2)}
NUM_CHANNELS = {"RGB": 3, **{tower: len(rows) for tower, rows in _ROWS.items()}}
# CMC's, for pre-training [specification 1.6]. Those of view learning (pretrain/views/colour.py) are others.
YDBDR_MEAN = (0.457, -0.082, -0.052)
YDBDR_STD = (0.500, 1.331, 1.333)


def channels_of(images: Tensor, tower: str, contract: InputContract, *, dtype: torch.dtype = torch.float32) -> Tensor:
    """uint8 RGB (..., 3, H, W) -> (..., C, H, W) of `dtype`, C of NUM_CHANNELS.

    RGB is normalised as the contract says; Y and DbDr are (value - mean) / std of YDbDr, computed in float32.
    """
    if tower == "RGB":
        return normalize(images, contract, dtype=dtype)
    # Sums of scaled planes, not a matrix product: under autocast that would round pixels to 8 bits.
    red, green, blue = images.to(torch.float32).unbind(-3)
    planes = [
        (red * factors[0]).add_(green, alpha=factors[1]).add_(blue, alpha=factors[2]).add_(offset)
        for factors, offset in (_ydbdr_rows()[row] for row in _ROWS[tower])
    ]
    return torch.stack(planes, dim=-3).to(dtype)


@functools.cache
def _ydbdr_rows() -> tuple[tuple[tuple[float, float, float], float], ...]:
    """Row by row: factors of R, G and B in 0..255, and an offset, that give the normalised channel."""
    corners = torch.eye(3, dtype=torch.float64).view(3, 3, 1, 1)  # three pictures of one pixel: red, green, blue
    matrix = colour_space("ydbdr").to_space(corners)[..., 0, 0].T
    return tuple(
        (tuple((row / (255 * std)).tolist()), -mean / std)
        for row, mean, std in zip(matrix, YDBDR_MEAN, YDBDR_STD, strict=True)
    )
