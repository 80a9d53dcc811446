"""Learning rate and momentum of the key network as functions of the step alone, so that there is no scheduler state to lose
[specification 1.2]."""

from __future__ import annotations

import math
from dataclasses import dataclass

LARGEST_BATCH_WITHOUT_WARMUP = 256  # of the reference


@dataclass(frozen=True)
class LearningRate:
    """Epochs are counted from 1, as the paper's code does.

    base: rate after warm-up.
    epochs, steps_per_epoch: length of the run.
    decay: factor of one step down.
    milestones: epochs after which "step" goes down.
    warmup_epochs, warmup_start: how long the rate rises, and from what.

    kind "cosine": once an epoch, eta_min + (base - eta_min)(1 + cos(pi e / E)) / 2, eta_min = base * decay^3.
    kind "step": base * decay^(number of milestones m with e > m).
    warmup_epochs > 0: in every step a straight line from warmup_start to what the curve says at the last warm-up epoch.
    """

    base: float
    epochs: int
    steps_per_epoch: int
    kind: str = "cosine"
    decay: float = 0.1
    milestones: tuple[int, ...] = ()
    warmup_epochs: int = 0
    warmup_start: float = 0.01

    def __call__(self, step: int) -> float:
        """Learning rate of global step `step` (0-based)."""
        warmup_steps = self.warmup_epochs * self.steps_per_epoch
        if step < warmup_steps:
            target = self._at_epoch(self.warmup_epochs)
            return self.warmup_start + (target - self.warmup_start) * step / warmup_steps
        return self._at_epoch(step // self.steps_per_epoch + 1)

    def _at_epoch(self, epoch: int) -> float:
        if self.kind == "cosine":
            eta_min = self.base * self.decay**3
            return eta_min + (self.base - eta_min) * (1 + math.cos(math.pi * epoch / self.epochs)) / 2
        assert self.kind == "step", self.kind
        return self.base * self.decay ** sum(epoch > milestone for milestone in self.milestones)


def paper_warmup_epochs(*, batch_size: int, epochs: int, asked: bool) -> int:
    """The reference's rule: warm-up when asked or when the global batch exceeds 256; 5 epochs, 10 for runs over 500 epochs."""
    if not asked and batch_size <= LARGEST_BATCH_WITHOUT_WARMUP:
        return 0
    return 10 if epochs > 500 else 5


@dataclass(frozen=True)
class Momentum:
    """Momentum of the key network.

    base: at the first step.
    end: what it rises to at step `steps`, along half a cosine: end - (end - base)(1 + cos(pi k / K)) / 2, with end = 1 the rule
        of BYOL and MoCo v3. None: constant.
    """

    base: float
    end: float | None
    steps: int

    def __call__(self, step: int) -> float:
        """Momentum of the update after step `step` (0-based)."""
        if self.end is None:
            return self.base
        return self.end - (self.end - self.base) * (1 + math.cos(math.pi * step / self.steps)) / 2
