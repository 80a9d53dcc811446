"""Starting and stopping the child process that reads pickles (pretrain/base/weight_files/pickle_child.py), with its caps.

In: an open file, what kind of pickle it holds and where. Out: the child's plan, or a CheckpointError; this process unpickles
nothing. Where the system knows no caps on a process (Windows), the log says so and the reading goes on without them.
"""

from __future__ import annotations

import json
import logging
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

from pretrain.base.errors import CheckpointError

# -I -S: no site-packages, no variables of the environment, no folder of the user's on the import path.
START = (
    "import sys; sys.path.insert(0, sys.argv.pop(1)); from pretrain.base.weight_files.pickle_child import main; main()"
)
ROOT = Path(__file__).resolve().parents[3]
BASE_MEMORY = 512 << 20  # a million operations make some 250 MB of objects
MEMORY_PER_BYTE = 6  # text of protocol 2 is held as text and as bytes, and read whole
BASE_SECONDS, SECONDS_PER_GB = 30, 60
MAX_BYTES = 8 << 30

Kind = Literal["zip", "old", "pickle"]
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Caps:
    """Bytes of memory and seconds of work that the child may use."""

    memory: int
    seconds: int

    @classmethod
    def of(cls, size: int) -> Caps:
        """For a pickle of `size` bytes."""
        return cls(BASE_MEMORY + MEMORY_PER_BYTE * size, BASE_SECONDS + SECONDS_PER_GB * size // (1 << 30))


class Reading:
    """A child at work. `plan()` waits for its answer."""

    def __init__(self, process: subprocess.Popen[bytes], caps: Caps) -> None:
        self._process, self._caps = process, caps

    def plan(self) -> dict[str, Any]:
        """The child's plan. Raises CheckpointError (without the file's name) when it refused, or was stopped by a cap."""
        try:
            told, said = self._process.communicate(timeout=2 * self._caps.seconds)
        except subprocess.TimeoutExpired:
            raise CheckpointError(f"reading it took more than {2 * self._caps.seconds} s, and was stopped") from None
        code = self._process.returncode
        if code < 0:
            raise CheckpointError(
                f"the process that reads it was stopped ({_signal_name(-code)}; its caps are "
                f"{self._caps.memory >> 20} MiB of memory and {self._caps.seconds} s of work)"
            )
        if code:
            last = said.decode(errors="replace").strip().splitlines() or ["it said nothing"]
            if "MemoryError" in last[-1]:
                last = [f"it needs more than the {self._caps.memory >> 20} MiB of memory that its size allows"]
            raise CheckpointError(f"the process that reads it failed ({last[-1]:.160})")
        plan: dict[str, Any] = json.loads(told)
        if not plan["capped"]:
            logger.warning("this system has no caps on a process: the pickle was read without one on its memory")
        if "error" in plan:
            raise CheckpointError(plan["error"])
        return plan


@contextmanager
def reading(file: BinaryIO, blob: BinaryIO, kind: Kind, *, offset: int, size: int) -> Iterator[Reading]:
    """Start a child on `size` bytes of `file` from `offset`; bytes of pickled arrays go to `blob`. It is gone at the end."""
    if size > MAX_BYTES:
        raise CheckpointError(f"its pickle has {size} bytes; at most {MAX_BYTES} are read")
    caps = Caps.of(size)
    numbers = (file.fileno(), offset, size, blob.fileno(), caps.memory, caps.seconds)
    command = [sys.executable, "-I", "-S", "-c", START, str(ROOT), kind, *map(str, numbers)]
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        pass_fds=(file.fileno(), blob.fileno()),
    )
    with process:
        try:
            yield Reading(process, caps)
        finally:
            process.kill()


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
