"""The folder in which what is dear to find out about data is kept between runs: checks of images, indices of archives, shards.

INFOMIN_CACHE=FOLDER names it; else $XDG_CACHE_HOME/infomin-transfer or ~/.cache/infomin-transfer. All in it can be deleted at
any time. Where it cannot be written nothing is kept, and the work is done anew each time.
"""

from __future__ import annotations

import hashlib
import os
import threading
import zipfile
from pathlib import Path

import numpy as np

from pretrain.base.atomic import atomic_file
from pretrain.base.errors import DataError

VARIABLE = "INFOMIN_CACHE"
# numpy reads an array's header with Python's own parser, which two threads of Python 3.11 may not use at once (SystemError).
_ONE_READER = threading.Lock()


def cache_dir(kind: str) -> Path:
    """The folder for one kind of thing; it need not exist."""
    named = os.environ.get(VARIABLE)
    root = Path(named) if named else Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "infomin-transfer"
    try:
        return root.expanduser() / kind
    except RuntimeError as error:  # no home folder
        raise DataError(f"no folder to keep files in; pass one: {VARIABLE}=FOLDER") from error


def keep_arrays(kind: str, key: str, **arrays: np.ndarray) -> bool:
    """Store under `key`, atomically; False where the folder cannot be written."""
    try:
        path = _path(kind, key)
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]
    except (OSError, DataError):
        return False
    return True


def kept_arrays(kind: str, key: str) -> dict[str, np.ndarray] | None:
    """What was stored; None where nothing, or nothing readable, is."""
    try:
        with _ONE_READER, open(_path(kind, key), "rb") as file, np.load(file, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    except (OSError, DataError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None


def _path(kind: str, key: str) -> Path:
    return cache_dir(kind) / f"{hashlib.sha256(os.fsencode(key)).hexdigest()[:40]}.npz"
