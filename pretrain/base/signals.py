"""SIGTERM as a flag that the loop polls between steps, so that a preempted run saves a whole state.

In: nothing. Out: `StopFlag`, a context in which SIGTERM and SIGUSR1 (Slurm) set a flag instead of killing; `signals_wait`,
a context in which the signals to a process group wait.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

GROUP_SIGNALS = (signal.SIGTERM, signal.SIGINT)  # what a terminal or a scheduler sends to all processes of a run
STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


class StopFlag:
    """`is_set` turns True once a stop signal has arrived. Earlier handlers come back when the context ends."""

    def __init__(self) -> None:
        self.is_set = False
        self._before: dict[int, Any] = {}

    def _set(self, number: int, frame: FrameType | None) -> None:
        self.is_set = True

    def __enter__(self) -> StopFlag:
        if threading.current_thread() is threading.main_thread():  # Python installs handlers there only
            self._before = {number: signal.signal(number, self._set) for number in STOP_SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


@contextmanager
def signals_wait() -> Iterator[None]:
    """Signals to this thread wait until the block ends; to a process started inside, until it says otherwise itself.

    Without that, a worker that meets SIGTERM before it has come to ignoring it ends, and the main process waits for its batch.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, GROUP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
