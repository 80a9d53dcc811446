"""Reading files that this program wrote with torch.save: a run's checkpoint, the saved state of a game.

torch does not compare the records of a file with their checksums, so that is done first; then torch's own reader takes plain
containers and tensors only. Strangers' files go through pretrain/base/weight_files/.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import torch

from pretrain.base.errors import CheckpointError


def read_own_file(path: Path) -> Any:
    """The content, with tensors in memory on the CPU. Raises CheckpointError for a file that is absent, cut, damaged or not ours."""
    return _read(path, lambda: torch.load(path, map_location="cpu", weights_only=True))


def check_own_file(path: Path) -> None:
    """Compare every record of the file with its checksum. Raises CheckpointError as `read_own_file` does."""
    _read(path, lambda: None)


def _read(path: Path, load: Callable[[], Any]) -> Any:
    try:
        with ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged is not None:
            raise CheckpointError(f"{path} is damaged: the checksum of {damaged:.60} does not match its bytes")
        return load()
    except FileNotFoundError:
        raise CheckpointError(f"no file at {path}") from None
    except CheckpointError:
        raise
    except Exception as error:  # zipfile and torch leak a dozen types on damaged files
        lines = str(error).strip().splitlines() or ["no message"]
        raise CheckpointError(
            f"{path} is cut short, damaged or not written by this program ({type(error).__name__}: {lines[0]:.160})"
        ) from None
