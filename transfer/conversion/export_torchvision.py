"""A torchvision state dictionary: written, and loaded as a user would.

In: a `Backbone`. Out: OUTPUT.pth, a plain dictionary name -> tensor without a classifier; a `LoadedNetwork` of torchvision's.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from pretrain.base.atomic import atomic_file
from pretrain.base.errors import CheckpointError
from transfer.conversion.loaded_network import Preprocessing, TorchNetwork, run_with_hooks
from transfer.conversion.sources import Backbone


def write(path: Path, backbone: Backbone) -> None:
    """torch.save of the tensors under torchvision's names. Raises CheckpointError when the disk is full."""
    try:
        with atomic_file(path) as file:
            torch.save(dict(backbone.tensors), file)
    except RuntimeError as error:  # torch reports a full disk so
        raise CheckpointError(f"could not write {path}: {error}") from error


def load(path: Path, backbone: Backbone) -> TorchNetwork:
    """torchvision's network of that name, its classifier replaced by nothing, loaded strictly."""
    import torchvision

    network = torchvision.models.get_model(backbone.arch, weights=None)
    network.fc = nn.Identity()  # the file has no classifier: a strict load says so unless the network has none either
    network.load_state_dict(torch.load(path, weights_only=True), strict=True)
    return TorchNetwork(network.eval(), Preprocessing.of(backbone.contract), run_with_hooks)
