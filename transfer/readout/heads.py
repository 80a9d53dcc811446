"""Linear classifiers trained by SGD, any number of them side by side on the same features.

In: batches of features and labels, one learning rate and weight decay a head. Out: `LinearHeads`. The heads share nothing but the
batches and the start: each is, to rounding, the head that the same rate and decay would give alone, so that a sweep costs two
matrix products a step, not two a head.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from pretrain.run.schedule import LearningRate

Start = Literal["torch", "normal"]
NORMAL_DEVIATION = 0.01  # of MoCo's classifier [specification 1.7]
MOST_LOGITS = 1 << 24  # of a block of evaluation: 64 MiB in float32


@dataclass(frozen=True)
class Head:
    """What tells one classifier of a sweep from another. learning_rate: before the schedule."""

    learning_rate: float
    weight_decay: float


def starting_layer(dim: int, num_classes: int, *, start: Start, seed: int) -> nn.Linear:
    """The classifier before its first step. "torch": nn.Linear's own values; "normal": N(0, 0.01) and no bias."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layer = nn.Linear(dim, num_classes)
        if start == "normal":
            nn.init.normal_(layer.weight, std=NORMAL_DEVIATION)
            nn.init.zeros_(layer.bias)
    return layer


class LinearHeads:
    """H linear classifiers of D features and C classes, float32, with SGD as torch.optim.SGD does it (momentum, decay of weight
    and bias alike, no dampening). The gradient of softmax cross-entropy is written out: it is shorter than a graph.

    weight: (H * C, D). bias: (H * C,). A head that diverges holds NaN and leaves the others as they are.
    """

    def __init__(self, layer: nn.Linear, heads: Sequence[Head], *, momentum: float, device: torch.device) -> None:
        """layer: where every head starts."""
        self.heads = tuple(heads)
        self.num_classes = layer.out_features
        self.momentum = momentum
        count, classes = len(self.heads), self.num_classes
        self.weight = layer.weight.detach().to(device).repeat(count, 1)
        self.bias = layer.bias.detach().to(device).repeat(count)
        self._speed_of_weight, self._speed_of_bias = torch.zeros_like(self.weight), torch.zeros_like(self.bias)
        rates = torch.tensor([head.learning_rate for head in self.heads], dtype=torch.float64, device=device)
        decays = torch.tensor([head.weight_decay for head in self.heads], device=device)
        self._rates = rates.repeat_interleave(classes)
        self._decays = decays.repeat_interleave(classes)
        self._decays_at_all = any(head.weight_decay for head in self.heads)

    @torch.no_grad()
    def step(self, features: Tensor, labels: Tensor, *, factor: float) -> Tensor:
        """One step on float32 (B, D) and int64 (B,), every rate times `factor`; the heads' mean losses before it, (H,)."""
        logits = self.logits(features)
        log_p = functional.log_softmax(logits, dim=2)
        own = labels[:, None, None].expand(-1, len(self.heads), 1)
        loss = -log_p.gather(2, own)[:, :, 0].mean(0)
        gradient = log_p.exp_()
        gradient.scatter_add_(2, own, gradient.new_full((1, 1, 1), -1.0).expand_as(own))
        flat = gradient.view(len(features), -1).div_(len(features))
        of_weight, of_bias = flat.T @ features, flat.sum(0)
        if self._decays_at_all:
            of_weight.addcmul_(self.weight, self._decays[:, None])
            of_bias.addcmul_(self.bias, self._decays)
        rates = (self._rates * factor).float()
        for value, speed, slope, rate in (
            (self.weight, self._speed_of_weight, of_weight, rates[:, None]),
            (self.bias, self._speed_of_bias, of_bias, rates),
        ):
            speed.mul_(self.momentum).add_(slope)
            value.addcmul_(speed, rate, value=-1)
        return loss

    @torch.no_grad()
    def logits(self, features: Tensor) -> Tensor:
        """(B, D) -> (B, H, C)."""
        return torch.addmm(self.bias, features, self.weight.T).view(len(features), len(self.heads), self.num_classes)

    def block_rows(self) -> int:
        """Rows of features whose logits fit into a block of evaluation."""
        return max(1, MOST_LOGITS // (len(self.heads) * self.num_classes))


def train_epochs(
    heads: LinearHeads,
    batches: Iterator[tuple[Tensor, Tensor]],
    schedule: LearningRate,
) -> Iterator[Tensor]:
    """Train epoch after epoch; yields the heads' mean training losses (H,) after each.

    batches: exactly schedule.epochs times schedule.steps_per_epoch of them, features float32 and labels on one device. schedule: of
    a rate of 1; every head multiplies it by its own.
    """
    for epoch in range(schedule.epochs):
        factor = schedule(epoch * schedule.steps_per_epoch)
        total, count = torch.zeros(len(heads.heads), device=heads.weight.device), 0
        for _ in range(schedule.steps_per_epoch):
            features, labels = next(batches)
            total += heads.step(features, labels, factor=factor) * len(labels)
            count += len(labels)
        yield total / count
