"""Convolutions of small feature maps as matrix products, for bfloat16 on the CPU.

oneDNN rearranges the weights of a convolution in every call, and where the map is small and the weights are many that costs far
more than the products: 512 to 512 channels on 64 maps of 2 x 2 take 12 ms forward and 45 ms backward, the same as matrix
products 2 and 5 (one core with AMX). tests/benchmarks/step_speed.py measures what a step gains.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Time of the convolution, twice forward and once backward, over that of the product, at so many weights a row: 9216: 7.6;
# 4096: 4.6; 1820: 3.0 and 3.5 (1x1); 576: 1.3; 256: 0.8; 36: 0.4 (one core with AMX).
WEIGHTS_PER_ROW = 400


class MatrixConvolution(nn.Conv2d):
    """nn.Conv2d without groups, dilation or bias, whose small maps are gathered into rows and multiplied; else nn.Conv2d's."""

    def forward(self, images: Tensor) -> Tensor:
        if is_small(images, self):
            weight = self.weight.to(torch.bfloat16)
            result: Tensor = _Multiply.apply(images.to(torch.bfloat16), weight, self.stride[0], self.padding[0])
            return result
        return super().forward(images)


def multiply_small_maps(module: nn.Module) -> None:
    """Replace the convolutions inside `module` that can be by `MatrixConvolution`s with the same parameters."""
    for parent in list(module.modules()):
        for name, layer in list(parent.named_children()):
            if type(layer) is nn.Conv2d and layer.groups == 1 and layer.bias is None and layer.dilation == (1, 1):
                with torch.device("meta"):
                    made = MatrixConvolution(
                        layer.in_channels,
                        layer.out_channels,
                        layer.kernel_size,  # type: ignore[arg-type]
                        layer.stride,  # type: ignore[arg-type]
                        layer.padding,  # type: ignore[arg-type]
                        bias=False,
                    )
                made.weight = layer.weight
                setattr(parent, name, made)


def is_small(images: Tensor, layer: nn.Conv2d) -> bool:
    """True where the product is faster than the convolution: at most one row for WEIGHTS_PER_ROW weights."""
    rows = images.shape[0] * images.shape[2] * images.shape[3] / layer.stride[0] ** 2
    return torch.is_autocast_enabled("cpu") and layer.weight.numel() >= WEIGHTS_PER_ROW * rows


class _Multiply(torch.autograd.Function):
    """(B, C, H, W) and (O, C, k, k), bfloat16 -> (B, O, H', W') in channels_last."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
        columns, size = _gather(images, weight.shape[2], stride, padding)
        rows = weight.permute(0, 2, 3, 1).reshape(weight.shape[0], -1)
        ctx.save_for_backward(columns, rows)
        ctx.shapes = images.shape, weight.shape, size, stride, padding
        return (columns @ rows.T).view(images.shape[0], *size, -1).permute(0, 3, 1, 2)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor, None, None]:  # type: ignore[override]
        columns, rows = ctx.saved_tensors
        images, weight, size, stride, padding = ctx.shapes
        flat = gradient.permute(0, 2, 3, 1).reshape(-1, weight[0])
        of_weight = (flat.T @ columns).view(weight[0], weight[2], weight[3], weight[1]).permute(0, 3, 1, 2)
        of_images = None
        if ctx.needs_input_grad[0]:
            of_images = _scatter(flat @ rows, images, weight[2], size, stride, padding)
        return of_images, of_weight, None, None


def _gather(images: Tensor, kernel: int, stride: int, padding: int) -> tuple[Tensor, tuple[int, int]]:
    """Rows of what each output position sees, (B H' W', k k C), and (H', W')."""
    pixels = images.permute(0, 2, 3, 1)
    if kernel == 1:
        pixels = pixels[:, ::stride, ::stride]
        return pixels.reshape(-1, pixels.shape[3]), (pixels.shape[1], pixels.shape[2])
    count, height, width, channels = pixels.shape
    high, wide = ((side + 2 * padding - kernel) // stride + 1 for side in (height, width))
    padded = F.pad(pixels, (0, 0, padding, padding, padding, padding))
    columns = padded.new_empty(count, high, wide, kernel, kernel, channels)
    for y in range(kernel):
        for x in range(kernel):
            columns[:, :, :, y, x] = padded[:, y : y + stride * high : stride, x : x + stride * wide : stride]
    return columns.view(count * high * wide, -1), (high, wide)


def _scatter(
    rows: Tensor, images: tuple[int, ...], kernel: int, size: tuple[int, int], stride: int, padding: int
) -> Tensor:
    """The transpose of `_gather`: gradients of the rows added up where their pixels are, (B, C, H, W) in channels_last."""
    count, channels, height, width = images
    high, wide = size
    padded = rows.new_zeros(count, height + 2 * padding, width + 2 * padding, channels)
    columns = rows.view(count, high, wide, kernel, kernel, channels)
    for y in range(kernel):
        for x in range(kernel):
            padded[:, y : y + stride * high : stride, x : x + stride * wide : stride] += columns[:, :, :, y, x]
    return padded[:, padding : padding + height, padding : padding + width].permute(0, 3, 1, 2)
