"""The fused kernels in Triton's interpreter against plain BatchNorm in float64, for test_batchnorm.py: prints the deviations as JSON.

A process of its own: the interpreter is chosen by TRITON_INTERPRET before Triton is imported.
"""

from __future__ import annotations

import itertools
import json

import torch
from torch import Tensor

from pretrain.model import fused_batchnorm
from pretrain.model.batchnorm import GroupedBatchNorm

SHAPES = (
    ((8, 5, 3, 3), 4),
    ((6, 70, 4, 5), 3),
    ((2, 130, 10, 10), 1),
    ((12, 24), 3),
)  # channels below and above a tile's, several tiles of rows
TYPES = (torch.float32, torch.bfloat16)


def rows_of(shape: tuple[int, ...], seed: int, number_type: torch.dtype) -> Tensor:
    rows = (torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 2 + 3).to(number_type)
    return rows.contiguous(memory_format=torch.channels_last) if len(shape) == 4 else rows


def deviations(
    shape: tuple[int, ...], groups: int, number_type: torch.dtype, *, relu: bool, add: bool
) -> dict[str, float]:
    """Largest difference of each result over its largest value."""
    rows, other, gradient = (rows_of(shape, seed, number_type) for seed in range(3))
    gradient = gradient - 3  # a gradient of one sign loses its digits in float32's sums, in any order of them
    layers = [GroupedBatchNorm(shape[1], groups=groups) for _ in range(2)]
    found = []
    for layer, fused in zip(layers, (True, False), strict=True):
        with torch.no_grad():
            layer.weight.copy_(torch.linspace(-2, 2, shape[1]))
            layer.bias.copy_(torch.linspace(1, -1, shape[1]))
        given = [(value if fused else value.double()).clone().requires_grad_() for value in (rows, other)]
        if fused:
            assert fused_batchnorm.can_fuse(given[0], given[1], groups=groups)
            result = fused_batchnorm.normalise(
                given[0], given[1] if add else None, weight=layer.weight, bias=layer.bias, running_mean=layer.running_mean,
                running_var=layer.running_var, groups=groups, share=layer.group_momentum, eps=layer.eps, relu=relu,
            )  # fmt: skip
        else:
            result = layer.double()(given[0], given[1] if add else None, relu=relu)
        result.backward(gradient.to(result.dtype))
        values = {"result": result, "rows": given[0].grad, "weight": layer.weight.grad, "bias": layer.bias.grad}
        values |= {"running_mean": layer.running_mean, "running_var": layer.running_var}
        if add:
            values["other"] = given[1].grad
        found.append({name: value.detach().double() for name, value in values.items()})
    return {name: float((found[0][name] - value).abs().max() / value.abs().max()) for name, value in found[1].items()}


def not_finite() -> dict[str, list[list[int]]]:
    """Kind of value in one element -> how many elements of each channel of the result are not finite, fused and plain."""
    found = {}
    for name, value in (("nan", float("nan")), ("inf", float("inf"))):
        rows = rows_of((8, 5, 3, 3), 0, torch.float32)
        rows[1, 2, 0, 0] = value
        layer = GroupedBatchNorm(5, groups=2)
        fused = fused_batchnorm.normalise(
            rows, None, weight=layer.weight, bias=layer.bias, running_mean=layer.running_mean.clone(),
            running_var=layer.running_var.clone(), groups=2, share=0.1, eps=1e-5, relu=True,
        )  # fmt: skip
        plain = layer(rows, relu=True)
        found[name] = [(~result.isfinite()).sum(dim=(0, 2, 3)).tolist() for result in (fused, plain)]
    return found


if __name__ == "__main__":
    worst: dict[str, dict[str, float]] = {}
    for (shape, groups), number_type, relu, add in itertools.product(SHAPES, TYPES, (True, False), (True, False)):
        name = f"{shape} in {groups}, {number_type}, relu {relu}, add {add}"
        worst[name] = deviations(shape, groups, number_type, relu=relu, add=add)
    print(json.dumps({"deviations": worst, "not_finite": not_finite()}))
