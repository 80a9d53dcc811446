"""Checkpoints of the methods' own repositories and of this project. See tests/transfer/conversion/checkpoints.py."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from pretrain.base.contract import InputContract
from pretrain.model.encoder import ResNetEncoder
from pretrain.run.checkpoint import FORMAT, VERSION

State = dict[str, Tensor]


def encoder_state(arch: str = "resnet18", seed: int = 0) -> State:
    """State of an encoder whose BatchNorm statistics are not those of a fresh one (num_batches_tracked included).

    torch's global generator is left as the drawing leaves it.
    """
    state, generator = _drawn(arch, seed) if arch in REPEATED else _drawn.__wrapped__(arch, seed)
    torch.set_rng_state(generator)
    return {name: tensor.clone() for name, tensor in state.items()}


REPEATED = ("resnet18", "resnet18_half")  # drawing 11 million values takes 80 ms, copying them 10


@functools.cache
def _drawn(arch: str, seed: int) -> tuple[State, Tensor]:
    torch.manual_seed(seed)
    state = ResNetEncoder(arch).state_dict()
    for name, tensor in state.items():
        if name.endswith(("running_mean", "bn1.bias", "bn2.bias", "bn3.bias", "downsample.1.bias")):
            tensor.normal_(0, 0.1)
        if name.endswith(("running_var", "bn1.weight", "bn2.weight", "bn3.weight", "downsample.1.weight")):
            tensor.uniform_(0.5, 1.5)
    return state, torch.get_rng_state()


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


def normed_head(prefix: str) -> State:
    """Linear 0, BatchNorm 1 (with its statistics), linear 3."""
    return {
        f"{prefix}0.weight": torch.randn(8, 8),
        **{f"{prefix}1.{leaf}": torch.ones(8) for leaf in ("weight", "bias", "running_mean", "running_var")},
        f"{prefix}1.num_batches_tracked": torch.tensor(3),
        f"{prefix}3.weight": torch.randn(4, 8),
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


def moco_v1(query: State, key: State) -> dict[str, Any]:
    """MoCo v1 as saved under DistributedDataParallel: a linear head."""
    return moco(query, key, {"fc.weight": torch.randn(4, 8), "fc.bias": torch.randn(4)})


def moco_v2(query: State, key: State) -> dict[str, Any]:
    """MoCo v2 and PCL: an MLP head."""
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


def moco_v3(query: State, key: State) -> dict[str, Any]:
    """MoCo v3 with a ResNet."""
    fc = normed_head("fc.")
    state = {
        **prefixed({**query, **fc}, "module.base_encoder."),
        **prefixed({**key, **fc}, "module.momentum_encoder."),
        **prefixed(normed_head(""), "module.predictor."),
    }
    return {"epoch": 300, "arch": "resnet50", "state_dict": state, "optimizer": {}, "scaler": {}}


def simsiam(query: State, key: State) -> dict[str, Any]:
    """SimSiam: the projector is the encoder's fc."""
    state = {**prefixed({**query, **normed_head("fc.")}, "module.encoder."), **normed_head("module.predictor.")}
    return {"epoch": 100, "arch": "resnet50", "state_dict": state, "optimizer": {}}


def pycontrast_bank(query: State, key: State) -> dict[str, Any]:
    """PyContrast's InsDis: a memory bank, no key network."""
    return {
        "opt": {"method": "InsDis"},
        "epoch": 200,
        "model": {**prefixed(query, "module.encoder."), **head("module.head.", (4, 8))},
        "contrast": {"memory": torch.randn(16, 4)},
        "optimizer": {"state": {}, "param_groups": []},
    }


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


def with_jigsaw(content: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """PyContrast's jigsaw head in every network."""
    for name in {"model", "model_ema"} & set(content):
        wrapper = "module." if name == "model" else ""
        content[name] |= {
            **head(f"{wrapper}head_jig.fc1.", (8, 8), (4, 8)),
            f"{wrapper}head_jig.fc2.weight": torch.randn(4, 36),
        }
    return content


def pycontrast_pirl(query: State, key: State) -> dict[str, Any]:
    """PyContrast's PIRL: a memory bank and a jigsaw head."""
    return with_jigsaw(pycontrast_bank(query, key))


def pycontrast_jigsaw(query: State, key: State) -> dict[str, Any]:
    """PyContrast's InfoMin: with a jigsaw head in both networks."""
    return with_jigsaw(pycontrast(query, key))


def pycontrast_cmc() -> dict[str, Any]:
    """PyContrast's CMC: two half-width ResNet-50, for 1 and 2 channels. It is refused."""
    first, second = encoder_state("resnet50_half", 0), encoder_state("resnet50_half", 1)
    first["conv1.weight"], second["conv1.weight"] = torch.randn(32, 1, 7, 7), torch.randn(32, 2, 7, 7)
    heads = {**head("module.head1.", (4, 8)), **head("module.head2.", (4, 8))}
    return {
        "opt": {"method": "CMC"},
        "model": {**prefixed(first, "module.encoder1."), **prefixed(second, "module.encoder2."), **heads},
        "contrast": {"memory": torch.randn(16, 4)},
    }


def pixpro(query: State, key: State) -> dict[str, Any]:
    """PixPro: same prefixes as PyContrast's, but a key encoder beside it."""
    state = {
        **prefixed(query, "module.encoder."),
        **normed_head("module.projector."),
        **prefixed(key, "module.encoder_k."),
        **normed_head("module.projector_k."),
    }
    return {"opt": {"lr": 1.0}, "model": state, "optimizer": {}, "scheduler": {}, "epoch": 400}


def swav(query: State, key: State) -> dict[str, Any]:
    """SwAV while training."""
    return {"epoch": 400, "state_dict": swav_released(query, key), "optimizer": {}, "arch": "resnet50", "amp": {}}


def swav_released(query: State, key: State) -> dict[str, Any]:
    """SwAV as released: flat."""
    head_state = {**normed_head("projection_head."), "prototypes.weight": torch.randn(30, 4)}
    return prefixed({**query, **head_state}, "module.")


def deepcluster_v2(query: State, key: State) -> dict[str, Any]:
    """DeepCluster-v2: several prototype layers."""
    state = {**query, **normed_head("projection_head."), "prototypes.prototypes0.weight": torch.randn(30, 4)}
    return {"epoch": 400, "state_dict": prefixed(state, "module."), "optimizer": {}, "arch": "resnet50"}


def barlow_twins(query: State, key: State) -> dict[str, Any]:
    """Barlow Twins, full checkpoint: a BatchNorm without scale at the end."""
    end = {"module.bn.running_mean": torch.zeros(8), "module.bn.running_var": torch.ones(8)}
    state = {**prefixed(query, "module.backbone."), **normed_head("module.projector."), **end}
    return {"epoch": 1000, "model": state, "optimizer": {}}


def vicreg(query: State, key: State) -> dict[str, Any]:
    """VICReg, full checkpoint."""
    state = {**prefixed(query, "module.backbone."), **normed_head("module.projector.")}
    return {"epoch": 1000, "model": state, "optimizer": {}}


def dino(query: State, key: State) -> dict[str, Any]:
    """DINO: the teacher is what its evaluation takes."""
    dino_head = {**head("head.mlp.", (8, 8), (8, 8)), "head.last_layer.weight_g": torch.ones(9, 1)}
    return {
        "student": prefixed({**prefixed(key, "backbone."), **dino_head}, "module."),
        "teacher": {**prefixed(query, "backbone."), **dino_head},
        "optimizer": {},
        "epoch": 800,
        "dino_loss": {"center": torch.zeros(1, 9)},
    }


def haiku(state: State) -> tuple[dict[str, Any], dict[str, Any]]:
    """(parameters, statistics) of haiku's ResNet: convolutions (H, W, in, out), vectors (1, 1, 1, C)."""
    parameters: dict[str, Any] = {}
    statistics: dict[str, Any] = {}
    for name, tensor in state.items():
        *path, leaf = name.split(".")
        if leaf == "num_batches_tracked":
            continue
        if path[0].startswith("layer"):
            group, block, layer = int(path[0][5:]) - 1, path[1], path[2:]
            index = int(layer[0][-1]) - 1 if layer[0] != "downsample" else 0
            kind = ("shortcut_conv", "shortcut_batchnorm")[int(layer[1])] if layer[0] == "downsample" else ""
            kind = kind or (f"conv_{index}" if layer[0].startswith("conv") else f"batchnorm_{index}")
            module = f"res_net50/~/block_group_{group}/~/block_{block}/~/{kind}"
        else:
            module = f"res_net50/~/{'initial_conv' if path[0] == 'conv1' else 'initial_batchnorm'}"
        if tensor.dim() == 4:
            parameters[module] = {"w": tensor.permute(2, 3, 1, 0).contiguous()}
        elif leaf in ("weight", "bias"):
            word = {"weight": "scale", "bias": "offset"}[leaf]
            parameters.setdefault(module, {})[word] = tensor.view(1, 1, 1, -1).clone()
        else:
            average = tensor.view(1, 1, 1, -1).clone()
            ema = {"average": average, "hidden": 0.9 * average, "counter": torch.tensor(7)}
            statistics[f"{module}/~/{'mean' if leaf == 'running_mean' else 'var'}_ema"] = ema
    return parameters, statistics


def byol_deepmind(query: State, key: State) -> dict[str, Any]:
    """DeepMind's BYOL, its named tuple as a dictionary."""
    (online, online_state), (target, target_state) = haiku(query), haiku(key)
    more = {"projector/linear": {"w": torch.randn(8, 8)}, "predictor/linear": {"w": torch.randn(8, 8)}}
    return {
        "experiment_state": {
            "online_params": {**more, **online, "classifier": {"w": torch.randn(8, 9), "b": torch.zeros(9)}},
            "target_params": {**target, "projector/linear": {"w": torch.randn(8, 8)}},
            "online_state": {**online_state, "projector/batch_norm/~/mean_ema": {"average": torch.zeros(1, 8)}},
            "target_state": target_state,
        },
        "step": 300_000,
    }


def byol_lucidrains(query: State, key: State) -> dict[str, Any]:
    """byol-pytorch: the network itself, and wrapped twice."""
    fc = {"fc.weight": torch.randn(10, 8), "fc.bias": torch.randn(10)}
    return {
        **prefixed({**query, **fc}, "net."),
        **prefixed({**query, **fc}, "online_encoder.net."),
        **normed_head("online_encoder.projector."),
        **prefixed({**key, **fc}, "target_encoder.net."),
        **normed_head("target_encoder.projector."),
        **normed_head("online_predictor."),
    }


def simclr_port(query: State, key: State) -> dict[str, Any]:
    """Google's SimCLR in torch (Separius): blocks of convolution, (BatchNorm, ReLU), ..."""
    state: State = {}
    for name, tensor in query.items():
        path = name.split(".")
        if path[0] == "conv1":
            new = "net.0.0.weight"
        elif path[0] == "bn1":
            new = f"net.0.1.0.{path[1]}"
        elif path[2] == "downsample":
            new = f"net.{path[0][5:]}.blocks.{path[1]}.projection.{'shortcut' if path[3] == '0' else 'bn.0'}.{path[4]}"
        else:
            place = 2 * (int(path[2][-1]) - 1)
            inner = f"{place}" if path[2].startswith("conv") else f"{place + 1}.0"
            new = f"net.{path[0][5:]}.blocks.{path[1]}.net.{inner}.{path[3]}"
        state[new] = tensor
    fc = {"fc.weight": torch.randn(10, 8), "fc.bias": torch.randn(10)}
    return {"resnet": {**state, **fc}, "head": {"layers.0.weight": torch.randn(8, 8)}}


def simclr_spijkervet(query: State, key: State) -> dict[str, Any]:
    """Spijkervet's SimCLR: flat."""
    return {**prefixed(query, "encoder."), **head("projector.", (8, 8), (4, 8))}


def simclr_sthalles(query: State, key: State) -> dict[str, Any]:
    """sthalles' SimCLR: the projection head is the backbone's fc."""
    state = prefixed({**query, **head("fc.", (8, 8), (4, 8))}, "backbone.")
    return {"epoch": 100, "arch": "resnet18", "state_dict": state, "optimizer": {}}
