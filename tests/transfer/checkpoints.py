"""Checkpoints of every layout, made from one encoder: what the conversion's tests read.

In: an architecture. Out: dictionaries as the original training scripts save them (peers.md 4.4).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pretrain.checkpoint import FORMAT, VERSION
from pretrain.contract import InputContract
from pretrain.encoder import ResNetEncoder

State = dict[str, Tensor]


def encoder_state(arch: str = "resnet18", seed: int = 0) -> State:
    """State of an encoder whose BatchNorm statistics are not those of a fresh one (num_batches_tracked included)."""
    torch.manual_seed(seed)
    state = ResNetEncoder(arch).state_dict()
    for name, tensor in state.items():
        if name.endswith(("running_mean", "bn1.bias", "bn2.bias")):
            tensor.normal_(0, 0.1)
        if name.endswith(("running_var", "bn1.weight", "bn2.weight")):
            tensor.uniform_(0.5, 1.5)
    return state


def prefixed(state: State, prefix: str) -> State:
    """The same tensors with `prefix` before each name."""
    return {prefix + name: tensor for name, tensor in state.items()}


def head(prefix: str, *sizes: tuple[int, int]) -> State:
    """Linear layers 0, 2, 4... of a projection head."""
    return {
        f"{prefix}{2 * i}.{leaf}": torch.randn(size if leaf == "weight" else size[:1])
        for i, size in enumerate(sizes)
        for leaf in ("weight", "bias")
    }


def ours(query: State, key: State, arch: str = "resnet18") -> dict[str, Any]:
    """A checkpoint of tools/pretrain.py."""
    model = {
        **prefixed(query, "query.encoder."),
        **head("query.head.layers.", (8, 8), (4, 8)),
        **head("query.jigsaw_head.patch_layers.", (8, 8), (4, 8)),
        "query.jigsaw_head.mix.weight": torch.randn(4, 36),
        **prefixed(key, "key.encoder."),
        **head("key.head.layers.", (8, 8), (4, 8)),
        "memory.features": torch.randn(16, 4),
        "memory.pointer": torch.zeros((), dtype=torch.long),
    }
    return {
        "format": FORMAT,
        "version": VERSION,
        "arch": arch,
        "method": "infomin",
        "contract": InputContract().to_dict(),
        "model": model,
        "optimizer": {"state": {0: {"momentum_buffer": torch.randn(3)}}, "param_groups": []},
        "scaler": {},
        "progress": {"step": 5, "steps_per_epoch": 5},
        "config": {"seed": 0},
    }


def torchvision_model(query: State, key: State) -> dict[str, Any]:
    """torchvision: flat, with a classifier."""
    width = query["layer4.1.bn1.weight"].shape[0]
    return {**query, "fc.weight": torch.randn(10, width), "fc.bias": torch.randn(10)}


def moco_v1(query: State, key: State) -> dict[str, Any]:
    """MoCo v1 as saved under DistributedDataParallel: a linear head."""
    return moco(query, key, {"fc.weight": torch.randn(4, 8), "fc.bias": torch.randn(4)})


def moco_v2(query: State, key: State) -> dict[str, Any]:
    """MoCo v2: an MLP head."""
    return moco(query, key, head("fc.", (8, 8), (4, 8)))


def moco(query: State, key: State, fc: State) -> dict[str, Any]:
    """MoCo with a given head."""
    state = {
        **prefixed({**query, **fc}, "module.encoder_q."),
        **prefixed({**key, **fc}, "module.encoder_k."),
        "module.queue": torch.randn(4, 16),
        "module.queue_ptr": torch.zeros(1, dtype=torch.long),
    }
    return {"epoch": 200, "arch": "resnet50", "state_dict": state, "optimizer": {"state": {}, "param_groups": []}}


def pycontrast(query: State, key: State) -> dict[str, Any]:
    """PyContrast's MoCo v2."""
    return {
        "opt": {"method": "MoCov2"},
        "epoch": 200,
        "model": {**prefixed(query, "module.encoder."), **head("module.head.head.", (8, 8), (4, 8))},
        "model_ema": {**prefixed(key, "encoder."), **head("head.head.", (8, 8), (4, 8))},
        "contrast": {"memory": torch.randn(16, 4)},
        "optimizer": {"state": {}, "param_groups": []},
    }


def pycontrast_jigsaw(query: State, key: State) -> dict[str, Any]:
    """PyContrast's InfoMin: with a jigsaw head in both networks."""
    content = pycontrast(query, key)
    for name, wrapper in (("model", "module."), ("model_ema", "")):
        content[name] |= {
            **head(f"{wrapper}head_jig.fc1.", (8, 8), (4, 8)),
            f"{wrapper}head_jig.fc2.weight": torch.randn(4, 36),
        }
    return content


# layout -> makers of a file of that layout, as its own code saves it.
MAKERS: dict[str, tuple[Callable[[State, State], dict[str, Any]], ...]] = {
    "infomin-transfer": (ours,),
    "moco": (moco_v1, moco_v2),
    "pycontrast": (pycontrast, pycontrast_jigsaw),
    "torchvision": (torchvision_model, lambda query, key: dict(query)),
}
