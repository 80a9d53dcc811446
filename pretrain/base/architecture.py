"""ResNet architectures as data: block kind, blocks a stage, groups and widths, by name.

The configuration, the encoder and the converter all read this one table.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Architecture:
    """One ResNet: block kind, blocks a stage, groups and channels a group (ResNeXt, torchvision's wide ones).

    base_channels: width of res2's 3x3 convolutions, 64 in the plain network. SwAV's w2 and SimCLR's 2x multiply it, and with it
    every layer; torchvision's wide_resnet50_2 widens the 3x3 convolutions alone (width_per_group).
    stem: outputs of the stem; None: base_channels. CMC's half-width networks keep the stem's 64.
    """

    bottleneck: bool
    layers: tuple[int, int, int, int]
    groups: int = 1
    width_per_group: int = 64
    base_channels: int = 64
    stem: int | None = None

    @property
    def stem_channels(self) -> int:
        """Outputs of the stem: Detectron2's STEM_OUT_CHANNELS."""
        return self.base_channels if self.stem is None else self.stem

    @property
    def depth(self) -> int:
        """Detectron2's RESNETS.DEPTH: weighted layers, stem and classifier included."""
        return 2 + (3 if self.bottleneck else 2) * sum(self.layers)

    @property
    def res2_channels(self) -> int:
        """Outputs of res2: Detectron2's RES2_OUT_CHANNELS."""
        return self.base_channels * (4 if self.bottleneck else 1)

    @property
    def res2_group_channels(self) -> int:
        """Channels of a group in res2's 3x3 convolution: Detectron2's WIDTH_PER_GROUP."""
        return self.width_per_group * self.base_channels // 64


R50, R101, R152 = (3, 4, 6, 3), (3, 4, 23, 3), (3, 8, 36, 3)
ARCHITECTURES = {
    "resnet18": Architecture(bottleneck=False, layers=(2, 2, 2, 2)),
    "resnet34": Architecture(bottleneck=False, layers=R50),
    "resnet50": Architecture(bottleneck=True, layers=R50),
    "resnet101": Architecture(bottleneck=True, layers=R101),
    "resnet152": Architecture(bottleneck=True, layers=R152),
    "resnext50_32x4d": Architecture(bottleneck=True, layers=R50, groups=32, width_per_group=4),
    "resnext101_32x4d": Architecture(bottleneck=True, layers=R101, groups=32, width_per_group=4),
    "resnext101_32x8d": Architecture(bottleneck=True, layers=R101, groups=32, width_per_group=8),
    "resnext101_32x16d": Architecture(bottleneck=True, layers=R101, groups=32, width_per_group=16),
    "resnext101_32x32d": Architecture(bottleneck=True, layers=R101, groups=32, width_per_group=32),
    "resnext101_64x4d": Architecture(bottleneck=True, layers=R101, groups=64, width_per_group=4),
    "resnext152_32x4d": Architecture(bottleneck=True, layers=R152, groups=32, width_per_group=4),
    "resnext152_32x8d": Architecture(bottleneck=True, layers=R152, groups=32, width_per_group=8),
    "resnext152_64x4d": Architecture(bottleneck=True, layers=R152, groups=64, width_per_group=4),
    "wide_resnet50_2": Architecture(bottleneck=True, layers=R50, width_per_group=128),
    "wide_resnet101_2": Architecture(bottleneck=True, layers=R101, width_per_group=128),
    **{f"resnet50w{k}": Architecture(bottleneck=True, layers=R50, base_channels=64 * k) for k in (2, 3, 4, 5)},
    **{f"resnet101w{k}": Architecture(bottleneck=True, layers=R101, base_channels=64 * k) for k in (2, 3)},
    **{f"resnet152w{k}": Architecture(bottleneck=True, layers=R152, base_channels=64 * k) for k in (2, 3)},
    # Half as wide, a quarter of the work: runs of minutes without a GPU (readout only: Detectron2 builds no narrow ResNet-18).
    "resnet18_half": Architecture(bottleneck=False, layers=(2, 2, 2, 2), base_channels=32),
    "resnet50_half": Architecture(bottleneck=True, layers=R50, base_channels=32),
    # CMC's towers: every layer but the stem half as wide.
    "resnet50_half_stem64": Architecture(bottleneck=True, layers=R50, base_channels=32, stem=64),
}
