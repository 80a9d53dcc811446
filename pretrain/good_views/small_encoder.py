"""A small convolutional encoder for images of 32 to 64 pixels: what measuring views needs on a CPU.

In: images (B, C, H, W), any number of channels. Out: pooled features (B, feature_dim).

Its job is the paper's "tiny" network's (half-width AlexNet, infomin.md 4): two of them, one a view, tell views apart by what
can be learned from them in minutes. It is no encoder to transfer: its layers have no counterpart in a detector.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pretrain.base.errors import ConfigError

MIN_SIZE = 16


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
