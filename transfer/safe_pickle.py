"""A pickle of arrays, read by an unpickler that knows only arrays.

In: a binary file. Out: dictionaries, lists, strings, numbers and numpy arrays, or a CheckpointError that names what the file
wanted to import. Every other global is refused before it is looked up, so nothing of it runs. The opcodes are counted
before the first is executed, so that a small file cannot ask for endless work.
"""

from __future__ import annotations

import _codecs
import pickle
import pickletools
from collections import OrderedDict
from typing import IO, Any

import numpy as np

from pretrain.errors import CheckpointError

MAX_BYTES = 8 << 30
MAX_OPCODES = 5_000_000  # a ResNet-152 pickle has some 30 thousand


NDARRAY = "numpy.ndarray"  # stands for the class, so that a pickle cannot call it with a shape of its own choice


def _reconstruct(subtype: str, shape: tuple[int, ...], dtype: bytes | str) -> np.ndarray:
    """numpy's helper, for plain arrays only."""
    if subtype is not NDARRAY or tuple(shape) != (0,):
        raise CheckpointError(f"the pickle rebuilds an array in an unknown way: {subtype!r}, {shape!r}")
    return np.ndarray((0,), dtype=np.int8)


def _encode(text: str, encoding: str) -> bytes:
    """`_codecs.encode`, for the one use that pickles of bytes make of it."""
    if not isinstance(text, str) or encoding != "latin1":
        raise CheckpointError(f"the pickle encodes text as {encoding!r}; only latin1 is expected")
    return _codecs.encode(text, encoding)


def _dtype(*arguments: Any) -> np.dtype:
    """`numpy.dtype` for numbers: no objects, no records."""
    dtype = np.dtype(*arguments)
    if dtype.kind not in "fiub":
        raise CheckpointError(f"the pickle holds arrays of type {dtype}, which are not numbers")
    return dtype


def _scalar(dtype: np.dtype, data: bytes) -> Any:
    return np.frombuffer(data, dtype=dtype, count=1)[0]


def _frombuffer(data: bytes, dtype: np.dtype, shape: tuple[int, ...], order: str) -> np.ndarray:
    """numpy's helper of pickle protocol 5; the array is as large as its bytes, whatever `shape` says."""
    return np.frombuffer(data, dtype=_dtype(dtype)).reshape(shape, order="F" if order == "F" else "C").copy()


MULTIARRAY = ("numpy.core.multiarray", "numpy._core.multiarray")
ALLOWED: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("_codecs", "encode"): _encode,
    ("numpy", "ndarray"): NDARRAY,
    ("numpy", "dtype"): _dtype,
    **{(module, "_reconstruct"): _reconstruct for module in MULTIARRAY},
    **{(module, "scalar"): _scalar for module in MULTIARRAY},
    **{(module, "_frombuffer"): _frombuffer for module in ("numpy.core.numeric", "numpy._core.numeric")},
}


class SafeUnpickler(pickle.Unpickler):
    """Unpickler with an allow-list. Text of Python 2 is read as latin1, as Detectron2 does."""

    def __init__(self, file: IO[bytes], *, size: int) -> None:
        """size: bytes of the file. Raises CheckpointError when the pickle is larger or longer than any weights are."""
        if size > MAX_BYTES:
            raise CheckpointError(f"the pickle has {size} bytes; at most {MAX_BYTES} are read")
        for count, (opcode, _, _) in enumerate(pickletools.genops(file)):
            if count > MAX_OPCODES:
                raise CheckpointError(f"the pickle has more than {MAX_OPCODES} operations")
            if opcode.name in ("PERSID", "BINPERSID", "EXT1", "EXT2", "EXT4"):
                raise CheckpointError(f"the pickle uses {opcode.name}, which weights do not need")
        file.seek(0)
        super().__init__(file, encoding="latin1")

    def find_class(self, module: str, name: str) -> Any:
        """The allow-list; nothing is imported."""
        try:
            return ALLOWED[module, name]
        except KeyError:
            raise CheckpointError(
                f"the pickle wants to import {module}.{name}, which is not needed for weights and could run code"
            ) from None
