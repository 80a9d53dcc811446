"""A loaded network: pixels as its settings say, and spoiled copies that are spoiled while the original is not."""

from __future__ import annotations

import pytest
import torch

from pretrain.base.contract import InputContract
from tests.transfer.conversion.backbones import BGR, backbone_of
from transfer.conversion.loaded_network import Preprocessing, TorchNetwork, run_with_hooks
from transfer.conversion.parity import prepare, proof_images, source_network
from transfer.conversion.sidecar import detectron2_settings


def network_of(arch="resnet18"):
    return TorchNetwork(source_network(backbone_of(arch)), Preprocessing.of(InputContract()), run_with_hooks)


@pytest.mark.parametrize("contract", [InputContract(), BGR], ids=["RGB", "BGR"])
def test_pixels_are_prepared_as_the_source_has_them(contract):
    images = proof_images()
    torch.testing.assert_close(Preprocessing.of(contract)(images), prepare(images, contract), rtol=1e-6, atol=1e-6)


def test_pixels_are_the_same_to_the_bit_so_that_no_encoder_can_amplify_a_rounding():
    images, contract = proof_images(), InputContract()
    settings = detectron2_settings("resnet50", contract)
    pixels = Preprocessing("RGB", tuple(settings["MODEL.PIXEL_MEAN"]), tuple(settings["MODEL.PIXEL_STD"]))
    assert torch.equal(pixels(images), prepare(images, contract))
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (pixels.mean, pixels.std))
    in_float32 = (images.float() - mean) / std  # control: what both were before, and differed in
    assert (in_float32 != pixels(images)).float().mean() > 0.1


def test_every_mistake_is_one():
    images = proof_images()
    right = Preprocessing.of(BGR)
    assert set(right.spoiled()) == {"channel order", "pixel std of 1"}
    assert not any(torch.allclose(right(images), wrong(images)) for wrong in right.spoiled().values())


def test_where_a_std_of_one_is_right_another_is_the_mistake():
    msra = Preprocessing("BGR", (103.53, 116.28, 123.675), (1.0, 1.0, 1.0))
    assert msra.spoiled()["pixel std of 58"].std == (58.0, 58.0, 58.0)


def test_hooks_see_what_the_encoder_calls_stages():
    network, pixels = network_of(), torch.rand(2, 3, 64, 64)
    found = network.stages(pixels)
    with torch.no_grad():
        wanted = {**network.module.stages(pixels), "pooled": network.module(pixels)}
    assert list(found) == list(wanted)
    assert all(torch.equal(found[stage], wanted[stage]) for stage in wanted)
    assert not any(module._forward_hooks for module in network.module.modules())


def test_a_copy_with_other_tensors_leaves_the_original():
    network, original, other = network_of(), backbone_of(), backbone_of(seed=1)
    spoiled = network.with_tensors(other.tensors)
    assert torch.equal(spoiled.tensors()["conv1.weight"], other.tensors["conv1.weight"])
    assert all(torch.equal(t, original.tensors[name]) for name, t in network.tensors().items())


def test_moved_strides_keep_shapes_and_change_values():
    network, pixels = network_of("resnet50"), torch.rand(1, 3, 64, 64)
    moved = network.with_stride_moved()
    assert [moved.module.layer3[0].conv1.stride, moved.module.layer3[0].conv2.stride] == [(2, 2), (1, 1)]
    assert network.module.layer3[0].conv1.stride == (1, 1)
    before, after = network.stages(pixels), moved.stages(pixels)
    assert before["res5"].shape == after["res5"].shape and torch.equal(before["res2"], after["res2"])
    assert not torch.allclose(before["res3"], after["res3"])
