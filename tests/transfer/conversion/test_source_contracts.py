"""The input that each source wants, carried to Detectron2's keys; checkpoints that only name their tensors' files."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from pretrain.base.contract import InputContract
from pretrain.base.errors import CheckpointError
from tests.cases import each
from tests.transfer.conversion import checkpoints
from tests.transfer.conversion.backbones import taken
from tests.transfer.conversion.tiny_encoders import tiny_state
from transfer.conversion.layouts import LAYOUTS
from transfer.conversion.sidecar import FORMAT, detectron2_settings
from transfer.conversion.source_contracts import contract_of, refuse_shards

PATH = Path("x.pth")
BY_NAME = {layout.name: layout for layout in LAYOUTS}
SELF_SAID = (
    "infomin-transfer",
    "infomin-transfer-towers",
    "infomin-transfer-converted",
    "detectron2-converted",
    "detectron2-detector",
)
OTHER_THAN_RGB = {"simclr-v1", "simclr-port", "simclr-spijkervet", "simclr-sthalles", "caffe2"}


@each("name", [name for name in BY_NAME if name not in SELF_SAID])
def test_every_layout_says_its_input(name):
    contract, notes = contract_of(BY_NAME[name], "resnet50", {}, PATH)
    assert (contract == InputContract()) == (name not in OTHER_THAN_RGB)
    assert bool(notes) == (BY_NAME[name].note is not None)


def test_simclr_reaches_detectron2_without_mean_and_with_255():
    contract, notes = contract_of(BY_NAME["simclr-port"], "resnet50", {}, PATH)
    settings = detectron2_settings("resnet50", contract)
    assert settings["MODEL.PIXEL_MEAN"] == [0.0, 0.0, 0.0] and settings["MODEL.PIXEL_STD"] == [255.0, 255.0, 255.0]
    assert settings["INPUT.FORMAT"] == "RGB" and "[0, 1]" in notes[0]


@pytest.mark.usefixtures("tiny_architectures")
def test_simclr_v1_in_torchvision_s_names_is_found_only_when_named():
    content = {"state_dict": checkpoints.torchvision_model(tiny_state(), tiny_state())}
    assert taken(content, PATH).contract == InputContract()
    asked = taken(content, PATH, source="simclr-v1")
    assert asked.layout == "simclr-v1" and asked.contract.std == (1.0, 1.0, 1.0) and "[0, 1]" in asked.notes[0]


def test_our_own_export_s_sidecar_says_its_input(tmp_path, monkeypatch):
    weights, bgr = tmp_path / "w.pth", InputContract(channel_order="BGR", mean=(0.1, 0.2, 0.3))
    monkeypatch.setattr("transfer.conversion.source_contracts.read_sidecar", lambda path: SimpleNamespace(contract=bgr))
    (tmp_path / "w.json").write_text(json.dumps({"format": FORMAT}))
    assert contract_of(BY_NAME["torchvision"], "resnet50", {}, weights) == (bgr, ("input as the sidecar w.json says",))
    (tmp_path / "w.json").write_text(json.dumps({"format": "somebody's"}))
    assert contract_of(BY_NAME["torchvision"], "resnet50", {}, weights) == (InputContract(), ())


def test_caffe2_s_resnets_reach_detectron2_as_its_defaults():
    contract, _ = contract_of(BY_NAME["caffe2"], "resnet50", {}, PATH)
    settings = detectron2_settings("resnet50", contract)
    assert settings["INPUT.FORMAT"] == "BGR" and settings["MODEL.RESNETS.STRIDE_IN_1X1"] is True
    assert settings["MODEL.PIXEL_MEAN"] == [103.53, 116.28, 123.675] and settings["MODEL.PIXEL_STD"] == [1.0, 1.0, 1.0]


def test_caffe2_s_resnext_has_a_deviation_and_strides_in_the_3x3():
    contract, _ = contract_of(BY_NAME["caffe2"], "resnext101_32x8d", {}, PATH)
    settings = detectron2_settings("resnext101_32x8d", contract)
    assert settings["MODEL.PIXEL_STD"] == [57.375, 57.12, 58.395] and settings["INPUT.FORMAT"] == "BGR"
    assert settings["MODEL.RESNETS.STRIDE_IN_1X1"] is False
    assert (settings["MODEL.RESNETS.NUM_GROUPS"], settings["MODEL.RESNETS.WIDTH_PER_GROUP"]) == (32, 8)


@pytest.mark.parametrize("text", ["backbone=dict(type='ResNet', style='caffe')", "{'style': 'caffe'}"])
def test_mmcv_s_caffe_style_moves_the_stride(text):
    contract, notes = contract_of(BY_NAME["mmselfsup"], "resnet50", {"meta": {"cfg": text}}, PATH)
    assert contract.stride_in_1x1 and "caffe" in notes[-1]
    plain, _ = contract_of(BY_NAME["mmselfsup"], "resnet50", {"meta": {"cfg": "style='pytorch'"}}, PATH)
    assert not plain.stride_in_1x1


@each("author", ["MOCO", "Yonglong", "torchvision"])
def test_known_authors_of_converted_weights_are_rgb(author):
    assert contract_of(BY_NAME["detectron2-converted"], "resnet50", {"__author__": author}, PATH)[0] == InputContract()


@each("author", ["somebody", None, "Detectron2 Model Zoo"])
def test_converted_weights_of_nobody_known_are_refused(author):
    with pytest.raises(CheckpointError, match=r"nothing says which input it wants \(known authors: MOCO"):
        contract_of(BY_NAME["detectron2-converted"], "resnet50", {"__author__": author}, PATH)


def test_our_checkpoint_without_its_parts_is_refused():
    with pytest.raises(CheckpointError, match="lacks parts"):
        contract_of(BY_NAME["infomin-transfer"], "resnet18", {"format": "other"}, PATH)


@each(
    "content",
    [
        {"type": "shard_list", "shards": ["a.torch", "b.torch"]},
        {"type": "slice", "classy_state_dict": {}},
        {"classy_state_dict": {"base_model": {"model": {"trunk": {"_feature_blocks.conv1.weight": "slices/a.torch"}}}}},
    ],
)
def test_sharded_vissl_checkpoints_are_refused_with_the_script_that_joins_them(content):
    with pytest.raises(CheckpointError, match="convert_sharded_checkpoint"):
        taken(content, PATH)


@pytest.mark.usefixtures("tiny_architectures")
def test_a_consolidated_vissl_checkpoint_is_no_shard():
    content = checkpoints.vissl(tiny_state(), tiny_state())
    refuse_shards(content, PATH)
    assert taken(content, PATH).layout == "vissl"


@pytest.mark.usefixtures("tiny_architectures")
@pytest.mark.parametrize(
    ("dtype", "words"),
    [
        (torch.float16, "float16; converted to float32, exactly"),
        (torch.bfloat16, "bfloat16; converted to float32, exactly"),
        (torch.float64, "float64; rounded to float32"),
    ],
)
def test_other_number_types_are_named_and_converted(dtype, words):
    changed = {name: t.to(dtype) if t.is_floating_point() else t for name, t in tiny_state().items()}
    found = taken(changed, PATH)
    assert found.notes == (f"100 tensors are {words}",)
    assert all(t.dtype == torch.float32 and torch.equal(t, changed[name].float()) for name, t in found.tensors.items())
    assert taken(dict(tiny_state()), PATH).notes == ()


@pytest.mark.usefixtures("tiny_architectures")
def test_whole_numbers_are_refused():
    broken = {name: (t.to(torch.int8) if name == "layer1.0.conv1.weight" else t) for name, t in tiny_state().items()}
    with pytest.raises(CheckpointError, match="expected floating-point weights, found torch.int8"):
        taken(broken, PATH)
