"""Files that are either whole or absent (temporary file, flush, fsync, rename, fsync of the folder), and the lock of a folder.

After a crash a path holds the old file or the new one, and beside it perhaps a temporary file: whoever takes the lock of the
folder next removes that.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import weakref
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from pretrain.base.errors import ConfigError

LOCK = "run.lock"  # of a run's output folder
_TEMPORARY = re.compile(r"\..+\.\d+\.tmp")  # of atomic_file: .NAME.PID.tmp


@contextmanager
def atomic_file(path: Path, *, check: Callable[[Path], None] | None = None) -> Iterator[IO[bytes]]:
    """Open a temporary binary file beside `path`; publish it as `path` when the block ends without error.

    check: called with the temporary file once it is on the disk; what it raises is raised, and nothing is published. It reads
    what the disk has, not what is still in memory, where the system lets go of that.
    The temporary file is removed on any exception (also ENOSPC and KeyboardInterrupt). File mode follows the umask.
    Raises OSError as the file system raises it.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
            if check is not None and hasattr(os, "posix_fadvise"):  # not on macOS
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        if check is not None:
            check(temporary)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def sync_file(path: Path) -> None:
    """Make the content of a file that is closed already durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_directory(directory: Path) -> None:
    """Make renames inside `directory` durable (POSIX: the directory entry is data of the directory)."""
    sync_file(directory)


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8, atomically."""
    with atomic_file(path) as file:
        file.write(text.encode())


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically. NaN and infinities are refused (ValueError): they are not JSON."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def lock_folder(folder: Path, name: str) -> IO[str]:
    """Create `folder` and hold it by locking the file `name` in it, until the file that this returns is closed.

    The kernel drops the lock however the process ends, also where processes that it forked (loader workers) live on for a
    moment. Raises ConfigError when another process holds the folder or when it cannot be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = open(folder / name, "a")  # noqa: SIM115 - the caller closes it
    except OSError as error:
        raise ConfigError(f"cannot write to the output directory {folder}: {error.strerror or error}") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        raise ConfigError(f"the output directory {folder} is in use by another running process") from None
    except OSError as error:
        lock.close()
        raise ConfigError(
            f"the file system of {folder} has no file locks ({error.strerror or error}); name an output directory on another one"
        ) from None
    _held.add(lock)
    return lock


@contextmanager
def one_at_a_time(path: Path, *, on_wait: Callable[[], None] = lambda: None) -> Iterator[None]:
    """A block that processes run one after the other; `path` is a file that is there meanwhile, and that nothing else uses.

    on_wait: called once where another process is in its block. Where the file system has no locks, nobody waits. Raises OSError
    where the file cannot be made.
    """
    while True:
        lock = open(path, "a")  # noqa: SIM115 - closed below
        _held.add(lock)
        try:
            _wait_for(lock, on_wait)
            mine = path.exists() and os.path.samestat(os.fstat(lock.fileno()), path.stat())
        except BaseException:
            lock.close()
            raise
        if mine:  # else the one before has removed it
            break
        lock.close()
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        lock.close()


def _wait_for(lock: IO[str], on_wait: Callable[[], None]) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        on_wait()
        fcntl.flock(lock, fcntl.LOCK_EX)
    except OSError:  # a file system without locks
        return


# A lock is of an open file, which a forked child has too: it would hold the folder of a parent that was killed.
_held: weakref.WeakSet[IO[str]] = weakref.WeakSet()


def _let_go() -> None:
    for lock in list(_held):
        lock.close()  # of the child alone: the parent's lock stays


os.register_at_fork(after_in_child=_let_go)


@contextmanager
def hold_folder(folder: Path, *, own: Collection[str]) -> Iterator[None]:
    """Create `folder` and hold it as `lock_folder` does; a block that ends before it wrote anything leaves no new folder.

    own: names of the files that the command writes there. Raises ConfigError for a folder with others, which is left as it was.
    """
    created = not folder.exists()
    with lock_folder(folder, LOCK):
        # Hidden files are what a killed write left behind, not somebody's work.
        names = {entry.name for entry in folder.iterdir() if not entry.name.startswith(".")}
        foreign = sorted(names - {LOCK, *own})
        if foreign:
            (folder / LOCK).unlink()
            raise ConfigError(
                f"the output directory {folder} holds other files ({', '.join(foreign[:3])}); name an empty one"
            )
        remove_temporaries(folder)
        try:
            yield
        except BaseException:
            if created and {entry.name for entry in folder.iterdir()} == {LOCK}:  # refused before it began
                (folder / LOCK).unlink()
                folder.rmdir()
            raise


def is_temporary(path: Path) -> bool:
    """True for a file that `atomic_file` has not published (yet)."""
    return _TEMPORARY.fullmatch(path.name) is not None


def remove_temporaries(folder: Path) -> None:
    """Remove what killed writes left in `folder` and below. Only for the holder of its lock: nobody else may be writing."""
    for path in folder.rglob(".*.tmp"):
        if is_temporary(path):
            path.unlink(missing_ok=True)
