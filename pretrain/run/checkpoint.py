"""THE DOOR: the checkpoint of a pre-training run, versioned and atomic, with all that resuming and converting need.

In: a run's state. Out: `checkpoints/step_XXXXXXXX.pt`, readable with `torch.load(weights_only=True)`.
Layout: format, version, arch, method, contract (how the encoder wants its input), model (query.*, key.*, memory.*),
optimizer, scaler, progress {step, steps_per_epoch}, config. No random state: all randomness is a pure function of
(seed, epoch, sample index, view) or of (seed, step).
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch

from pretrain.base.atomic import atomic_file
from pretrain.base.errors import CheckpointError
from pretrain.base.weight_files.torch_files import in_memory, read_torch_file

FORMAT = "infomin-transfer/checkpoint"
VERSION = 1
KEYS = ("format", "version", "arch", "method", "contract", "model", "optimizer", "scaler", "progress", "config")

logger = logging.getLogger(__name__)


def checkpoint_path(directory: Path, step: int) -> Path:
    """`directory`/step_00000042.pt: names sort by step."""
    return directory / f"step_{step:08d}.pt"


def write_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Publish `state` at `path`: written, flushed, fsynced, renamed. Raises CheckpointError (disk full, no permission)."""
    state = {"format": FORMAT, "version": VERSION, **state}
    assert set(state) == set(KEYS), sorted(set(state) ^ set(KEYS))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as file:
            torch.save(state, file)
    except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
        raise CheckpointError(
            f"could not write the checkpoint {path}: {error}; earlier checkpoints are untouched"
        ) from error


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint of ours onto the CPU. Raises CheckpointError if it is absent, damaged or of another kind.

    Read as a stranger's file is (pretrain/base/weight_files/torch_files.py): nothing in it can run, and its checksums are checked.
    """
    if not path.exists():
        raise CheckpointError(f"no checkpoint at {path}")
    try:
        state = in_memory(read_torch_file(path))
    except CheckpointError as error:
        raise CheckpointError(f"{path} is not a readable checkpoint: {error}") from None
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise CheckpointError(f"{path} is not a checkpoint of tools/pretrain.py (no format {FORMAT!r})")
    if state.get("version") != VERSION:
        raise CheckpointError(f"{path}: expected checkpoint version {VERSION}, found {state.get('version')!r}")
    missing = sorted(set(KEYS) - set(state))
    if missing:
        raise CheckpointError(f"{path}: the checkpoint lacks {', '.join(missing)}")
    return state


def newest_checkpoint(directory: Path, *, quarantine: bool) -> tuple[Path, dict[str, Any]] | None:
    """The newest readable checkpoint in `directory`, None when there is none at all.

    A damaged one is said aloud and, with `quarantine`, renamed to *.damaged; the one before is taken. If all are damaged:
    CheckpointError, never a silent start from scratch.
    """
    paths = sorted(directory.glob("step_*.pt"), reverse=True)
    for path in paths:
        try:
            return path, read_checkpoint(path)
        except CheckpointError as error:
            logger.warning("%s; taking the one before", error)
            if quarantine:
                path.rename(path.with_suffix(".pt.damaged"))
    if paths:
        raise CheckpointError(f"none of the {len(paths)} checkpoints in {directory} is readable; the run cannot resume")
    return None


def prune_checkpoints(directory: Path, *, keep_steps: set[int], newest: int = 2) -> None:
    """Delete all but the `newest` checkpoints and those whose step is in `keep_steps`."""
    paths = sorted(directory.glob("step_*.pt"))
    for path in paths[:-newest]:
        if int(path.stem.removeprefix("step_")) not in keep_steps:
            path.unlink()


CHECKPOINT_DIR = "checkpoints"  # of a run


def resolve_checkpoint(path: Path) -> Path:
    """`path` itself, or of a folder the newest checkpoint in it: a run, or a run's checkpoints/.

    The newest by its step, whether it can be read or not: whoever converts it must hear of damage. Raises CheckpointError for
    a folder without checkpoints of tools/pretrain.py.
    """
    if not path.is_dir():
        return path
    folder = path / CHECKPOINT_DIR if (path / CHECKPOINT_DIR).is_dir() else path
    paths = sorted(folder.glob("step_*.pt"))
    if not paths:
        raise CheckpointError(f"{path} is a folder without checkpoints of tools/pretrain.py (step_*.pt); pass a file in it")
    return paths[-1]
