"""Where a detector's weights come from, whether they may be used, and the proof that they arrived.

In: MODEL.WEIGHTS and the run's mode. Out: a `WeightsPlan` before anything is built; after loading, one sentence on what was
checked. Weights without a sidecar are refused unless they are Detectron2's own, or the user vouches for them.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from detectron2.config import CfgNode
from torch import nn

from pretrain.errors import CheckpointError, ConfigError
from transfer.lint import (
    CATALOG_SCHEMES,
    check_backbone_loaded,
    check_model_loaded,
    check_settings,
    file_sha256,
    read_tensors,
)

LAST_CHECKPOINT = "last_checkpoint"  # Detectron2's pointer to the newest checkpoint of a run


def sidecar_path(weights: Path) -> Path:
    """The sidecar's place: beside the weights, suffix .json."""
    return weights.with_suffix(".json")


@dataclass(frozen=True)
class WeightsPlan:
    """kind: "random" = none; "catalog" = Detectron2's own; "converted" = with a sidecar that the configuration agrees with;
    "trusted" = the user vouches; "checkpoint" = a complete detector. weights: file or address. sidecar: its content."""

    kind: Literal["random", "catalog", "converted", "trusted", "checkpoint"]
    weights: str
    sidecar: dict[str, Any] | None = None

    @property
    def note(self) -> str:
        """One sentence for the log."""
        return {
            "random": "weights: random initialisation (MODEL.WEIGHTS is empty)",
            "catalog": f"weights: {self.weights} from Detectron2's catalog",
            "converted": f"weights: {self.weights}; the configuration agrees with its sidecar",
            "trusted": f"weights: {self.weights} WITHOUT a sidecar: you vouch (--trust) for channel order, mean, std and stride",
            "checkpoint": f"weights: {self.weights}, a complete detector",
        }[self.kind]


def plan_weights(config: CfgNode, *, eval_only: bool, resume: bool, trust: bool) -> WeightsPlan:
    """Decide before anything is built. Raises ConfigError or CheckpointError with what to type instead."""
    weights = config.MODEL.WEIGHTS
    pointer = Path(config.OUTPUT_DIR) / LAST_CHECKPOINT
    if resume and pointer.is_file():
        return WeightsPlan("checkpoint", _existing(str(pointer.parent / pointer.read_text().strip())))
    if eval_only:
        if not weights:
            raise ConfigError(
                "--eval-only needs a detector: type MODEL.WEIGHTS RUN/model_final.pth, or --resume for OUTPUT_DIR's own"
            )
        return WeightsPlan("checkpoint", weights if weights.startswith(CATALOG_SCHEMES) else _local(weights, trust))
    if not weights:
        return WeightsPlan("random", "")
    if weights.startswith(CATALOG_SCHEMES):
        return WeightsPlan("catalog", weights)
    path = Path(_local(weights, trust))
    if not sidecar_path(path).is_file():
        if trust:
            return WeightsPlan("trusted", weights)
        raise CheckpointError(
            f"{weights} has no sidecar at {sidecar_path(path)}, so nothing says which input it was trained on. Convert the "
            f"checkpoint with `python tools/convert_weights.py INPUT {weights}`, or add --trust to vouch for it yourself"
        )
    from transfer.sidecar import read_sidecar

    sidecar = read_sidecar(path)
    found = file_sha256(path)
    if found != sidecar.weights_sha256:
        raise CheckpointError(
            f"{weights} is not the file its sidecar describes: sha256 {found[:12]}... found, {sidecar.weights_sha256[:12]}... "
            "expected. Convert the checkpoint again"
        )
    check_settings(config, sidecar.detectron2, where=str(sidecar_path(path)))
    return WeightsPlan("converted", weights, asdict(sidecar))


def verify_loaded(plan: WeightsPlan, model: nn.Module) -> str:
    """Hold the loaded model against the file, tensor by tensor. Returns one sentence; raises CheckpointError."""
    if plan.kind == "random":
        return "backbone: random initialisation"
    tensors = read_tensors(plan.weights)
    check = check_model_loaded if plan.kind == "checkpoint" else check_backbone_loaded
    return check(model, tensors, where=plan.weights)


def _local(weights: str, trust: bool) -> str:
    if "://" in weights and not trust:
        raise ConfigError(
            f"MODEL.WEIGHTS {weights} is an address; expected a file, or add --trust to fetch and vouch for it"
        )
    if weights.endswith(".pkl") and not trust:
        raise CheckpointError(
            f"{weights} is a pickle, which runs code when Detectron2 loads it. Convert it with `python tools/convert_weights.py "
            f"{weights} OUTPUT.pth`, or add --trust if you know where it comes from"
        )
    return weights if "://" in weights else _existing(weights)


def _existing(path: str) -> str:
    if not Path(path).is_file():
        raise CheckpointError(f"no weight file at {path} (MODEL.WEIGHTS)")
    return path
