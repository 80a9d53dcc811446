"""The checkpoint of a pre-training run, where pretrain/ ends and transfer/ begins; and any other saved state.

`checkpoints/step_XXXXXXXX.pt` is whole or absent, read back before it gets its name, versioned, without a value that is not finite, readable with `torch.load(weights_only=True)`, and holds all that
resuming and converting need: format, version, arch, method, contract (how the encoder wants its input), model (query.*, key.*,
memory.*), optimizer, scaler, progress {step, steps_per_epoch, images: their fingerprint}, config. There is no random state:
everything random is drawn from (seed, epoch, sample index, view) or (seed, step).
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pretrain.base.atomic import atomic_file
from pretrain.base.errors import FULL, CheckpointError
from pretrain.base.own_files import check_own_file, read_own_file
from pretrain.base.record import experiment_hash
from pretrain.config import experiment_of

FORMAT, VERSION = "infomin-transfer/checkpoint", 1
CHECKPOINT_DIR = "checkpoints"  # of a run
DEFAULT_BRANCH = "query"  # the encoder that is read where nothing else is asked for
KEYS = ("format", "version", "arch", "method", "contract", "model", "optimizer", "scaler", "progress", "config")

logger = logging.getLogger(__name__)


def checkpoint_path(directory: Path, step: int) -> Path:
    """`directory`/step_00000042.pt: names sort by step."""
    return directory / f"step_{step:08d}.pt"


def write_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Publish a run's `state` at `path`. Raises CheckpointError as `write_state` does, and for a value that is not finite."""
    missing = set(KEYS) ^ {"format", "version", *state}
    assert not missing, sorted(missing)
    require_finite(path, state)
    write_state(path, state, kind=CHECKPOINT)


def require_finite(path: Path, state: Mapping[str, Any]) -> None:
    """Raise CheckpointError, naming tensors, where `state`, which was to be written to `path`, holds values that are not finite."""
    bad = [name for name, tensor in _tensors(state) if not _is_finite(tensor)]
    if bad:
        raise CheckpointError(
            f"did not write {path}: {len(bad)} of its tensors hold values that are not finite ({', '.join(bad[:3])}); "
            "what was saved before is untouched"
        )


def _tensors(values: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """("model.key.head.weight", tensor) of everything nested in `values`."""
    if isinstance(values, Tensor):
        yield name, values
    elif isinstance(values, Mapping):
        for key, value in values.items():
            yield from _tensors(value, f"{name}.{key}" if name else str(key))


def _is_finite(tensor: Tensor) -> bool:
    # A sum is ten times as fast as a look at each value, and finite only if they all are; a large one may overflow.
    return bool(torch.isfinite(tensor.sum())) or bool(torch.isfinite(tensor).all())


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint of ours onto the CPU. Raises CheckpointError if it is absent, damaged or of another kind."""
    if not path.exists():
        raise CheckpointError(f"no checkpoint at {path}")
    state = read_state(path, kind=CHECKPOINT)
    missing = sorted(set(KEYS) - set(state))
    if missing:
        raise CheckpointError(f"{path}: the checkpoint lacks {', '.join(missing)}")
    return state


def pretraining_of(state: Mapping[str, Any], *, sha256: str, branch: str | None = None) -> dict[str, Any] | None:
    """{"seed", "hash"} of the run that saved a checkpoint: two with one hash differ in their seed alone. None: it does not say.

    The hash is that of the run's record where the checkpoint is its last and the branch the default one; an earlier step and
    another branch are other encoders. A checkpoint that does not say its images (of older versions) has a hash of its own.
    sha256: of the file.
    """
    config, progress = state["config"], state["progress"]
    if not isinstance(config.get("seed"), int):
        return None
    step, epochs = progress.get("step"), (config.get("optimizer") or {}).get("epochs")
    images = progress.get("images") or f"not known: those of the checkpoint {sha256}"
    experiment: dict[str, Any] = {"config": experiment_of(config), "data": {"images": images}}
    if epochs is None or step != epochs * progress.get("steps_per_epoch", 0):
        experiment["step"] = step
    if branch not in (None, DEFAULT_BRANCH):
        experiment["branch"] = branch
    return {"seed": config["seed"], "hash": experiment_hash(experiment)}


@dataclass(frozen=True)
class Kind:
    """What a saved state is.

    format, version: stored in the file.
    name: for messages.
    """

    format: str
    version: int
    name: str


CHECKPOINT = Kind(FORMAT, VERSION, "checkpoint of tools/pretrain.py")


def write_state(path: Path, state: dict[str, Any], *, kind: Kind) -> None:
    """Publish `state` at `path`: written, flushed, fsynced, read back and compared with its checksums, renamed.

    Raises CheckpointError (disk full, no permission, a disk that does not give back what it was given). The DataLoader's error
    about a lost process that comes in between is raised as it is: no disk is to blame for it.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path, check=check_own_file) as file:
            torch.save({"format": kind.format, "version": kind.version, **state}, file)
    except (OSError, RuntimeError, CheckpointError) as error:
        lost = _loss_of_a_worker(error)
        if lost is not None:
            raise lost from None
        raise _not_written(path, error, state) from error


def _loss_of_a_worker(error: BaseException) -> RuntimeError | None:
    """The DataLoader's error about a process of its own: its signal handler raises it wherever the main process happens to be."""
    found: BaseException | None = error
    while found is not None:
        if isinstance(found, RuntimeError) and "DataLoader worker" in str(found):
            return found
        found = found.__context__
    return None


def _not_written(path: Path, error: Exception, state: Mapping[str, Any]) -> CheckpointError:
    if isinstance(error, CheckpointError):
        return CheckpointError(
            f"could not write {path}: what the disk gives back is not what was written ({error}); "
            "what was saved before is untouched"
        )
    # Of a full disk torch reports where its own writer stopped; the system's reason is the error before that.
    reason = error.__context__ if isinstance(error.__context__, OSError) else error
    advice = _room(path.parent, state) if getattr(reason, "errno", None) in FULL else ""
    return CheckpointError(f"could not write {path}: {reason}; what was saved before is untouched{advice}")


def _room(folder: Path, state: Mapping[str, Any]) -> str:
    """What a write to a full disk needed and found."""
    needed, free = size_of(state), shutil.disk_usage(folder).free
    return f". It needs {needed / 1e6:.0f} MB; the disk has {free / 1e6:.0f} MB free, less where a quota ends before it"


def warning_of_space(folder: Path, state: Mapping[str, Any], *, to_come: int) -> str | None:
    """What to say when the disk of `folder` is too small for `to_come` more checkpoints like `state`, None when it is not."""
    needed, free = size_of(state) * to_come, shutil.disk_usage(folder).free
    if needed <= free:
        return None
    return (
        f"the disk of {folder} has {free / 1e9:.1f} GB free, and the {to_come} checkpoints that this run is yet to keep need "
        f"{needed / 1e9:.1f} GB; make room, or raise runtime.keep_every_epochs"
    )


def size_of(state: Mapping[str, Any]) -> int:
    """Bytes that `state` takes in a file, near enough: those of its tensors."""
    return sum(tensor.nbytes for _, tensor in _tensors(state))


def read_state(path: Path, *, kind: Kind) -> dict[str, Any]:
    """What `write_state` wrote, on the CPU, with `format` and `version`. Raises CheckpointError if it is damaged or another kind.

    Its checksums are checked, and nothing in it can run (pretrain/base/own_files.py).
    """
    try:
        state = read_own_file(path)
    except CheckpointError as error:
        raise CheckpointError(f"not a readable {kind.name}: {error}") from None
    if not isinstance(state, dict) or state.get("format") != kind.format:
        raise CheckpointError(f"{path} is not a {kind.name} (no format {kind.format!r})")
    if state.get("version") != kind.version:
        raise CheckpointError(
            f"{path}: expected version {kind.version} of a {kind.name}, found {state.get('version')!r}"
        )
    return state


def newest_checkpoint(directory: Path, *, quarantine: bool) -> tuple[Path, dict[str, Any]] | None:
    """The newest readable checkpoint in `directory`, None when there is none at all.

    A damaged one is reported and, with `quarantine`, renamed to *.damaged; the one before is taken. If all are damaged:
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
    """Delete all but the `newest` checkpoints and those whose step is in `keep_steps`.

    Called once the newest is written, which has been read back by then: two good ones are there at any time.
    """
    paths = sorted(directory.glob("step_*.pt"))
    for path in paths[:-newest]:
        if int(path.stem.removeprefix("step_")) not in keep_steps:
            path.unlink()


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
        raise CheckpointError(
            f"{path} is a folder without checkpoints of tools/pretrain.py (step_*.pt); pass a file in it"
        )
    return paths[-1]
