"""BatchNorm over groups of a batch, so that one process has the statistics of several.

Why: in MoCo the positive key is the only key of the current batch, the negatives come from earlier ones. When query and key are
normalised by statistics of the same images, those statistics alone can tell the positive from all negatives, whatever the images
show (He et al., "Momentum Contrast", 2020, on shuffling BN). ShuffleBN hides them by mixing the keys' batches over GPUs; with one GPU there is
nothing to mix. With groups there is: one process with 8 groups of 32 images has the statistics of 8 GPUs with 32 each.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


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

    def forward(self, rows: Tensor) -> Tensor:
        """(B, C, ...) -> (B, C, ...); a batch of fewer rows than groups has one group a row."""
        if not self.training or self.groups == 1:
            return super().forward(rows)
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        parts = [
            F.batch_norm(
                part, self.running_mean, self.running_var, self.weight, self.bias, True, self.group_momentum, self.eps
            )
            for part in rows.tensor_split(min(self.groups, len(rows)))
        ]
        return torch.cat(parts)


def group_batchnorm(module: nn.Module, *, groups: int) -> None:
    """Replace every BatchNorm1d and 2d inside `module` by a GroupedBatchNorm with the same parameters and buffers."""
    for parent in list(module.modules()):
        for name, layer in list(parent.named_children()):
            if type(layer) in (nn.BatchNorm1d, nn.BatchNorm2d):
                assert isinstance(layer, _BatchNorm) and layer.momentum is not None
                grouped = GroupedBatchNorm(
                    layer.num_features, groups=groups, eps=layer.eps, momentum=layer.momentum, affine=layer.affine
                )
                grouped.weight, grouped.bias = layer.weight, layer.bias
                for buffer in ("running_mean", "running_var", "num_batches_tracked"):
                    setattr(grouped, buffer, getattr(layer, buffer))
                setattr(parent, name, grouped)


def num_groups(batch_size: int, *, images_per_group: int) -> int:
    """Groups of a rank's batch: as many as give each group `images_per_group` images or a few more; at least one."""
    return max(1, batch_size // images_per_group)
