"""SIGTERM and Ctrl-C as a flag that a loop polls between steps, so that a run that is stopped saves a whole state first."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

from pretrain.base.errors import EXIT_INTERRUPTED, EXIT_TERMINATED, Terminated

# What a terminal or a scheduler (SIGUSR1, SIGUSR2: Slurm) sends to all processes of a run: the main one stops, its workers
# ignore it.
STOP_SIGNALS = GROUP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)
SAME_KEYSTROKE_SECONDS = 1.0  # torchrun passes on the Ctrl-C that its processes have had from the terminal


class StopFlag:
    """A context in which a stop signal sets `is_set` instead of ending the process; a second Ctrl-C does end it.

    Earlier handlers come back when the context ends.
    """

    def __init__(self) -> None:
        self.is_set = False
        self._interrupted_at: float | None = None
        self._before: dict[int, Any] = {}

    def _set(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT:
            now = time.monotonic()
            if self._interrupted_at is None:
                self._interrupted_at = now
                os.write(2, b"\nstopping after this step; Ctrl-C once more stops at once\n")  # safe in a handler
            elif now - self._interrupted_at > SAME_KEYSTROKE_SECONDS:
                raise KeyboardInterrupt
        self.is_set = True

    def terminated(self, message: str) -> Terminated:
        """What a loop raises once it has saved: ends a tool with 130 after Ctrl-C, else with 143."""
        return Terminated(message, exit_code=EXIT_TERMINATED if self._interrupted_at is None else EXIT_INTERRUPTED)

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
def ending_on_sigterm(advice: str = "give the same command again") -> Iterator[None]:
    """SIGTERM (or a scheduler's) ends the block with `Terminated`, as Ctrl-C with KeyboardInterrupt: what it holds is closed.

    For work that has nothing to save on the way. advice: how to go on. Other threads than the main one have no handlers, and nothing changes there.
    """

    def end(number: int, frame: FrameType | None) -> None:
        raise Terminated(f"stopped before the end; {advice}")

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, end) for number in STOP_SIGNALS if number != signal.SIGINT}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class PassedOn:
    """What `passed_to_children` yields. received: the last signal, None before one."""

    received: int | None = None


@contextmanager
def passed_to_children(advice: str = "give the same command again") -> Iterator[PassedOn]:
    """A stop signal goes on to the processes that multiprocessing started from here, which save; this one waits for them.

    Before there are any it ends the block with `Terminated`. advice: how to go on.
    """
    passed = PassedOn()

    def pass_on(number: int, frame: FrameType | None) -> None:
        passed.received = number
        children = multiprocessing.active_children()
        for child in children:
            if child.pid is not None:
                os.kill(child.pid, number)
        if not children:
            code = EXIT_INTERRUPTED if number == signal.SIGINT else EXIT_TERMINATED
            raise Terminated(f"stopped before the end; {advice}", exit_code=code)

    if threading.current_thread() is not threading.main_thread():
        yield passed
        return
    before = {number: signal.signal(number, pass_on) for number in STOP_SIGNALS}
    try:
        yield passed
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def signals_wait() -> Iterator[None]:
    """Signals to this thread wait until the block ends; those to a process started inside, until it unblocks them itself.

    Without that, a worker that meets SIGTERM before it ignores it ends, and the main process waits for its batch.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, GROUP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
