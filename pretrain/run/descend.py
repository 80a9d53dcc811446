"""One optimisation step, the same in every training loop of the project: gradients cleared, backward, check, update.

`descend` takes a loss, `descend_sum` its terms one after the other (micro-batches), so that one graph is in memory at a time.

What a loop does about a loss or gradient that is not finite is its `check`: `at_once` looks before the update is made, at the
price of waiting for the device in every step; pre-training looks one step later (pretrain/train.py).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

Check = Callable[[Tensor, Tensor | None], None]
"""Gets the loss and the norm of all gradients, 0-d and detached; the norm is None where a loss scaler checks it itself.
What it raises leaves `descend` with no update made."""


def descend(
    optimizer: torch.optim.Optimizer, loss: Tensor, *, check: Check, scaler: torch.amp.GradScaler | None = None
) -> None:
    """Update the parameters of `optimizer` down the gradient of `loss` (a scalar that requires gradient).

    An active `scaler` scales the loss, skips the update where a gradient is not finite and lowers its scale then.
    """
    descend_sum(optimizer, [loss], check=check, scaler=scaler)


def descend_sum(
    optimizer: torch.optim.Optimizer,
    terms: Iterable[Tensor],
    *,
    check: Check,
    scaler: torch.amp.GradScaler | None = None,
    done: Callable[[str], None] = lambda part: None,
) -> None:
    """`descend` for the sum of `terms`; each is asked for after the gradient of the one before it was taken.

    done: told "backward" after each term's gradient, "check" and "optimiser" after theirs (pretrain/profile.py).
    """
    scaled = scaler is not None and scaler.is_enabled()
    optimizer.zero_grad(set_to_none=True)
    losses = []
    for term in terms:
        (scaler.scale(term) if scaled else term).backward()  # type: ignore[union-attr,no-untyped-call]
        losses.append(term.detach())
        done("backward")
    loss = losses[0] if len(losses) == 1 else torch.stack(losses).sum()
    check(loss, None if scaled else gradient_norm(optimizer))
    done("check")
    if scaled:
        scaler.step(optimizer)  # type: ignore[union-attr]
        scaler.update()  # type: ignore[union-attr]
    else:
        optimizer.step()
    done("optimiser")


def at_once(error: Callable[[float, float], Exception]) -> Check:
    """A check that raises error(loss, gradient norm) unless both are finite."""

    def check(loss: Tensor, norm: Tensor | None) -> None:
        found = (float(loss), 0.0 if norm is None else float(norm))
        if not all(map(math.isfinite, found)):
            raise error(*found)

    return check


def gradient_norm(optimizer: torch.optim.Optimizer) -> Tensor:
    """Euclidean norm of the gradients of all parameters of `optimizer`, 0-d."""
    gradients = [
        parameter.grad
        for group in optimizer.param_groups
        for parameter in group["params"]
        if parameter.grad is not None
    ]
    return torch.nn.utils.get_total_norm(gradients)
