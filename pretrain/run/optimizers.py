"""The optimisers of pre-training: SGD (the reference's), LARS and AdamW (large batches)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from pretrain.config import OptimizerConfig

# How an update is computed, not what it is: a checkpoint of another device must not bring its own.
IMPLEMENTATION = ("foreach", "fused", "capturable", "differentiable")


def build_optimizer(module: nn.Module, config: OptimizerConfig) -> torch.optim.Optimizer:
    """The optimiser of all parameters of `module`, where they are now: one fused update of all of them where torch has one.

    sgd decays all parameters, BatchNorm's and biases too [specification 1.2]; lars and adamw only weights of layers.
    """
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    rate, decay = config.learning_rate, config.weight_decay
    fused = all(parameter.device.type in ("cpu", "cuda") for parameter in parameters)
    if config.name == "sgd":
        sgd = torch.optim.SGD(parameters, lr=rate, momentum=config.momentum, weight_decay=decay, fused=fused)
        # The fused update allocates these in the first step and fills them there, but for a step that the loss scaler skips, as it
        # does the first ones of fp16: the next step would take what happens to lie in memory for momentum.
        for parameter in parameters if config.momentum else ():
            sgd.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        return sgd
    groups = [
        {"params": [parameter for parameter in parameters if parameter.dim() > 1], "weight_decay": decay},
        {"params": [parameter for parameter in parameters if parameter.dim() <= 1], "weight_decay": 0.0},
    ]
    if config.name == "adamw":
        return torch.optim.AdamW(groups, lr=rate, betas=(config.momentum, 0.999), fused=fused)
    assert config.name == "lars", config.name
    return LARS(groups, lr=rate, momentum=config.momentum)


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """`optimizer.load_state_dict(state)`, whatever implementation of the update the state was written by."""
    own = [{key: group[key] for key in IMPLEMENTATION if key in group} for group in optimizer.param_groups]
    optimizer.load_state_dict(state)
    for group, implementation in zip(optimizer.param_groups, own, strict=True):
        group.update(implementation)


class LARS(torch.optim.Optimizer):
    """Layer-wise adaptive rate scaling (You et al., 2017) as SimCLR uses it.

    g <- gradient + weight_decay w; v <- momentum v + lr ratio g; w <- w - v, with ratio = trust |w| / |g| for a weight of a layer
    (1 where either norm is 0) and ratio = 1 for vectors: biases and BatchNorm.
    """

    def __init__(
        self, params: Iterable[Any], *, lr: float, momentum: float = 0.9, weight_decay: float = 0.0, trust: float = 1e-3
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "trust": trust})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """One update; the host reads no value of the device."""
        assert closure is None
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            for adapted in (True, False):
                of_kind = [parameter for parameter in parameters if (parameter.dim() > 1) == adapted]
                if of_kind:
                    self._update(of_kind, group, adapted=adapted)

    def _update(self, parameters: list[Tensor], group: dict[str, Any], *, adapted: bool) -> None:
        gradients: list[Tensor] = [parameter.grad for parameter in parameters]  # type: ignore[misc]
        if group["weight_decay"]:
            gradients = list(torch._foreach_add(gradients, parameters, alpha=group["weight_decay"]))
        if adapted:
            norms = zip(torch._foreach_norm(parameters), torch._foreach_norm(gradients), strict=True)
            ratios = [torch.where((w > 0) & (g > 0), group["trust"] * w / g, 1.0) for w, g in norms]
            gradients = list(torch._foreach_mul(gradients, ratios))
        for parameter in parameters:
            if "momentum_buffer" not in self.state[parameter]:
                self.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        velocities = [self.state[parameter]["momentum_buffer"] for parameter in parameters]
        torch._foreach_mul_(velocities, group["momentum"])
        torch._foreach_add_(velocities, gradients, alpha=group["lr"])
        torch._foreach_sub_(parameters, velocities)
