"""Any known checkpoint to a backbone with torchvision's names, found by content. Read `load_backbone` first.

In: a weight file, optionally the layout's name and the branch. Out: `Backbone`, whose tensors are exactly those of a known
architecture, or a CheckpointError that says what was found. The file's name plays no part.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pretrain.checkpoint import FORMAT, KEYS
from pretrain.contract import InputContract
from pretrain.encoder import ARCHITECTURES, backbone_shapes
from pretrain.errors import CheckpointError, ConfigError
from transfer.layouts import LAYOUTS, Layout
from transfer.names import from_detectron2
from transfer.sidecar import read_sidecar
from transfer.weight_files import file_sha256, open_weight_file

MAX_DEPTH = 6
COUNTER = "num_batches_tracked"  # written by BatchNorm, read by nothing
WRAPPERS = frozenset({"module", "_orig_mod", "_forward_module", "_fsdp_wrapped_module"})
Containers = dict[tuple[str, ...], dict[str, Tensor]]


@dataclass(frozen=True)
class Backbone:
    """tensors: torchvision names -> float32, exactly those of `arch`. branches: all that the file offers, default first.

    digest: the file's SHA-256 where it is known; else `sha256` reads the file when asked.
    """

    arch: str
    tensors: dict[str, Tensor]
    contract: InputContract
    layout: str
    branch: str
    branches: tuple[str, ...]
    digest: str | None
    path: Path

    @functools.cached_property
    def sha256(self) -> str:
        """Hexadecimal SHA-256 of the file: a fifth of a second for 350 MB, so not before somebody wants it."""
        return self.digest or file_sha256(self.path)


def load_backbone(path: Path, *, source: str = "auto", branch: str | None = None) -> Backbone:
    """Read `path`, recognise its layout (or hold it against `source`), take `branch` (default: the layout's first).

    Raises CheckpointError for a file that is damaged, of no known layout, or whose backbone is not complete; ConfigError
    for a source or branch that does not exist.
    """
    file = open_weight_file(path)
    content = file.content
    containers = {place: unwrap(tensors, path) for place, tensors in find_containers(content)}
    if not containers:
        raise CheckpointError(f"{path} holds no tensors")
    layout = _layout_named(source) if source != "auto" else _recognise(containers, path)
    branches = tuple(name for name, entry in layout.branches.items() if _tensors_of(containers, layout, name))
    if not branches:
        raise CheckpointError(
            f"{path} is not of layout {layout.name}: no tensor under "
            + " or ".join(f"{'/'.join((*b.container, b.prefix))}*" for b in layout.branches.values())
        )
    chosen = branch or branches[0]
    if chosen not in branches:
        raise ConfigError(
            f"--branch {chosen}: {path} (layout {layout.name}) holds {', '.join(branches)}; type one of these"
        )
    tensors = _tensors_of(containers, layout, chosen)
    file.verify(tensors.values())  # before anything reads their values
    if layout.naming == "detectron2":
        tensors = from_detectron2(tensors)
    arch, tensors = _complete(tensors, layout, where=f"{path} ({layout.name}, {chosen})")
    return Backbone(
        arch=arch,
        tensors=_as_float32(tensors, path),
        contract=_contract(layout, content, path),
        layout=layout.name,
        branch=chosen,
        branches=branches,
        digest=None,
        path=path,
    )


def find_containers(
    content: Any, place: tuple[str, ...] = (), depth: int = 0
) -> Iterator[tuple[tuple[str, ...], dict[str, Tensor]]]:
    """Every dictionary inside `content` that holds tensors under text keys, with the keys that lead to it."""
    if not isinstance(content, Mapping) or depth > MAX_DEPTH:
        return
    tensors = {key: value for key, value in content.items() if isinstance(key, str) and isinstance(value, Tensor)}
    if tensors:
        yield place, tensors
    for key, value in content.items():
        if isinstance(key, str):
            yield from find_containers(value, (*place, key), depth + 1)


def unwrap(tensors: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Names without the segments that DDP, torch.compile and FSDP put in, wherever they stand."""
    plain: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        short = ".".join(part for part in name.split(".") if part not in WRAPPERS)
        if short in plain:
            raise CheckpointError(f"{path}: {name} and another tensor are both called {short} without their wrappers")
        plain[short] = tensor
    return plain


def _layout_named(source: str) -> Layout:
    known = {layout.name: layout for layout in LAYOUTS}
    if source not in known:
        raise ConfigError(f"--source expected auto or one of {', '.join(known)}, found {source!r}")
    return known[source]


def matches(layout: Layout, containers: Containers) -> bool:
    """Whether every marker of `layout` is there and none of what must be absent."""
    places = [f"{'.'.join(place)}/{key}" for place, tensors in containers.items() for key in tensors]
    return all(any(re.search(marker, text) for text in places) for marker in layout.markers) and not any(
        re.search(marker, text) for marker in layout.absent for text in places
    )


def _recognise(containers: Containers, path: Path) -> Layout:
    found = [layout for layout in LAYOUTS if matches(layout, containers)]
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(layout.name for layout in found)
        raise CheckpointError(f"{path} fits several layouts ({names}); type --source and one of them")
    held = "; ".join(
        f"{'/'.join(place) or 'top level'}: {len(tensors)} tensors ({', '.join(list(tensors)[:4])}, ...)"
        for place, tensors in list(containers.items())[:5]
    )
    raise CheckpointError(
        f"{path} is of no known layout. It holds {held}. Known (--list-sources): "
        + ", ".join(layout.name for layout in LAYOUTS)
    )


def _tensors_of(containers: Containers, layout: Layout, branch: str) -> dict[str, Tensor]:
    entry = layout.branches[branch]
    tensors = containers.get(entry.container, {})
    return {name[len(entry.prefix) :]: tensor for name, tensor in tensors.items() if name.startswith(entry.prefix)}


@functools.cache
def _shapes(arch: str) -> dict[str, tuple[int, ...]]:
    return backbone_shapes(arch)


def _complete(tensors: Mapping[str, Tensor], layout: Layout, *, where: str) -> tuple[str, dict[str, Tensor]]:
    """(architecture, its tensors), nothing missing, nothing of another shape, nothing left unexplained."""
    backbone = {
        name: tensor
        for name, tensor in tensors.items()
        if not name.endswith(COUNTER) and not any(re.fullmatch(pattern, name) for pattern in layout.extra)
    }
    arch = min(ARCHITECTURES, key=lambda name: _distance(backbone, _shapes(name)))
    shapes = _shapes(arch)
    missing = sorted(set(shapes) - set(backbone))
    unknown = sorted(set(backbone) - set(shapes))
    other = sorted(
        f"{name} {tuple(backbone[name].shape)}, expected {shape}"
        for name, shape in shapes.items()
        if name in backbone and tuple(backbone[name].shape) != shape
    )
    if missing or unknown or other:
        placed = len(shapes) - len(missing) - len(other)
        raise CheckpointError(
            f"{where}: {placed} of {len(shapes)} backbone tensors of {arch} (the nearest of {', '.join(ARCHITECTURES)}) fit"
            f"{_listing('missing', missing)}{_listing('of another shape', other)}{_listing('not of a ResNet', unknown)}"
        )
    return arch, {name: backbone[name] for name in shapes}


def _distance(tensors: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]]) -> int:
    fitting = sum(name in tensors and tuple(tensors[name].shape) == shape for name, shape in shapes.items())
    return len(set(tensors) | set(shapes)) - fitting


def _listing(title: str, names: list[str], count: int = 8) -> str:
    more = f" and {len(names) - count} more" if len(names) > count else ""
    return f"; {len(names)} {title}: {', '.join(names[:count])}{more}" if names else ""


def _as_float32(tensors: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Contiguous float32, copied only where it is not that already: what was mapped stays on the file's pages.

    Raises CheckpointError for NaN and infinities, and for types that are not floats.
    """
    kinds = sorted({str(tensor.dtype) for tensor in tensors.values() if not tensor.is_floating_point()})
    if kinds:
        raise CheckpointError(f"{path}: expected floating-point weights, found {', '.join(kinds)}")
    bad = [name for name, tensor in tensors.items() if not _is_finite(tensor)]
    if bad:
        raise CheckpointError(f"{path}: NaN or infinity in the weights{_listing('tensors', bad)}")
    return {name: _contiguous(tensor.detach().to(torch.float32)) for name, tensor in tensors.items()}


def _is_finite(tensor: Tensor) -> bool:
    """One NaN or infinity makes the sum one; a sum may also overflow, so only a finite one decides."""
    return bool(torch.isfinite(tensor.sum())) or bool(torch.isfinite(tensor).all())


def _contiguous(tensor: Tensor) -> Tensor:
    """`tensor` alone in its storage: a view would drag the whole storage into the file that is written."""
    tensor = tensor.contiguous()
    alone = tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
    return tensor if alone else tensor.clone()


def _contract(layout: Layout, content: Any, path: Path) -> InputContract:
    if layout.contract is not None:
        return layout.contract
    if layout.naming == "detectron2":
        return read_sidecar(path).contract
    if content.get("format") != FORMAT or set(KEYS) - set(content):
        raise CheckpointError(f"{path} looks like a checkpoint of tools/pretrain.py, but lacks parts of it")
    return InputContract.from_dict(content["contract"])
