"""Encoders: torchvision's names, shapes and numbers."""

from __future__ import annotations

import pytest
import torch
from torchvision.models import resnet18

from pretrain.encoder import ARCHITECTURES, ResNetEncoder, backbone_shapes
from pretrain.errors import ConfigError


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


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_backbone_shapes_are_those_of_the_network_in_its_order(arch):
    with torch.device("meta"):
        state = ResNetEncoder(arch).state_dict()
    wanted = {name: tuple(t.shape) for name, t in state.items() if not name.endswith("num_batches_tracked")}
    assert list(backbone_shapes(arch).items()) == list(wanted.items())
