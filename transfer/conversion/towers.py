"""The encoders of a checkpoint as a readout takes them: also those that no detector can be given. Read `load_encoders` first.

In: any checkpoint that `load_backbone` takes, and those of our own whose encoder has the small stem, another width, or whose
method has two towers (CMC). Out: `Encoders`, every tensor accounted for, or a CheckpointError.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from pretrain.base.architecture import ARCHITECTURES
from pretrain.base.contract import InputContract
from pretrain.base.errors import CheckpointError, ConfigError
from pretrain.base.weight_files.torch_files import TorchFile
from pretrain.config import Channels
from pretrain.model.channels import NUM_CHANNELS
from pretrain.model.encoder import Stem, backbone_shapes
from transfer.conversion.containers import branch_tensors, file_view
from transfer.conversion.fitting import ON_REQUEST, listing
from transfer.conversion.initialisation import is_own_checkpoint
from transfer.conversion.layouts import LAYOUTS, OWN_LAYOUT, TOWERS_LAYOUT, Branch
from transfer.conversion.source_contracts import contract_of
from transfer.conversion.sources import backbone_tensors, find_backbone, recognise
from transfer.conversion.values import as_float32, check_values
from transfer.conversion.weight_files import file_sha256, open_weight_file, weight_file_of

OWN = tuple(layout for layout in LAYOUTS if layout.name in (OWN_LAYOUT, TOWERS_LAYOUT))


@dataclass(frozen=True)
class Encoders:
    """One branch of a checkpoint.

    arch, stem: of every tower.
    towers: channels -> tensors under torchvision's names, float32; RGB alone but for methods of two towers.
    """

    arch: str
    stem: Stem
    towers: dict[Channels, dict[str, Tensor]]
    contract: InputContract
    path: Path

    @functools.cached_property
    def sha256(self) -> str:
        """Of the file."""
        return file_sha256(self.path)


def load_encoders(path: Path, *, branch: str | None = None) -> Encoders:
    """Of a checkpoint of our own what its configuration says; of any other file `load_backbone`'s one encoder.

    Raises CheckpointError and ConfigError as `load_backbone` does.
    """
    path = weight_file_of(path)
    file = open_weight_file(path)
    towers, stem = _said(file.content)
    if tuple(towers) == ("RGB",) and stem == "imagenet" and _arch(file.content) not in ON_REQUEST:
        backbone = find_backbone(file, path, branch=branch)
        return Encoders(backbone.arch, "imagenet", {"RGB": backbone.tensors}, backbone.contract, path)
    return _own_encoders(file, path, towers=towers, stem=stem, branch=branch)


def _said(content: Any) -> tuple[list[Channels], Stem]:
    """(towers, stem) of the run that saved the file; what old checkpoints do not say, and others cannot, is the default."""
    if not is_own_checkpoint(content):
        return ["RGB"], "imagenet"
    config = content["config"]
    groups = [group if isinstance(group := config.get(name), Mapping) else {} for name in ("method", "encoder")]
    return list(groups[0].get("towers", ["RGB"])), groups[1].get("stem", "imagenet")


def _arch(content: Any) -> Any:
    return content["arch"] if is_own_checkpoint(content) else None


def _own_encoders(file: TorchFile, path: Path, *, towers: list[Channels], stem: Stem, branch: str | None) -> Encoders:
    arch = _arch(file.content)
    if arch not in ARCHITECTURES or stem not in ("imagenet", "small") or not set(towers) <= set(NUM_CHANNELS):
        raise CheckpointError(
            f"{path}: a checkpoint of tools/pretrain.py of an encoder that is not known: {arch}, {stem}, {towers}"
        )
    found = recognise(file_view(file.content, path), OWN, path)
    if found is None:
        raise CheckpointError(f"{path}: a checkpoint of tools/pretrain.py without the encoder of its queries (query.*)")
    branches = tuple(found.branches)
    chosen = branch or branches[0]
    if chosen not in branches:
        raise ConfigError(
            f"--branch {chosen}: {path} (layout {found.layout.name}) holds {', '.join(branches)}; pass one of these"
        )
    view, whole = found.branches[chosen]
    read: dict[Channels, dict[str, Tensor]] = {}
    for name in towers:
        part = whole if name == "RGB" else Branch(f"{whole.prefix}{name}.encoder.", whole.container)
        tensors = backbone_tensors(view, part, found.layout)
        shapes = backbone_shapes(arch, stem=stem, in_channels=NUM_CHANNELS[name])
        _require_shapes(tensors, shapes, where=f"{path} ({chosen}, tower {name}, {arch} with the {stem} stem)")
        check_values(file, branch_tensors(view, part).values(), tensors, path)
        read[name] = as_float32({key: tensors[key] for key in shapes}, path)
    contract, _ = contract_of(found.layout, arch, found.view.content, path)
    return Encoders(arch, stem, read, contract, path)


def _require_shapes(tensors: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]], *, where: str) -> None:
    """Raises CheckpointError unless `tensors` are exactly those of `shapes`."""
    other = [
        f"{name} {tuple(tensors[name].shape)}, expected {shape}"
        for name, shape in shapes.items()
        if name in tensors and tuple(tensors[name].shape) != shape
    ]
    missing, unknown = sorted(set(shapes) - set(tensors)), sorted(set(tensors) - set(shapes))
    if missing or unknown or other:
        raise CheckpointError(
            f"{where}: {len(shapes) - len(missing) - len(other)} of {len(shapes)} tensors fit"
            f"{listing('missing', missing)}{listing('of another shape', other)}{listing('not of a ResNet', unknown)}"
        )
