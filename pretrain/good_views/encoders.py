"""Encoders that judge views, by name and size: a small one for images of 32 to 64 pixels on a CPU, and half-width ResNets.

In: images (B, C, H, W), any number of channels. Out: pooled features (B, feature_dim).

The small one does what the paper's "tiny" network (half-width AlexNet) does [docs/specification.md 4]: two of them, one a view,
tell views apart by what can be learned from them in minutes. It is no encoder to transfer: its layers have no counterpart in a
detector.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from pretrain.base.errors import ConfigError
from pretrain.model.encoder import ResNetEncoder

MIN_SIZE = 16
EncoderKind = Literal["small", "resnet18_half", "resnet50_half"]
VIEW_CHANNELS = (1, 2)  # of view 1 and of view 2, where the views are channels of one image


class SmallEncoder(nn.Module):
    """Four 3x3 convolutions with BatchNorm and ReLU, three of them of stride 2, then the mean over the image.

    Channels: width, 2 width, 4 width, feature_dim. At 32 px, width 32, feature_dim 128: 4.9 million multiply-adds an image
    of three channels. Convolutions start Kaiming normal (fan_out), BatchNorm 1/0, as pretrain.model.encoder's.
    """

    def __init__(self, in_channels: int, *, width: int = 32, feature_dim: int = 128) -> None:
        """in_channels: of the view, 1 or more. Raises ConfigError for sizes below 1."""
        if in_channels < 1 or width < 1 or feature_dim < 1:
            raise ConfigError(
                f"small encoder: expected sizes of at least 1, found {in_channels=}, {width=}, {feature_dim=}"
            )
        super().__init__()
        self.in_channels, self.feature_dim = in_channels, feature_dim
        plan = ((in_channels, width, 2), (width, 2 * width, 2), (2 * width, 4 * width, 2), (4 * width, feature_dim, 1))
        self.layers = nn.Sequential(*(layer for block in plan for layer in _block(*block)))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, in_channels, H, W), H and W at least MIN_SIZE -> (B, feature_dim)."""
        if images.shape[1] != self.in_channels or min(images.shape[2:]) < MIN_SIZE:
            raise ConfigError(
                f"small encoder: expected (B, {self.in_channels}, H, W) of at least {MIN_SIZE} px, "
                f"found {tuple(images.shape)}"
            )
        return torch.flatten(nn.functional.adaptive_avg_pool2d(self.layers(images), 1), 1)


def _block(channels_in: int, channels_out: int, stride: int) -> tuple[nn.Module, ...]:
    convolution = nn.Conv2d(channels_in, channels_out, kernel_size=3, stride=stride, padding=1, bias=False)
    return convolution, nn.BatchNorm2d(channels_out), nn.ReLU(inplace=True)


@dataclass(frozen=True)
class ViewEncoderConfig:
    """kind: "small", or a half-width ResNet without max-pool (the paper's estimators are resnet50_half, its classifiers
        resnet18_half [specification 4]).
    width, feature_dim: of "small".
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
