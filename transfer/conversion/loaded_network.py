"""A network as a target's own library loaded it: what the forward proof runs, counts the tensors of, and spoils.

In: a module (or an ONNX session) with what its settings do to pixels. Out: stages, tensors with torchvision's names, and copies
that are wrong on purpose. `transfer/conversion/parity.py` knows nothing else of a target.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor, nn

from pretrain.base.contract import InputContract
from transfer.conversion.names import TORCHVISION, Naming

TensorMap = Mapping[str, Tensor]
COUNTER = "num_batches_tracked"  # written by BatchNorm, read by nothing
# The first block of these halves the map; where its 3x3 convolution comes second, the stride stands on one of the two.
STRIDED_BLOCKS = ("layer2.0", "layer3.0", "layer4.0")


@dataclass(frozen=True)
class Preprocessing:
    """What a target's own settings do to pixels: channel order, then (x - mean) / std, both for pixels in 0..255."""

    channel_order: str
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def of(cls, contract: InputContract) -> Preprocessing:
        """The contract's own, for targets whose files say nothing: the sidecar beside them carries it."""
        mean, std = (tuple(255 * value for value in values) for values in (contract.mean, contract.std))
        return cls(contract.channel_order, mean, std)

    def __call__(self, images: Tensor) -> Tensor:
        """uint8 RGB (B, 3, H, W) -> float32 of the same shape. Computed in float64: see `parity.prepare`."""
        pixels = images.double()
        if self.channel_order == "BGR":
            pixels = pixels.flip(1)
        mean, std = (torch.tensor(values, dtype=torch.float64).view(3, 1, 1) for values in (self.mean, self.std))
        return ((pixels - mean) / std).float()

    def spoiled(self) -> dict[str, Preprocessing]:
        """Two mistakes that users make, by name. Where a std of 1 is right (MSRA's), it is ImageNet's 58 that is wrong."""
        wrong_std = 58.0 if self.std == (1.0, 1.0, 1.0) else 1.0
        return {
            "channel order": replace(self, channel_order={"RGB": "BGR", "BGR": "RGB"}[self.channel_order]),
            f"pixel std of {wrong_std:.0f}": replace(self, std=(wrong_std,) * 3),
        }


class LoadedNetwork(Protocol):
    """What the proof asks of a target."""

    @property
    def preprocessing(self) -> Preprocessing:
        """What the target's settings do to pixels."""

    def tensors(self) -> dict[str, Tensor]:
        """Every weight as the library holds it, torchvision's names (counters left out)."""

    def stages(self, pixels: Tensor) -> dict[str, Tensor]:
        """Prepared pixels -> every stage that the target exposes ("res2" to "res5" at least)."""

    def with_tensors(self, tensors: TensorMap) -> LoadedNetwork:
        """A copy that holds other values; torchvision's names."""

    def with_stride_moved(self) -> LoadedNetwork:
        """A copy whose strides stand on the other convolution. Only for bottlenecks."""


@dataclass(frozen=True)
class TorchNetwork:
    """A module in evaluation mode.

    run: (module, pixels) -> stages.
    naming: the library's names.
    """

    module: nn.Module
    preprocessing: Preprocessing
    run: Callable[[nn.Module, Tensor], dict[str, Tensor]]
    naming: Naming = TORCHVISION

    def tensors(self) -> dict[str, Tensor]:
        """See `LoadedNetwork`."""
        state = self.module.state_dict()
        return self.naming.read({name: tensor for name, tensor in state.items() if not name.endswith(COUNTER)})

    def stages(self, pixels: Tensor) -> dict[str, Tensor]:
        """See `LoadedNetwork`."""
        with torch.no_grad():
            return self.run(self.module, pixels)

    def with_tensors(self, tensors: TensorMap) -> TorchNetwork:
        """See `LoadedNetwork`."""
        module = copy.deepcopy(self.module)
        strange = module.load_state_dict(self.naming.renamed(tensors), strict=False).unexpected_keys
        assert not strange, strange
        return replace(self, module=module)

    def with_stride_moved(self) -> TorchNetwork:
        """See `LoadedNetwork`."""
        module = copy.deepcopy(self.module)
        for block in STRIDED_BLOCKS:  # the strides of conv1 and conv2 exchanged: v1.5 <-> caffe/MSRA
            names = [self.naming.library_name(f"{block}.conv{i}.weight") for i in (1, 2)]
            first, second = (module.get_submodule(name.removesuffix(".weight")) for name in names)
            first.stride, second.stride = second.stride, first.stride
        return replace(self, module=module)


def run_with_hooks(module: nn.Module, pixels: Tensor) -> dict[str, Tensor]:
    """Stages of a network with torchvision's module names whose own output is the pooled features, by its own forward."""
    found: dict[str, Tensor] = {}

    def keep(stage: str) -> Callable[[nn.Module, object, Tensor], None]:
        return lambda _module, _inputs, output: found.__setitem__(stage, output)

    places = {"stem": "maxpool", **{f"res{i + 1}": f"layer{i}" for i in range(1, 5)}}
    handles = [
        module.get_submodule(place).register_forward_hook(keep(stage))  # type: ignore[arg-type]
        for stage, place in places.items()
    ]
    try:
        pooled: Tensor = module(pixels)
    finally:
        for handle in handles:
            handle.remove()
    return {**found, "pooled": pooled}
