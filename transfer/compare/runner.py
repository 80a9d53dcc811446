"""Running stages: which are done already, from what; the others one after another, shown, logged and asked to stop on signals.

In an output folder: logs/, .stages/ (a record a stage) and what the commands fill. A stage that is done, from the same
command and the same inputs, is reused.
"""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
import pty
import shlex
import shutil
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import BinaryIO

from pretrain.base.atomic import lock_folder, write_json
from pretrain.base.errors import ConfigError, DataError, Terminated, UserError
from pretrain.base.record import RECORD, read_record
from transfer.compare.stages import CHECKPOINT, ROOT, Stage

LOCK = ".lock"
HANDLED = (signal.SIGINT, signal.SIGTERM)
OLD_RESULT = "result.json"  # of a finished pre-training or detection from before the record; ...
OLD_RESULTS = (OLD_RESULT, "linear_result.json")  # ... and of a readout
Say = Callable[[str], None]

# --- the output folder ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Record:
    """What is known of a stage's last run.

    fingerprint: of its command and files.
    inputs: token of each needed stage.
    token: names this very result, empty until the stage has finished; a stage that is run again gets a new one, so
        that what was made from the old result is made again too.
    seconds: how long it took.
    """

    fingerprint: str
    inputs: dict[str, str]
    token: str = ""
    seconds: float = 0.0


@dataclass(frozen=True)
class StageFolder:
    """The output folder of a study or sweep, and its records of stages."""

    path: Path
    root: Path = ROOT

    def record_path(self, stage: Stage) -> Path:
        """Where a stage's record is kept."""
        return self.path / ".stages" / f"{stage.name}.json"

    def log_path(self, stage: Stage) -> Path:
        """What a stage's command printed."""
        return self.path / "logs" / f"{stage.name}.log"

    def record(self, stage: Stage) -> Record | None:
        """The stage's record, None where it never ran here (or the record cannot be read)."""
        try:
            return Record(**json.loads(self.record_path(stage).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None

    def wanted(self, stage: Stage, tokens: Mapping[str, str]) -> Record:
        """What the stage's record must say for its result to be reused, token and seconds aside."""
        return Record(stage.fingerprint(), {name: tokens[name] for name in stage.needs})

    def is_done(self, stage: Stage, tokens: Mapping[str, str]) -> bool:
        """True when the stage finished with this command on these very inputs and its result is still there."""
        record = self.record(stage)
        if record is None or not record.token or not is_finished(self.path / stage.result):
            return False
        return dataclasses.replace(record, token="", seconds=0.0) == self.wanted(stage, tokens)

    def command(self, stage: Stage) -> list[str]:
        """The stage's command line, with paths as short as the working directory allows. Raises DataError for a result
        of pre-training that names no checkpoint."""
        installed = self.root / "infomin_tools"  # where a wheel has the scripts of tools/
        tools = installed if installed.is_dir() else self.root / "tools"
        places = {"{output}": shown(self.path), "{root}/tools": shown(tools), "{root}": shown(self.root)}
        words = []
        for word in stage.command:
            word = CHECKPOINT.sub(lambda match: shown(self._checkpoint(self.path / match[1])), word)
            for placeholder, path in places.items():
                word = word.replace(placeholder + "/", "" if path == "." else path + "/").replace(placeholder, path)
            words.append(word)
        return [shown(Path(sys.executable)), *words]

    def _checkpoint(self, run: Path) -> Path:
        path = run / RECORD
        if not is_finished(path):  # asked for a plan before pre-training has run
            return run / "checkpoints" / "LAST.pt"
        try:
            if path.exists():
                return run / str(read_record(path).details["checkpoint"])
            return run / str(json.loads((run / OLD_RESULT).read_text(encoding="utf-8"))["checkpoint"])
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{run}: expected the key `checkpoint` in its result, found {error!r}") from None

    def prepare(self, stage: Stage, wanted: Record) -> None:
        """Room for a run: what another command left is removed; what this one left is kept if it can go on from it.

        Raises ConfigError when the stage's folder holds files that no study put there.
        """
        folder, before = self.path / stage.folder, self.record(stage)
        if folder.exists() and before is None and any(folder.iterdir()):
            raise ConfigError(f"{folder} holds files that this command did not make; name another --output-dir")
        same = before is not None and before == wanted
        if folder.exists() and not (stage.resumes and same):
            shutil.rmtree(folder)
        for path in (self.record_path(stage), self.log_path(stage), folder):
            path.parent.mkdir(parents=True, exist_ok=True)
        write_json(self.record_path(stage), dataclasses.asdict(wanted))

    def finish(self, stage: Stage, wanted: Record, seconds: float) -> None:
        """Record that the stage has finished."""
        token = uuid.uuid4().hex
        write_json(
            self.record_path(stage), dataclasses.asdict(dataclasses.replace(wanted, token=token, seconds=seconds))
        )


@contextmanager
def open_folder(path: Path, *, root: Path = ROOT) -> Iterator[StageFolder]:
    """Create or re-enter an output folder and hold it. Raises ConfigError when it is in use or cannot be written."""
    path = path.absolute()
    is_new = not path.exists()
    try:
        with lock_folder(path, LOCK):
            yield StageFolder(path, root)
    except UserError:
        if is_new and [entry.name for entry in path.iterdir()] == [LOCK]:  # refused before anything was made
            (path / LOCK).unlink()
            path.rmdir()
        raise


def is_finished(result: Path) -> bool:
    """Whether a stage's result is there: a record that says done, or any other file.

    A folder from before the record counts by the result that its command left last.
    """
    if result.name != RECORD:
        return result.is_file()
    if not result.exists():
        return any((result.parent / name).is_file() for name in OLD_RESULTS)
    try:
        return read_record(result).status == "done"
    except DataError:
        return False


def shown(path: Path) -> str:
    """A path as a person at the present working directory would type it."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


# --- stages, one after another ----------------------------------------------------------------------------------------


def show_plan(stages: Sequence[Stage], output_dir: Path, *, say: Say, root: Path = ROOT) -> None:
    """Say every stage's command and whether it is done already; nothing is run or written."""
    folder = StageFolder(output_dir.absolute(), root)
    tokens: dict[str, str] = {}
    for number, stage in enumerate(stages, 1):
        done = set(stage.needs) <= set(tokens) and folder.is_done(stage, tokens)
        record = folder.record(stage)
        if done and record:
            tokens[stage.name] = record.token
        say(f"[{number}/{len(stages)}] {stage.title}{': done already' if done else ''}")
        say(f"$ {shlex.join(folder.command(stage))}")


def all_done(stages: Sequence[Stage], folder: StageFolder) -> bool:
    """Whether `run_stages` would run nothing."""
    tokens: dict[str, str] = {}
    for stage in stages:
        record = folder.record(stage)
        if record is None or not folder.is_done(stage, tokens):
            return False
        tokens[stage.name] = record.token
    return True


def run_stages(
    stages: Sequence[Stage], folder: StageFolder, *, say: Say, out: BinaryIO, before: int = 0, total: int | None = None
) -> tuple[int, Stage | None]:
    """Run what is not done yet -> (0, None), or the exit code of the stage that failed and that stage.

    before, total: of a part of a longer plan, for the numbers that are said. out: where the commands' own output is shown. Raises KeyboardInterrupt or Terminated when stopped by a signal, after
    the running command has ended.
    """
    tokens: dict[str, str] = {}
    for number, stage in enumerate(stages, before + 1):
        label = f"[{number}/{total or len(stages)}]"
        if not folder.is_done(stage, tokens):
            code = _run_stage(stage, folder, tokens, label, say=say, out=out)
            if code != 0:
                return code, stage
        else:
            record = folder.record(stage)
            say(f"{label} {stage.title}: done already ({show_seconds(record.seconds if record else 0)})")
        record = folder.record(stage)
        assert record is not None
        tokens[stage.name] = record.token
    return 0, None


def _run_stage(
    stage: Stage, folder: StageFolder, tokens: dict[str, str], label: str, *, say: Say, out: BinaryIO
) -> int:
    """Run one stage's command -> its exit code; 1 for a command that ended well but left no result."""
    wanted = folder.wanted(stage, tokens)
    command = folder.command(stage)
    folder.prepare(stage, wanted)
    typed = shlex.join(command)
    say(f"{label} {stage.title} ...\n$ {typed}")
    start = time.monotonic()
    outcome = run_logged(command, log_path=folder.log_path(stage), out=out, saves_on_sigterm=stage.resumes)
    seconds = time.monotonic() - start
    finished = outcome.code == 0 and is_finished(folder.path / stage.result)
    if finished:
        folder.finish(stage, wanted, seconds)
        say(f"{label} {stage.title}: done in {show_seconds(seconds)}\n")
    if outcome.stopped_by == signal.SIGINT:
        raise KeyboardInterrupt
    if outcome.stopped_by is not None:
        raise Terminated(f"during `{stage.title}`; the same command goes on from there")
    if finished:
        return 0
    say_failed(stage, folder, label, code=outcome.code, seconds=seconds, typed=typed, say=say)
    return outcome.code or 1


def say_failed(
    stage: Stage, folder: StageFolder, label: str, *, code: int, seconds: float, typed: str, say: Say
) -> None:
    """What went wrong, where its log is and how to repeat it. code: 0 for a command that left no result."""
    why = (
        f"exit code {code}" if code else f"no finished {shown(folder.path / stage.result)} although its exit code is 0"
    )
    say(f"{label} {stage.title}: FAILED after {show_seconds(seconds)}, {why}")
    say(f"  its log    {shown(folder.log_path(stage))}")
    say(f"  to repeat  {typed}")
    say("  What is done is kept: the same command goes on from here.")


def show_seconds(seconds: float) -> str:
    """75 -> `1m15s`."""
    whole = round(seconds)
    return f"{whole}s" if whole < 60 else f"{whole // 60}m{whole % 60:02d}s"


# --- one command ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Outcome:
    """How a command ended. code: 0..255 (128 + n when signal n killed it). stopped_by: the signal on which it was
    asked to stop."""

    code: int
    stopped_by: int | None


def run_logged(
    command: Sequence[str], *, log_path: Path, out: BinaryIO, saves_on_sigterm: bool = False, also: Sequence[int] = ()
) -> Outcome:
    """Run `command` to its end; what it prints goes to `out` at once and to `log_path` as well.

    On a terminal the command sees a terminal too, so that its progress bars work. On SIGINT or SIGTERM to this process
    the command (not its data workers, which it ends itself) gets SIGTERM if that makes it save its state, else SIGINT,
    on which Python clears up; then it is waited for. A second signal kills it and its workers. also: further signals that mean
    the same. Raises OSError when the command cannot be started.
    """
    reader, writer = _terminal(out) if out.isatty() else os.pipe()
    try:
        with (
            log_path.open("wb") as log,
            forwarding_signals(also) as forwarding,
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
            forwarding.attach(process, signal.SIGTERM if saves_on_sigterm else signal.SIGINT)
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


def stop_request(stage: Stage) -> signal.Signals:
    """The signal on which a stage's command saves its state, or else clears up."""
    return signal.SIGTERM if stage.resumes else signal.SIGINT


class Forwarding:
    """Asks processes to stop when a signal arrives, also one that arrived just before they were started.

    received: the last signal, None before one.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._processes: list[tuple[subprocess.Popen[bytes], signal.Signals]] = []

    def attach(self, process: subprocess.Popen[bytes], request: signal.Signals) -> None:
        """request: what the process is sent."""
        self._processes = [*(entry for entry in self._processes if entry[0].poll() is None), (process, request)]
        if self.received is not None:
            process.send_signal(request)

    def handle(self, signum: int, frame: FrameType | None) -> None:
        for process, request in self._processes:
            if process.poll() is None:
                if self.received is None:
                    process.send_signal(request)
                else:
                    os.killpg(process.pid, signal.SIGKILL)
        self.received = signum


@contextmanager
def forwarding_signals(also: Sequence[int] = ()) -> Iterator[Forwarding]:
    """Signal handlers for the block. Python allows them in the main thread only; elsewhere signals stay as they are."""
    forwarding = Forwarding()
    if threading.current_thread() is not threading.main_thread():
        yield forwarding
        return
    previous = {signum: signal.signal(signum, forwarding.handle) for signum in (*HANDLED, *also)}
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
