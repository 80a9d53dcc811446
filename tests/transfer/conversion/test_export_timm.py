"""The file for timm: its own `create_model` takes tensors and input settings from it."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from pretrain.base.errors import CheckpointError
from tests.transfer.conversion.backbones import ODD_RGB, backbone_of
from transfer.conversion.export_timm import METADATA_KEY, load, read_settings, write
from transfer.conversion.parity import prove


@pytest.fixture(scope="module")
def backbone():
    return backbone_of(contract=ODD_RGB)


@pytest.fixture(scope="module")
def written(backbone, tmp_path_factory):
    path = tmp_path_factory.mktemp("timm") / "w.safetensors"
    write(path, backbone)
    return path


def test_create_model_loads_it_as_a_checkpoint_and_as_a_feature_extractor(written, backbone):
    import timm

    network = timm.create_model("resnet18", num_classes=0, checkpoint_path=str(written))
    assert all(torch.equal(network.state_dict()[name], tensor) for name, tensor in backbone.tensors.items())
    overlay = {**read_settings(written), "file": str(written)}
    features = timm.create_model("resnet18", pretrained=True, features_only=True, pretrained_cfg_overlay=overlay)
    assert torch.equal(features.state_dict()["layer4.1.conv2.weight"], backbone.tensors["layer4.1.conv2.weight"])


@pytest.mark.slow
def test_timm_computes_the_same_with_the_files_own_settings(written, backbone):
    network = load(written, backbone)
    assert network.preprocessing.mean == pytest.approx([25.5, 51.0, 76.5])
    proof = prove(backbone, network)
    assert list(proof.relative_difference) == ["stem", "res2", "res3", "res4", "res5", "pooled"]
    assert proof.tensors_placed == 100 and min(proof.negative_controls.values()) > 1e-2


def test_settings_that_contradict_the_contract_fail(tmp_path, written, backbone):
    settings = {**read_settings(written), "std": [0.4, 0.5, 0.61]}
    save_file(load_file(written), tmp_path / "w.safetensors", metadata={METADATA_KEY: json.dumps(settings)})
    with pytest.raises(CheckpointError, match="computes something else"):
        prove(backbone, load(tmp_path / "w.safetensors", backbone))


def test_the_metadata_is_what_timm_calls_it(written):
    with safe_open(written, framework="pt") as file:
        assert set(file.metadata()) == {"format", "pretrained_cfg"}
    assert read_settings(written) == {
        "architecture": "resnet18",
        "num_classes": 0,
        "mean": [0.1, 0.2, 0.3],
        "std": [0.4, 0.5, 0.6],
    }


@pytest.mark.slow
def test_a_resnet50_computes_the_same(tmp_path):
    backbone = backbone_of("resnet50")
    write(tmp_path / "w.safetensors", backbone)
    proof = prove(backbone, load(tmp_path / "w.safetensors", backbone))
    assert proof.tensors_placed == 265 and proof.negative_controls["stride placement"] > 1e-2
