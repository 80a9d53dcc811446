"""What a recognised checkpoint wants as input, and the checkpoints that only point to their tensors.

In: a layout, the file's content and its path. Out: the `InputContract` with notes on where it comes from, or a CheckpointError.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pretrain.base.contract import InputContract
from pretrain.base.errors import CheckpointError
from pretrain.base.strict import load_yaml
from pretrain.run.checkpoint import FORMAT, KEYS
from transfer.conversion.companions import huggingface_contract, timm_contract
from transfer.conversion.fitting import DETECTOR_USES
from transfer.conversion.layouts import IMAGENET_RGB, OWN_LAYOUT, TOWERS_LAYOUT, VISSL_TRUNK, Layout
from transfer.conversion.sidecar import FORMAT as SIDECAR_FORMAT
from transfer.conversion.sidecar import read_sidecar, sidecar_path

COMPANIONS = {"huggingface": huggingface_contract, "timm": timm_contract}
# "__author__" of converters whose output is RGB with ImageNet's mean and deviation and v1.5 strides, wherever they got it:
# facebookresearch/moco, HobbitLong/PyContrast, detectron2 tools/convert-torchvision-to-d2.py.
RGB_AUTHORS = frozenset({"MOCO", "Yonglong", "torchvision"})
DETECTOR_CONFIG = "config.yaml"  # Detectron2's dump into OUTPUT_DIR
SHARDS = (
    "is a sharded VISSL checkpoint: it holds the names of files, not tensors. Join them first with VISSL's "
    "extra_scripts/convert_sharded_checkpoint.py, and convert what that writes"
)


def refuse_shards(content: Any, path: Path) -> None:
    """Raises CheckpointError for VISSL's sharded and sliced checkpoints, with the script that joins them."""
    if not isinstance(content, Mapping):
        return
    if isinstance(content.get("type"), str) and re.search(r"shard|slice", content["type"]):
        raise CheckpointError(f"{path} {SHARDS}")
    trunk: Any = content
    for key in VISSL_TRUNK:
        trunk = trunk.get(key) if isinstance(trunk, Mapping) else None
    if isinstance(trunk, Mapping) and any(isinstance(value, str) for value in trunk.values()):
        raise CheckpointError(f"{path} {SHARDS}")


def contract_of(layout: Layout, arch: str, content: Any, path: Path) -> tuple[InputContract, tuple[str, ...]]:
    """(the input contract, notes). Raises CheckpointError when the file should say it and does not."""
    notes = (layout.note,) if layout.note else ()
    if layout.name in (OWN_LAYOUT, TOWERS_LAYOUT):
        return _own_contract(content, path), notes
    if layout.naming == "detectron2":
        return _detectron2_contract(layout, content, path), notes
    if layout.naming == "detectron2 detector":
        return _detector_contract(path), notes
    contract = layout.by_arch.get(arch, layout.contract) or IMAGENET_RGB
    if layout.name.startswith(("mmselfsup", "openselfsup")) and _is_caffe_style(content):
        return replace(contract, stride_in_1x1=True), (
            *notes,
            "style caffe in the file's configuration: stride in the 1x1",
        )
    if layout.companion is not None:
        found = _own_sidecar(path) or COMPANIONS[layout.companion](path, contract)
        if found is not None:
            return found[0], (*notes, found[1])
    return contract, notes


def _own_sidecar(path: Path) -> tuple[InputContract, str] | None:
    """What the sidecar of one of our own exports says, None where the JSON file beside the weights is somebody else's."""
    sidecar = sidecar_path(path)
    if not sidecar.is_file() or SIDECAR_FORMAT not in sidecar.read_text(encoding="utf-8", errors="replace"):
        return None
    return read_sidecar(path).contract, f"input as the sidecar {sidecar.name} says"


def _own_contract(content: Any, path: Path) -> InputContract:
    if content.get("format") != FORMAT or set(KEYS) - set(content):
        raise CheckpointError(f"{path} looks like a checkpoint of tools/pretrain.py, but lacks parts of it")
    return InputContract.from_dict(content["contract"])


def _detectron2_contract(layout: Layout, content: Any, path: Path) -> InputContract:
    author = content.get("__author__")
    if layout.name == "detectron2-converted" and not sidecar_path(path).is_file():
        if author in RGB_AUTHORS:
            return IMAGENET_RGB
        raise CheckpointError(
            f"{path} is already in Detectron2's names, has no sidecar at {sidecar_path(path)}, and its author is {author!r}: "
            f"nothing says which input it wants (known authors: {', '.join(sorted(RGB_AUTHORS))}). Convert the checkpoint "
            "that it was made from"
        )
    return read_sidecar(path).contract


def _detector_contract(path: Path) -> InputContract:
    """The contract in the configuration that a run of Detectron2 leaves beside its detectors."""
    config = path.with_name(DETECTOR_CONFIG)
    if not config.is_file():
        raise CheckpointError(
            f"{path} is a whole detector, and no {DETECTOR_CONFIG} beside it says which input it was trained on. Put the one of "
            f"its run there to convert its backbone. The detector itself needs no conversion: {DETECTOR_USES.format(path)}"
        )
    values = load_yaml(config)
    try:
        model = values["MODEL"]
        mean, std = (tuple(float(value) / 255 for value in model[key]) for key in ("PIXEL_MEAN", "PIXEL_STD"))
        contract = {
            **InputContract().to_dict(),
            "channel_order": values["INPUT"]["FORMAT"],
            "mean": mean,
            "std": std,
            "stride_in_1x1": model["RESNETS"]["STRIDE_IN_1X1"],
        }
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{config} is not the whole configuration of a detector ({type(error).__name__}: {error})"
        ) from None
    return InputContract.from_dict(contract)


def _is_caffe_style(content: Any) -> bool:
    """Whether the configuration that mmcv keeps in `meta` builds a caffe ResNet."""
    meta = content.get("meta") if isinstance(content, Mapping) else None
    text = str(meta.get("cfg", meta.get("config", ""))) if isinstance(meta, Mapping) else ""
    return re.search(r"style\s*[=:]\s*['\"]caffe['\"]|['\"]style['\"]\s*:\s*['\"]caffe['\"]", text) is not None
