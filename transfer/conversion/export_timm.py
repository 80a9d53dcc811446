"""A safetensors file for timm: written, and loaded by timm's own `create_model`.

In: a `Backbone`. Out: OUTPUT.safetensors with torchvision's names, which are timm's, and the input contract as timm's
`pretrained_cfg` in the file's metadata; a `LoadedNetwork` of timm's.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pretrain.base.atomic import atomic_file
from transfer.conversion.loaded_network import Preprocessing, TorchNetwork, run_with_hooks
from transfer.conversion.sources import Backbone

METADATA_KEY = "pretrained_cfg"


def write(path: Path, backbone: Backbone) -> None:
    """Tensors and metadata {"pretrained_cfg": JSON}: architecture, mean, std, and that there is no classifier."""
    from safetensors.torch import save

    contract = backbone.contract
    settings = {
        "architecture": backbone.arch,
        "num_classes": 0,
        "mean": list(contract.mean),
        "std": list(contract.std),
    }
    data = save(dict(backbone.tensors), metadata={"format": "pt", METADATA_KEY: json.dumps(settings)})
    with atomic_file(path) as file:
        file.write(data)


def read_settings(path: Path) -> dict[str, Any]:
    """The `pretrained_cfg` of a file that `write` made."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        settings: dict[str, Any] = json.loads(file.metadata()[METADATA_KEY])
    return settings


def load(path: Path, backbone: Backbone) -> TorchNetwork:
    """timm's network, which reads `path` (strictly) and takes mean and std from the file's own metadata."""
    import timm

    settings = read_settings(path)
    network = timm.create_model(
        settings["architecture"],
        pretrained=True,  # of the file that the overlay names; nothing is fetched
        num_classes=0,
        pretrained_cfg_overlay={**settings, "file": str(path)},
    )
    data = timm.data.resolve_model_data_config(network)
    mean, std = (tuple(255 * value for value in data[key]) for key in ("mean", "std"))
    return TorchNetwork(network.eval(), Preprocessing("RGB", mean, std), run_with_hooks)
