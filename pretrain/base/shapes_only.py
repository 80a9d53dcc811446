"""Networks without values: for their shapes, their names, or because another one is about to take their place.

In: a `with` block. Out: the tensors that are made in it have a shape and no memory (PyTorch's meta device).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import init
from torch.overrides import TorchFunctionMode

INITIALISERS = (init.kaiming_uniform_, init.uniform_, init.normal_, init.constant_)  # tensor=...
FILLS = {Tensor.normal_, Tensor.uniform_, Tensor.fill_, Tensor.zero_, *INITIALISERS}


class _NoValues(TorchFunctionMode):
    """Leaves out what fills a tensor: on the meta device it has no effect and takes most of a network's construction."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in FILLS:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **(kwargs or {}))


@contextmanager
def shapes_only() -> Iterator[None]:
    """Construction alone: a forward pass belongs under `torch.device("meta")`, where filling may have a meaning."""
    with torch.device("meta"), _NoValues():
        yield
