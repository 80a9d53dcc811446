"""What stands in for the objects that a pickle of weights asks for: records that only keep what they are given.

In: the arguments that the pickle gives. Out: a record, a table, a plain value, or `Refused`. Part of the child process of
pretrain/base/weight_files/pickle_child.py: nothing but the standard library. A class or function here can be called by any file, with any of
the values that a pickle can make; none looks anything up, and none makes more memory than its arguments have.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any


class Refused(Exception):
    """The file asks for something that weights do not need. The text is for the user."""


class Frozen(type):
    """A class that the pickle operation BUILD cannot write to."""

    def __setattr__(cls, name: str, value: Any) -> None:
        raise Refused("the pickle tries to change a class, which weights do not need")


class Rebuild(metaclass=Frozen):
    """A function under a name that pickles know; it holds no attribute that a pickle could change."""

    __slots__ = ("_function",)
    _function: Callable[..., Any]

    def __init__(self, function: Callable[..., Any]) -> None:
        object.__setattr__(self, "_function", function)

    def __setattr__(self, name: str, value: Any) -> None:
        raise Refused("the pickle tries to change a function, which weights do not need")

    def __call__(self, *arguments: Any) -> Any:
        return self._function(*arguments)


class Name(metaclass=Frozen):
    """A type that is only named: a storage, a dtype, numpy.ndarray."""

    __slots__ = ("text",)
    text: str

    def __init__(self, text: str) -> None:
        object.__setattr__(self, "text", text)

    def __setattr__(self, name: str, value: Any) -> None:
        raise Refused("the pickle tries to change a type, which weights do not need")


class StorageType(Name):
    """torch.FloatStorage and its like. text: the dtype."""

    __slots__ = ()


class DType(Name):
    """torch.float32 and its like."""

    __slots__ = ()


class Table(dict, metaclass=Frozen):
    """Every kind of dictionary. Attributes that pickles give to it (`_metadata`) are dropped."""

    __slots__ = ()

    def __new__(cls, *arguments: Any) -> Table:
        return super().__new__(cls)

    def __init__(self, *arguments: Any) -> None:
        rows = arguments[0] if arguments and isinstance(arguments[0], (dict, list, tuple)) else ()
        super().__init__(rows)

    def __setstate__(self, state: Any) -> None:
        pass


class DefaultTable(Table):
    """collections.defaultdict: its first argument is a factory, which nobody calls."""

    __slots__ = ()

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments[1:])


class Record(metaclass=Frozen):
    """The attributes of an object such as argparse.Namespace."""

    __slots__ = ("fields",)

    def __new__(cls, *arguments: Any) -> Record:
        made = super().__new__(cls)
        made.fields = {}
        return made

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, dict):
            raise Refused("the pickle gives a record something else than named values")
        self.fields = state


class Storage(metaclass=Frozen):
    """The bytes of tensors. first: element where a view of it begins (torch before 0.4)."""

    __slots__ = ("dtype", "first", "key", "numel")

    def __init__(self, dtype: Any, key: Any, numel: Any, first: Any = 0) -> None:
        self.dtype, self.key, self.numel, self.first = dtype, key, numel, first


class TensorRecord(metaclass=Frozen):
    """Where a tensor lies in its storage, in elements. `__setstate__` drops the attributes that a Parameter may carry."""

    __slots__ = ("dtype", "offset", "size", "storage", "stride")

    def __init__(self, storage: Any, offset: Any, size: Any, stride: Any, dtype: Any = None) -> None:
        if not isinstance(storage, Storage):
            raise Refused("the pickle builds a tensor from something that is no storage")
        self.storage, self.offset, self.size, self.stride = storage, offset, size, stride
        self.dtype = storage.dtype if dtype is None else dtype

    def __setstate__(self, state: Any) -> None:
        pass


class ArrayType(metaclass=Frozen):
    """numpy.dtype of numbers. text: as numpy writes it, f4 or >f8."""

    __slots__ = ("text",)

    def __init__(self, text: Any, *flags: Any) -> None:
        text = text.decode("latin1") if isinstance(text, bytes) else text
        if isinstance(text, Name):
            text = text.text
        if not isinstance(text, str) or text.lstrip("<>=|") not in ARRAY_SIZES:
            raise Refused(f"the pickle holds arrays of type {text!r:.40}, which are not numbers")
        self.text = text.lstrip("=|")

    def __setstate__(self, state: Any) -> None:
        order = state[1].decode("latin1") if isinstance(state[1], bytes) else state[1]
        if order not in ("<", ">", "=", "|") or any(entry is not None for entry in state[2:5]):
            raise Refused("the pickle holds arrays of records, which are not numbers")
        self.text = (">" if order == ">" else "") + self.text.lstrip("<>")


class Array(metaclass=Frozen):
    """A numpy array: type, shape, order and bytes."""

    __slots__ = ("data", "dtype", "fortran", "shape")

    def __init__(self, dtype: Any = None, shape: Any = (), fortran: Any = False, data: Any = b"") -> None:
        self.dtype, self.shape, self.fortran, self.data = dtype, shape, bool(fortran), data

    def __setstate__(self, state: Any) -> None:
        _, self.shape, self.dtype, fortran, data = state
        self.fortran = bool(fortran)
        self.data = data.encode("latin1") if isinstance(data, str) else data  # text of Python 2


ARRAY_SIZES = {
    f"{kind}{size}": size
    for kind, sizes in (("f", (2, 4, 8)), ("i", (1, 2, 4, 8)), ("u", (1, 2, 4, 8)), ("b", (1,)))
    for size in sizes
}
SCALAR_FORMATS = {"f2": "e", "f4": "f", "f8": "d", "b1": "?"} | {
    f"{kind}{size}": letter.upper() if kind == "u" else letter
    for kind in "iu"
    for size, letter in ((1, "b"), (2, "h"), (4, "i"), (8, "q"))
}
STORAGES = {
    "Double": "float64", "Float": "float32", "Half": "float16", "BFloat16": "bfloat16", "Long": "int64", "Int": "int32",
    "Short": "int16", "Char": "int8", "Byte": "uint8", "Bool": "bool",
}  # fmt: skip
DTYPES = frozenset((*STORAGES.values(), "uint16", "uint32", "uint64", "float8_e4m3fn", "float8_e5m2"))


def empty_array(subtype: Any, shape: Any, dtype: Any) -> Array:
    """numpy's `_reconstruct`: an empty array, to be filled by BUILD."""
    if not isinstance(subtype, Name) or subtype.text != "ndarray" or tuple(shape) != (0,):
        raise Refused("the pickle rebuilds an array in an unknown way")
    return Array()


def scalar(dtype: Any, data: Any) -> Any:
    """numpy's helper: one number from its bytes."""
    data = data.encode("latin1") if isinstance(data, str) else data
    order = ">" if dtype.text.startswith(">") else "<"
    return struct.unpack(order + SCALAR_FORMATS[dtype.text.lstrip("<>")], data)[0]


def array_from_buffer(data: Any, dtype: Any, shape: Any, order: Any) -> Array:
    """numpy's helper of pickle protocol 5."""
    return Array(dtype if isinstance(dtype, ArrayType) else ArrayType(dtype), shape, order == "F", bytes(data))


def jax_array(function: Any, arguments: Any, state: Any, *rest: Any) -> Array:
    """jax's helper: a numpy array and what it adds to one."""
    array = function(*arguments)
    array.__setstate__(state)
    return array


def encode_text(text: Any, encoding: Any) -> bytes:
    """`_codecs.encode`, for the one use that pickles of bytes make of it."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise Refused(f"the pickle encodes text as {encoding!r:.40}; only latin1 is expected")
    return text.encode("latin1")


def of_type(function: Any, kind: Any, arguments: Any, state: Any) -> Any:
    """torch's helper for tensors with attributes: those are dropped."""
    return function(*arguments)


def tensor(storage: Any, offset: Any, size: Any, stride: Any, *rest: Any) -> TensorRecord:
    """torch's `_rebuild_tensor_v2`; gradients and hooks are left out."""
    return TensorRecord(storage, offset, size, stride)


def tensor_of_dtype(
    storage: Any, offset: Any, size: Any, stride: Any, grad: Any, hooks: Any, dtype: Any, *rest: Any
) -> Any:
    """torch's `_rebuild_tensor_v3`: elements of `dtype` in a storage of bytes."""
    return TensorRecord(storage, offset, size, stride, dtype.text)


def first(value: Any, *rest: Any) -> Any:
    """What a wrapper (torch's Parameter, say) was made of."""
    return value


def byte_array(*arguments: Any) -> bytes:
    """bytearray of bytes, never of a number: that would be memory as large as the number says."""
    value = arguments[0] if arguments else b""
    return encode_text(value, *arguments[1:2]) if isinstance(value, str) else bytes(memoryview(value))


def sequence(kind: type) -> Rebuild:
    """list, set or tuple of a sequence that the pickle holds. Raises Refused for anything else."""

    def build(*arguments: Any) -> Any:
        if arguments and not isinstance(arguments[0], (list, tuple, set, frozenset)):
            raise Refused(f"the pickle makes a {kind.__name__} of something that is no sequence")
        return kind(*arguments[:1])

    return Rebuild(build)


def named_tuple(*names: str) -> type:
    """A class that makes a table of `names` from the values that a pickle gives in their order."""

    class Fields(Table):
        __slots__ = ()

        def __new__(cls, *values: Any) -> Any:
            made = super().__new__(cls)
            made.update(zip(names, values, strict=True))
            return made

        def __init__(self, *values: Any) -> None:
            pass

    return Fields


def path_text(*parts: Any) -> str:
    """A pathlib path as its text."""
    if not all(isinstance(part, str) for part in parts):
        raise Refused("the pickle makes a path of something that is no text")
    return "/".join(parts)
