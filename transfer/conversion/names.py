"""Names of a ResNet's parameters: torchvision's, and one function from these to every other library's.

A `Naming` enumerates the finite set of torchvision's names, writes each as its library does and inverts the table, so it is
one-to-one by construction and a name that is not in it has no counterpart. To add a library: one function, one `Naming`.
Source of Detectron2's names: [specification 2.1]; of the others: beside each function.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from pretrain.base.errors import CheckpointError

LEAVES = ("weight", "bias", "running_mean", "running_var")
MAX_BLOCKS = 64  # of a stage; the deepest ResNet in use (200 layers) has 36
CAFFE2_EPS = (
    1e-5  # Detectron2's FrozenBatchNorm2d subtracts it from a variance of one, so that the scale is exactly one
)


@dataclass(frozen=True)
class Parameter:
    """A parameter of a ResNet by its place.

    stage: 0 for the stem, 1 to 4 for layer1 to layer4.
    layer: which convolution of the block, 1 to 3; 0 for the shortcut.
    norm: whether it belongs to the BatchNorm behind that convolution.
    """

    stage: int
    block: int
    layer: int
    norm: bool
    leaf: str

    @property
    def name(self) -> str:
        """torchvision's name."""
        if self.stage == 0:
            return f"{'bn1' if self.norm else 'conv1'}.{self.leaf}"
        layer = f"{'bn' if self.norm else 'conv'}{self.layer}" if self.layer else f"downsample.{int(self.norm)}"
        return f"layer{self.stage}.{self.block}.{layer}.{self.leaf}"


PLACES = [(0, 0, 1), *((s, b, layer) for s in (1, 2, 3, 4) for b in range(MAX_BLOCKS) for layer in (1, 2, 3, 0))]
PARAMETERS = tuple(
    Parameter(*place, norm, leaf)
    for place in PLACES
    for norm, leaf in ((False, "weight"), *((True, leaf) for leaf in LEAVES))
)


def _torchvision(p: Parameter) -> str:
    return p.name


def _detectron2(p: Parameter) -> str:
    block = f"res{p.stage + 1}.{p.block}" if p.stage else "stem"
    layer = f"conv{p.layer}" if p.layer else "shortcut"
    return f"{block}.{layer}{'.norm' if p.norm else ''}.{p.leaf}"


def _sequential(p: Parameter) -> str:
    """nn.Sequential(*list(resnet.children())[:-1]), as in lightly's examples: conv1, bn1, relu, maxpool, then the layers."""
    if p.stage == 0:
        return f"{int(p.norm)}.{p.leaf}"
    return p.name.replace(f"layer{p.stage}", str(p.stage + 3), 1)


def _hugging_face(p: Parameter) -> str:
    """transformers models/resnet/modeling_resnet.py (5.24); its counting starts at 0."""
    kind = f"{'normalization' if p.norm else 'convolution'}.{p.leaf}"
    if p.stage == 0:
        return f"embedder.embedder.{kind}"
    layer = f"layer.{p.layer - 1}" if p.layer else "shortcut"
    return f"encoder.stages.{p.stage - 1}.layers.{p.block}.{layer}.{kind}"


def _caffe2(p: Parameter) -> str:
    """detectron2/checkpoint/c2_model_loading.py: s and b are an affine layer; rm and riv, where they are, its statistics."""
    leaf = {"weight": "s", "bias": "b", "running_mean": "rm", "running_var": "riv"}[p.leaf]
    tail = f"bn_{leaf}" if p.norm else "w"
    if p.stage == 0:
        return f"{'res_' if p.norm else ''}conv1_{tail}"
    branch = f"2{'abc'[p.layer - 1]}" if p.layer else "1"
    return f"res{p.stage + 1}_{p.block}_branch{branch}_{tail}"


def _simclr_port(p: Parameter) -> str:
    """Separius/SimCLRv2-Pytorch resnet.py: net.0 stem, net.1..4 stages; a block's net is conv, (bn, relu), conv, ..."""
    if p.stage == 0:
        return f"net.0.{'1.0' if p.norm else '0'}.{p.leaf}"
    if p.layer == 0:
        layer = f"projection.{'bn.0' if p.norm else 'shortcut'}"
    else:
        layer = f"net.{2 * p.layer - 1}.0" if p.norm else f"net.{2 * p.layer - 2}"
    return f"net.{p.stage}.blocks.{p.block}.{layer}.{p.leaf}"


def _haiku(p: Parameter) -> str:
    """nets.ResNet as deepmind-research byol/utils/networks.py uses it, without "/~": modules and leaves joined by "/"."""
    norm = {"weight": "scale", "bias": "offset", "running_mean": "mean_ema/average", "running_var": "var_ema/average"}
    kind, leaf = ("batchnorm", norm[p.leaf]) if p.norm else ("conv", "w")
    if p.stage == 0:
        return f"initial_{kind}/{leaf}"
    layer = f"{kind}_{p.layer - 1}" if p.layer else f"shortcut_{kind}"
    return f"block_group_{p.stage - 1}/block_{p.block}/{layer}/{leaf}"


def _from_haiku(tensor: Tensor) -> Tensor:
    """haiku keeps convolutions as (H, W, in, out) and BatchNorm's vectors as (1, 1, 1, C); also without the ones."""
    if tensor.dim() == 4 and tuple(tensor.shape[:3]) != (1, 1, 1):
        return tensor.permute(3, 2, 0, 1)
    return tensor.reshape(-1)


def _unchanged(tensor: Tensor) -> Tensor:
    return tensor


@dataclass(frozen=True)
class Naming:
    """How one library calls the parameters of a ResNet.

    write: the library's name of a parameter.
    prefix: a pattern of what stands before these names in files, taken off before they are looked up.
    body: a pattern that only the stages' tensors match, with the group `at` where the encoder's own names begin; it finds
    encoders in unknown files.
    array: what is done to a tensor of a file.
    """

    name: str
    write: Callable[[Parameter], str]
    prefix: str = ""
    body: str | None = None
    array: Callable[[Tensor], Tensor] = _unchanged

    @cached_property
    def names(self) -> dict[str, str]:
        """torchvision's name -> the library's."""
        return {parameter.name: self.write(parameter) for parameter in PARAMETERS}

    @cached_property
    def inverse(self) -> dict[str, str]:
        """The library's name -> torchvision's."""
        inverse = {theirs: ours for ours, theirs in self.names.items()}
        assert len(inverse) == len(self.names), f"two parameters have one name in {self.name}"
        return inverse

    def torchvision(self, name: str) -> str | None:
        """torchvision's name of a tensor of a file, None when it has none."""
        match = re.match(self.prefix, name)
        return None if match is None else self.inverse.get(name[match.end() :])

    def read(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tensors of a file under torchvision's names; those without one keep their own.

        Raises CheckpointError for two that become one.
        """
        read: dict[str, Tensor] = {}
        for name, tensor in tensors.items():
            ours = self.torchvision(name)
            if (ours or name) in read:
                raise CheckpointError(f"{name} and another tensor both become {ours or name}")
            read[ours or name] = tensor if ours is None else self.array(tensor)
        return read

    def renamed(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """torchvision's names -> the library's; the tensors are not touched. Raises CheckpointError for any other name."""
        return {self.library_name(name): tensor for name, tensor in tensors.items()}

    def library_name(self, name: str) -> str:
        """The library's name of torchvision's `name`. Raises CheckpointError when it is no parameter of a ResNet."""
        if name not in self.names:
            raise CheckpointError(f"{name} is no parameter of a ResNet under torchvision's names")
        return self.names[name]


TORCHVISION = Naming("torchvision", _torchvision, body=r"(?:^|(?<=\.))(?P<at>)layer[1-4]\.\d+\.(conv|bn|downsample)")
DETECTRON2 = Naming("detectron2", _detectron2)
# A whole detector: FPN keeps the ResNet in backbone.bottom_up; C4 has stem to res4 in backbone and res5's blocks in its heads.
DETECTOR = Naming("detectron2 detector", _detectron2, prefix=r"backbone\.(bottom_up\.)?|roi_heads\.(?=res5\.)")
SEQUENTIAL = Naming("sequential", _sequential, body=r"(?:^|(?<=\.))(?P<at>)[4-7]\.\d+\.(conv|bn|downsample)")
HUGGING_FACE = Naming(
    "hugging face",
    _hugging_face,
    prefix=r"(resnet\.)?",
    body=r"(?:^|(?<=\.))(?P<at>)encoder\.stages\.[0-3]\.layers\.\d+\.(layer|shortcut)",
)
CAFFE2 = Naming("caffe2", _caffe2)
SIMCLR_PORT = Naming("simclr port", _simclr_port)
HAIKU = Naming("haiku", _haiku, prefix=r"res_net\d+/", array=_from_haiku)
NAMINGS = {
    naming.name: naming
    for naming in (TORCHVISION, DETECTRON2, DETECTOR, SEQUENTIAL, HUGGING_FACE, CAFFE2, SIMCLR_PORT, HAIKU)
}


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
