"""The structure of a weight file: which dictionaries hold tensors, and what is left when wrappers are taken off.

In: the content of a weight file. Out: `View`s. The first is the file as it is, without the segments that DDP, FSDP and
torch.compile put into names; each further one is without one more envelope (a `state_dict`, an EMA container, Lightning's
`model.`). transfer/conversion/sources.py compares the layouts with these, the least unwrapped first.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from pretrain.base.errors import CheckpointError
from transfer.conversion.layouts import Branch, Layout

MAX_DEPTH = 6
MAX_ENVELOPES = 4
WRAPPERS = frozenset({"module", "_orig_mod", "_forward_module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
# Dictionaries that training scripts and EMA helpers put around a state, the live weights before the averaged ones.
ENVELOPES = (
    "state_dict",
    "model",
    "model_state_dict",
    "model_state",
    "net",
    "network",
    "weights",
    "module",
    "checkpoint",
    "blobs",
    "classy_state_dict",
    "base_model",
    "trunk",
    "state_dict_ema",
    "model_ema",
    "ema_state_dict",
    "ema_model",
    "model_averaged",
    "ema",
)
# First segments that mean "the module inside": Lightning's, Accelerate's, ema-pytorch's.
INNER_MODULES = ("model", "net", "network", "online_model", "ema_model", "ema", "_model", "averaged_model")
# Single numbers that EMA helpers keep beside the weights.
BOOKKEEPING = frozenset({"n_averaged", "initted", "step", "num_updates", "decay"})
Containers = dict[tuple[str, ...], dict[str, Tensor]]


@dataclass(frozen=True)
class View:
    """A file seen without some of its envelopes.

    path: what was taken off.
    content: what is left, at its top.
    prefix: what is still before the names in `containers` and is not part of them.
    """

    path: tuple[str, ...]
    containers: Containers
    content: Mapping[str, Any]
    prefix: str = ""

    @property
    def label(self) -> str:
        """The envelopes as text, "" for the file as it is."""
        return "/".join(self.path)

    @functools.cached_property
    def places(self) -> str:
        """ "container/key" for every tensor, a line each: what a layout's markers are compared with."""
        return "\n".join(
            f"{'.'.join(place)}/{key[len(self.prefix) :]}"
            for place, tensors in self.containers.items()
            for key in tensors
            if key.startswith(self.prefix)
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
    """Names without the segments that DDP, torch.compile and FSDP put in, wherever they stand, and without EMA's counters."""
    plain: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if name in BOOKKEEPING and tensor.numel() == 1:
            continue
        short = ".".join(part for part in name.split(".") if part not in WRAPPERS)
        if short in plain:
            raise CheckpointError(f"{path}: {name} and another tensor are both called {short} without their wrappers")
        plain[short] = tensor
    return plain


def file_view(content: Any, path: Path) -> View:
    """The file as it is. Raises CheckpointError when it holds no tensors."""
    containers = {place: unwrap(tensors, path) for place, tensors in find_containers(content)}
    if not containers:
        raise CheckpointError(f"{path} holds no tensors")
    return View((), containers, content)


def levels(view: View) -> Iterator[list[View]]:
    """The views of a file by the number of envelopes taken off, the fewest first."""
    level = [view]
    for _ in range(MAX_ENVELOPES + 1):
        if not level:
            return
        yield level
        level = [inner for outer in level for inner in _inside(outer)]


def _inside(view: View) -> Iterator[View]:
    """`view` without one envelope, in each way that there is."""
    for name in ENVELOPES:
        inner = {place[1:]: tensors for place, tensors in view.containers.items() if place[:1] == (name,)}
        if inner:
            yield View((*view.path, name), inner, view.content[name], view.prefix)
    for name in INNER_MODULES:
        prefix = f"{view.prefix}{name}."
        if any(key.startswith(prefix) for tensors in view.containers.values() for key in tensors):
            yield replace(view, path=(*view.path, f"{name}."), prefix=prefix)


def arranged(layout: Layout, view: View) -> View:
    """`view` as `layout` wants it: tensors at the top also serve as the content of its one container."""
    home, top = layout.container, view.containers.get(())
    if not home or top is None or home in view.containers:
        return view
    return replace(view, containers={**{place: t for place, t in view.containers.items() if place != ()}, home: top})


def branch_tensors(view: View, branch: Branch) -> dict[str, Tensor]:
    """The tensors under a branch's container and prefix, without the view's prefix and the branch's.

    Where the branch has a second container (haiku), whatever is nested in both is joined into one flat dictionary:
    "module/leaf", without haiku's "/~".
    """
    if branch.state is None:
        tensors = view.containers.get(branch.container, {})
        prefix = view.prefix + branch.prefix
        return {name[len(prefix) :]: tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    joined: dict[str, Tensor] = {}
    for home in (branch.container, branch.state):
        for place, tensors in view.containers.items():
            if place[: len(home)] == home:
                module = "/".join(place[len(home) :]).replace("/~", "")
                joined |= {f"{module}/{leaf}": tensor for leaf, tensor in tensors.items()}
    return joined
