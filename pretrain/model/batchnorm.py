"""BatchNorm over groups of a batch, so that one process has the statistics of several; and over the batch of all processes.

Why: in MoCo the positive key is the only key of the current batch, the negatives come from earlier ones. When query and key are
normalised by statistics of the same images, those statistics alone can tell the positive from all negatives, whatever the images
show (He et al., "Momentum Contrast", 2020, on shuffling BN). ShuffleBN hides them by mixing the keys' batches over GPUs; with one GPU there is
nothing to mix. With groups there is: one process with 8 groups of 32 images has the statistics of 8 GPUs with 32 each.

The alternative is to normalise query and key by the statistics of the whole batch: SyncBatchNorm.
"""

from __future__ import annotations

import functools
import importlib
import logging
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pretrain.run.ranks import Ranks

LEAST_CAPABILITY = (8, 0)  # of an NVIDIA GPU for the fused kernels: bfloat16

logger = logging.getLogger(__name__)


class GroupedBatchNorm(_BatchNorm):
    """BatchNorm1d or 2d whose training batches are split into `groups` runs of neighbouring rows; evaluation is unchanged.

    Parameter and buffer names are torch's. The groups update the running statistics one after the other, each with a share
    of the momentum such that the old value keeps the weight 1 - momentum, as after one update.
    """

    def __init__(
        self, num_features: int, *, groups: int, eps: float = 1e-5, momentum: float = 0.1, affine: bool = True
    ) -> None:
        super().__init__(num_features, eps=eps, momentum=momentum, affine=affine)
        self.groups = groups
        self.group_momentum = 1 - (1 - momentum) ** (1 / groups)

    def _check_input_dim(self, input: Tensor) -> None:
        """Rows first, channels second; anything may follow."""

    def forward(self, rows: Tensor, other: Tensor | None = None, *, relu: bool = False) -> Tensor:
        """relu(BatchNorm(rows) + other), (B, C, ...) -> (B, C, ...); a batch of fewer rows than groups has one group a row."""
        if not self.training:
            return _finish(super().forward(rows), other, relu=relu)
        assert self.num_batches_tracked is not None
        compiling = torch.compiler.is_compiling()
        if compiling and len(rows) % self.groups == 0:
            return _finish(self._as_one_formula(rows), other, relu=relu)
        kernels = fused_kernels(rows.device) if rows.is_cuda and self._single_precision and not compiling else None
        if kernels is not None and kernels.can_fuse(rows, other, groups=self.groups):
            self.num_batches_tracked.add_(1)
            return kernels.normalise(
                rows,
                other,
                weight=self.weight,
                bias=self.bias,
                running_mean=self.running_mean,
                running_var=self.running_var,
                groups=self.groups,
                share=self.group_momentum,
                eps=self.eps,
                relu=relu,
            )
        if self.groups == 1:
            return _finish(super().forward(rows), other, relu=relu)
        self.num_batches_tracked.add_(1)
        parts = [
            F.batch_norm(
                part, self.running_mean, self.running_var, self.weight, self.bias, True, self.group_momentum, self.eps
            )
            for part in rows.split(
                _sizes(len(rows), self.groups)
            )  # whose gradients are joined once; tensor_split adds them up
        ]
        return _finish(torch.cat(parts), other, relu=relu)

    @property
    def _single_precision(self) -> bool:
        """Whether there are a weight and running statistics, and all of them float32."""
        kept = (self.weight, self.bias, self.running_mean, self.running_var)
        return all(value is not None and value.dtype is torch.float32 for value in kept)

    def _as_one_formula(self, rows: Tensor) -> Tensor:
        """The same for torch.compile, which makes few kernels of it; of a call for each group it would make as many as groups."""
        assert self.num_batches_tracked is not None and self.running_mean is not None and self.running_var is not None
        groups = rows.unflatten(0, (self.groups, -1)).to(torch.promote_types(rows.dtype, torch.float32))
        dims = [1, *range(3, groups.dim())]
        variance, mean = torch.var_mean(groups, dims, correction=0, keepdim=True)
        with torch.no_grad():
            self.num_batches_tracked.add_(1)
            count = groups[0, :, 0].numel()
            order = torch.arange(self.groups - 1, -1, -1, device=rows.device, dtype=variance.dtype)
            shares = self.group_momentum * (1 - self.group_momentum) ** order[:, None]
            kept = (1 - self.group_momentum) ** self.groups
            for running, found in (
                (self.running_mean, mean),
                (self.running_var, variance * (count / max(count - 1, 1))),
            ):
                running.copy_(kept * running + (shares * found.view(self.groups, -1)).sum(0))
        shape = [-1, *(1 for _ in rows.shape[2:])]
        normalised = (groups - mean) * torch.rsqrt(variance + self.eps)
        if self.affine:
            normalised = normalised * self.weight.view(shape) + self.bias.view(shape)
        return normalised.to(rows.dtype).flatten(0, 1)


def normalised(norm: nn.Module, rows: Tensor, other: Tensor | None = None, *, relu: bool = True) -> Tensor:
    """relu(norm(rows) + other), in one pass where `norm` can."""
    if isinstance(norm, GroupedBatchNorm):
        return norm(rows, other, relu=relu)
    return _finish(norm(rows), other, relu=relu)


def _finish(rows: Tensor, other: Tensor | None, *, relu: bool) -> Tensor:
    if other is not None:
        rows += other
    return F.relu(rows, inplace=True) if relu else rows


@functools.cache
def fused_kernels(device: torch.device) -> ModuleType | None:
    """pretrain/model/fused_batchnorm.py, tried on `device`; None, with a warning, where it does not work."""
    if torch.version.cuda is None or torch.cuda.get_device_capability(device) < LEAST_CAPABILITY:
        return None
    try:
        kernels = importlib.import_module("pretrain.model.fused_batchnorm")
        rows = torch.ones(2, 8, device=device, requires_grad=True)
        statistics = [torch.ones(8, device=device) for _ in range(4)]
        names = ("weight", "bias", "running_mean", "running_var")
        values = dict(zip(names, statistics, strict=True))
        kernels.normalise(rows, None, **values, groups=1, share=0.1, eps=1e-5, relu=True).sum().backward()
        return kernels
    except (
        Exception
    ) as error:  # no Triton, no C compiler, a driver that it does not know: training goes on, only slower
        logger.warning(
            "BatchNorm's fused kernels do not work here (%s): steps take longer. They need Triton, which comes with torch for "
            "CUDA on Linux, and a C compiler (Debian: apt install gcc)",
            ": ".join([type(error).__name__, *str(error).strip().splitlines()[:1]]),
        )
        return None


def _sizes(count: int, groups: int) -> list[int]:
    """`count` rows in equal groups, the first ones longer by a row where they cannot be."""
    groups = min(groups, count)
    return [count // groups + (group < count % groups) for group in range(groups)]


def group_batchnorm(module: nn.Module, *, groups: int) -> None:
    """Replace every BatchNorm1d and 2d inside `module` by a GroupedBatchNorm with the same parameters and buffers."""
    _replace_batchnorm(module, lambda layer: GroupedBatchNorm(layer.num_features, groups=groups, **_options(layer)))


def _options(layer: _BatchNorm) -> dict[str, Any]:
    return {"eps": layer.eps, "momentum": layer.momentum, "affine": layer.affine}


def _replace_batchnorm(module: nn.Module, make: Callable[[_BatchNorm], _BatchNorm]) -> None:
    for parent in list(module.modules()):
        for name, layer in list(parent.named_children()):
            if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d | GroupedBatchNorm):
                made = make(layer)
                made.weight, made.bias = layer.weight, layer.bias
                for buffer in ("running_mean", "running_var", "num_batches_tracked"):
                    setattr(made, buffer, getattr(layer, buffer))
                setattr(parent, name, made)


def synchronise_batchnorm(module: nn.Module, ranks: Ranks, device: torch.device) -> nn.Module:
    """`module` with BatchNorm over the batches of all ranks; one rank is left as it is. Names and values stay the same.

    On a GPU it is torch's SyncBatchNorm, which needs one; on the CPU `GatheredBatchNorm`.
    """
    if ranks.world_size == 1:
        return module
    if device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(module)
    _replace_batchnorm(module, lambda layer: GatheredBatchNorm(layer.num_features, **_options(layer)))
    return module


class GatheredBatchNorm(_BatchNorm):
    """SyncBatchNorm for processes on the CPU, where torch has none: two small reductions over ranks a layer, with gradient.

    All ranks must bring equally many rows.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        """Rows first, channels second; anything may follow."""

    def forward(self, rows: Tensor) -> Tensor:
        if not self.training:
            return super().forward(rows)
        dims = [0, *range(2, rows.dim())]
        shape = [1, -1, *(1 for _ in dims[1:])]
        values = rows.to(torch.promote_types(rows.dtype, torch.float32))
        mean = _MeanOverRanks.apply(values.mean(dims))
        centred = values - mean.view(shape)
        variance = _MeanOverRanks.apply(centred.square().mean(dims))
        self._remember(mean.detach(), variance.detach(), rows.numel() // rows.shape[1] * dist.get_world_size())
        scale = torch.rsqrt(variance + self.eps)
        if self.affine:
            scale = scale * self.weight
        normalised = centred * scale.view(shape)
        return (normalised + self.bias.view(shape) if self.affine else normalised).to(rows.dtype)

    @torch.no_grad()
    def _remember(self, mean: Tensor, variance: Tensor, count: int) -> None:
        assert self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None
        assert self.momentum is not None
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance * (count / (count - 1)), self.momentum)


class _MeanOverRanks(torch.autograd.Function):
    """Mean over ranks; its gradient is the mean of the gradients, since each rank's loss depends on every rank's rows."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        total = values.clone()
        dist.all_reduce(total)
        return total / dist.get_world_size()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        total = gradient.clone()
        dist.all_reduce(total)
        return total / dist.get_world_size()


def num_groups(batch_size: int, *, images_per_group: int) -> int:
    """Groups of a rank's batch: as many as give each group `images_per_group` images or a few more; at least one."""
    return max(1, batch_size // images_per_group)
