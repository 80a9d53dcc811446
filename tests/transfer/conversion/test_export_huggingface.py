"""The folder for Hugging Face: `from_pretrained` takes every tensor, and its image processor the contract."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from pretrain.base.errors import CheckpointError
from tests.transfer.conversion.backbones import ODD_RGB, backbone_of
from transfer.conversion.export_huggingface import WEIGHTS_FILE, load, write
from transfer.conversion.names import HUGGING_FACE
from transfer.conversion.parity import proof_images, prove


@pytest.fixture(scope="module")
def backbone():
    return backbone_of(contract=ODD_RGB)


@pytest.fixture
def folder(backbone, tmp_path):
    write(tmp_path / "hf", backbone)
    return tmp_path / "hf"


@pytest.mark.slow
def test_the_folder_computes_the_same_with_its_own_settings(folder, backbone):
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", WEIGHTS_FILE, "preprocessor_config.json"]
    proof = prove(backbone, load(folder, backbone))
    assert list(proof.relative_difference) == ["stem", "res2", "res3", "res4", "res5", "pooled"]
    assert proof.tensors_placed == 100 and min(proof.negative_controls.values()) > 1e-2


@pytest.mark.slow
def test_its_image_processor_prepares_pixels_as_the_proof_does(folder, backbone):
    from transformers import AutoImageProcessor

    processor = AutoImageProcessor.from_pretrained(folder)
    images = proof_images()
    found = processor(images=list(images), do_resize=False, return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(found, load(folder, backbone).preprocessing(images), rtol=1e-5, atol=1e-5)
    assert processor.size["shortest_edge"] == 224


def test_every_tensor_comes_back_bit_equal_under_torchvisions_names(folder, backbone):
    back = HUGGING_FACE.read(load_file(folder / WEIGHTS_FILE))
    assert {name for name in back if not name.endswith("num_batches_tracked")} == set(backbone.tensors)
    assert all(torch.equal(back[name], tensor) for name, tensor in backbone.tensors.items())


def test_a_tensor_that_is_not_there_is_named(folder, backbone):
    tensors = load_file(folder / WEIGHTS_FILE)
    del tensors["embedder.embedder.convolution.weight"]
    save_file(tensors, folder / WEIGHTS_FILE, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"did not load every tensor.*embedder\.embedder\.convolution\.weight"):
        load(folder, backbone)


def test_settings_that_contradict_the_contract_fail(folder, backbone):
    path = folder / "preprocessor_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "image_std": [0.4, 0.5, 0.61]}))
    with pytest.raises(CheckpointError, match="computes something else"):
        prove(backbone, load(folder, backbone))


@pytest.mark.slow
def test_a_resnet50_computes_the_same_and_the_stride_is_in_its_settings(tmp_path):
    backbone = backbone_of("resnet50")
    write(tmp_path / "right", backbone)
    proof = prove(backbone, load(tmp_path / "right", backbone))
    assert proof.tensors_placed == 265 and proof.negative_controls["stride placement"] > 1e-2
    contract = dataclasses.replace(backbone.contract, stride_in_1x1=True)
    write(tmp_path / "wrong", dataclasses.replace(backbone, contract=contract))
    with pytest.raises(CheckpointError, match="res3"):
        prove(backbone, load(tmp_path / "wrong", backbone))
