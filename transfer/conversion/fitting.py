"""Whether tensors are exactly those of a known ResNet, and in words what they are instead.

In: tensors under torchvision's names. Out: `Fit`: the nearest architecture and what is missing, of another shape or left over;
`reason` turns the well-known misfits (deep stem, average-pooled shortcut, CIFAR stem, vision transformer, ...) into a sentence.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor

from pretrain.base.architecture import ARCHITECTURES, Architecture
from pretrain.model.encoder import backbone_shapes

COUNTER = "num_batches_tracked"  # written by BatchNorm, read by nothing
# Converted only with --source: no published detector has this width.
ON_REQUEST = frozenset({"resnet50_half", "resnet50_half_stem64"})
BACKBONE_SEGMENTS = re.compile(r"(layer\d+|conv\d+|bn\d+|stem|maxpool)\b")

TRANSFORMER = "it is a vision transformer, which Detectron2's ResNet cannot be"
DEEP_STEM = "it has a deep stem (several 3x3 convolutions), which Detectron2's BasicStem (one 7x7) cannot express"
AVERAGE_DOWN = "its shortcuts pool before they convolve (avg-down, ResNet-D), which Detectron2's blocks cannot express"
CIFAR_STEM = (
    "it has the small stem for CIFAR (3x3, no pooling), which Detectron2's BasicStem (7x7, stride 2) cannot express"
)
ONE_OR_TWO_CHANNELS = "its first convolution reads {0} channels, not the three of an image (CMC's encoders do so)"
HALF_WIDTH = (
    "it is half as wide as a ResNet-50 (CMC's width); pass --source with the layout's name to ask for that target"
)
SELECTIVE_KERNEL = "it has selective kernels (SimCLR v2's sk1), which Detectron2's blocks cannot express"
EXTRA_MODULES = "its blocks hold more than convolutions and BatchNorm (squeeze-and-excitation, attention)"
OTHER_NORM = "its BatchNorms have no running statistics (GroupNorm, or another normalisation)"
# What can be done with a whole detector as it is; {} is its path.
DETECTOR_USES = (
    "evaluate it with `python tools/train_net.py --eval-only --config-file CONFIG MODEL.WEIGHTS {0}`, or fine-tune all of it "
    "with `python tools/train_net.py --trust --config-file CONFIG MODEL.WEIGHTS {0}`"
)
DETECTOR = (
    "it is a whole detector of Detectron2 without a complete ResNet under backbone.* or backbone.bottom_up.*; "
    + DETECTOR_USES.format("FILE")
)
PRE_ACTIVATION = "it is a pre-activation ResNet (v2), which Detectron2's blocks cannot express"
OTHER_DEPTH = "it has {0} blocks in its stages, a depth that Detectron2 does not build (18, 34, 50, 101, 152)"


@dataclass(frozen=True)
class Fit:
    """arch: the nearest architecture. missing, unknown: names; other: names with both shapes. expected: tensors of `arch`."""

    arch: str
    expected: int
    missing: tuple[str, ...]
    unknown: tuple[str, ...]
    other: tuple[str, ...]

    @property
    def names(self) -> list[str]:
        """The architecture's tensors, in its own order."""
        return list(shapes_of(self.arch))

    @property
    def placed(self) -> int:
        """Tensors of the architecture that are there with their shape."""
        return self.expected - len(self.missing) - len(self.other)

    @property
    def complete(self) -> bool:
        """Nothing missing, nothing of another shape, nothing unexplained."""
        return not (self.missing or self.unknown or self.other)

    def __str__(self) -> str:
        return (
            f"{self.placed} of {self.expected} backbone tensors of {self.arch} (the nearest of "
            f"{', '.join(name for name in ARCHITECTURES if name == self.arch or name in PLAIN)}) fit"
            f"{listing('missing', self.missing)}{listing('of another shape', self.other)}"
            f"{listing('not of a ResNet', self.unknown)}"
        )


LISTED = 8
PLAIN = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")


def listing(title: str, names: Iterable[str]) -> str:
    """ "; 3 TITLE: a, b, c", at most LISTED of them; "" for none."""
    names = list(names)
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return f"; {len(names)} {title}: {', '.join(names[:LISTED])}{more}" if names else ""


@functools.cache
def shapes_of(arch: str) -> dict[str, tuple[int, ...]]:
    """`backbone_shapes`, computed once."""
    return backbone_shapes(arch)


def fit(tensors: Mapping[str, Tensor], *, on_request: bool = False) -> Fit:
    """The architecture that `tensors` are nearest to, and how near. on_request: widths that nobody gets unasked, too."""
    names = [name for name in ARCHITECTURES if on_request or name not in ON_REQUEST]
    arch = min(_candidates(tensors, names), key=lambda name: _distance(tensors, shapes_of(name)))
    shapes = shapes_of(arch)
    return Fit(
        arch=arch,
        expected=len(shapes),
        missing=tuple(sorted(set(shapes) - set(tensors))),
        unknown=tuple(sorted(set(tensors) - set(shapes))),
        other=tuple(
            sorted(
                f"{name} {tuple(tensors[name].shape)}, expected {shape}"
                for name, shape in shapes.items()
                if name in tensors and tuple(tensors[name].shape) != shape
            )
        ),
    )


def _candidates(tensors: Mapping[str, Tensor], names: list[str]) -> list[str]:
    """Architectures with the blocks that `tensors` have; the plain ones where no architecture has."""
    bottleneck, layers = _blocks(tensors)
    alike = [name for name in names if _is_like(ARCHITECTURES[name], bottleneck, layers)]
    return alike or [name for name in names if name in PLAIN]


def _is_like(spec: Architecture, bottleneck: bool, layers: tuple[int, ...]) -> bool:
    return spec.bottleneck == bottleneck and spec.layers == layers


def _blocks(names: Iterable[str]) -> tuple[bool, tuple[int, ...]]:
    """(bottleneck?, blocks in each of the four stages) as the names say."""
    blocks = [0, 0, 0, 0]
    bottleneck = False
    for name in names:
        match = re.match(r"layer([1-4])\.(\d+)\.(conv3)?", name)
        if match:
            stage = int(match[1]) - 1
            blocks[stage] = max(blocks[stage], int(match[2]) + 1)
            bottleneck |= match[3] is not None
    return bottleneck, tuple(blocks)


def _distance(tensors: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]]) -> int:
    fitting = sum(name in tensors and tuple(tensors[name].shape) == shape for name, shape in shapes.items())
    return len(set(tensors) | set(shapes)) - fitting


def reason(tensors: Mapping[str, Tensor]) -> str | None:
    """Why tensors that fit no architecture cannot be a Detectron2 ResNet, where the cause is a known one.

    tensors: everything under the prefix, torchvision's names where they have one and their own elsewhere.
    """
    names = list(tensors)
    if _any(r"(^|\.)(cls_token|pos_embed|patch_embed\.|blocks\.\d+\.attn\.)", names):
        return TRANSFORMER
    if _any(r"^(backbone\.(bottom_up\.)?(stem|res[2-5])\.|roi_heads\.)", names):
        return DETECTOR
    if _any(r"mixing_conv|main_conv", names):
        return SELECTIVE_KERNEL
    if _any(r"^(conv1\.[0-9]+\.weight|stem\.[0-9]+\.weight|conv3\.weight|stem\.conv2\.)", names):
        return DEEP_STEM
    if _any(r"^layer[1-4]\.\d+\.downsample\.2\.", names):
        return AVERAGE_DOWN
    if _any(r"^(stages\.\d+\.blocks|body\.block\d|norm\.weight$)", names) and _any(r"(preact|norm1|gn1)", names):
        return PRE_ACTIVATION
    first = tensors.get("conv1.weight")
    if first is not None and first.dim() == 4 and first.shape[1] in (1, 2):
        return ONE_OR_TWO_CHANNELS.format(first.shape[1])
    if first is not None and tuple(first.shape[1:]) == (3, 3, 3):
        return CIFAR_STEM
    bottleneck, layers = _blocks(names)
    inner = tensors.get("layer1.0.conv1.weight")
    if first is not None and inner is not None and bottleneck and inner.shape[0] == 32:
        return HALF_WIDTH
    if not _any(r"running_(mean|var)$", names) and _any(r"^layer[1-4]\.", names):
        return OTHER_NORM
    if _any(r"^layer[1-4]\.\d+\.(?!conv\d\.|bn\d\.|downsample\.)\w+", names):
        return EXTRA_MODULES
    if all(layers) and not any(_is_like(spec, bottleneck, layers) for spec in ARCHITECTURES.values()):
        return OTHER_DEPTH.format(", ".join(map(str, layers)))
    return None


def _any(pattern: str, names: list[str]) -> bool:
    return any(re.search(pattern, name) for name in names)
