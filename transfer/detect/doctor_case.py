"""What the checks of doctor.py share: the case that they look at, and how they say what they found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from detectron2.config import CfgNode

from pretrain.base.errors import UserError
from transfer.conversion.published import SUPERVISED, catalog_entry, is_supervised_address
from transfer.conversion.sidecar import parse_sidecar, sidecar_path
from transfer.data.findings import Finding, Severity
from transfer.data.records import DetectionData
from transfer.data.spec import PreparedData
from transfer.detect.anchors import (
    AnchorAdvice,
    anchors_to_pass,
    level_sizes,
    level_strides,
)
from transfer.detect.checks import config_value
from transfer.detect.inits import Init
from transfer.detect.memory import MemoryEstimate, estimate_memory

TRAINED_BN = ("BN", "SyncBN", "nnSyncBN", "naiveSyncBN", "naiveSyncBN_N")
LAST_STAGE = 5  # FREEZE_AT 5: the whole backbone
FEW_ITERATIONS = 50  # a trial, which nobody judges by its figures
LONG_RUN = 1000  # iterations


@dataclass(frozen=True)
class Case:
    """What a check sees: the arguments of `diagnose_config`, and what several checks derive from them."""

    config: CfgNode
    data: PreparedData | None
    init: Init | None
    num_processes: int
    memory: int | None

    @cached_property
    def weights(self) -> str:
        return self.init.weights if self.init is not None else self.config.MODEL.WEIGHTS

    @cached_property
    def trained(self) -> Literal["random", "with labels", "without labels"]:
        """How the weights were trained; weights of which nothing is known count as trained without labels."""
        if not self.weights:
            return "random"
        if catalog_entry(self.weights) is not None or is_supervised_address(self.weights):
            return "with labels"
        method = (sidecar_of(self.weights) or {}).get("source", {}).get("method")
        return "with labels" if method == SUPERVISED else "without labels"

    @cached_property
    def resnet_norm(self) -> str:
        return str(self.config.MODEL.RESNETS.NORM)

    @cached_property
    def norms(self) -> dict[str, str]:
        """Key -> kind, of the norms that this detector builds."""
        keys = ["MODEL.RESNETS.NORM"]
        keys += ["MODEL.FPN.NORM"] if "fpn" in self.config.MODEL.BACKBONE.NAME else []
        if self.config.MODEL.META_ARCHITECTURE != "RetinaNet" and "Res5" not in self.config.MODEL.ROI_HEADS.NAME:
            keys += ["MODEL.ROI_BOX_HEAD.NORM", *(["MODEL.ROI_MASK_HEAD.NORM"] if self.config.MODEL.MASK_ON else [])]
        return {key: str(config_value(self.config, key)) for key in keys}

    @cached_property
    def trains_batchnorm(self) -> bool:
        frozen = self.config.MODEL.BACKBONE.FREEZE_AT >= LAST_STAGE
        return any(norm in TRAINED_BN for key, norm in self.norms.items() if not (frozen and "RESNETS" in key))

    @property
    def images(self) -> int:
        return int(self.config.SOLVER.IMS_PER_BATCH)

    @property
    def images_a_process(self) -> int:
        return max(1, self.images // self.num_processes)

    @property
    def train(self) -> DetectionData | None:
        return self.data.train if self.data is not None else None

    @property
    def test(self) -> DetectionData | None:
        return self.data.test if self.data is not None else None

    @cached_property
    def estimate(self) -> MemoryEstimate | None:
        """None for a detector that cannot be built without its user's help."""
        try:
            return estimate_memory(self.config)
        except Exception:  # a configuration of parts that fit not together; building it will say so
            return None

    @cached_property
    def anchor_levels(self) -> bool:
        """Whether the anchors can be compared at all."""
        return len(level_sizes(self.config)) == len(level_strides(self.config)) > 0

    @cached_property
    def advice(self) -> AnchorAdvice | None:
        return (
            anchors_to_pass(self.train.records, self.config) if self.train is not None and self.anchor_levels else None
        )


def finding(what: str, severity: Severity, where: str, message: str, change: str = "") -> Finding:
    """One with the id config/WHAT."""
    return Finding(f"config/{what}", severity, where, message, change)


def sidecar_of(weights: str) -> Mapping[str, Any] | None:
    """What lies beside the weights, unproven; None without one that can be read, and for an address."""
    path = Path(weights)
    if "://" in weights or not sidecar_path(path).is_file():
        return None
    try:
        return parse_sidecar(path).to_dict()
    except UserError:
        return None  # the run refuses it with its reason
