"""Encoders by name take the channels of their view."""

from __future__ import annotations

import pytest
import torch

from pretrain.base.errors import ConfigError
from pretrain.good_views.encoders import (
    VIEW_CHANNELS,
    ViewEncoderConfig,
    build_view_encoder,
    require_image_size,
)


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
