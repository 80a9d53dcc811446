"""The proof proves: it passes for the right weights and fails for every mistake that has been made in this field."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from pretrain.base.contract import InputContract
from pretrain.base.errors import CheckpointError
from tests.transfer.conversion.backbones import backbone_of
from transfer.conversion.export_detectron2 import load_with_settings
from transfer.conversion.names import DETECTRON2
from transfer.conversion.parity import compare, prepare, proof_images, prove, source_network
from transfer.conversion.sidecar import TOLERANCE, detectron2_settings

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("tiny_architectures")]


def write(path, tensors):
    torch.save({"model": DETECTRON2.renamed(tensors), "matching_heuristics": True, "__author__": "test"}, path)
    return path


def run_proof(tmp_path, backbone, tensors=None, settings=None, **more):
    settings = settings or detectron2_settings(backbone.arch, backbone.contract)
    weights = write(tmp_path / "w.pth", tensors or backbone.tensors)
    return prove(backbone, load_with_settings(weights, settings), **more)


@pytest.mark.parametrize("arch", ["resnet18", "tiny50"])
def test_the_right_weights_agree_at_every_stage(tmp_path, arch):
    proof = run_proof(tmp_path, backbone_of(arch))
    assert proof.tensors_placed == proof.tensors_expected == {"resnet18": 100, "tiny50": 265}[arch]
    assert list(proof.relative_difference) == ["stem", "res2", "res3", "res4", "res5"]
    assert max(proof.relative_difference.values()) <= TOLERANCE
    assert {"channel order", "pixel std of 1", "two tensors swapped"} <= set(proof.negative_controls)
    assert ("stride placement" in proof.negative_controls) == (arch == "tiny50")
    assert min(proof.negative_controls.values()) > 100 * TOLERANCE


@pytest.mark.parametrize(
    "contract",
    [
        InputContract(channel_order="BGR", mean=(0.4, 0.45, 0.48), std=(0.2, 0.2, 0.2)),
        InputContract(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)),  # SimCLR v1: pixels in [0, 1] as they are
    ],
)
def test_other_contracts_are_proven_too(tmp_path, contract):
    assert max(run_proof(tmp_path, backbone_of("tiny50", contract=contract)).relative_difference.values()) <= TOLERANCE


@pytest.mark.parametrize(
    "spoiled",
    [
        {"INPUT.FORMAT": "BGR"},
        {"MODEL.PIXEL_STD": [1.0, 1.0, 1.0]},
        {"MODEL.PIXEL_MEAN": [103.53, 116.28, 123.675]},
        pytest.param({"MODEL.PIXEL_STD": [58.4, 57.12, 57.375]}, id="std off by 1e-4"),
    ],
)
def test_settings_that_contradict_the_contract_fail_the_proof(tmp_path, spoiled):
    backbone = backbone_of("tiny50")
    settings = {**detectron2_settings("tiny50", backbone.contract), **spoiled}
    with pytest.raises(CheckpointError, match="computes something else"):
        run_proof(tmp_path, backbone, settings=settings)


def test_stride_in_the_1x1_fails_the_proof(tmp_path):
    backbone = backbone_of("tiny50")
    settings = {**detectron2_settings("tiny50", backbone.contract), "MODEL.RESNETS.STRIDE_IN_1X1": True}
    with pytest.raises(CheckpointError, match="res3"):
        run_proof(tmp_path, backbone, settings=settings)


def test_an_epsilon_that_detectron2_does_not_have_fails_the_proof(tmp_path):
    with pytest.raises(CheckpointError, match="computes something else"):
        run_proof(tmp_path, backbone_of("tiny50", contract=InputContract(bn_eps=1e-3)))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda t: {k: v for k, v in t.items() if k != "layer3.1.bn2.running_var"},
            r"264 of 265 .*layer3\.1\.bn2\.running_var",
        ),
        (
            lambda t: {**t, "layer1.1.conv2.weight": t["layer1.1.conv2.weight"] + 1e-6},
            r"264 of 265 .*layer1\.1\.conv2\.weight",
        ),
        (
            lambda t: {**t, "layer1.1.conv2.weight": t["layer1.2.conv2.weight"]},
            r"264 of 265 .*layer1\.1\.conv2\.weight",
        ),
    ],
)
def test_a_file_that_differs_in_one_tensor_fails_the_proof(tmp_path, spoil, message):
    backbone = backbone_of("tiny50")
    with pytest.raises(CheckpointError, match=message):
        run_proof(tmp_path, backbone, tensors=spoil(backbone.tensors))


def test_the_other_branch_is_a_control(tmp_path):
    other = backbone_of("tiny50", seed=1).tensors
    proof = run_proof(tmp_path, backbone_of("tiny50"), other_branch=other)
    assert proof.negative_controls["the other branch"] > 0.01
    same = run_proof(tmp_path, backbone_of("tiny50"), other_branch=backbone_of("tiny50").tensors)
    assert same.negative_controls["the other branch"] <= TOLERANCE  # reported, not refused


def test_a_network_that_ignores_its_input_is_refused(tmp_path):
    backbone = backbone_of("tiny50")
    dead = {name: torch.zeros_like(t) if name == "conv1.weight" else t for name, t in backbone.tensors.items()}
    with pytest.raises(CheckpointError, match=r"spoiling channel order.* changes nothing|computes something else"):
        run_proof(tmp_path, dataclasses.replace(backbone, tensors=dead))


def test_unequal_shapes_and_zeros_count_as_infinitely_different():
    features = {stage: torch.ones(1, 2, 3, 3) for stage in ("stem", "res2", "res3", "res4", "res5")}
    assert set(compare(features, features).values()) == {0.0}
    assert compare(features, {**features, "res4": torch.ones(1, 2, 2, 2)})["res4"] == float("inf")
    zeros = {**features, "res5": torch.zeros(1, 2, 3, 3)}
    assert compare(zeros, zeros)["res5"] == float("inf")


def test_pixels_are_prepared_as_the_contract_says():
    images = proof_images()
    assert images.dtype == torch.uint8 and images.shape == (4, 3, 96, 128) and torch.equal(images, proof_images())
    flipped = prepare(images, InputContract(channel_order="BGR", mean=(0.1, 0.2, 0.3), std=(1.0, 2.0, 4.0)))
    torch.testing.assert_close(flipped[:, 2], (images[:, 0].float() / 255 - 0.3) / 4)


def test_the_source_network_is_torchvisions():
    backbone = backbone_of("tiny50")
    network = source_network(backbone)
    assert not network.training
    assert all(torch.equal(network.state_dict()[name], tensor) for name, tensor in backbone.tensors.items())
