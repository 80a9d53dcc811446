"""Conversion end to end: the file and its sidecar, both or neither, and Detectron2's own detectors take every tensor."""

from __future__ import annotations

import json
import logging

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.modeling import build_model

from pretrain.errors import CheckpointError, ConfigError
from tests.transfer.checkpoints import CONVERTED, encoder_state, ours, pycontrast_jigsaw
from transfer import convert as module
from transfer.convert import convert
from transfer.detector_config import load_detector_config, resolve_config_path
from transfer.lint import backbone_names
from transfer.names import to_detectron2
from transfer.sidecar import read_sidecar
from transfer.sources import load_backbone
from transfer.weight_files import file_sha256

QUERY, KEY = encoder_state(seed=0), encoder_state(seed=1)


@pytest.fixture
def checkpoint(tmp_path):
    """A checkpoint of ours."""
    torch.save(ours(QUERY, KEY), tmp_path / "step.pt")
    return tmp_path / "step.pt"


@pytest.mark.parametrize("maker", CONVERTED)
def test_every_layout_converts_with_proof(tmp_path, maker):
    torch.save(maker(QUERY, KEY), tmp_path / "in.pth")
    sidecar = convert(tmp_path / "in.pth", tmp_path / "out.pth")
    content = torch.load(tmp_path / "out.pth", weights_only=True)
    assert content["matching_heuristics"] is True and content["__author__"]
    wanted = to_detectron2({k: v for k, v in QUERY.items() if not k.endswith("num_batches_tracked")})
    assert set(content["model"]) == set(wanted)
    assert all(torch.equal(content["model"][name], tensor) for name, tensor in wanted.items())
    assert sidecar.proof["tensors_placed"] == 100
    assert sidecar.source["sha256"] == file_sha256(tmp_path / "in.pth")
    assert read_sidecar(tmp_path / "out.pth") == sidecar and sidecar.weights_sha256 == file_sha256(tmp_path / "out.pth")


def test_the_key_branch_is_converted_when_asked(tmp_path, checkpoint):
    sidecar = convert(checkpoint, tmp_path / "key.pth", branch="key")
    model = torch.load(tmp_path / "key.pth", weights_only=True)["model"]
    assert torch.equal(model["stem.conv1.weight"], KEY["conv1.weight"]) and sidecar.source["branch"] == "key"


def test_converted_weights_are_read_back_with_torchvision_names(tmp_path, checkpoint):
    convert(checkpoint, tmp_path / "out.pth")
    back = load_backbone(tmp_path / "out.pth")
    assert back.layout == "infomin-transfer-converted" and back.contract == load_backbone(checkpoint).contract
    assert all(torch.equal(tensor, QUERY[name]) for name, tensor in back.tensors.items())


def test_converted_weights_without_their_sidecar_are_refused(tmp_path, checkpoint):
    convert(checkpoint, tmp_path / "out.pth")
    (tmp_path / "out.json").unlink()
    with pytest.raises(CheckpointError, match="no sidecar"):
        load_backbone(tmp_path / "out.pth")


@pytest.mark.slow
@pytest.mark.parametrize(
    "config_file", ["coco/R_50_FPN_1x_infomin.yaml", "coco/R_50_C4_1x_infomin.yaml", "voc/R_50_C4_24k_infomin.yaml"]
)
def test_all_265_tensors_of_a_resnet50_reach_the_detector(tmp_path, config_file):
    query = encoder_state("resnet50")
    torch.save(pycontrast_jigsaw(query, query), tmp_path / "infomin.pth")
    assert convert(tmp_path / "infomin.pth", tmp_path / "w.pth").proof["tensors_placed"] == 265
    config = load_detector_config(
        resolve_config_path(config_file), ("MODEL.DEVICE", "cpu", "MODEL.RESNETS.NORM", "BN", "MODEL.WEIGHTS", "")
    )
    model = build_model(config)
    logging.getLogger("fvcore.common.checkpoint").setLevel(logging.ERROR)
    DetectionCheckpointer(model).load(str(tmp_path / "w.pth"))
    wanted = to_detectron2({k: v for k, v in query.items() if not k.endswith("num_batches_tracked")})
    names = backbone_names(model)
    assert sorted(names.values()) == sorted(wanted)
    assert all(torch.equal(model.state_dict()[name], wanted[short]) for name, short in names.items())


def test_a_failed_proof_leaves_nothing_behind(tmp_path, checkpoint, monkeypatch):
    def fail(*_, **__):
        raise CheckpointError("the proof failed")

    monkeypatch.setattr(module, "prove", fail)
    (tmp_path / "weights").mkdir()
    with pytest.raises(CheckpointError, match="the proof failed"):
        convert(checkpoint, tmp_path / "weights" / "out.pth")
    assert list((tmp_path / "weights").iterdir()) == []


def test_a_failed_conversion_keeps_what_was_there(tmp_path, checkpoint, monkeypatch):
    convert(checkpoint, tmp_path / "out.pth")
    before = (tmp_path / "out.pth").read_bytes(), (tmp_path / "out.json").read_bytes()
    broken = ours(QUERY, KEY)
    del broken["model"]["query.encoder.layer4.1.bn2.bias"]
    torch.save(broken, checkpoint)
    with pytest.raises(CheckpointError, match=r"layer4\.1\.bn2\.bias"):
        convert(checkpoint, tmp_path / "out.pth", overwrite=True)
    assert ((tmp_path / "out.pth").read_bytes(), (tmp_path / "out.json").read_bytes()) == before


def test_an_output_that_exists_is_replaced_only_when_asked(tmp_path, checkpoint):
    convert(checkpoint, tmp_path / "out.pth")
    with pytest.raises(ConfigError, match=r"exists; .*--overwrite"):
        convert(checkpoint, tmp_path / "out.pth", branch="key")
    assert convert(checkpoint, tmp_path / "out.pth", branch="key", overwrite=True) == read_sidecar(tmp_path / "out.pth")


def test_a_mistake_in_the_table_of_names_cannot_pass(tmp_path, checkpoint, monkeypatch):
    """The writer is spoiled, the proof is not: what is published must have been checked against the source."""

    def swapped(tensors):
        renamed = to_detectron2(tensors)
        a, b = "res2.0.conv1.weight", "res2.0.conv2.weight"
        return {**renamed, a: renamed[b], b: renamed[a]}

    monkeypatch.setattr(module, "to_detectron2", swapped)
    with pytest.raises(CheckpointError, match=r"res2\.0\.conv1\.weight"):
        convert(checkpoint, tmp_path / "out.pth")
    assert not (tmp_path / "out.pth").exists()


def test_outputs_that_cannot_be_are_refused_before_any_work(tmp_path, checkpoint):
    (tmp_path / "folder.pth").mkdir()
    (tmp_path / "file").touch()
    for output, message in {
        "out.pkl": r"ends in \.pth.*type .*out\.pth",
        "folder.pth": "is a folder",
        "file/out.pth": "cannot be written",
    }.items():
        with pytest.raises(ConfigError, match=message):
            convert(checkpoint, tmp_path / output)
    checkpoint.rename(tmp_path / "same.pth")
    with pytest.raises(ConfigError, match="the same file"):
        convert(tmp_path / "same.pth", tmp_path / "same.pth")


def test_the_sidecar_is_strict_json_for_other_programs(tmp_path, checkpoint):
    convert(checkpoint, tmp_path / "out.pth")
    values = json.loads((tmp_path / "out.json").read_text(), parse_constant=lambda name: pytest.fail(name))
    assert values["contract"]["stride_in_1x1"] is False and values["detectron2"]["MODEL.RESNETS.DEPTH"] == 18
