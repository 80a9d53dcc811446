"""The legacy pickle: what is in it, who can read it; and Detectron2's own network behind both kinds of file."""

from __future__ import annotations

import dataclasses
import pickletools

import numpy as np
import pytest
import torch

from pretrain.base.contract import InputContract
from pretrain.base.errors import CheckpointError
from tests.transfer.conversion.backbones import backbone_of
from transfer.conversion.export_detectron2 import AUTHOR, detectron2_backbone, load, write_pickle
from transfer.conversion.names import DETECTRON2
from transfer.conversion.parity import prove
from transfer.conversion.sidecar import detectron2_settings
from transfer.conversion.weight_files import read_weight_file


@pytest.fixture(scope="module")
def backbone():
    return backbone_of()


@pytest.fixture(scope="module")
def pickled(backbone, tmp_path_factory):
    path = tmp_path_factory.mktemp("pkl") / "w.pkl"
    write_pickle(path, backbone)
    return path


def test_the_pickle_is_a_dictionary_of_arrays_as_in_the_model_zoo(pickled, backbone):
    content = np.load(pickled, allow_pickle=True)  # any unpickler will do
    assert set(content) == {"model", "__author__", "matching_heuristics"}
    assert content["__author__"] == AUTHOR and content["matching_heuristics"] is True
    wanted = DETECTRON2.renamed(backbone.tensors)
    assert set(content["model"]) == set(wanted)
    assert all(np.array_equal(content["model"][name], tensor.numpy()) for name, tensor in wanted.items())


def test_the_projects_own_reader_knows_everything_in_it(pickled, backbone):
    model = read_weight_file(pickled)["model"]
    assert all(torch.equal(model[name], tensor) for name, tensor in DETECTRON2.renamed(backbone.tensors).items())


def test_numpy_1_can_read_it_too(pickled):
    """numpy < 1.26 has no numpy._core; the old place works everywhere."""
    named = {argument for opcode, argument, _ in pickletools.genops(pickled.read_bytes()) if opcode.name == "GLOBAL"}
    assert named == {"numpy.core.multiarray _reconstruct", "numpy ndarray", "numpy dtype"}


def test_detectron2_computes_the_same_from_the_pickle(pickled, backbone):
    proof = prove(backbone, load(pickled, backbone))
    assert proof.tensors_placed == 100 and max(proof.relative_difference.values()) <= 1e-5


def test_a_pickle_with_one_value_changed_fails(tmp_path, backbone):
    changed = {name: tensor.clone() for name, tensor in backbone.tensors.items()}
    changed["layer3.0.bn1.bias"][0] += 1e-6
    write_pickle(tmp_path / "w.pkl", dataclasses.replace(backbone, tensors=changed))
    with pytest.raises(CheckpointError, match=r"99 of 100 tensors .*layer3\.0\.bn1\.bias"):
        prove(backbone, load(tmp_path / "w.pkl", backbone))


def test_the_network_is_detectron2s_own():
    target = detectron2_backbone(detectron2_settings("resnet18", InputContract()))
    assert type(target).__module__ == "detectron2.modeling.backbone.resnet"
    assert [name for name, _ in target.named_children()] == ["stem", "res2", "res3", "res4", "res5"]
