"""One command of a study: shown while it runs, kept in a log, and told of Ctrl-C and SIGTERM.

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

FORWARDED = (signal.SIGINT, signal.SIGTERM)


@dataclass(frozen=True)
class Outcome:
    """How a command ended. code: 0..255 (128 + n when signal n killed it). stopped_by: the signal passed on to it."""

    code: int
    stopped_by: int | None


def run_logged(command: Sequence[str], *, log_path: Path, out: BinaryIO) -> Outcome:
    """Run `command` to its end; what it prints goes to `out` at once and to `log_path` as well.

    On a terminal the command sees a terminal too, so that its progress bars work. SIGINT and SIGTERM to this process are
    passed on to the command alone (not to its data workers, which it ends itself), and it is waited for: it may have a
    checkpoint to save. A second signal kills it. Raises OSError when the command cannot be started.
    """
    reader, writer = _terminal(out) if out.isatty() else os.pipe()
    try:
        with log_path.open("wb") as log, _forwarding() as forwarding:
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
    """Passes signals on to a process, also one that arrived just before it was started."""

    def __init__(self) -> None:
        self.received: int | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def attach(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        if self.received is not None:
            process.send_signal(self.received)

    def handle(self, signum: int, frame: FrameType | None) -> None:
        if self._process is not None:
            self._process.send_signal(signum if self.received is None else signal.SIGKILL)
        self.received = signum


@contextmanager
def _forwarding() -> Iterator[_Forwarding]:
    """Signal handlers for the block. Python allows them in the main thread only; elsewhere signals stay as they are."""
    forwarding = _Forwarding()
    if threading.current_thread() is not threading.main_thread():
        yield forwarding
        return
    previous = {signum: signal.signal(signum, forwarding.handle) for signum in FORWARDED}
    try:
        yield forwarding
    finally:
        for signum, handler in previous.items():
            signal.signal(signum, handler)


def _terminal(out: BinaryIO) -> tuple[int, int]:
    """A pseudo-terminal of the size of the one that `out` is."""
    reader, writer = pty.openpty()
    size = fcntl.ioctl(out.fileno(), termios.TIOCGWINSZ, struct.pack("HHHH", 0, 0, 0, 0))
    fcntl.ioctl(writer, termios.TIOCSWINSZ, size)
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
