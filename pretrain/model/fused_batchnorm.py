"""BatchNorm in groups, with the sum and the ReLU behind it, in three kernels forward and three backward, for NVIDIA GPUs (Triton).

torch has no BatchNorm of groups: one call a group and a concatenation, and in a ResNet the memory that these and the ReLU move
takes longer than the convolutions. Here a layer reads its input twice and writes its output once, whatever the number of groups.

Rows are (M, C) in memory: a tensor in channels_last, or a matrix. Sums are float32; no atomics, so that the same input gives the
same bits. GroupedBatchNorm (pretrain/model/batchnorm.py) calls it where `can_fuse` says so. TRITON_INTERPRET=1 runs it on the CPU.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

TILE = 4096  # elements of a program's tile
MAX_TILE_CHANNELS = 128
PROGRAMS = 132 * 8  # of a reduction: enough for the multiprocessors of any GPU
MAX_SPLITS = 128
NUMBER_TYPES = (torch.float32, torch.bfloat16, torch.float16)
FINISH_CHANNELS = 16  # of a program that adds up the parts of a reduction


@triton.jit
def _tile(rows, channels, group, start, ROWS: tl.constexpr, CHANNELS: tl.constexpr, block):
    """Columns of a tile and their mask, the positions of its elements, and the mask of these. rows: of a group."""
    column = block * CHANNELS + tl.arange(0, CHANNELS)
    row = start + tl.arange(0, ROWS)
    place = (group.to(tl.int64) * rows + row)[:, None] * channels + column[None, :]
    return column, column < channels, place, (row < rows)[:, None] & (column < channels)[None, :]


@triton.jit
def _reduce(x, parts, rows, channels, split_rows, ROWS: tl.constexpr, CHANNELS: tl.constexpr):
    """Sums of x - x0 and of its square over a split of a group's rows, x0 being the group's first row."""
    group, split, block = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    column = block * CHANNELS + tl.arange(0, CHANNELS)
    inside = column < channels
    shift = tl.load(x + group.to(tl.int64) * rows * channels + column, mask=inside, other=0).to(tl.float32)
    first = tl.zeros((ROWS, CHANNELS), tl.float32)
    second = tl.zeros((ROWS, CHANNELS), tl.float32)
    end = tl.minimum(rows, (split + 1) * split_rows)
    for start in range(split * split_rows, end, ROWS):
        row = start + tl.arange(0, ROWS)
        place = (group.to(tl.int64) * rows + row)[:, None] * channels + column[None, :]
        mask = (row < end)[:, None] & inside[None, :]
        value = tl.load(x + place, mask=mask, other=0).to(tl.float32)
        value = tl.where(mask, value - shift[None, :], 0.0)
        first += value
        second += value * value
    splits = tl.num_programs(1)
    out = parts + (group * splits + split) * channels + column
    tl.store(out, tl.sum(first, 0), mask=inside)
    tl.store(out + tl.num_programs(0) * splits * channels, tl.sum(second, 0), mask=inside)


@triton.jit
def _finish(
    x, parts, statistics, running_mean, running_var, rows, channels, groups, splits, eps, share,
    SPLITS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Mean and 1/sqrt(variance + eps) of every group, and the running statistics, group after group."""
    column = tl.program_id(0) * CHANNELS + tl.arange(0, CHANNELS)
    inside = column < channels
    part = tl.arange(0, SPLITS)
    mask = (part < splits)[:, None] & inside[None, :]
    kept_mean = tl.load(running_mean + column, mask=inside, other=0)
    kept_var = tl.load(running_var + column, mask=inside, other=0)
    for group in range(groups):
        place = parts + (group * splits + part)[:, None] * channels + column[None, :]
        first = tl.sum(tl.load(place, mask=mask, other=0), 0) / rows
        second = tl.sum(tl.load(place + groups * splits * channels, mask=mask, other=0), 0) / rows
        start = tl.cast(group, tl.int64) * rows * channels
        shift = tl.load(x + start + column, mask=inside, other=0).to(tl.float32)
        variance = tl.maximum(second - first * first, 0.0, propagate_nan=tl.PropagateNan.ALL)
        centre = shift + first
        tl.store(statistics + group * channels + column, centre, mask=inside)
        tl.store(statistics + (groups + group) * channels + column, 1 / tl.sqrt(variance + eps), mask=inside)
        kept_mean += share * (centre - kept_mean)
        kept_var += share * (variance * (rows / tl.maximum(rows - 1, 1)) - kept_var)
    tl.store(running_mean + column, kept_mean, mask=inside)
    tl.store(running_var + column, kept_var, mask=inside)


@triton.jit
def _apply(
    x, other, y, statistics, weight, bias, rows, channels, groups,
    RELU: tl.constexpr, ADD: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """y = relu((x - mean) * scale * weight + bias + other)."""
    group = tl.program_id(1)
    column, inside, place, mask = _tile(
        rows, channels, group, tl.program_id(0) * ROWS, ROWS, CHANNELS, tl.program_id(2)
    )
    centre = tl.load(statistics + group * channels + column, mask=inside, other=0)
    factor = tl.load(statistics + (groups + group) * channels + column, mask=inside, other=0)
    factor *= tl.load(weight + column, mask=inside, other=0)
    offset = tl.load(bias + column, mask=inside, other=0)
    value = (tl.load(x + place, mask=mask, other=0).to(tl.float32) - centre[None, :]) * factor[None, :] + offset[
        None, :
    ]
    if ADD:
        value += tl.load(other + place, mask=mask, other=0).to(tl.float32)
    if RELU:
        value = tl.maximum(value, 0.0, propagate_nan=tl.PropagateNan.ALL)  # as torch's: what is not finite must be seen
    tl.store(y + place, value.to(y.dtype.element_ty), mask=mask)


@triton.jit
def _reduce_gradient(
    x, y, dy, passed, statistics, weight, bias, parts, rows, channels, groups, split_rows,
    RELU: tl.constexpr, ADD: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Sums of the gradient behind the ReLU and of its product with the normalised x. ADD: that gradient itself is `passed` on."""
    group, split, block = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    column = block * CHANNELS + tl.arange(0, CHANNELS)
    inside = column < channels
    centre = tl.load(statistics + group * channels + column, mask=inside, other=0)
    factor = tl.load(statistics + (groups + group) * channels + column, mask=inside, other=0)
    gain = tl.load(weight + column, mask=inside, other=0)
    offset = tl.load(bias + column, mask=inside, other=0)
    first = tl.zeros((ROWS, CHANNELS), tl.float32)
    second = tl.zeros((ROWS, CHANNELS), tl.float32)
    end = tl.minimum(rows, (split + 1) * split_rows)
    for start in range(split * split_rows, end, ROWS):
        row = start + tl.arange(0, ROWS)
        place = (group.to(tl.int64) * rows + row)[:, None] * channels + column[None, :]
        mask = (row < end)[:, None] & inside[None, :]
        deviation = tl.load(x + place, mask=mask, other=0).to(tl.float32) - centre[None, :]
        gradient = tl.load(dy + place, mask=mask, other=0).to(tl.float32)
        if RELU:
            if ADD:
                gradient = tl.where(tl.load(y + place, mask=mask, other=0).to(tl.float32) > 0, gradient, 0.0)
            else:
                gradient = tl.where(deviation * (factor * gain)[None, :] + offset[None, :] > 0, gradient, 0.0)
        if ADD:
            tl.store(passed + place, gradient.to(passed.dtype.element_ty), mask=mask)
        first += gradient
        second += gradient * deviation
    splits = tl.num_programs(1)
    out = parts + (group * splits + split) * channels + column
    tl.store(out, tl.sum(first, 0), mask=inside)
    tl.store(out + groups * splits * channels, tl.sum(second, 0) * factor, mask=inside)


@triton.jit
def _finish_gradient(
    parts, totals, dweight, dbias, channels, groups, splits, SPLITS: tl.constexpr, CHANNELS: tl.constexpr
):
    """Both sums of every group, (2, G, C), and over all groups: the gradients of weight and bias."""
    column = tl.program_id(0) * CHANNELS + tl.arange(0, CHANNELS)
    inside = column < channels
    part = tl.arange(0, SPLITS)
    mask = (part < splits)[:, None] & inside[None, :]
    of_bias = tl.zeros((CHANNELS,), tl.float32)
    of_weight = tl.zeros((CHANNELS,), tl.float32)
    for group in range(groups):
        place = parts + (group * splits + part)[:, None] * channels + column[None, :]
        first = tl.sum(tl.load(place, mask=mask, other=0), 0)
        second = tl.sum(tl.load(place + groups * splits * channels, mask=mask, other=0), 0)
        tl.store(totals + group * channels + column, first, mask=inside)
        tl.store(totals + (groups + group) * channels + column, second, mask=inside)
        of_bias += first
        of_weight += second
    tl.store(dweight + column, of_weight, mask=inside)
    tl.store(dbias + column, of_bias, mask=inside)


@triton.jit
def _apply_gradient(
    x, dy, dx, statistics, weight, bias, totals, rows, channels, groups,
    MASK: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """dx = weight * scale * (g - mean of g - normalised x * mean of g * normalised x); MASK: g is dy where the ReLU let x through."""
    group = tl.program_id(1)
    column, inside, place, mask = _tile(
        rows, channels, group, tl.program_id(0) * ROWS, ROWS, CHANNELS, tl.program_id(2)
    )
    centre = tl.load(statistics + group * channels + column, mask=inside, other=0)
    factor = tl.load(statistics + (groups + group) * channels + column, mask=inside, other=0)
    gain = tl.load(weight + column, mask=inside, other=0)
    first = tl.load(totals + group * channels + column, mask=inside, other=0) / rows
    second = tl.load(totals + (groups + group) * channels + column, mask=inside, other=0) / rows
    deviation = tl.load(x + place, mask=mask, other=0).to(tl.float32) - centre[None, :]
    gradient = tl.load(dy + place, mask=mask, other=0).to(tl.float32)
    if MASK:
        offset = tl.load(bias + column, mask=inside, other=0)
        gradient = tl.where(deviation * (factor * gain)[None, :] + offset[None, :] > 0, gradient, 0.0)
    value = (factor * gain)[None, :] * (gradient - first[None, :] - deviation * (factor * second)[None, :])
    tl.store(dx + place, value.to(dx.dtype.element_ty), mask=mask)


class _Grid(NamedTuple):
    """How (G, M, C) is cut: rows M of a group; programs of the three kinds of kernel; a reduction's splits of the rows."""

    rows: int
    reduce: tuple[int, int, int]
    apply: tuple[int, int, int]
    finish: tuple[int]
    splits: int
    split_rows: int
    tile: dict[str, int]
    parts: dict[str, int]


@functools.cache  # a step asks hundreds of times for a few dozen
def _grid(groups: int, rows: int, channels: int) -> _Grid:
    tile_channels = min(MAX_TILE_CHANNELS, _power_of_two(channels))
    tile_rows = TILE // tile_channels
    blocks, tiles = _divided(channels, tile_channels), _divided(rows, tile_rows)
    splits = max(1, min(MAX_SPLITS, tiles, PROGRAMS // (groups * blocks)))
    split_rows = _divided(tiles, splits) * tile_rows
    splits = _divided(rows, split_rows)
    return _Grid(
        rows=rows,
        reduce=(groups, splits, blocks),
        apply=(tiles, groups, blocks),
        finish=(_divided(channels, FINISH_CHANNELS),),
        splits=splits,
        split_rows=split_rows,
        tile={"ROWS": tile_rows, "CHANNELS": tile_channels},
        parts={"SPLITS": _power_of_two(splits), "CHANNELS": FINISH_CHANNELS},
    )


def _power_of_two(count: int) -> int:
    """The least that is `count` or more."""
    return 1 << (count - 1).bit_length()


def _divided(count: int, by: int) -> int:
    return -(-count // by)


class _Normalise(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        other: Tensor | None,
        running_mean: Tensor,
        running_var: Tensor,
        groups: int,
        share: float,
        eps: float,
        relu: bool,
    ) -> Tensor:
        channels = x.shape[1]
        grid = _grid(groups, x.numel() // channels // groups, channels)
        parts = x.new_empty(2, groups, grid.splits, channels, dtype=torch.float32)
        statistics = x.new_empty(2, groups, channels, dtype=torch.float32)
        y = torch.empty_like(x)
        _reduce[grid.reduce](x, parts, grid.rows, channels, grid.split_rows, **grid.tile)
        _finish[grid.finish](
            x,
            parts,
            statistics,
            running_mean,
            running_var,
            grid.rows,
            channels,
            groups,
            grid.splits,
            eps,
            share,
            **grid.parts,
        )
        _apply[grid.apply](
            x, x if other is None else other, y, statistics, weight, bias, grid.rows, channels, groups,
            RELU=relu, ADD=other is not None, **grid.tile,
        )  # fmt: skip
        ctx.save_for_backward(x, weight, bias, statistics, y if relu and other is not None else None)
        ctx.grid, ctx.groups, ctx.relu, ctx.add = grid, groups, relu, other is not None
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, weight, bias, statistics, y = ctx.saved_tensors
        grid, groups, relu, add = ctx.grid, ctx.groups, ctx.relu, ctx.add
        channels = x.shape[1]
        dy = _laid_out_as(dy, x)
        passed = torch.empty_like(x) if add and relu else dy
        parts = x.new_empty(2, groups, grid.splits, channels, dtype=torch.float32)
        totals = torch.empty_like(statistics)
        dx, dweight, dbias = torch.empty_like(x), torch.empty_like(weight), torch.empty_like(bias)
        _reduce_gradient[grid.reduce](
            x, x if y is None else y, dy, passed, statistics, weight, bias, parts, grid.rows, channels, groups, grid.split_rows,
            RELU=relu, ADD=add and relu, **grid.tile,
        )  # fmt: skip
        _finish_gradient[grid.finish](parts, totals, dweight, dbias, channels, groups, grid.splits, **grid.parts)
        _apply_gradient[grid.apply](
            x, passed, dx, statistics, weight, bias, totals, grid.rows, channels, groups,
            MASK=relu and not add, **grid.tile,
        )  # fmt: skip
        return dx, dweight, dbias, passed if add else None, None, None, None, None, None, None


def _laid_out_as(tensor: Tensor, like: Tensor) -> Tensor:
    if tensor.dim() == 4:
        return tensor.to(like.dtype).contiguous(memory_format=torch.channels_last)
    return tensor.to(like.dtype).contiguous()


def can_fuse(x: Tensor, other: Tensor | None, *, groups: int) -> bool:
    """True for (B, C, H, W) in channels_last or (B, C) in half or single precision whose groups are equal, `other` laid out as x."""
    if x.dtype not in NUMBER_TYPES or x.dim() not in (2, 4):
        return False
    if len(x) % groups or x.numel() < 2 * groups * x.shape[1]:
        return False
    layout = torch.channels_last if x.dim() == 4 else torch.contiguous_format
    if not x.is_contiguous(memory_format=layout):
        return False
    return other is None or (
        other.shape == x.shape and other.dtype == x.dtype and other.is_contiguous(memory_format=layout)
    )


def normalise(
    x: Tensor,
    other: Tensor | None,
    *,
    weight: Tensor,
    bias: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    groups: int,
    share: float,
    eps: float,
    relu: bool,
) -> Tensor:
    """relu(BatchNorm(x) + other), each of `groups` runs of neighbouring rows with its own statistics.

    x: (B, C) or (B, C, H, W) as `can_fuse` asks for; parameters and running statistics float32, the latter updated in place.
    share: of a group's statistics in the running ones, group after group.
    """
    result: Tensor = _Normalise.apply(x, weight, bias, other, running_mean, running_var, groups, share, eps, relu)
    return result
