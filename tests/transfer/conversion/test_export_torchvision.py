"""The torchvision state dictionary: strict for torchvision's own network, and the proof behind it."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import torchvision

from pretrain.base.errors import CheckpointError
from tests.transfer.conversion.backbones import BGR, backbone_of
from transfer.conversion.export_torchvision import load, write
from transfer.conversion.parity import prove

pytestmark = pytest.mark.slow  # seconds in all: left to `make test`


def test_torchvision_loads_it_strictly_once_its_classifier_is_gone(tmp_path):
    backbone = backbone_of()
    write(tmp_path / "w.pth", backbone)
    state = torch.load(tmp_path / "w.pth", weights_only=True)
    network = torchvision.models.resnet18()
    with pytest.raises(RuntimeError, match=r"Missing key.*fc\.weight"):
        network.load_state_dict(state)
    network.fc = torch.nn.Identity()
    network.load_state_dict(state)
    assert all(torch.equal(network.state_dict()[name], tensor) for name, tensor in backbone.tensors.items())


@pytest.mark.parametrize("arch", ["resnet18", pytest.param("resnet50", marks=pytest.mark.slow)])
@pytest.mark.parametrize("contract", [None, BGR], ids=["RGB", "BGR"])
def test_torchvision_computes_the_same(tmp_path, arch, contract):
    backbone = backbone_of(arch, contract=contract)
    write(tmp_path / "w.pth", backbone)
    proof = prove(backbone, load(tmp_path / "w.pth", backbone))
    assert list(proof.relative_difference) == ["stem", "res2", "res3", "res4", "res5", "pooled"]
    assert proof.tensors_placed == len(backbone.tensors) and min(proof.negative_controls.values()) > 1e-2
    assert ("stride placement" in proof.negative_controls) == (arch == "resnet50")


def test_a_file_with_another_tensor_fails(tmp_path):
    backbone = backbone_of()
    write(tmp_path / "w.pth", dataclasses.replace(backbone, tensors=backbone_of(seed=1).tensors))
    with pytest.raises(CheckpointError, match="0 of 100 tensors reached"):
        prove(backbone, load(tmp_path / "w.pth", backbone))
