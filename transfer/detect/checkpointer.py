"""Detectron2's checkpointer on the project's one safe reader and one safe writer.

In: a weight file of any kind that Detectron2 loads. Out: what its own checkpointer would give, or a CheckpointError. Its own
reader unpickles a `.pkl` as it stands, which runs whatever is in it; here nothing can run, wherever the name of the file
came from (MODEL.WEIGHTS, the catalog, OUTPUT_DIR/last_checkpoint).

What a run saves is whole or absent, read back before it gets its name, without a value that is not finite, and Detectron2 reads it:
model_0000041.pth after 42 iterations, model_final.pth, the name of the newest in last_checkpoint. The newest and the one before are
kept; a damaged one is put aside as *.damaged. model_best.pth holds the weights alone.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detectron2.checkpoint import DetectionCheckpointer
from torch import Tensor

from pretrain.base.atomic import write_text
from pretrain.base.errors import CheckpointError
from pretrain.base.weight_files.torch_files import in_memory
from pretrain.run.checkpoint import Kind, require_finite, write_state
from transfer.conversion.weight_files import read_weight_file
from transfer.detect.log import LOGGER

CLASS_NAMES = "class_names"  # in a checkpoint of a detector: a list, in the order of its outputs
LAST_CHECKPOINT = "last_checkpoint"  # Detectron2's pointer to the newest checkpoint of a run
FINAL, BEST = "model_final", "model_best"  # names of checkpoints, without .pth
DETECTOR = Kind("infomin-transfer/detector", 1, "checkpoint of tools/train_net.py")
NUM_KEPT = 2
DAMAGED = ".damaged"
_ON_THE_WAY = re.compile(r"model_(\d{7,})\.pth")
EXPECTED = "it holds no tensors where they are expected, {'model': {name: tensor}}"


def read_for_detectron2(path: Path) -> dict[str, Any]:
    """{"model": name -> tensor, and what else the file holds}. Raises CheckpointError.

    The rules are Detectron2's (detectron2/checkpoint/detection_checkpoint.py): a `.pkl` without an author is Caffe2's, a
    `.pyth` is pycls's, and a file without "model" is one.
    """
    content = _as_detectron2(in_memory(read_weight_file(path)), path)  # a run saves over the file that it goes on from
    model = content["model"]
    foreign = (
        [name for name, value in model.items() if not isinstance(value, Tensor)] if isinstance(model, dict) else []
    )
    if not isinstance(model, dict) or foreign:
        raise CheckpointError(
            f"{path}: {EXPECTED}" + (f"; no tensor: {', '.join(map(str, foreign[:3]))}" if foreign else "")
        )
    return content


def class_names_in(path: Path) -> tuple[str, ...] | None:
    """The class names that a detector's own checkpoint holds, None where it holds none. Raises CheckpointError."""
    names = read_for_detectron2(path).get(CLASS_NAMES)
    if names is None:
        return None
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise CheckpointError(f"{path}: its {CLASS_NAMES} are no list of names; the file is damaged")
    return tuple(names)


def _as_detectron2(content: Any, path: Path) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: {EXPECTED}")
    if path.suffix == ".pkl" and not ("model" in content and "__author__" in content):
        blobs = content.get("blobs", content)
        if not isinstance(blobs, dict):
            raise CheckpointError(f"{path}: {EXPECTED}")
        model = {name: value for name, value in blobs.items() if not str(name).endswith("_momentum")}
        return {"model": model, "__author__": "Caffe2", "matching_heuristics": True}
    if path.suffix == ".pyth" and isinstance(content.get("model_state"), dict):
        state = content["model_state"]
        model = {name: value for name, value in state.items() if not str(name).endswith("num_batches_tracked")}
        return {"model": model, "__author__": "pycls", "matching_heuristics": True}
    return content if "model" in content else {"model": content}


def name_of(iterations: int) -> str:
    """The name, without .pth, of a checkpoint after so many iterations: Detectron2 counts them from 0."""
    return f"model_{iterations - 1:07d}"


@dataclass(frozen=True)
class Newest:
    """The checkpoint that a run goes on from.

    path: the newest one that can be read.
    damaged: (file, what is wrong with it) of those before it that cannot.
    """

    path: Path
    damaged: tuple[tuple[Path, str], ...] = ()

    @property
    def warnings(self) -> tuple[str, ...]:
        """What to say of the damaged ones."""
        return tuple(f"{reason}; taking {self.path.name}" for _, reason in self.damaged)


def newest_checkpoint(folder: Path) -> Newest | None:
    """The newest readable checkpoint of a run, None where there is none at all. Nothing is written.

    It is the one that last_checkpoint names; where that is damaged or gone, the one with the most iterations among the others. If
    all are damaged: CheckpointError, never a silent start from scratch.
    """
    pointer = folder / LAST_CHECKPOINT
    named = folder / pointer.read_text(encoding="utf-8", errors="replace").strip() if pointer.is_file() else None
    damaged: list[tuple[Path, str]] = []
    if named is not None and named.is_file():
        try:
            read_for_detectron2(named)
            return Newest(named)
        except CheckpointError as error:
            damaged.append((named, str(error)))
    readable: list[tuple[int, Path]] = []
    for path in sorted(folder.glob("model_*.pth")):
        if path == named or not (path.stem == FINAL or _ON_THE_WAY.fullmatch(path.name)):
            continue
        try:
            readable.append((int(read_for_detectron2(path).get("iteration", -1)), path))
        except CheckpointError as error:
            damaged.append((path, str(error)))
    if readable:
        return Newest(max(readable)[1], tuple(damaged))
    if damaged:
        reasons = "; ".join(reason for _, reason in damaged)
        raise CheckpointError(
            f"none of the {len(damaged)} checkpoints in {folder} is readable, so the run cannot go on: {reasons}. Start again with "
            "another OUTPUT_DIR"
        )
    return None


def settle(newest: Newest) -> None:
    """Put the damaged checkpoints aside and let last_checkpoint name the one that is taken. For the holder of the folder's lock."""
    for path, _ in newest.damaged:
        path.rename(path.with_name(path.name + DAMAGED))
    pointer = newest.path.parent / LAST_CHECKPOINT
    if not pointer.is_file() or pointer.read_text(encoding="utf-8", errors="replace").strip() != newest.path.name:
        write_text(pointer, newest.path.name)


class SafeCheckpointer(DetectionCheckpointer):
    """DetectionCheckpointer that reads and writes safely; matching of names and reports are Detectron2's."""

    def _load_file(self, filename: str) -> dict[str, Any]:
        return read_for_detectron2(Path(filename))

    def save(self, name: str, **kwargs: Any) -> None:
        """Publish model, checkpointables and `kwargs` as NAME.pth and point last_checkpoint at it; then all but the newest
        NUM_KEPT go. Raises CheckpointError; what was saved before is untouched then."""
        if not self.save_dir or not self.save_to_disk:
            return
        parts = {key: part.state_dict() for key, part in self.checkpointables.items()}
        path = self._publish(name, {**parts, **kwargs})
        write_text(path.parent / LAST_CHECKPOINT, path.name)
        others = [found for found in path.parent.glob("model_*.pth") if _ON_THE_WAY.fullmatch(found.name)]
        others = sorted((found for found in others if found != path), key=lambda found: (len(found.name), found.name))
        for old in others[: len(others) - (NUM_KEPT - 1)]:
            old.unlink()

    def save_best(self, **kwargs: Any) -> None:
        """Publish the weights, the class names and `kwargs` as model_best.pth: nothing goes on from it."""
        if self.save_dir and self.save_to_disk:
            names = self.checkpointables[CLASS_NAMES].state_dict()
            self._publish(BEST, {CLASS_NAMES: names, **kwargs})

    def _publish(self, name: str, content: dict[str, Any]) -> Path:
        path = Path(self.save_dir) / f"{name}.pth"
        state = {"model": self.model.state_dict(), **content}
        require_finite(path, state)
        write_state(path, state, kind=DETECTOR)
        LOGGER.info("saved %s", path)
        return path
