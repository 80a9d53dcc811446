"""How an initialisation is called in results, tables and the report: one weight file, one name, whoever measures it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pretrain.base.errors import CheckpointError
from pretrain.base.record import Initialisation, NameSource
from pretrain.run.checkpoint import pretraining_of, read_checkpoint, resolve_checkpoint
from transfer.conversion.sidecar import parse_sidecar, sidecar_path

RANDOM = "random"
SUPERVISED = "supervised"
IMAGENET_CATALOG = "detectron2://ImageNetPretrained"  # Detectron2's own, all of them trained with labels


def initialisation_of(
    weights: str,
    *,
    asked: str | None = None,
    sidecar: Mapping[str, Any] | None = None,
    branch: str | None = None,
    random_seed: int | None = None,
) -> Initialisation:
    """STAND-IN until the real one is merged: name, file and hash."""
    name = asked or initialisation_name(weights, sidecar=sidecar)
    source: NameSource = "asked" if asked else "random" if name == RANDOM else "unknown"
    if not weights or weights.partition(":")[0] == RANDOM:
        return Initialisation(name, source, weights=weights, random_seed=random_seed)
    path = resolve_checkpoint(Path(weights))
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    pretraining = None
    if path.name.startswith("step_"):
        pretraining = pretraining_of(read_checkpoint(path), sha256=sha256, branch=branch)
    return Initialisation(name, source, weights=weights, sha256=sha256, pretraining=pretraining)


def initialisation_name(weights: str, *, sidecar: Mapping[str, Any] | None = None) -> str:
    """The name that `weights` have unless the user gives another one.

    weights: "" or random:ARCH for random ones, a file, or an address. sidecar: of the file; read from beside it if None.
    What the sidecar or a checkpoint of our own says comes first (torchvision's weights are trained with labels), then the name
    of the file.
    """
    if not weights or weights.partition(":")[0] == RANDOM:
        return RANDOM
    if weights.startswith(IMAGENET_CATALOG):
        return SUPERVISED
    source = (sidecar if sidecar is not None else _sidecar_beside(Path(weights))).get("source") or {}
    method = source.get("method") or _own_method(Path(weights))
    if method:
        return str(method)
    return SUPERVISED if source.get("layout") == "torchvision" else Path(weights).stem


def _sidecar_beside(weights: Path) -> Mapping[str, Any]:
    """Empty where there is none that can be read: whether it must be there is the measurement's question."""
    if not sidecar_path(weights).is_file():
        return {}
    try:
        return parse_sidecar(weights).to_dict()
    except CheckpointError:
        return {}


def _own_method(weights: Path) -> str | None:
    """The method of a pre-training run or one of its checkpoints, None for any other file."""
    try:
        path = resolve_checkpoint(weights)
        return str(read_checkpoint(path)["method"]) if path.name.startswith("step_") else None
    except (CheckpointError, OSError):
        return None
