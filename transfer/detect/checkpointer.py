"""Detectron2's checkpointer on the project's one safe reader.

In: a weight file of any kind that Detectron2 loads. Out: what its own checkpointer would give, or a CheckpointError. Its own
reader unpickles a `.pkl` as it stands, which runs whatever is in it; here nothing can run, wherever the name of the file
came from (MODEL.WEIGHTS, the catalog, OUTPUT_DIR/last_checkpoint).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from detectron2.checkpoint import DetectionCheckpointer
from torch import Tensor

from pretrain.base.errors import CheckpointError
from pretrain.base.weight_files.torch_files import in_memory
from transfer.conversion.weight_files import read_weight_file

CLASS_NAMES = "class_names"  # in a checkpoint of a detector: a list, in the order of its outputs
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


class SafeCheckpointer(DetectionCheckpointer):
    """DetectionCheckpointer that reads safely; saving, matching of names and reports are Detectron2's."""

    def _load_file(self, filename: str) -> dict[str, Any]:
        return read_for_detectron2(Path(filename))
