"""Encoders that judge views: one for channel 1, one for channels 2:3, by name and size.

In: a configuration and a number of channels. Out: an encoder, images (B, C, S, S) -> (B, feature_dim).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import nn

from pretrain.base.errors import ConfigError
from pretrain.good_views.small_encoder import MIN_SIZE, SmallEncoder
from pretrain.model.encoder import ResNetEncoder

EncoderKind = Literal["small", "resnet18_half", "resnet50_half"]
VIEW_CHANNELS = (1, 2)


@dataclass(frozen=True)
class ViewEncoderConfig:
    """kind: "small" (pretrain/good_views/small_encoder.py, width and feature_dim count) or a half-width ResNet without max-pool.

    The paper's estimators are half-width ResNet-50, its classifiers half-width ResNet-18 [infomin.md 4].
    """

    kind: EncoderKind = "resnet50_half"
    width: int = 32
    feature_dim: int = 128

    def __post_init__(self) -> None:
        if self.width < 1 or self.feature_dim < 1:
            raise ValueError(f"width and feature_dim expected at least 1, found {self.width} and {self.feature_dim}")


def build_view_encoder(config: ViewEncoderConfig, in_channels: int) -> nn.Module:
    """A fresh encoder with an attribute `feature_dim`; its weights come from torch's global generator."""
    if config.kind == "small":
        return SmallEncoder(in_channels, width=config.width, feature_dim=config.feature_dim)
    return ResNetEncoder(config.kind, in_channels=in_channels, max_pool=False, zero_init_residual=True)


def require_image_size(size: int) -> None:
    """Raise ConfigError for images too small for any of these encoders."""
    if size < MIN_SIZE:
        raise ConfigError(f"image_size: expected at least {MIN_SIZE} px, found {size}")
