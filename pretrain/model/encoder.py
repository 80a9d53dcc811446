"""Encoders: ResNet v1.5 with torchvision's parameter names and no classifier.

Normalised images (B, 3, H, W), or of one or two channels where an encoder reads one view of a pair, become pooled features
(B, D) or the five stages that a detector reads.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Literal

import torch
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from pretrain.base.architecture import ARCHITECTURES, Architecture
from pretrain.base.errors import ConfigError
from pretrain.base.shapes_only import shapes_only
from pretrain.model.batchnorm import normalised

Stem = Literal["imagenet", "small"]
STAGES = ("stem", "res2", "res3", "res4", "res5")


class _BasicBlock(BasicBlock):
    """torchvision's, with the sum and ReLU behind each BatchNorm handed to it."""

    def forward(self, x: Tensor) -> Tensor:
        rows = normalised(self.bn1, self.conv1(x))
        return normalised(self.bn2, self.conv2(rows), x if self.downsample is None else self.downsample(x))


class _Bottleneck(Bottleneck):
    """torchvision's, with the sum and ReLU behind each BatchNorm handed to it."""

    def forward(self, x: Tensor) -> Tensor:
        rows = normalised(self.bn1, self.conv1(x))
        rows = normalised(self.bn2, self.conv2(rows))
        return normalised(self.bn3, self.conv3(rows), x if self.downsample is None else self.downsample(x))


class ResNetEncoder(ResNet):
    """torchvision's ResNet (stride on the 3x3: v1.5) up to the pooled features.

    Initialisation is torchvision's: convolutions Kaiming normal (fan_out), BatchNorm 1/0, no zero-initialised residual
    [specification 1.3]. State-dict names are torchvision's (`conv1.weight`, `layer1.0.bn1.running_mean`, ...).
    """

    def __init__(
        self,
        arch: str,
        *,
        stride_in_1x1: bool = False,
        in_channels: int = 3,
        stem: Stem = "imagenet",
        max_pool: bool = True,
        zero_init_residual: bool = False,
    ) -> None:
        """arch: a key of ARCHITECTURES, ConfigError otherwise. stride_in_1x1: the first caffe/MSRA placement of the stride.

        in_channels: 1 and 2 for encoders of one view each. stem "small": a 3x3 convolution of stride 1 without max-pooling, for
        images of about 32 px. max_pool False leaves the pooling alone out, for about 64 px. zero_init_residual: the last
        BatchNorm of every block starts at 0 [specification 4]. Names stay the same.
        """
        if arch not in ARCHITECTURES:
            raise ConfigError(f"encoder: expected one of {', '.join(ARCHITECTURES)}, found {arch!r}")
        spec = ARCHITECTURES[arch]
        block = _Bottleneck if spec.bottleneck else _BasicBlock
        other_width = (spec.base_channels, spec.stem_channels) != (64, 64)
        with shapes_only() if other_width else nullcontext():  # its layers are built again
            super().__init__(block, list(spec.layers), groups=spec.groups, width_per_group=spec.width_per_group)
        del self.fc
        if other_width:
            self._widen(block, spec)
        if stride_in_1x1 and spec.bottleneck:
            for stage in (self.layer2, self.layer3, self.layer4):
                stage[0].conv1.stride, stage[0].conv2.stride = (2, 2), (1, 1)
        if in_channels != 3 or stem != "imagenet":
            self.conv1 = _stem(in_channels, spec.stem_channels, stem)
            nn.init.kaiming_normal_(self.conv1.weight, mode="fan_out", nonlinearity="relu")
        if not max_pool or stem == "small":
            self.maxpool = nn.Identity()
        if zero_init_residual:
            for module in self.modules():
                if isinstance(module, Bottleneck | BasicBlock):
                    nn.init.zeros_((module.bn3 if isinstance(module, Bottleneck) else module.bn2).weight)
        self.arch = arch
        self.feature_dim = 8 * spec.res2_channels

    def _widen(self, block: type[BasicBlock | Bottleneck], spec: Architecture) -> None:
        """Build all layers again, `base_channels` wide: torchvision fixes the stem's and res2's 64."""
        self.inplanes, self.dilation = spec.stem_channels, 1
        self.conv1 = _stem(3, spec.stem_channels, "imagenet")
        self.bn1 = nn.BatchNorm2d(spec.stem_channels)
        for index, blocks in enumerate(spec.layers):
            layer = self._make_layer(block, spec.base_channels << index, blocks, stride=1 if index == 0 else 2)
            setattr(self, f"layer{index + 1}", layer)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def stages(self, images: Tensor) -> dict[str, Tensor]:
        """Images (B, 3, H, W) -> {"stem": (B, C, H/4, W/4), "res2": ..., "res5": (B, D, H/32, W/32)}, Detectron2's cuts.

        With the small stem, H and W are divided by 1 and 8.
        """
        features = {"stem": self.maxpool(normalised(self.bn1, self.conv1(images)))}
        features["res2"] = self.layer1(features["stem"])
        features["res3"] = self.layer2(features["res2"])
        features["res4"] = self.layer3(features["res3"])
        features["res5"] = self.layer4(features["res4"])
        return features

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) -> global average of res5, (B, feature_dim)."""
        return torch.flatten(self.avgpool(self.stages(images)["res5"]), 1)


def uninitialised_encoder(
    arch: str, *, stride_in_1x1: bool = False, in_channels: int = 3, stem: Stem = "imagenet"
) -> ResNetEncoder:
    """A network on the CPU for a state to be loaded into: only BatchNorm's counters have a value, 0.

    Drawing random values that are overwritten takes a third of a second for resnet50 and seconds for resnet50w4.
    """
    with shapes_only():
        encoder = ResNetEncoder(arch, stride_in_1x1=stride_in_1x1, in_channels=in_channels, stem=stem)
    encoder.to_empty(device="cpu")
    for name, counter in encoder.named_buffers():
        if name.endswith("num_batches_tracked"):
            counter.zero_()
    return encoder


def _stem(in_channels: int, channels: int, stem: Stem) -> nn.Conv2d:
    if stem == "small":
        return nn.Conv2d(in_channels, channels, kernel_size=3, stride=1, padding=1, bias=False)
    return nn.Conv2d(in_channels, channels, kernel_size=7, stride=2, padding=3, bias=False)


def backbone_shapes(arch: str, *, stem: Stem = "imagenet", in_channels: int = 3) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every backbone tensor that a detector needs: convolutions and the four of each BatchNorm.

    265 tensors for resnet50 (53 convolutions + 53 x 4). `num_batches_tracked` is a counter, not a weight: left out. By
    arithmetic, in the order of the network's state: building the networks to ask them takes long.
    """
    spec = ARCHITECTURES[arch]
    fed, side = spec.stem_channels, 3 if stem == "small" else 7
    shapes = _convolution("conv1", "bn1", (fed, in_channels, side, side))
    for stage, blocks in enumerate(spec.layers):
        planes = spec.base_channels << stage
        width = planes * spec.width_per_group // 64 * spec.groups if spec.bottleneck else planes
        given = 4 * planes if spec.bottleneck else planes
        for block in range(blocks):
            at = f"layer{stage + 1}.{block}."
            if spec.bottleneck:
                kernels = [(width, fed, 1, 1), (width, width // spec.groups, 3, 3), (given, width, 1, 1)]
            else:
                kernels = [(planes, fed, 3, 3), (planes, planes, 3, 3)]
            for number, kernel in enumerate(kernels, 1):
                shapes |= _convolution(f"{at}conv{number}", f"{at}bn{number}", kernel)
            if block == 0 and (stage > 0 or fed != given):  # where the size or the width changes
                shapes |= _convolution(f"{at}downsample.0", f"{at}downsample.1", (given, fed, 1, 1))
            fed = given
    return shapes


def _convolution(name: str, norm: str, kernel: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    leaves = ("weight", "bias", "running_mean", "running_var")
    return {f"{name}.weight": kernel, **{f"{norm}.{leaf}": kernel[:1] for leaf in leaves}}
