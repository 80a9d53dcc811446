"""Errors that the user can correct, and the one place where they become a message on stderr and exit code 2.

Our own bugs (AssertionError, TypeError, ...) are not caught: they keep their traceback.
"""

from __future__ import annotations

import difflib
import errno
import os
import sys
import warnings
from collections.abc import Callable, Iterable
from typing import NoReturn

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # a disk, a quota, a limit on files
EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130  # 128 + SIGINT
EXIT_BROKEN_PIPE = 141  # 128 + SIGPIPE
EXIT_TERMINATED = 143  # 128 + SIGTERM


# Not among the dependencies of the package, because most commands do without -> what to install.
_EXPORT = "which is not installed: pip install 'infomin-transfer[export]'"
OPTIONAL = {
    "detectron2": "Detectron2, which is not installed: pip install 'infomin-transfer[detection]', then pip install --no-deps "
    "sal-detectron2==0.7.2, or a build of your own (docs/installing.md)",
    **{name: f"{name}, {_EXPORT}" for name in ("timm", "transformers", "onnx", "onnxruntime", "onnxscript")},
}


class UserError(Exception):
    """What was expected, what was found, and what to pass instead. Ends a tool with exit code 2."""


class ConfigError(UserError):
    """A configuration file, key or value that cannot be used."""


class DataError(UserError):
    """A folder, an image or an annotation that cannot be used."""


class CheckpointError(UserError):
    """A checkpoint or weight file that cannot be read, recognised or trusted."""


def full_disk(error: OSError) -> str | None:
    """In words: nothing more can be written. None for any other error."""
    if error.errno not in FULL:
        return None
    name = f" {os.fsdecode(error.filename)}" if isinstance(error.filename, (str, bytes)) else ""
    return f"could not write{name}: {error.strerror}; make room, and give the same command again"


def nearest(name: str, names: Iterable[str], *, cutoff: float = 0.4) -> str | None:
    """The one of `names` that `name` abbreviates (lr: learning_rate) or is most like, None where none is.

    cutoff: from 0 (anything) to 1 (equal).
    """
    names = list(names)
    abbreviated = [full for full in names if "_" in full and name == "".join(word[:1] for word in full.split("_"))]
    found = abbreviated or difflib.get_close_matches(name, names, n=1, cutoff=cutoff)
    return found[0] if len(found) == 1 else None


def did_you_mean(name: str, names: Iterable[str], *, shown: str = "{}", cutoff: float = 0.4) -> str:
    """ "; did you mean X?" with the nearest of `names`, or "". shown: how X is written, for example "`{}`"."""
    found = nearest(name, names, cutoff=cutoff)
    return "" if found is None else f"; did you mean {shown.format(found)}?"


class Terminated(Exception):
    """A stop signal arrived and the state has been saved. Ends a tool with `exit_code`."""

    def __init__(self, message: str, *, exit_code: int = EXIT_TERMINATED) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def full_gpu(error: RuntimeError) -> str:
    """Words for torch's OutOfMemoryError."""
    said = str(error).partition(". ")
    return (
        f"the GPU's memory is full ({said[2].partition('. ')[0] or said[0]:.120}). Use fewer or smaller images at a time: in "
        "pre-training optimizer.accumulate=2 (the same batch in two parts) or a smaller optimizer.batch_size, "
        "runtime.precision=bf16; in fine-tuning --scale auto, --accumulate 2 or a smaller SOLVER.IMS_PER_BATCH; in a readout a "
        "smaller batch_size"
    )


def run_tool(main: Callable[[], int | None]) -> NoReturn:
    """Run a tool's `main` and leave the process with its exit code.

    Exit codes: what `main` returns (None is 0); 2 for a UserError; 130 for Ctrl-C; 143 for SIGTERM; 141
    where the reader of a pipe has gone.
    """
    # Detectron2 and fvcore script functions as they are imported; the user can do nothing about torch dropping scripting.
    warnings.filterwarnings("ignore", message=".*torch.jit.script", category=FutureWarning)
    try:
        code = main() or 0
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        code = EXIT_USER_ERROR
    except Terminated as stop:
        sys.stderr.write(f"{'interrupted' if stop.exit_code == EXIT_INTERRUPTED else 'terminated'}: {stop}\n")
        code = stop.exit_code
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in OPTIONAL:
            raise
        sys.stderr.write(f"error: this command needs {OPTIONAL[missing]}\n")
        code = EXIT_USER_ERROR
    except BrokenPipeError:  # `... | head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the flush at exit complains
        code = EXIT_BROKEN_PIPE
    except OSError as error:
        words = full_disk(error)
        if words is None:
            raise
        sys.stderr.write(f"error: {words}\n")
        code = EXIT_USER_ERROR
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError":  # torch's; this module does not import it
            raise
        sys.stderr.write(f"error: {full_gpu(error)}\n")
        code = EXIT_USER_ERROR
    except KeyboardInterrupt as stop:
        sys.stderr.write(f"interrupted: {stop}\n" if stop.args else "interrupted\n")
        code = EXIT_INTERRUPTED
    sys.exit(code)
