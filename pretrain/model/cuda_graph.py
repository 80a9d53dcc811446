"""A forward without gradient, recorded once as a CUDA graph and replayed in every later step.

A ResNet-50 with few images a step, or on a fast GPU, is handed out by Python more slowly than it is computed. The key network takes
no gradient and sees the same shapes in every step, so that its 400 kernels can be handed out as one.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch
from torch import Tensor

WARM_CALLS = 2  # of the forward itself, before it is recorded: libraries choose their kernels, compilers compile

logger = logging.getLogger(__name__)


def record(work: Callable[[], None]) -> Callable[[], None]:
    """`work` as a graph, which is not run yet -> what runs it on the memory that `work` used.

    The loader's threads may call CUDA meanwhile.
    """
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        work()
    return graph.replay


class Replayed:
    """`forward` of tensors on a GPU, replayed from the third call with the same shape and number types on; others are called.

    forward: a tensor -> a tensor, without gradient. What it reads besides must stay where it is in memory (parameters and buffers
    that are updated in place do). Where it cannot be recorded it is called for ever, with a warning.
    """

    def __init__(
        self,
        forward: Callable[[Tensor], Tensor],
        *,
        record: Callable[[Callable[[], None]], Callable[[], None]] = record,
    ) -> None:
        self._forward, self._record = forward, record
        self._calls = 0
        self._kind: object = None
        self._replay: Callable[[], None] | None = None
        self._given = self._result = torch.empty(0)

    @torch.no_grad()
    def __call__(self, rows: Tensor) -> Tensor:
        """(B, ...) -> what `forward` returns, in memory of its own."""
        kind = (rows.shape, rows.dtype, rows.device, torch.is_autocast_enabled(rows.device.type))
        if kind != self._kind:  # the first call, or another shape: begin again
            self._kind, self._calls, self._replay = kind, 0, None
        self._calls += 1
        if self._replay is None and self._calls == WARM_CALLS + 1:
            self._start(rows)
        if self._replay is None:
            return self._forward(rows)
        self._given.copy_(rows)
        self._replay()
        return self._result.clone()

    def _start(self, rows: Tensor) -> None:
        self._given = rows.clone()

        def work() -> None:
            self._result = self._forward(self._given)

        try:
            self._replay = self._record(work)
        except RuntimeError as error:  # memory, or a call that no graph can hold
            logger.warning(
                "the key network cannot be recorded as a CUDA graph (%.160s): it is called in every step, which can be slower",
                str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__,
            )
            self._given = self._result = torch.empty(0)
