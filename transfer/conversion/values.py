"""Number types and values of weights: float32 out, nothing that is not a number, and whether training has moved them.

In: a backbone's tensors as the file has them. Out: contiguous float32, a sentence for each other type, or a CheckpointError.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from pretrain.base.errors import CheckpointError
from pretrain.base.weight_files.torch_files import TorchFile
from transfer.conversion.fitting import listing

UNTRAINED = "it was never trained"


def type_notes(tensors: Mapping[str, Tensor]) -> tuple[str, ...]:
    """One sentence for each number type that is not float32, saying what becomes of it."""
    counts: dict[torch.dtype, int] = {}
    for tensor in tensors.values():
        counts[tensor.dtype] = counts.get(tensor.dtype, 0) + 1
    rounded = {torch.float64: "rounded to float32"}
    return tuple(
        f"{count} tensors are {str(dtype).removeprefix('torch.')}; {rounded.get(dtype, 'converted to float32, exactly')}"
        for dtype, count in counts.items()
        if dtype != torch.float32
    )


def as_float32(tensors: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Contiguous float32, copied only where it is not that already: what was mapped stays on the file's pages.

    Raises CheckpointError for types that are not floats.
    """
    kinds = sorted({str(tensor.dtype) for tensor in tensors.values() if not tensor.is_floating_point()})
    if kinds:
        raise CheckpointError(f"{path}: expected floating-point weights, found {', '.join(kinds)}")
    return {name: _contiguous(tensor.detach().to(torch.float32)) for name, tensor in tensors.items()}


def check_values(file: TorchFile, stored: Iterable[Tensor], tensors: Mapping[str, Tensor], path: Path) -> None:
    """Checksums of what is `stored`, then values of what was made of it: damage is no divergence of the training."""
    file.verify(stored)
    refuse_infinite([name for name, tensor in tensors.items() if not _is_finite(tensor)], path)


def refuse_infinite(names: Sequence[str], path: Path) -> None:
    """Raises CheckpointError naming the tensors, if there are any."""
    if names:
        raise CheckpointError(f"{path}: NaN or infinity in the weights{listing('tensors', names)}")


def untrained_finding(tensors: Mapping[str, Tensor]) -> str | None:
    """One sentence where no BatchNorm has ever seen an image: every running mean is 0 and every variance 1. Else None.

    tensors: torchvision's names. One training step moves all statistics; those that a file lacks and the reader fills in
    (caffe2's: variances of 1 - 1e-5) are not these.
    """
    means = [tensor for name, tensor in tensors.items() if name.endswith("running_mean")]
    variances = [tensor for name, tensor in tensors.items() if name.endswith("running_var")]
    if any(bool(mean.any()) for mean in means) or any(bool((variance != 1).any()) for variance in variances):
        return None
    scales = silent_scales(tensors)
    silent = f"; the last scale of {len(scales)} blocks is 0, as it was initialised" if scales else ""
    return (
        f"{UNTRAINED} (or its statistics were not saved): all {len(means)} running means of its BatchNorms are 0 and all "
        f"variances 1{silent}"
    )


def silent_scales(tensors: Mapping[str, Tensor]) -> list[str]:
    """The last scale of every block where it is all zero, so that the block's convolutions have no effect on its output."""
    last: dict[str, str] = {}  # block -> its last BatchNorm's scale; bn3 comes behind bn2
    for name in tensors:
        if match := re.fullmatch(r"(layer[1-4]\.\d+)\.bn\d\.weight", name):
            last[match[1]] = max(name, last.get(match[1], ""))
    return [name for name in last.values() if not bool(tensors[name].any())]


def _is_finite(tensor: Tensor) -> bool:
    """Whether no value is NaN or infinite.

    One NaN or infinity makes the sum one; a sum may also overflow, so only a finite one decides.
    """
    return bool(torch.isfinite(tensor.sum())) or bool(torch.isfinite(tensor).all())


def _contiguous(tensor: Tensor) -> Tensor:
    """`tensor` alone in its storage: a view would drag the whole storage into the file that is written."""
    tensor = tensor.contiguous()
    alone = tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
    return tensor if alone else tensor.clone()
