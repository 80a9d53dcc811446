"""Encoders: torchvision's names, shapes and numbers."""

from __future__ import annotations

import math

import pytest
import torch
import torchvision
from torchvision.models import resnet18

from pretrain.base.architecture import ARCHITECTURES
from pretrain.base.errors import ConfigError
from pretrain.base.shapes_only import shapes_only
from pretrain.model.encoder import ResNetEncoder, backbone_shapes, uninitialised_encoder


def test_resnet50_has_265_backbone_tensors():
    assert len(backbone_shapes("resnet50")) == 265  # 53 convolutions + 53 x 4
    assert len(backbone_shapes("resnet18")) == 100  # 20 x 5
    assert backbone_shapes("resnet50")["layer4.2.conv3.weight"] == (2048, 512, 1, 1)


def test_features_equal_torchvision_s_before_its_classifier():
    theirs = resnet18(weights=None).eval()
    ours = ResNetEncoder("resnet18").eval()
    ours.load_state_dict({name: value for name, value in theirs.state_dict().items() if not name.startswith("fc.")})
    theirs.fc = torch.nn.Identity()
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(ours(images), theirs(images))


def test_stages_are_detectron2_s_cuts():
    encoder = ResNetEncoder("resnet18").eval()
    with torch.no_grad():
        stages = encoder.stages(torch.zeros(1, 3, 64, 64))
    assert {name: tuple(value.shape[1:]) for name, value in stages.items()} == {
        "stem": (64, 16, 16),
        "res2": (64, 16, 16),
        "res3": (128, 8, 8),
        "res4": (256, 4, 4),
        "res5": (512, 2, 2),
    }


def test_stride_sits_on_the_3x3_convolution():
    block = ResNetEncoder("resnet50").layer2[0]
    assert block.conv1.stride == (1, 1)
    assert block.conv2.stride == (2, 2)


def test_an_unknown_architecture_is_named():
    with pytest.raises(ConfigError, match="resnet50"):
        ResNetEncoder("resnet51")


def own_shapes(arch, **options):
    with shapes_only():
        state = ResNetEncoder(arch, **options).state_dict()
    return {name: tuple(value.shape) for name, value in state.items() if not name.endswith("num_batches_tracked")}


@pytest.mark.slow
def test_shapes_by_arithmetic_are_the_network_s_own():
    for arch in ARCHITECTURES:
        assert list(backbone_shapes(arch).items()) == list(own_shapes(arch).items()), arch


def test_the_small_stem_keeps_every_name_and_every_pixel():
    options = {"stem": "small", "in_channels": 2}
    assert backbone_shapes("resnet18_half", **options) == own_shapes("resnet18_half", **options)
    small = ResNetEncoder("resnet18_half", stem="small").eval()
    assert list(small.state_dict()) == list(ResNetEncoder("resnet18_half").state_dict())
    with torch.no_grad():
        stages = small.stages(torch.zeros(1, 3, 32, 32))
    assert [stages[name].shape[-1] for name in ("stem", "res2", "res5")] == [32, 32, 4]
    assert small.conv1.weight.shape == (32, 3, 3, 3)


def test_cmc_s_half_width_keeps_the_stem_s_64_channels():
    """The reference: stem max(64 w, 64), every other layer w times as wide; two of them are the 12M of its table."""
    half, whole = backbone_shapes("resnet50_half_stem64"), backbone_shapes("resnet50")
    assert half == own_shapes("resnet50_half_stem64")
    stem = {name for name in half if name.startswith(("conv1", "bn1"))}
    assert all(half[name] == whole[name] if name in stem else 2 * half[name][0] == whole[name][0] for name in half)
    towers = sum(
        math.prod(shape)
        for channels in (1, 2)
        for name, shape in backbone_shapes("resnet50_half_stem64", in_channels=channels).items()
        if "running" not in name
    )
    assert round(towers / 1e6) == 12


def test_variants_of_torchvision_are_torchvision_s():
    for arch in ("resnext50_32x4d", "resnext101_64x4d", "wide_resnet50_2"):
        with shapes_only():
            theirs = getattr(torchvision.models, arch)(weights=None).state_dict()
        assert {name: tuple(theirs[name].shape) for name in backbone_shapes(arch)} == backbone_shapes(arch), arch


def test_a_wide_network_multiplies_every_layer_and_runs():
    shapes, wide = backbone_shapes("resnet50"), backbone_shapes("resnet50w2")
    assert wide["conv1.weight"] == (128, 3, 7, 7) and wide["layer4.2.conv3.weight"] == (4096, 1024, 1, 1)
    assert {name: shape[0] for name, shape in wide.items()} == {name: 2 * shape[0] for name, shape in shapes.items()}
    half = ResNetEncoder("resnet50_half").eval()
    with torch.no_grad():
        features = half(torch.zeros(1, 3, 64, 64))
    assert features.shape == (1, half.feature_dim) and half.feature_dim == 1024


def test_the_stride_moves_to_the_1x1_when_asked():
    block = ResNetEncoder("resnet50", stride_in_1x1=True).layer2[0]
    assert (block.conv1.stride, block.conv2.stride) == ((2, 2), (1, 1))
    assert ResNetEncoder("resnet18", stride_in_1x1=True).layer2[0].conv1.stride == (2, 2)  # as ever


@pytest.mark.parametrize(("arch", "last"), [("resnet50_half", "bn3"), ("resnet18_half", "bn2")])
def test_encoders_of_one_view_take_its_channels_and_keep_every_name(arch, last):
    encoder = ResNetEncoder(arch, in_channels=2, max_pool=False, zero_init_residual=True)
    plain = ResNetEncoder(arch)
    assert list(encoder.state_dict()) == list(plain.state_dict())
    changed = [n for n, v in plain.state_dict().items() if encoder.state_dict()[n].shape != v.shape]
    assert changed == ["conv1.weight"] and encoder.conv1.weight.shape[1] == 2
    stages = encoder.eval().stages(torch.zeros(1, 2, 32, 32))
    assert stages["stem"].shape[2:] == (16, 16) and plain.eval().stages(torch.zeros(1, 3, 32, 32))["stem"].shape[
        2:
    ] == (8, 8)
    assert encoder(torch.zeros(1, 2, 32, 32)).shape == (1, encoder.feature_dim)
    assert all((getattr(block, last).weight == 0).all() for block in encoder.layer3)
    assert all((getattr(block, last).weight == 1).all() for block in plain.layer3)


def test_a_network_that_is_loaded_into_is_the_one_whose_state_it_gets_and_draws_nothing():
    source, before = ResNetEncoder("resnet18_half", stem="small", in_channels=2).eval(), torch.get_rng_state()
    loaded = uninitialised_encoder("resnet18_half", stem="small", in_channels=2).eval()
    assert torch.equal(torch.get_rng_state(), before)
    counters = [tensor for name, tensor in loaded.state_dict().items() if name.endswith("num_batches_tracked")]
    assert len(counters) == 20 and not any(map(int, counters))
    loaded.load_state_dict(source.state_dict())
    images = torch.randn(2, 2, 32, 32)
    assert torch.equal(loaded(images), source(images))


def test_shapes_alone_take_no_memory_and_no_values():
    before = torch.get_rng_state()
    with shapes_only():
        network = ResNetEncoder("resnet50w4")
    assert all(tensor.is_meta for tensor in network.state_dict().values())
    assert torch.equal(torch.get_rng_state(), before)
