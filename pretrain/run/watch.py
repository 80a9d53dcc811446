"""What ends a run between two checkpoints: a loss or gradient that is not finite, or a stop signal. All ranks learn it alike.

One reduction a step carries both flags. On the CPU they are read at once. On a GPU they are copied to the host behind the step's
work and read in the next step, so that the host never waits for what it has just handed out. Until then the step may have
updated the networks, but not the queue, and `settle` reads the flags before anything is saved.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from pretrain.base.errors import UserError
from pretrain.base.signals import StopFlag
from pretrain.run.ranks import Ranks, max_over_ranks


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
        self._asked: tuple[Tensor, Tensor | None, Callable[[str | None], str]] | None = None

    def ask(self, loss: Tensor, norm: Tensor | None, *, explain: Callable[[str | None], str]) -> Tensor:
        """True (0-d, on the device) where loss and gradient norm are finite on every rank. Raises UserError as `settle` does.

        explain: "loss", "gradient", or None where only another rank's are not finite -> the message.
        """
        self.settle()
        finite = torch.isfinite(loss) if norm is None else torch.isfinite(loss) & torch.isfinite(norm)
        flags = torch.stack([~finite, torch.full_like(finite, self._stop.is_set)]).to(torch.int32)
        max_over_ranks(flags, self._ranks)
        self._flags.copy_(flags, non_blocking=True)
        if self._arrived is not None:
            self._arrived.record()
        self._asked = (loss, norm, explain)
        if not self._late:
            self.settle()
        return flags[0] == 0

    def settle(self) -> None:
        """Read the flags of the last step asked about, if they have not been read. Raises UserError if it was not finite."""
        if self._asked is None:
            return
        (loss, norm, explain), self._asked = self._asked, None
        if self._arrived is not None:
            self._arrived.synchronize()
        bad, stop = self._flags.numpy()
        self.stopping |= bool(stop)
        if bad:
            what = None if norm is None or torch.isfinite(norm) else "gradient"
            raise UserError(explain(what if torch.isfinite(loss) else "loss"))
