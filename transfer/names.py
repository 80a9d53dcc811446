"""torchvision's names of a ResNet's tensors to Detectron2's, and back: one table, one-to-one.

In: tensors under one naming. Out: the same tensors under the other, or a CheckpointError naming what has no counterpart.
Source: infomin.md 2.1. Patterns are anchored and each name must match exactly one, so nothing is carried along by accident.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from pretrain.errors import CheckpointError

NORM = r"(?P<leaf>weight|bias|running_mean|running_var)"
BLOCK = r"layer(?P<layer>[1-4])\.(?P<block>\d+)"
TABLE: tuple[tuple[str, str], ...] = (
    (r"conv1\.weight", "stem.conv1.weight"),
    (rf"bn1\.{NORM}", "stem.conv1.norm.{leaf}"),
    (rf"{BLOCK}\.conv(?P<conv>[1-3])\.weight", "{stage}.{block}.conv{conv}.weight"),
    (rf"{BLOCK}\.bn(?P<conv>[1-3])\.{NORM}", "{stage}.{block}.conv{conv}.norm.{leaf}"),
    (rf"{BLOCK}\.downsample\.0\.weight", "{stage}.{block}.shortcut.weight"),
    (rf"{BLOCK}\.downsample\.1\.{NORM}", "{stage}.{block}.shortcut.norm.{leaf}"),
)
STAGE = r"(?P<stage>res[2-5])\.(?P<block>\d+)"
INVERSE: tuple[tuple[str, str], ...] = (
    (r"stem\.conv1\.weight", "conv1.weight"),
    (rf"stem\.conv1\.norm\.{NORM}", "bn1.{leaf}"),
    (rf"{STAGE}\.conv(?P<conv>[1-3])\.weight", "{layer}.{block}.conv{conv}.weight"),
    (rf"{STAGE}\.conv(?P<conv>[1-3])\.norm\.{NORM}", "{layer}.{block}.bn{conv}.{leaf}"),
    (rf"{STAGE}\.shortcut\.weight", "{layer}.{block}.downsample.0.weight"),
    (rf"{STAGE}\.shortcut\.norm\.{NORM}", "{layer}.{block}.downsample.1.{leaf}"),
)


def to_detectron2(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """torchvision names -> Detectron2 names; the tensors themselves are not touched."""
    return _renamed(tensors, TABLE)


def from_detectron2(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Detectron2 names -> torchvision names: the inverse of `to_detectron2`."""
    return _renamed(tensors, INVERSE)


def _renamed(tensors: Mapping[str, Tensor], table: tuple[tuple[str, str], ...]) -> dict[str, Tensor]:
    renamed: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        found = [new for new in (_rename(name, *row) for row in table) if new is not None]
        if len(found) != 1 or found[0] in renamed:
            raise CheckpointError(f"{name} has no name of its own in the other naming (candidates: {found or 'none'})")
        renamed[found[0]] = tensor
    return renamed


def _rename(name: str, pattern: str, template: str) -> str | None:
    match = re.fullmatch(pattern, name)
    if match is None:
        return None
    parts = match.groupdict()
    if "layer" in parts:
        parts["stage"] = f"res{int(parts['layer']) + 1}"
    elif "stage" in parts:
        parts["layer"] = f"layer{int(parts['stage'][3:]) - 1}"
    return template.format(**parts)
