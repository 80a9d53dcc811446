"""Names of a ResNet's tensors: torchvision's and everybody else's, one table each, one-to-one.

In: tensors under one naming. Out: the same tensors under another, or a CheckpointError naming what has no counterpart.
Source of Detectron2's names: infomin.md 2.1; of the others: beside each table. Patterns are anchored and each name must match
exactly one, so nothing is carried along by accident.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from pretrain.base.errors import CheckpointError

NORM = r"(?P<leaf>weight|bias|running_mean|running_var)"
CAFFE2_EPS = (
    1e-5  # Detectron2's FrozenBatchNorm2d subtracts it from a variance of one, so that the scale is exactly one
)


def _unchanged(tensor: Tensor) -> Tensor:
    return tensor


def _from_haiku(tensor: Tensor) -> Tensor:
    """haiku keeps convolutions as (H, W, in, out) and BatchNorm's vectors as (1, 1, 1, C); also without the ones."""
    if tensor.dim() == 4 and tuple(tensor.shape[:3]) != (1, 1, 1):
        return tensor.permute(3, 2, 0, 1)
    return tensor.reshape(-1)


@dataclass(frozen=True)
class Naming:
    """table: (pattern, template) rows. words: what a named group of a pattern becomes in the template, where it changes.

    body: a pattern that only the stages' tensors match, with the group `at` where the encoder's own names begin; it finds
    encoders in unknown files. array: what is done to each tensor.
    """

    name: str
    table: tuple[tuple[str, str], ...]
    words: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    body: str | None = None
    array: Callable[[Tensor], Tensor] = _unchanged

    def rename(self, name: str) -> str:
        """The torchvision name of `name`. Raises CheckpointError when it has none."""
        found = [new for pattern, template in self.table if (new := self._match(name, pattern, template)) is not None]
        if len(found) != 1:
            raise CheckpointError(f"{name} has no name of its own in the other naming (candidates: {found or 'none'})")
        return found[0]

    def renamed(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """All tensors under their new names. Raises CheckpointError for a name without one and for two that become one."""
        renamed: dict[str, Tensor] = {}
        for name, tensor in tensors.items():
            new = self.rename(name)
            if new in renamed:
                raise CheckpointError(f"{name} and another tensor both become {new}")
            renamed[new] = self.array(tensor)
        return renamed

    def knows(self, name: str) -> bool:
        """Whether `name` has a counterpart."""
        return any(self._match(name, *row) is not None for row in self.table)

    def _match(self, name: str, pattern: str, template: str) -> str | None:
        match = re.fullmatch(pattern, name)
        if match is None:
            return None
        parts = {key: self.words.get(key, {}).get(value, value) for key, value in match.groupdict().items()}
        return template.format(**parts)


BLOCK = r"layer(?P<stage>[1-4])\.(?P<block>\d+)"
STAGE = r"(?P<stage>res[2-5])\.(?P<block>\d+)"
TO_DETECTRON2 = Naming(
    "torchvision to detectron2",
    (
        (r"conv1\.weight", "stem.conv1.weight"),
        (rf"bn1\.{NORM}", "stem.conv1.norm.{leaf}"),
        (rf"{BLOCK}\.conv(?P<conv>[1-3])\.weight", "{stage}.{block}.conv{conv}.weight"),
        (rf"{BLOCK}\.bn(?P<conv>[1-3])\.{NORM}", "{stage}.{block}.conv{conv}.norm.{leaf}"),
        (rf"{BLOCK}\.downsample\.0\.weight", "{stage}.{block}.shortcut.weight"),
        (rf"{BLOCK}\.downsample\.1\.{NORM}", "{stage}.{block}.shortcut.norm.{leaf}"),
    ),
    words={"stage": {"1": "res2", "2": "res3", "3": "res4", "4": "res5"}},
)


def _blocks(prefix: str, convolution: str, norm: str, shortcut: str, shortcut_norm: str) -> tuple[tuple[str, str], ...]:
    """The four rows of a residual block, for namings that differ in punctuation only."""
    return (
        (prefix + convolution, "{stage}.{block}.conv{conv}.weight"),
        (prefix + norm, "{stage}.{block}.bn{conv}.{leaf}"),
        (prefix + shortcut, "{stage}.{block}.downsample.0.weight"),
        (prefix + shortcut_norm, "{stage}.{block}.downsample.1.{leaf}"),
    )


def _layers(first: int, mark: str = "") -> dict[str, str]:
    """A stage's word, counted from `first`, to torchvision's layer1..layer4."""
    return {f"{mark}{first + index}": f"layer{index + 1}" for index in range(4)}


TORCHVISION = Naming(
    "torchvision",
    (
        (r"conv1\.weight", "conv1.weight"),
        (rf"bn1\.{NORM}", "bn1.{leaf}"),
        *_blocks(
            r"(?P<stage>layer[1-4])\.(?P<block>\d+)\.",
            r"conv(?P<conv>[1-3])\.weight",
            rf"bn(?P<conv>[1-3])\.{NORM}",
            r"downsample\.0\.weight",
            rf"downsample\.1\.{NORM}",
        ),
    ),
    body=r"(?:^|(?<=\.))(?P<at>)layer[1-4]\.\d+\.(conv|bn|downsample)",
)
DETECTRON2 = Naming(
    "detectron2",
    (
        (r"stem\.conv1\.weight", "conv1.weight"),
        (rf"stem\.conv1\.norm\.{NORM}", "bn1.{leaf}"),
        *_blocks(
            rf"{STAGE}\.",
            r"conv(?P<conv>[1-3])\.weight",
            rf"conv(?P<conv>[1-3])\.norm\.{NORM}",
            r"shortcut\.weight",
            rf"shortcut\.norm\.{NORM}",
        ),
    ),
    words={"stage": _layers(2, "res")},
)
# nn.Sequential(*list(resnet.children())[:-1]), as in lightly's examples: 0 conv1, 1 bn1, 2 relu, 3 maxpool, 4..7 the layers.
SEQUENTIAL = Naming(
    "sequential",
    (
        (r"0\.weight", "conv1.weight"),
        (rf"1\.{NORM}", "bn1.{leaf}"),
        *_blocks(
            r"(?P<stage>[4-7])\.(?P<block>\d+)\.",
            r"conv(?P<conv>[1-3])\.weight",
            rf"bn(?P<conv>[1-3])\.{NORM}",
            r"downsample\.0\.weight",
            rf"downsample\.1\.{NORM}",
        ),
    ),
    words={"stage": _layers(4)},
    body=r"(?:^|(?<=\.))(?P<at>)[4-7]\.\d+\.(conv|bn|downsample)",
)
# Read off transformers 5.24's ResNetModel (state_dict of a model built without memory).
HUGGING_FACE = Naming(
    "hugging face",
    (
        (r"(?:resnet\.)?embedder\.embedder\.convolution\.weight", "conv1.weight"),
        (rf"(?:resnet\.)?embedder\.embedder\.normalization\.{NORM}", "bn1.{leaf}"),
        *_blocks(
            r"(?:resnet\.)?encoder\.stages\.(?P<stage>[0-3])\.layers\.(?P<block>\d+)\.",
            r"layer\.(?P<conv>[0-2])\.convolution\.weight",
            rf"layer\.(?P<conv>[0-2])\.normalization\.{NORM}",
            r"shortcut\.convolution\.weight",
            rf"shortcut\.normalization\.{NORM}",
        ),
    ),
    words={"stage": _layers(0), "conv": {"0": "1", "1": "2", "2": "3"}},
    body=r"(?:^|(?<=\.))(?P<at>)encoder\.stages\.[0-3]\.layers\.\d+\.(layer|shortcut)",
)
# detectron2/checkpoint/c2_model_loading.py: s and b are an affine layer; rm and riv, where they are, its statistics.
AFFINE = r"(?P<leaf>s|b|rm|riv)"
CAFFE2 = Naming(
    "caffe2",
    (
        (r"conv1_w", "conv1.weight"),
        (rf"res_conv1_bn_{AFFINE}", "bn1.{leaf}"),
        *_blocks(
            r"(?P<stage>res[2-5])_(?P<block>\d+)_",
            r"branch2(?P<conv>[abc])_w",
            rf"branch2(?P<conv>[abc])_bn_{AFFINE}",
            r"branch1_w",
            rf"branch1_bn_{AFFINE}",
        ),
    ),
    words={
        "stage": _layers(2, "res"),
        "conv": {"a": "1", "b": "2", "c": "3"},
        "leaf": {"s": "weight", "b": "bias", "rm": "running_mean", "riv": "running_var"},
    },
)
# Separius/SimCLRv2-Pytorch resnet.py: net.0 stem, net.1..4 stages; a block's net is conv, (bn, relu), conv, ...
SIMCLR_PORT = Naming(
    "simclr port",
    (
        (r"net\.0\.0\.weight", "conv1.weight"),
        (rf"net\.0\.1\.0\.{NORM}", "bn1.{leaf}"),
        *_blocks(
            r"net\.(?P<stage>[1-4])\.blocks\.(?P<block>\d+)\.",
            r"net\.(?P<conv>[024])\.weight",
            rf"net\.(?P<conv>[135])\.0\.{NORM}",
            r"projection\.shortcut\.weight",
            rf"projection\.bn\.0\.{NORM}",
        ),
    ),
    words={"stage": _layers(1), "conv": {"0": "1", "1": "1", "2": "2", "3": "2", "4": "3", "5": "3"}},
)
# haiku's nets.ResNet as deepmind-research byol/utils/networks.py uses it, without its "/~": modules and leaves joined by "/".
HAIKU_NORM = r"(?P<leaf>scale|offset|mean_ema/average|var_ema/average)"
HAIKU = Naming(
    "haiku",
    (
        (r"res_net\d+/initial_conv/w", "conv1.weight"),
        (rf"res_net\d+/initial_batchnorm/{HAIKU_NORM}", "bn1.{leaf}"),
        *_blocks(
            r"res_net\d+/block_group_(?P<stage>[0-3])/block_(?P<block>\d+)/",
            r"conv_(?P<conv>[0-2])/w",
            rf"batchnorm_(?P<conv>[0-2])/{HAIKU_NORM}",
            r"shortcut_conv/w",
            rf"shortcut_batchnorm/{HAIKU_NORM}",
        ),
    ),
    words={
        "stage": _layers(0),
        "conv": {"0": "1", "1": "2", "2": "3"},
        "leaf": {
            "scale": "weight",
            "offset": "bias",
            "mean_ema/average": "running_mean",
            "var_ema/average": "running_var",
        },
    },
    array=_from_haiku,
)
NAMINGS = {
    naming.name: naming for naming in (TORCHVISION, DETECTRON2, SEQUENTIAL, HUGGING_FACE, CAFFE2, SIMCLR_PORT, HAIKU)
}


def to_detectron2(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """torchvision names -> Detectron2 names; the tensors themselves are not touched."""
    return TO_DETECTRON2.renamed(tensors)


def from_detectron2(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Detectron2 names -> torchvision names: the inverse of `to_detectron2`."""
    return DETECTRON2.renamed(tensors)


def with_affine_statistics(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """BatchNorms that are only a scale and a shift (caffe2), with the mean and variance that leave these as they are.

    torchvision names. Only where no layer at all has statistics: a file that lacks some of them is incomplete.
    """
    if any(name.endswith(("running_mean", "running_var")) for name in tensors):
        return dict(tensors)
    complete: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        complete[name] = tensor
        if tensor.dim() == 1 and name.endswith(".bias"):
            layer = name.removesuffix("bias")
            complete[f"{layer}running_mean"] = torch.zeros(tensor.shape[0])
            complete[f"{layer}running_var"] = torch.ones(tensor.shape[0]) - CAFFE2_EPS
    return complete
