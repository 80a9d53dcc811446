"""What ends a run between two checkpoints: a loss or gradient that is not finite, or a stop signal. All ranks learn it alike.

One reduction a step carries both flags. On the CPU they are read at once. On a GPU they are copied to the host behind the step's
work and read in the next step, so that the host never waits for what it has just handed out. Until then the step may have
updated the networks, but not the queue, and `settle` reads the flags before anything is saved.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pretrain.base.errors import UserError
from pretrain.base.signals import StopFlag
from pretrain.run.ranks import Ranks, gather_values, is_lost_rank, max_over_ranks


class NotFinite(UserError):
    """A loss or gradient that is not finite. report: of each rank what was not, and the positions of its images."""

    def __init__(self, message: str, report: list[dict[str, Any]] | None = None) -> None:
        super().__init__(message)
        self.report = report or []


LEAST_LOSS_SCALE = 2.0**-10  # torch's scaler begins at 2^16 and halves with every update that it skips


def check_loss_scale(scaler: torch.amp.GradScaler, step: int) -> None:
    """Raises NotFinite, on all ranks alike, where fp16's gradients have not been finite for so long that nothing is learned.

    The host waits for the device here.
    """
    if scaler.is_enabled() and scaler.get_scale() < LEAST_LOSS_SCALE:
        raise NotFinite(
            f"gradients in fp16 have not been finite in most steps up to step {step}: the loss scale has fallen to "
            f"{scaler.get_scale():g}, and updates are skipped. Pass runtime.precision=bf16 (or fp32), or lower "
            "optimizer.learning_rate, in a new output directory"
        )


def what_ended(error: RuntimeError, *, timeout_s: float) -> str | None:
    """In words: a rank or a loader process that is gone or hangs. None for any other error."""
    text = str(error)
    if "DataLoader worker" in text:
        return (
            f"a loader process was killed ({text.splitlines()[0]:.120}), often for lack of memory: lower data.num_workers, and "
            "give the same command again"
        )
    if is_lost_rank(error):
        return (
            f"another rank has ended, or has not answered for runtime.timeout_s={timeout_s:g} s; what it printed says why. "
            "Give the same command again"
        )
    return None


class Watch:
    """Asked once a step on every rank. `stopping`: some rank has had a stop signal; True on all of them in the same step."""

    def __init__(self, stop: StopFlag, ranks: Ranks, device: torch.device, *, late: bool | None = None) -> None:
        """stop: of this rank. late: read the flags one step later; None: on a GPU."""
        self.stopping = False
        self._stop = stop
        self._ranks = ranks
        self._late = device.type == "cuda" if late is None else late
        self._flags = torch.zeros(2, dtype=torch.int32, pin_memory=device.type == "cuda")  # on the host: bad, stop
        self._arrived = torch.cuda.Event() if device.type == "cuda" else None
        self._asked: tuple[Tensor, Tensor | None, Callable[[str | None], str], Tensor | None] | None = None

    def ask(
        self,
        loss: Tensor,
        norm: Tensor | None,
        *,
        explain: Callable[[str | None], str],
        samples: Tensor | None = None,
    ) -> Tensor:
        """True (0-d, on the device) where loss and gradient norm are finite on every rank. Raises NotFinite as `settle` does.

        explain: "loss", "gradient", or None where only another rank's are not finite -> the message.
        samples: positions of this rank's images.
        """
        self.settle()
        finite = torch.isfinite(loss) if norm is None else torch.isfinite(loss) & torch.isfinite(norm)
        flags = torch.stack([~finite, torch.full_like(finite, self._stop.is_set)]).to(torch.int32)
        max_over_ranks(flags, self._ranks)
        self._flags.copy_(flags, non_blocking=True)
        if self._arrived is not None:
            self._arrived.record()
        self._asked = (loss, norm, explain, samples)
        if not self._late:
            self.settle()
        return flags[0] == 0

    def settle(self) -> None:
        """Read the flags of the last step asked about, if they have not been read. Raises NotFinite if it was not finite."""
        if self._asked is None:
            return
        (loss, norm, explain, samples), self._asked = self._asked, None
        if self._arrived is not None:
            self._arrived.synchronize()
        bad, stop = self._flags.numpy()
        self.stopping |= bool(stop)
        if bad:
            what = None if norm is None or torch.isfinite(norm) else "gradient"
            what = what if torch.isfinite(loss) else "loss"
            own = {
                "rank": self._ranks.rank,
                "not_finite": what,
                "loss": str(loss.item()),
                "images": [] if samples is None else samples.tolist(),
            }
            raise NotFinite(
                explain(what), gather_values(own, self._ranks)
            )  # every rank is here: the flags are one for all
