"""The child process that reads pickles: it answers what a file holds, and never makes the objects that the file asks for.

    python -I -S -c "..." KIND FILE OFFSET SIZE BLOB   (started by pretrain/base/weight_files/pickle_process.py; FILE and BLOB are descriptors)

In: the bytes of a pickle (KIND `zip`: data.pkl of a torch file; `old`: a whole file of torch before 1.6; `pickle`: a pickle of
arrays). Out: one JSON plan on standard output - the containers, where the bytes of each tensor lie, or an error - and the
bytes of pickled arrays in BLOB. Only the standard library: the process starts in some 20 ms.

Three walls: every operation is counted and known before the first one runs; every name that a pickle may use stands for
a plain record of ours (pretrain/base/weight_files/pickle_names.py); the process has a cap on memory, time and output, and ends after one file.
"""

from __future__ import annotations

import io
import json
import math
import os
import pickle
import sys
from typing import Any

from pretrain.base.weight_files.pickle_names import ALLOWED
from pretrain.base.weight_files.pickle_operations import check_operations
from pretrain.base.weight_files.pickle_records import (
    ARRAY_SIZES,
    Array,
    ArrayType,
    DType,
    Name,
    Record,
    Refused,
    Storage,
    StorageType,
    TensorRecord,
)

MAX_NODES = 1_000_000  # entries of all containers; those that appear twice count twice
MAX_DEPTH = 64
MAX_TEXT = 16 << 20  # characters of all strings together
MAX_PICKLE = 256 << 20  # of a torch file, whose tensors lie outside its pickle
OLD_MAGIC, OLD_PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
PYTHON_2 = {"__builtin__": "builtins"}  # protocols 0 to 2 use its name
ALIGNMENT = 64  # of each array in the blob


class PlanUnpickler(pickle.Unpickler):
    """Unpickler with the allow-list. Text of Python 2 is read as latin1, as Detectron2 does. storages: all that were named."""

    def __init__(self, content: bytes, storages: dict[str, Storage] | None) -> None:
        super().__init__(io.BytesIO(content), encoding="latin1")
        self.storages = storages

    def find_class(self, module: str, name: str) -> Any:
        """The allow-list; nothing is imported."""
        try:
            return ALLOWED[PYTHON_2.get(module, module), name]
        except KeyError:
            raise Refused(
                f"the pickle wants to import {module:.60}.{name:.60}, which is not needed for weights and could run code"
            ) from None

    def persistent_load(self, pid: Any) -> Storage:
        """A torch storage: ('storage', type, key, device, number of elements[, view])."""
        if self.storages is None or type(pid) is not tuple or len(pid) not in (5, 6) or pid[0] != "storage":
            raise Refused("the pickle points to something outside it that is no torch storage")
        kind, key, numel, view = pid[1], pid[2], pid[4], pid[5] if len(pid) == 6 else None
        if not isinstance(kind, StorageType) or type(key) is not str or type(numel) is not int or numel < 0:
            raise Refused("the pickle describes a torch storage in an unknown way")
        self.storages.setdefault(key, Storage(kind.text, key, numel))
        if (self.storages[key].dtype, self.storages[key].numel) != (kind.text, numel):
            raise Refused(f"the pickle describes the torch storage {key:.40} twice, and differently")
        return Storage(kind.text, key, numel, first=view[1]) if view is not None else self.storages[key]


class Plan:
    """The answer while it is made. tree: containers and scalars; tensors: where each lies."""

    def __init__(self, blob: int) -> None:
        self.tensors: list[list[Any]] = []
        self._places: dict[int, int] = {}
        self._kept: list[Any] = []  # no id is used twice while its object lives
        self._blob, self._blob_size = blob, 0
        self._nodes = self._text = 0

    def encode(self, value: Any, depth: int = 0) -> Any:
        """A scalar as it is, everything else as [kind, content]. Raises Refused for what weights do not hold."""
        self._nodes += 1
        if self._nodes > MAX_NODES or depth > MAX_DEPTH:
            raise Refused(f"the pickle holds more than {MAX_NODES} entries, or containers {MAX_DEPTH} deep")
        if value is None or type(value) in (bool, int, float):
            return value
        if type(value) in (str, bytes):
            self._text += len(value)
            if self._text > MAX_TEXT:
                raise Refused(f"the pickle holds more than {MAX_TEXT} characters of text")
            return value if type(value) is str else ["bytes", value.decode("latin1")]
        if isinstance(value, dict):
            return ["dict", self._pairs(value, depth)]
        if type(value) in (list, tuple, set, frozenset):
            return [type(value).__name__, [self.encode(entry, depth + 1) for entry in value]]
        if isinstance(value, Record):
            return ["record", self._pairs(value.fields, depth)]
        if isinstance(value, (TensorRecord, Array)):
            return ["tensor", self._place(value)]
        if isinstance(value, ArrayType):
            return value.text
        if isinstance(value, Storage):
            return self.encode(TensorRecord(value, 0, (value.numel,), (1,)), depth + 1)
        if isinstance(value, DType):
            return ["dtype", value.text]
        if isinstance(value, Name):
            return value.text
        if type(value) is complex:
            return ["complex", [value.real, value.imag]]
        raise Refused(f"the pickle holds a {type(value).__name__}, which weights do not need")

    def _pairs(self, table: dict, depth: int) -> list[list[Any]]:
        return [[self.encode(key, depth + 1), self.encode(entry, depth + 1)] for key, entry in table.items()]

    def _place(self, value: TensorRecord | Array) -> int:
        if id(value) not in self._places:
            self._kept.append(value)
            self._places[id(value)] = len(self.tensors)
            self.tensors.append(self._tensor(value) if isinstance(value, TensorRecord) else self._array(value))
        return self._places[id(value)]

    def _tensor(self, value: TensorRecord) -> list[Any]:
        storage = value.storage
        offset, *rest = _integers((value.offset, storage.first, *value.size, *value.stride))
        size, stride = rest[1 : 1 + len(value.size)], rest[1 + len(value.size) :]
        return ["storage", storage.key, storage.dtype, value.dtype, storage.numel, offset + rest[0], size, stride]

    def _array(self, value: Array) -> list[Any]:
        shape = _integers(value.shape)
        dtype = value.dtype.text
        wanted = math.prod(shape) * ARRAY_SIZES[dtype.lstrip("<>")]
        if type(value.data) is not bytes or len(value.data) != wanted or min(shape, default=0) < 0:
            raise Refused(f"the pickle holds an array of shape {tuple(shape)!s:.60} whose bytes do not fill it")
        place = self._blob_size
        padding = -len(value.data) % ALIGNMENT
        view = memoryview(value.data + bytes(padding) if padding else value.data)
        while view:
            view = view[os.write(self._blob, view) :]
        self._blob_size += len(value.data) + padding
        return ["array", place, dtype, shape, value.fortran]


def _integers(values: Any) -> list[int]:
    if any(type(value) is not int for value in values):
        raise Refused("the pickle gives a tensor a size that is no whole number")
    return list(values)


def read_one(
    content: bytes, storages: dict[str, Storage] | None, *, whole: bool = True, start: int = 0
) -> tuple[Any, int]:
    """One pickle that begins at `start`: (its value, where it ends). whole: nothing may follow it."""
    end = check_operations(content, start)
    if whole and end != len(content):
        raise Refused(
            f"{len(content) - end} bytes follow the end of the pickle; it was damaged, or holds a second file"
        )
    return PlanUnpickler(content[start:end] if start or not whole else content, storages).load(), end


def read_old(descriptor: int, size: int) -> tuple[Any, dict[str, list[int]]]:
    """A file of torch before 1.6: four pickles, a list of storages, their bytes. Returns (value, key -> [first byte, bytes])."""
    content = read_bytes(descriptor, 0, min(size, MAX_PICKLE))
    storages: dict[str, Storage] = {}
    magic, at = read_one(content, None, whole=False)
    protocol, at = read_one(content, None, whole=False, start=at)
    system, at = read_one(content, None, whole=False, start=at)
    if magic != OLD_MAGIC or protocol != OLD_PROTOCOL or not isinstance(system, dict):
        raise Refused("the head of a torch file from before 1.6 is damaged")
    if system.get("little_endian") is not True:
        raise Refused("the file was written on a big-endian machine; such files are not read")
    value, at = read_one(content, storages, whole=False, start=at)
    keys, at = read_one(content, None, whole=False, start=at)
    if type(keys) is not list or sorted(map(str, keys)) != sorted(storages):
        raise Refused("the list of storages is not that of the tensors")
    places = {}
    for key in keys:
        count = int.from_bytes(os.pread(descriptor, 8, at), "little")
        width = WIDTHS[storages[key].dtype]
        if count != storages[key].numel or at + 8 + count * width > size:
            raise Refused(f"the storage {key:.40} is cut, or longer or shorter than its tensors say")
        places[key] = [at + 8, count * width]
        at += 8 + count * width
    if at != size:
        raise Refused(f"{size - at} bytes follow the last tensor; the file was damaged, or holds a second file")
    return value, places


WIDTHS = {
    "float64": 8, "float32": 4, "float16": 2, "bfloat16": 2, "int64": 8, "int32": 4, "int16": 2, "int8": 1, "uint8": 1, "bool": 1,
}  # fmt: skip


def answer(kind: str, descriptor: int, offset: int, size: int, blob: int) -> dict[str, Any]:
    """The plan, or {"error": what is wrong}."""
    try:
        plan = Plan(blob)
        places: dict[str, list[int]] = {}
        if kind == "old":
            value, places = read_old(descriptor, size)
        else:
            content = read_bytes(descriptor, offset, size)
            value, _ = read_one(content, {} if kind == "zip" else None)
        return {"tree": plan.encode(value), "tensors": plan.tensors, "places": places}
    except MemoryError:
        return {"error": "reading it needs more memory than weights of its size do"}
    except RecursionError:
        return {"error": "its containers are nested too deeply"}
    except Refused as error:
        return {"error": str(error)}
    except Exception as error:  # pickle leaks a dozen types on damaged files
        return {"error": f"truncated, damaged or of another kind ({type(error).__name__}: {error!s:.160})"}


def read_bytes(descriptor: int, offset: int, size: int) -> bytes:
    """`size` bytes from `offset`, without moving the descriptor: the parent reads through it at the same time."""
    parts, left = [], size
    while left and (part := os.pread(descriptor, left, offset + size - left)):
        parts.append(part)
        left -= len(part)
    if left:
        raise Refused("the file is shorter than it was")
    return parts[0] if len(parts) == 1 else b"".join(parts)


def limit(memory: int, seconds: int, output: int) -> bool:
    """Cap this process: bytes of memory, seconds of work, bytes of a written file. False where the system has no such caps."""
    try:
        import resource
    except ImportError:
        return False
    for kind, value in (
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_FSIZE, output),
        (resource.RLIMIT_CORE, 0),
    ):
        _, most = resource.getrlimit(kind)
        value = value if most == resource.RLIM_INFINITY else min(value, most)
        resource.setrlimit(kind, (value, value))
    return True


def main() -> None:
    """Arguments as above, then the three caps."""
    kind, *numbers = sys.argv[1:]
    descriptor, offset, size, blob, memory, seconds = map(int, numbers)
    capped = limit(memory, seconds, 2 * size + (64 << 20))
    plan = answer(kind, descriptor, offset, size, blob)
    sys.stdout.write(json.dumps({**plan, "capped": capped}))
