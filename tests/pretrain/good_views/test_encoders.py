"""Encoders of views by name: shapes, the cost that a docstring names, and what is refused."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pretrain.base.errors import ConfigError
from pretrain.good_views.encoders import (
    VIEW_CHANNELS,
    SmallEncoder,
    ViewEncoderConfig,
    build_view_encoder,
    require_image_size,
)
from tests.cases import each


@each(("channels", "size"), [(1, 32), (2, 64), (3, 16)])
def test_images_become_pooled_features(channels: int, size: int) -> None:
    encoder = SmallEncoder(channels, width=8, feature_dim=24)
    assert encoder(torch.rand(3, channels, size, size)).shape == (3, 24) and encoder.feature_dim == 24


def test_multiply_adds_are_those_of_the_docstring() -> None:
    counted = []

    def count(module: nn.Module, _: object, output: torch.Tensor) -> None:
        assert isinstance(module, nn.Conv2d)
        counted.append(output[0].numel() * module.weight[0].numel())

    encoder = SmallEncoder(3)
    for module in encoder.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(count)
    encoder(torch.rand(2, 3, 32, 32))
    assert sum(counted) == 221_184 + 1_179_648 + 1_179_648 + 2_359_296  # 4.9 million


def test_every_pixel_can_reach_the_features() -> None:
    images = torch.rand(4, 2, 32, 32, requires_grad=True)
    SmallEncoder(2, width=8)(images).square().sum().backward()
    assert images.grad is not None and (images.grad.abs().amax((0, 1)) > 0).all()


def test_wrong_channels_and_too_small_images_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"expected \(B, 1, H, W\)"):
        SmallEncoder(1)(torch.rand(2, 3, 32, 32))
    with pytest.raises(ConfigError, match="at least 16 px"):
        SmallEncoder(1)(torch.rand(2, 1, 8, 8))
    with pytest.raises(ConfigError, match="at least 1"):
        SmallEncoder(0)


@pytest.mark.parametrize("channels", VIEW_CHANNELS)
@pytest.mark.parametrize(("kind", "dim"), [("small", 12), ("resnet18_half", 256), ("resnet50_half", 1024)])
def test_encoders_take_one_view_s_channels(kind: str, dim: int, channels: int) -> None:
    encoder = build_view_encoder(ViewEncoderConfig(kind=kind, width=4, feature_dim=12), channels).eval()
    assert encoder(torch.zeros(2, channels, 32, 32)).shape == (2, dim) and encoder.feature_dim == dim


def test_residual_encoders_have_no_max_pool_and_zero_residuals() -> None:
    encoder = build_view_encoder(ViewEncoderConfig("resnet50_half"), 1)
    assert encoder.stages(torch.zeros(2, 1, 32, 32))["res2"].shape[2:] == (16, 16)
    assert (encoder.layer4[0].bn3.weight == 0).all()


def test_sizes_are_checked() -> None:
    with pytest.raises(ConfigError, match="at least 16 px, found 8"):
        require_image_size(8)
    with pytest.raises(ValueError, match="at least 1"):
        ViewEncoderConfig(width=0)
