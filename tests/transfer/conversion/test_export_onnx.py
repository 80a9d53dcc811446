"""The ONNX graph: every tensor in it bit-equal, free batch and size, and onnxruntime computes the same."""

from __future__ import annotations

import json

import pytest
import torch

from pretrain.base.errors import CheckpointError
from tests.transfer.conversion.backbones import BGR, backbone_of
from transfer.conversion.export_onnx import METADATA_KEY, OUTPUTS, OnnxNetwork, load, write
from transfer.conversion.loaded_network import Preprocessing
from transfer.conversion.parity import compare, prove, source_network

# An export takes seconds. torch's exporter still uses torch.jit.script inside, and says so.
pytestmark = [pytest.mark.slow]


@pytest.fixture(scope="module")
def backbone():
    return backbone_of(contract=BGR)


@pytest.fixture(scope="module")
def written(backbone, tmp_path_factory):
    path = tmp_path_factory.mktemp("onnx") / "w.onnx"
    write(path, backbone)
    return path


def test_onnxruntime_computes_the_same(written, backbone):
    proof = prove(backbone, load(written, backbone))
    assert tuple(proof.relative_difference) == OUTPUTS and max(proof.relative_difference.values()) <= 1e-5
    assert proof.tensors_placed == 100 and min(proof.negative_controls.values()) > 1e-2


def test_every_tensor_is_an_initializer_bit_equal_and_there_is_no_other(written, backbone):
    found = load(written, backbone).tensors()
    assert set(found) == set(backbone.tensors)
    assert all(torch.equal(found[name], tensor) for name, tensor in backbone.tensors.items())


@pytest.mark.parametrize("shape", [(1, 3, 64, 64), (3, 3, 65, 99), (5, 3, 224, 160)])
def test_batch_and_size_are_free(written, backbone, shape):
    pixels = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        stages = source_network(backbone).stages(pixels)
    stages["pooled"] = stages["res5"].mean((2, 3))
    assert max(compare(stages, load(written, backbone).stages(pixels)).values()) <= 1e-5


def test_the_graph_says_what_it_wants_and_nothing_of_the_machine_it_was_made_on(written, backbone):
    model = load(written, backbone).model
    (value,) = model.graph.input
    shape = [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]
    assert (value.name, shape) == ("images", ["batch", 3, "height", "width"])
    assert json.loads(model.metadata_props[0].value) == BGR.to_dict()
    assert b".py" not in written.read_bytes()


def test_a_contract_that_contradicts_fails(written, backbone):
    network = load(written, backbone)
    wrong = Preprocessing("RGB", network.preprocessing.mean, network.preprocessing.std)
    with pytest.raises(CheckpointError, match="computes something else"):
        prove(backbone, OnnxNetwork(network.model, wrong))


def test_a_folded_graph_would_be_noticed(written, backbone):
    """The control of bit-equality: one initializer is not the source's."""
    network = load(written, backbone).with_tensors({"bn1.weight": backbone.tensors["bn1.weight"] * 2})
    with pytest.raises(CheckpointError, match=r"99 of 100 tensors .*bn1\.weight"):
        prove(backbone, network)


def test_a_resnet50_computes_the_same(tmp_path):
    backbone = backbone_of("resnet50")
    write(tmp_path / "w.onnx", backbone)
    proof = prove(backbone, load(tmp_path / "w.onnx", backbone))
    assert proof.tensors_placed == 265 and proof.negative_controls["stride placement"] > 1e-2
    assert METADATA_KEY == "input_contract"
