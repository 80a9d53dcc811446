"""Checkpoints of frameworks and libraries. See tests/transfer/conversion/checkpoints.py."""

from __future__ import annotations

from typing import Any

import torch

from tests.transfer.conversion.checkpoints_methods import State, head, normed_head, prefixed


def vissl(query: State, key: State, prefix: str = "_feature_blocks.") -> dict[str, Any]:
    """VISSL: trunk and heads four dictionaries down."""
    model = {"trunk": prefixed(query, prefix), "heads": head("0.clf.", (4, 8))}
    base = {"model": model, "meters": {}, "loss": {}}
    return {"phase_idx": 100, "classy_state_dict": {"base_model": base, "optimizer": {}}, "type": "consolidated"}


def vissl_linear(query: State, key: State) -> dict[str, Any]:
    """VISSL's linear evaluation: the trunk inside a feature extractor."""
    return vissl(query, key, "base_model._feature_blocks.")


def mmselfsup(query: State, key: State) -> dict[str, Any]:
    """MMSelfSup 1.x, SimCLR."""
    state = {**prefixed(query, "backbone."), **normed_head("neck.fc")}
    return {"meta": {"epoch": 200, "cfg": "style='pytorch'"}, "state_dict": state, "message_hub": {}}


def mmselfsup_moco(query: State, key: State) -> dict[str, Any]:
    """MMSelfSup 1.x, MoCo v2: the key encoder is an averaged model of (backbone, neck)."""
    content = mmselfsup(query, key)
    content["state_dict"] |= {
        **prefixed(key, "encoder_k.module.0."),
        **normed_head("encoder_k.module.1."),
        "encoder_k.steps": torch.tensor(5),
        "queue": torch.randn(4, 16),
    }
    return content


def mmselfsup_byol(query: State, key: State) -> dict[str, Any]:
    """MMSelfSup 1.x, BYOL."""
    content = mmselfsup(query, key)
    content["state_dict"] |= {**prefixed(key, "target_net.module.0."), **normed_head("head.predictor.")}
    return content


def densecl(query: State, key: State) -> dict[str, Any]:
    """OpenSelfSup and DenseCL: the query encoder is saved twice, as `backbone` and as the first part of `encoder_q`."""
    state = {
        **prefixed(query, "backbone."),
        **prefixed(query, "encoder_q.0."),
        **normed_head("encoder_q.1.mlp."),
        **prefixed(key, "encoder_k.0."),
        **normed_head("encoder_k.1.mlp."),
        "queue": torch.randn(4, 16),
        "queue2": torch.randn(4, 16),
    }
    return {"meta": {"epoch": 200}, "state_dict": state, "optimizer": {}}


def mmselfsup_extracted(query: State, key: State) -> dict[str, Any]:
    """What extract_backbone_weights.py writes."""
    return {"state_dict": dict(query), "author": "MMSelfSup"}


def lightning(state: State) -> dict[str, Any]:
    """A Lightning checkpoint."""
    return {
        "epoch": 100,
        "global_step": 5,
        "pytorch-lightning_version": "2.0.0",
        "state_dict": state,
        "hyper_parameters": {"lr": 1.0},
        "optimizer_states": [],
    }


def solo_learn(query: State, key: State) -> dict[str, Any]:
    """solo-learn, Barlow Twins."""
    return lightning({**prefixed(query, "backbone."), **normed_head("projector."), **_classifier()})


def solo_learn_momentum(query: State, key: State) -> dict[str, Any]:
    """solo-learn, MoCo v2+ or BYOL: a momentum encoder beside it."""
    content = solo_learn(query, key)
    content["state_dict"] |= {**prefixed(key, "momentum_backbone."), "queue": torch.randn(2, 4, 16)}
    return content


def _classifier(prefix: str = "classifier.") -> State:
    return {f"{prefix}weight": torch.randn(9, 8), f"{prefix}bias": torch.randn(9)}


def stable_pretraining(query: State, key: State) -> dict[str, Any]:
    """stable-pretraining's teacher and student; the teacher is what its wrapper evaluates. As torch.save sees plain values."""
    buffers = {f"backbone.{name}ema_coefficient": torch.tensor(0.99) for name in ("", "base_", "final_")}
    state = {**prefixed(query, "backbone.teacher."), **prefixed(key, "backbone.student."), **buffers}
    return lightning({**state, **normed_head("projector.student."), **normed_head("projector.teacher.")})


def lightly(query: State, key: State) -> dict[str, Any]:
    """lightly's SimCLR benchmark."""
    heads = {**normed_head("projection_head.layers."), **_classifier("online_classifier.classification_head.")}
    return lightning({**prefixed(query, "backbone."), **heads})


def lightly_moco(query: State, key: State) -> dict[str, Any]:
    """lightly's MoCo v2 benchmark: what it evaluates is the momentum encoder, called `backbone`."""
    content = lightly(query, key)
    content["state_dict"] |= prefixed(key, "query_backbone.")
    return content


def lightly_dino(query: State, key: State) -> dict[str, Any]:
    """lightly's DINO benchmark: the teacher is `backbone`."""
    content = lightly(query, key)
    content["state_dict"] |= prefixed(key, "student_backbone.")
    return content


SEQUENTIAL = {"conv1": "0", "bn1": "1", "layer1": "4", "layer2": "5", "layer3": "6", "layer4": "7"}


def children(state: State) -> State:
    """nn.Sequential(*list(resnet.children())[:-1]): numbers in the place of the first names."""
    return {f"{SEQUENTIAL[first]}.{rest}": t for n, t in state.items() for first, _, rest in [n.partition(".")]}


def lightly_sequential(query: State, key: State) -> dict[str, Any]:
    """lightly's examples: a Sequential as backbone."""
    return lightning({**prefixed(children(query), "backbone."), **normed_head("projection_head.layers.")})


def lightly_sequential_momentum(query: State, key: State) -> dict[str, Any]:
    """lightly's MoCo and BYOL examples."""
    content = lightly_sequential(query, key)
    content["state_dict"] |= prefixed(children(key), "backbone_momentum.")
    return content


def torchvision_model(query: State, key: State) -> dict[str, Any]:
    """torchvision and timm: flat, with a classifier."""
    width = query["layer4.1.bn1.weight"].shape[0]
    return {**query, "fc.weight": torch.randn(10, width), "fc.bias": torch.randn(10)}


def flat(query: State, key: State) -> dict[str, Any]:
    """lightly-train's export; DINO's, VICReg's and Barlow Twins' final backbone."""
    return dict(query)


def moco_lincls(query: State, key: State) -> dict[str, Any]:
    """MoCo's linear evaluation."""
    return {"epoch": 100, "state_dict": prefixed(torchvision_model(query, key), "module."), "best_acc1": 71.1}


def sequential(query: State, key: State) -> dict[str, Any]:
    """The state of nn.Sequential(*children) itself."""
    return children(query)


def huggingface(query: State, key: State) -> dict[str, Any]:
    """ResNetForImageClassification."""
    return {
        **prefixed(huggingface_names(query), "resnet."),
        "classifier.1.weight": torch.randn(10, 8),
        "classifier.1.bias": torch.randn(10),
    }


def huggingface_names(state: State) -> State:
    """ResNetModel."""
    renamed: State = {}
    for name, tensor in state.items():
        path = name.split(".")
        if path[0] == "conv1":
            new = "embedder.embedder.convolution.weight"
        elif path[0] == "bn1":
            new = f"embedder.embedder.normalization.{path[1]}"
        else:
            block = f"encoder.stages.{int(path[0][5:]) - 1}.layers.{path[1]}."
            if path[2] == "downsample":
                new = f"{block}shortcut.{'convolution' if path[3] == '0' else 'normalization'}.{path[4]}"
            else:
                kind = "convolution" if path[2].startswith("conv") else "normalization"
                new = f"{block}layer.{int(path[2][-1]) - 1}.{kind}.{path[3]}"
        renamed[new] = tensor
    return renamed


CAFFE2_LEAF = {"weight": "s", "bias": "b", "running_mean": "rm", "running_var": "riv"}


def caffe2(query: State, key: State, *, statistics: bool = False) -> dict[str, Any]:
    """Detectron's pickles: BatchNorm as scale and shift. Statistics are left out, as in MSRA's, unless asked for."""
    blobs: dict[str, Any] = {"conv1_b": torch.zeros(64), "fc1000_w": torch.randn(10, 8), "fc1000_b": torch.randn(10)}
    for name, tensor in query.items():
        path = name.split(".")
        if path[-1] == "num_batches_tracked" or (path[-1].startswith("running") and not statistics):
            continue
        if path[0] == "conv1":
            new = "conv1_w"
        elif path[0] == "bn1":
            new = f"res_conv1_bn_{CAFFE2_LEAF[path[1]]}"
        else:
            block = f"res{int(path[0][5:]) + 1}_{path[1]}_branch"
            branch = "1" if path[2] == "downsample" else f"2{'abc'[int(path[2][-1]) - 1]}"
            convolution = path[3] == "0" if path[2] == "downsample" else path[2].startswith("conv")
            new = f"{block}{branch}_{'w' if convolution else f'bn_{CAFFE2_LEAF[path[-1]]}'}"
        blobs[new] = tensor
    return blobs


def caffe2_with_statistics(query: State, key: State) -> dict[str, Any]:
    """The same with all four of each BatchNorm."""
    return caffe2(query, key, statistics=True)


def detectron2_names(query: State, key: State) -> dict[str, Any]:
    """What MoCo's converter writes, with the junk it carries along."""
    renamed: State = {}
    for name, tensor in query.items():
        new = name if name.startswith("layer") else f"stem.{name}"
        for index in (1, 2, 3, 4):
            new = new.replace(f"layer{index}", f"res{index + 1}")
        for index in (1, 2, 3):
            new = new.replace(f"bn{index}", f"conv{index}.norm")
        renamed[new.replace("downsample.0", "shortcut").replace("downsample.1", "shortcut.norm")] = tensor
    return {
        "model": {**renamed, "stem.fc.weight": torch.randn(4, 8)},
        "__author__": "MOCO",
        "matching_heuristics": True,
    }
