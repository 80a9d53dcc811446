"""The recorded forward, with a stand-in for the CUDA graph; tests/gpu/test_kernels.py has the real one."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from pretrain.base.errors import UserError
from pretrain.model.cuda_graph import WARM_CALLS, Replayed


class Counted:
    """A forward whose result depends on what it reads besides, and how often it was called."""

    def __init__(self) -> None:
        self.weight, self.calls = torch.ones(()), 0

    def __call__(self, rows: Tensor) -> Tensor:
        self.calls += 1
        return rows * self.weight


class Recorder:
    """Like a graph: what `work` made stays where it is, and a replay fills it again from where `work` read."""

    def __init__(self, forward: Counted) -> None:
        self.forward, self.recordings, self.replays = forward, 0, 0

    def __call__(self, work: Callable[[], None]) -> Callable[[], None]:
        self.recordings += 1
        work()
        given, result = self.replayed._given, self.replayed._result

        def replay() -> None:
            self.replays += 1
            result.copy_(given * self.forward.weight)

        return replay


def test_it_is_called_then_recorded_once_then_replayed():
    forward = Counted()
    recorder = Recorder(forward)
    replayed = recorder.replayed = Replayed(record=recorder)
    kept = []
    for step in range(6):
        forward.weight.fill_(step + 1)  # the key network moves in place
        rows = torch.full((2, 3), float(step))
        kept.append((step, replayed(forward, rows)))
    assert all(torch.equal(result, torch.full((2, 3), float(step * (step + 1)))) for step, result in kept)
    assert recorder.recordings == 1 and recorder.replays == 6 - WARM_CALLS
    assert forward.calls == WARM_CALLS + 1  # the recording itself

    replayed(forward, torch.ones(5, 3))  # another shape is no input for the recording
    assert recorder.replays == 6 - WARM_CALLS and forward.calls == WARM_CALLS + 2


def test_without_the_memory_for_it_it_is_called_and_said_once(caplog: pytest.LogCaptureFixture):
    forward = Counted()
    replayed = Replayed(record=_refusing(torch.OutOfMemoryError("CUDA out of memory")))
    with caplog.at_level(logging.WARNING):
        results = [replayed(forward, torch.full((2,), 3.0)) for _ in range(8)]
    assert all(torch.equal(result, torch.full((2,), 3.0)) for result in results) and forward.calls == 8
    (message,) = [record.getMessage() for record in caplog.records]
    assert "memory does not suffice" in message and "optimizer.batch_size" in message


def test_what_no_graph_can_hold_ends_in_words():
    replayed = Replayed(record=_refusing(RuntimeError("operation not permitted when stream is capturing\nmore")))
    for _ in range(WARM_CALLS):
        replayed(Counted(), torch.ones(2))
    with pytest.raises(UserError, match=r"not permitted when stream is capturing\. .*runtime.cuda_graph=false"):
        replayed(Counted(), torch.ones(2))


def _refusing(error: Exception) -> Callable[[Callable[[], None]], Callable[[], None]]:
    def record(work: Callable[[], None]) -> Callable[[], None]:
        raise error

    return record
