"""A forward without gradient, recorded once as a CUDA graph and replayed in every later step.

A ResNet-50 with few images a step, or on a fast GPU, is handed out by Python more slowly than it is computed. The key network takes
no gradient and sees the same shapes in every step, so that its 400 kernels can be handed out as one.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch
from torch import Tensor

from pretrain.base.errors import UserError

WARM_CALLS = 2  # of the forward itself, before it is recorded: libraries choose their kernels, compilers compile

logger = logging.getLogger(__name__)


def record(work: Callable[[], None]) -> Callable[[], None]:
    """`work` as a graph, which is not run yet -> what runs it on the memory that `work` used.

    The loader's threads may call CUDA meanwhile. What cannot be recorded raises RuntimeError, with the caller's stream in use.
    """
    stream, graph = torch.cuda.current_stream(), torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            work()
    finally:
        torch.cuda.set_stream(stream)  # a recording that fails at its end leaves its own stream in use
    return graph.replay


class Replayed:
    """A forward of tensors on a GPU, replayed from the third call with the same shape and number type on; others are called.

    What it reads besides must stay where it is in memory (parameters and buffers that are updated in place do). Where the memory
    does not suffice for the recording, the forward is called in every step, with a warning. What no graph can hold is a UserError.
    """

    def __init__(self, *, record: Callable[[Callable[[], None]], Callable[[], None]] = record) -> None:
        self._record = record
        self._calls = 0
        self._kind: object = None
        self._replay: Callable[[], None] | None = None
        self._given = self._result = torch.empty(0)

    @torch.no_grad()
    def __call__(self, forward: Callable[[Tensor], Tensor], rows: Tensor) -> Tensor:
        """forward(rows), (B, ...) -> a tensor in memory of its own. forward: the same in every call."""
        device = rows.device.type
        autocast = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
        kind = (rows.shape, rows.dtype, rows.device, autocast)
        if kind != self._kind:  # the first call, or another shape: begin again
            self._kind, self._calls, self._replay = kind, 0, None
        self._calls += 1
        if self._replay is None and self._calls == WARM_CALLS + 1:
            self._start(forward, rows)
        if self._replay is None:
            return forward(rows)
        self._given.copy_(rows)
        self._replay()
        return self._result.clone()

    def _start(self, forward: Callable[[Tensor], Tensor], rows: Tensor) -> None:
        def work() -> None:
            self._result = forward(self._given)

        try:
            self._given = rows.clone()
            self._replay = self._record(work)
        except torch.OutOfMemoryError:
            self._given = self._result = torch.empty(0)
            logger.warning(
                "the GPU's memory does not suffice for recording the key network as a CUDA graph: it is called in every step, "
                "which can be slower. A smaller optimizer.batch_size leaves room"
            )
        except RuntimeError as error:  # CUDA and torch's allocator are then not as they were: no step can follow
            cause = str(error.__context__ or error).strip().partition("\n")[0]
            raise UserError(
                f"the key network cannot be recorded as a CUDA graph: {cause:.200}. Give the same command again with "
                "runtime.cuda_graph=false, which is as exact and slower on a fast GPU"
            ) from error
