"""Detectron2's own files: .pth (the default of a conversion) and the legacy pickle, and how Detectron2 loads both.

In: a `Backbone`. Out: OUTPUT.pth, or OUTPUT.pkl as Detectron2's model zoo has them; a `LoadedNetwork` through Detectron2's
checkpointer.
"""

from __future__ import annotations

import logging
import os
import pickle
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from pretrain.base.shapes_only import shapes_only
from pretrain.model.encoder import STAGES
from transfer.conversion.layouts import AUTHOR
from transfer.conversion.loaded_network import Preprocessing, TorchNetwork
from transfer.conversion.names import DETECTRON2
from transfer.conversion.sidecar import detectron2_settings
from transfer.conversion.sources import Backbone
from transfer.conversion.values import refuse_infinite
from transfer.conversion.write_torch import write_torch_file

# numpy 2 moved its pickle helper. The old place is understood by numpy 1 and 2, and by this project's own reader.
NEW_PLACE, OLD_PLACE = b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n"


def write(path: Path, backbone: Backbone) -> None:
    """{"model": {name: tensor}, ...}: what Detectron2 reads from a .pth. Raises CheckpointError for a damaged source."""
    tensors = DETECTRON2.renamed(backbone.tensors)
    content = {
        "model": tensors,
        "matching_heuristics": True,  # lets Detectron2 find backbone.bottom_up.* (FPN) and roi_heads.res5.* (C4)
        "__author__": AUTHOR,
        "arch": backbone.arch,
    }
    refuse_infinite(write_torch_file(path, content, tensors, file=backbone.file), backbone.path)


def write_pickle(path: Path, backbone: Backbone) -> None:
    """{"model": {name: array}, "__author__", "matching_heuristics"}: what Detectron2 reads from a .pkl."""
    content = {
        "model": {name: tensor.numpy() for name, tensor in DETECTRON2.renamed(backbone.tensors).items()},
        "__author__": AUTHOR,
        "matching_heuristics": True,  # as in the .pth: one file for FPN, C4 and DC5
    }
    # Protocol 3: bytes as they are, and globals as plain text, named once, before the first array's bytes.
    data = pickle.dumps(content, protocol=3).replace(NEW_PLACE, OLD_PLACE, 1)
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def load(path: Path, backbone: Backbone) -> TorchNetwork:
    """Detectron2's backbone for the sidecar's settings, loaded from `path` by Detectron2's checkpointer."""
    return load_with_settings(path, detectron2_settings(backbone.arch, backbone.contract))


def load_with_settings(path: Path, settings: Mapping[str, Any]) -> TorchNetwork:
    """As `load`, for given settings. What the file does not fill keeps a value that no checkpoint has, so it is seen."""
    from detectron2.checkpoint import DetectionCheckpointer

    target = detectron2_backbone(settings).to_empty(device="cpu")
    for tensor in target.state_dict().values():
        tensor.fill_(7.25) if tensor.is_floating_point() else tensor.zero_()
    with _quiet("fvcore.common.checkpoint", "detectron2.checkpoint"):
        DetectionCheckpointer(target).load(str(path))
    preprocessing = Preprocessing(
        settings["INPUT.FORMAT"], tuple(settings["MODEL.PIXEL_MEAN"]), tuple(settings["MODEL.PIXEL_STD"])
    )
    return TorchNetwork(target, preprocessing, _stages, DETECTRON2)


def detectron2_backbone(settings: Mapping[str, Any]) -> nn.Module:
    """Detectron2's ResNet for the sidecar's settings, with all five stages as outputs, in evaluation mode, on the meta device."""
    from detectron2.config import get_cfg
    from detectron2.layers import ShapeSpec
    from detectron2.modeling import build_backbone

    config = get_cfg()
    config.MODEL.BACKBONE.NAME = "build_resnet_backbone"
    config.MODEL.BACKBONE.FREEZE_AT = 0
    config.MODEL.RESNETS.NORM = "BN"
    config.MODEL.RESNETS.OUT_FEATURES = list(STAGES)
    for key, value in settings.items():
        config.merge_from_list([key, value])
    with shapes_only():
        backbone: nn.Module = build_backbone(config, ShapeSpec(channels=3))
    return backbone.eval()


def _stages(module: nn.Module, pixels: Tensor) -> dict[str, Tensor]:
    features: dict[str, Tensor] = module(pixels)
    return features


@contextmanager
def _quiet(*names: str) -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
