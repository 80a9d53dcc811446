"""torchvision's names of a ResNet's tensors to those of Hugging Face's `ResNetModel`, and back: one table, one-to-one.

In: tensors under one naming. Out: the same tensors under the other, or a CheckpointError naming what has no counterpart.
Patterns are anchored and each name must match exactly one. Source: transformers models/resnet/modeling_resnet.py.
Counting starts elsewhere there: layer1 is stages.0, conv1 is layer.0.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from torch import Tensor

from pretrain.base.errors import CheckpointError

LEAF = r"(?P<leaf>weight|bias|running_mean|running_var|num_batches_tracked)"
BLOCK = r"layer(?P<layer>[1-4])\.(?P<block>\d+)"
STEM = "embedder.embedder"
HF_BLOCK = "encoder.stages.{layer}.layers.{block}"
TO_HUGGINGFACE: tuple[tuple[str, str], ...] = (
    (r"conv1\.weight", f"{STEM}.convolution.weight"),
    (rf"bn1\.{LEAF}", f"{STEM}.normalization.{{leaf}}"),
    (rf"{BLOCK}\.conv(?P<conv>[1-3])\.weight", f"{HF_BLOCK}.layer.{{conv}}.convolution.weight"),
    (rf"{BLOCK}\.bn(?P<conv>[1-3])\.{LEAF}", f"{HF_BLOCK}.layer.{{conv}}.normalization.{{leaf}}"),
    (rf"{BLOCK}\.downsample\.0\.weight", f"{HF_BLOCK}.shortcut.convolution.weight"),
    (rf"{BLOCK}\.downsample\.1\.{LEAF}", f"{HF_BLOCK}.shortcut.normalization.{{leaf}}"),
)
HF_PATTERN = r"encoder\.stages\.(?P<layer>[0-3])\.layers\.(?P<block>\d+)"
FROM_HUGGINGFACE: tuple[tuple[str, str], ...] = (
    (r"embedder\.embedder\.convolution\.weight", "conv1.weight"),
    (rf"embedder\.embedder\.normalization\.{LEAF}", "bn1.{leaf}"),
    (rf"{HF_PATTERN}\.layer\.(?P<conv>[0-2])\.convolution\.weight", "layer{layer}.{block}.conv{conv}.weight"),
    (rf"{HF_PATTERN}\.layer\.(?P<conv>[0-2])\.normalization\.{LEAF}", "layer{layer}.{block}.bn{conv}.{leaf}"),
    (rf"{HF_PATTERN}\.shortcut\.convolution\.weight", "layer{layer}.{block}.downsample.0.weight"),
    (rf"{HF_PATTERN}\.shortcut\.normalization\.{LEAF}", "layer{layer}.{block}.downsample.1.{leaf}"),
)
COUNTED = ("layer", "conv")  # groups whose counting starts at 1 in torchvision and at 0 in Hugging Face


def to_huggingface(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """torchvision names -> Hugging Face's; the tensors themselves are not touched."""
    return _renamed(tensors, TO_HUGGINGFACE, lambda number: number - 1)


def from_huggingface(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Hugging Face's names -> torchvision's: the inverse of `to_huggingface`."""
    return _renamed(tensors, FROM_HUGGINGFACE, lambda number: number + 1)


def _renamed(
    tensors: Mapping[str, Tensor], table: tuple[tuple[str, str], ...], count: Callable[[int], int]
) -> dict[str, Tensor]:
    renamed: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        found = []
        for pattern, template in table:
            if match := re.fullmatch(pattern, name):
                parts = {key: count(int(text)) if key in COUNTED else text for key, text in match.groupdict().items()}
                found.append(template.format(**parts))
        if len(found) != 1 or found[0] in renamed:
            raise CheckpointError(f"{name} has no name of its own in the other naming (candidates: {found or 'none'})")
        renamed[found[0]] = tensor
    return renamed
