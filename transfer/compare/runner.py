"""One command of a study: shown while it runs, kept in a log, and asked to stop on Ctrl-C and SIGTERM.

In: a command line, a log file, a stream to show it on. Out: its exit code, and the signal that stopped it, if any.
"""

from __future__ import annotations

import fcntl
import os
import pty
import signal
import struct
import subprocess
import termios
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import BinaryIO

HANDLED = (signal.SIGINT, signal.SIGTERM)


@dataclass(frozen=True)
class Outcome:
    """How a command ended. code: 0..255 (128 + n when signal n killed it). stopped_by: the signal on which it was
    asked to stop."""

    code: int
    stopped_by: int | None


def run_logged(command: Sequence[str], *, log_path: Path, out: BinaryIO, saves_on_sigterm: bool = False) -> Outcome:
    """Run `command` to its end; what it prints goes to `out` at once and to `log_path` as well.

    On a terminal the command sees a terminal too, so that its progress bars work. On SIGINT or SIGTERM to this process
    the command (not its data workers, which it ends itself) gets SIGTERM if that makes it save its state, else SIGINT,
    on which Python clears up; then it is waited for. A second signal kills it and its workers. Raises OSError when the
    command cannot be started.
    """
    reader, writer = _terminal(out) if out.isatty() else os.pipe()
    try:
        with (
            log_path.open("wb") as log,
            _forwarding(signal.SIGTERM if saves_on_sigterm else signal.SIGINT) as forwarding,
        ):
            try:
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=writer,
                    stderr=writer,
                    start_new_session=True,  # a terminal's Ctrl-C reaches us only, and we pass it on
                    env={**os.environ, "PYTHONUNBUFFERED": "1"},
                )
            finally:
                os.close(writer)
            forwarding.attach(process)
            try:
                for chunk in _chunks(reader):
                    out.write(chunk)
                    out.flush()
                    log.write(chunk.replace(b"\r\n", b"\n"))
                    log.flush()
                code = process.wait()
            finally:
                if process.poll() is None:
                    process.kill()
                    process.wait()
            return Outcome(code if code >= 0 else 128 - code, forwarding.received)
    finally:
        os.close(reader)


class _Forwarding:
    """Asks a process to stop when a signal arrives, also one that arrived just before it was started."""

    def __init__(self, request: signal.Signals) -> None:
        self.received: int | None = None
        self._request = request
        self._process: subprocess.Popen[bytes] | None = None

    def attach(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        if self.received is not None:
            process.send_signal(self._request)

    def handle(self, signum: int, frame: FrameType | None) -> None:
        process = self._process
        if process is not None and process.poll() is None:
            if self.received is None:
                process.send_signal(self._request)
            else:
                os.killpg(process.pid, signal.SIGKILL)
        self.received = signum


@contextmanager
def _forwarding(request: signal.Signals) -> Iterator[_Forwarding]:
    """Signal handlers for the block. Python allows them in the main thread only; elsewhere signals stay as they are."""
    forwarding = _Forwarding(request)
    if threading.current_thread() is not threading.main_thread():
        yield forwarding
        return
    previous = {signum: signal.signal(signum, forwarding.handle) for signum in HANDLED}
    try:
        yield forwarding
    finally:
        for signum, handler in previous.items():
            signal.signal(signum, handler)


def _terminal(out: BinaryIO) -> tuple[int, int]:
    """A pseudo-terminal of the size of the one that `out` is; 80 x 24 where that has none (progress bars need a width)."""
    reader, writer = pty.openpty()
    columns, lines = os.get_terminal_size(out.fileno())
    fcntl.ioctl(writer, termios.TIOCSWINSZ, struct.pack("HHHH", lines or 24, columns or 80, 0, 0))
    return reader, writer


def _chunks(reader: int) -> Iterator[bytes]:
    """What arrives, until the last writer has closed."""
    while True:
        try:
            chunk = os.read(reader, 65536)
        except OSError:  # EIO: how Linux says that the other end of a pseudo-terminal is closed
            return
        if not chunk:
            return
        yield chunk
