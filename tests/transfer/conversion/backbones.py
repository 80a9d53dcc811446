"""Backbones without a file behind them, and proofs without a network: what the tests of targets and sidecars share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pretrain.base.contract import InputContract
from pretrain.base.weight_files.torch_files import TorchFile
from tests.transfer.conversion.checkpoints import encoder_state
from transfer.conversion.sources import Backbone, find_backbone

BGR = InputContract(channel_order="BGR", mean=(0.4, 0.45, 0.48), std=(0.2, 0.21, 0.22))
ODD_RGB = InputContract(mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))


def backbone_of(
    arch: str = "resnet18", seed: int = 0, contract: InputContract | None = None, path: str | Path = "source.pth"
) -> Backbone:
    """An encoder as transfer/conversion/sources.py would have read it."""
    tensors = {name: t for name, t in encoder_state(arch, seed).items() if not name.endswith("num_batches_tracked")}
    contract = contract or InputContract()
    return Backbone(arch, tensors, contract, "torchvision", "backbone", ("backbone",), Path(path))


def taken(content: Any, path: Path, **options: Any) -> Backbone:
    """`load_backbone` for a file with this content, which is not written."""
    return find_backbone(TorchFile(content), path, **options)


def passed_proof(tensors: int = 100) -> dict:
    """A proof that passed, as a sidecar holds it. The figures are made up."""
    return {
        "tensors_placed": tensors,
        "tensors_expected": tensors,
        "images": "4 x 96 x 128",
        "tolerance": 1e-5,
        "relative_difference": dict.fromkeys(("stem", "res2", "res3", "res4", "res5"), 1e-06),
        "negative_controls": {"channel order": 0.5, "pixel std of 1": 50.0, "two tensors swapped": 0.8},
        "activations": {},
    }
