"""Encoders: ResNet v1.5 with torchvision's parameter names and no classifier.

In: images (B, 3, H, W), normalised. Out: pooled features (B, D), or the five stages that a detector reads.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from pretrain.errors import ConfigError

STAGES = ("stem", "res2", "res3", "res4", "res5")


@dataclass(frozen=True)
class Architecture:
    """One ResNet: block kind, blocks a stage, groups and channels a group (ResNeXt, wide)."""

    bottleneck: bool
    layers: tuple[int, int, int, int]
    groups: int = 1
    width_per_group: int = 64

    @property
    def depth(self) -> int:
        """Detectron2's RESNETS.DEPTH: weighted layers, stem and classifier included."""
        return 2 + (3 if self.bottleneck else 2) * sum(self.layers)


ARCHITECTURES = {
    "resnet18": Architecture(bottleneck=False, layers=(2, 2, 2, 2)),
    "resnet34": Architecture(bottleneck=False, layers=(3, 4, 6, 3)),
    "resnet50": Architecture(bottleneck=True, layers=(3, 4, 6, 3)),
    "resnet101": Architecture(bottleneck=True, layers=(3, 4, 23, 3)),
    "resnet152": Architecture(bottleneck=True, layers=(3, 8, 36, 3)),
}


class ResNetEncoder(ResNet):
    """torchvision's ResNet (stride on the 3x3: v1.5) up to the pooled features.

    Initialisation is torchvision's: convolutions Kaiming normal (fan_out), BatchNorm 1/0, no zero-initialised residual
    [infomin.md 1.3]. State-dict names are torchvision's (`conv1.weight`, `layer1.0.bn1.running_mean`, ...).
    """

    def __init__(self, arch: str) -> None:
        """arch: a key of ARCHITECTURES. Raises ConfigError otherwise."""
        if arch not in ARCHITECTURES:
            raise ConfigError(f"encoder: expected one of {', '.join(ARCHITECTURES)}, found {arch!r}")
        spec = ARCHITECTURES[arch]
        block = Bottleneck if spec.bottleneck else BasicBlock
        super().__init__(block, list(spec.layers), groups=spec.groups, width_per_group=spec.width_per_group)
        del self.fc
        self.arch = arch
        self.feature_dim = 512 * block.expansion

    def stages(self, images: Tensor) -> dict[str, Tensor]:
        """Images (B, 3, H, W) -> {"stem": (B, 64, H/4, W/4), "res2": ..., "res5": (B, D, H/32, W/32)}, Detectron2's cuts."""
        features = {"stem": self.maxpool(self.relu(self.bn1(self.conv1(images))))}
        features["res2"] = self.layer1(features["stem"])
        features["res3"] = self.layer2(features["res2"])
        features["res4"] = self.layer3(features["res3"])
        features["res5"] = self.layer4(features["res4"])
        return features

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) -> global average of res5, (B, feature_dim)."""
        return torch.flatten(self.avgpool(self.stages(images)["res5"]), 1)


def backbone_shapes(arch: str) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every backbone tensor that a detector needs: convolutions and the four of each BatchNorm.

    265 tensors for resnet50 (53 convolutions + 53 x 4). `num_batches_tracked` is a counter, not a weight: left out. By
    arithmetic, in the order of the network's state: building the networks to ask them takes 0.3 s.
    """
    spec = ARCHITECTURES[arch]
    shapes = _convolution("conv1", "bn1", (64, 3, 7, 7))
    fed = 64
    for stage, blocks in enumerate(spec.layers):
        planes = 64 << stage
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
