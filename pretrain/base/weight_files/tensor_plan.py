"""A child's plan (pretrain/base/weight_files/pickle_child.py) to nested containers of tensors that lie on the file's own pages.

In: the plan, where each storage lies, the open file and the blob of pickled arrays. Out: dictionaries, lists and scalars whose
leaves are CPU tensors, mapped privately: they are read from disk when used, and writing to them does not change the file.
The plan is not believed: every tensor must lie inside its storage, and have no more elements than that has.
"""

from __future__ import annotations

import argparse
import math
import mmap
from collections.abc import Mapping
from typing import Any, BinaryIO

import torch
from torch import Tensor

Places = Mapping[str, tuple[int, int]]  # key of a storage -> (first byte in the file, bytes)

DTYPES = {
    name: getattr(torch, name)
    for name in (
        *("float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool"),
        *("uint16", "uint32", "uint64", "float8_e4m3fn", "float8_e5m2"),
    )
}
ARRAY_DTYPES = {
    **{f"f{size}": f"float{8 * size}" for size in (2, 4, 8)},
    **{f"i{size}": f"int{8 * size}" for size in (1, 2, 4, 8)},
    **{f"u{size}": f"uint{8 * size}" for size in (1, 2, 4, 8)},
    "b1": "bool",
}
MAX_DIMENSIONS = 32
MAX_REPEATS = 16  # all tensors together, as a multiple of the file: several may share one storage


class PlanError(Exception):
    """What is wrong with a tensor of the file."""


class Pages:
    """A file's bytes as tensors, without copying them."""

    def __init__(self, file: BinaryIO) -> None:
        self.size = file.seek(0, 2)
        self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) if self.size else None

    def elements(self, offset: int, size: int, dtype: torch.dtype) -> Tensor:
        """The whole elements of `dtype` in `size` bytes from `offset`, 1-D. Bytes between elements' borders are copied."""
        if offset < 0 or size < 0 or offset + size > self.size:
            raise PlanError("a tensor lies outside the file")
        count = size // dtype.itemsize
        if not count or self._map is None:
            return torch.empty(0, dtype=dtype)
        if offset % dtype.itemsize:
            return torch.frombuffer(bytearray(self._map[offset : offset + size]), dtype=dtype, count=count)
        return torch.frombuffer(self._map, dtype=dtype, count=count, offset=offset)


def build(
    plan: Mapping[str, Any],
    places: Places,
    file: BinaryIO,
    blob: BinaryIO,
    addresses: dict[int, str] | None = None,
) -> Any:
    """The content that `plan` describes. Raises PlanError for tensors that do not fit their bytes.

    addresses: is filled with where each storage begins in memory -> its key.
    """
    pages, array_pages = Pages(file), Pages(blob)
    bases: dict[tuple[str, str], Tensor] = {}
    tensors, total = [], 0
    for kind, *told in plan["tensors"]:
        tensor = _stored(told, places, pages, bases) if kind == "storage" else _pickled(told, array_pages)
        total += tensor.numel() * tensor.element_size()
        if total > MAX_REPEATS * (pages.size + array_pages.size):
            raise PlanError(f"its tensors together are more than {MAX_REPEATS} times as large as the file")
        tensors.append(tensor)
    if addresses is not None:
        addresses |= {base.untyped_storage().data_ptr(): key for (key, _), base in bases.items() if base.numel()}
    return _decode(plan["tree"], tensors)


def _stored(told: list[Any], places: Places, pages: Pages, bases: dict[tuple[str, str], Tensor]) -> Tensor:
    key, storage_dtype, dtype, numel, offset, size, stride = told
    if key not in places:
        raise PlanError(f"the storage {key:.40} of a tensor is not in the file")
    first, count = places[key]
    if numel * DTYPES[storage_dtype].itemsize != count:
        raise PlanError(f"the storage {key:.40} has {count} bytes, not those of {numel} {storage_dtype}")
    if (key, dtype) not in bases:
        bases[key, dtype] = pages.elements(first, count, DTYPES[dtype])
    base = bases[key, dtype]
    if len(size) != len(stride) or len(size) > MAX_DIMENSIONS or min((offset, *size, *stride)) < 0:
        raise PlanError("a tensor has an impossible shape")
    elements = math.prod(size)
    last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True)) if elements else offset
    if elements > base.numel() or last >= base.numel() + (not elements):
        raise PlanError(
            f"a tensor of shape {tuple(size)!s:.60} does not fit the {base.numel()} elements of its storage"
        )
    return base.as_strided(size, stride, offset)


def _pickled(told: list[Any], pages: Pages) -> Tensor:
    offset, text, shape, fortran = told
    dtype = DTYPES[ARRAY_DTYPES[text.lstrip("<>")]]
    if len(shape) > MAX_DIMENSIONS or min(shape, default=0) < 0:
        raise PlanError("an array has an impossible shape")
    elements = math.prod(shape)
    flat = pages.elements(offset, elements * dtype.itemsize, dtype)
    if text.startswith(">") and dtype.itemsize > 1:
        flat = flat.view(torch.uint8).view(-1, dtype.itemsize).flip(1).contiguous().view(-1).view(dtype)
    if flat.numel() != elements:
        raise PlanError("an array is cut short")
    return flat.view(tuple(reversed(shape))).permute(*reversed(range(len(shape)))) if fortran else flat.view(shape)


def _decode(node: Any, tensors: list[Tensor]) -> Any:
    if not isinstance(node, list):
        return node
    kind, content = node
    if kind in ("dict", "record"):
        table = {_decode(key, tensors): _decode(value, tensors) for key, value in content}
        return table if kind == "dict" else _namespace(table)
    if kind == "tensor":
        return tensors[content]
    if kind == "bytes":
        return content.encode("latin1")
    if kind == "dtype":
        return DTYPES[content]
    if kind == "complex":
        return complex(*content)
    return SEQUENCES[kind](_decode(entry, tensors) for entry in content)


SEQUENCES: dict[str, Any] = {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset}


def _namespace(table: dict[Any, Any]) -> argparse.Namespace:
    made = argparse.Namespace()
    made.__dict__.update(table)
    return made
