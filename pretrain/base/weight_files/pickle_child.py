"""The child process that reads pickles: it answers what a file holds, and imports and runs nothing of what the file names.

    python -I -S -c "..." KIND FILE OFFSET SIZE BLOB MEMORY SECONDS    (started by torch_files.py; FILE, BLOB: descriptors)

In: a pickle (KIND `zip`: data.pkl of a torch file; `old`: a whole file of torch before 1.6; `pickle`: a pickle of arrays).
Out: one JSON plan on standard output (the containers, where the bytes of each tensor lie, or an error), and the bytes of
pickled arrays in BLOB. Only the standard library: the process starts in some 20 ms.

Two walls. `find` gives a stand-in of ours for every name, known or not: it keeps what it is given, looks nothing up and makes
no more memory than its arguments have. And the process has caps on memory, time and output, and ends after one file. To
read one more name as a value, put `@stands_for` before a function of its arguments. Sources of the names: files written by
torch 0.4 to 2.14, numpy 1 and 2; jax, haiku and DeepMind's BYOL in their repositories.
"""

from __future__ import annotations

import array
import functools
import json
import math
import os
import pickle
import struct
import sys
from collections.abc import Callable
from typing import Any, BinaryIO, NamedTuple

MAX_NODES = 1_000_000  # entries of all containers; those that appear twice count twice
MAX_DEPTH = 64
MAX_NAMES = 100_000  # a stand-in for each takes some 2 kB
MAX_TEXT = 16 << 20  # characters of all strings together
OLD_MAGIC, OLD_PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
ALIGNMENT = 64  # of each array in the blob
# torch's storages, and numpy's types with the letters of struct.
STORAGES = {
    "Double": "float64", "Float": "float32", "Half": "float16", "BFloat16": "bfloat16", "Long": "int64", "Int": "int32",
    "Short": "int16", "Char": "int8", "Byte": "uint8", "Bool": "bool", "ComplexFloat": "complex64", "ComplexDouble": "complex128",
}  # fmt: skip
ARRAYS = {
    "f2": ("float16", "e"), "f4": ("float32", "f"), "f8": ("float64", "d"), "b1": ("bool", "?"),
    "i1": ("int8", "b"), "i2": ("int16", "h"), "i4": ("int32", "i"), "i8": ("int64", "q"),
    "u1": ("uint8", "B"), "u2": ("uint16", "H"), "u4": ("uint32", "I"), "u8": ("uint64", "Q"),
}  # fmt: skip
LETTERS = "abcdefghijklmnopqrstuvwxyz"
DTYPES = frozenset((*STORAGES.values(), "uint16", "uint32", "uint64", "float8_e4m3fn", "float8_e5m2"))
# Modules and names that are refused. This is not for safety: nothing is imported or run either way. Weights have no reason to
# name them, so the user should hear that the file was made to run code. Every other unknown name becomes an inert record.
RUNNING = frozenset(
    """os posix nt subprocess _posixsubprocess commands pty shutil sys importlib imp runpy pkgutil code codeop pdb bdb timeit
    profile cProfile pickle _pickle cPickle marshal ctypes _ctypes socket webbrowser gzip bz2 lzma tarfile zipfile
    builtins.eval builtins.exec builtins.compile builtins.open builtins.__import__ builtins.map builtins.filter builtins.apply
    builtins.reduce builtins.execfile builtins.file builtins.input builtins.breakpoint builtins.setattr builtins.delattr
    builtins.globals builtins.vars io.open io.open_code io.FileIO _io.open _io.open_code _io.FileIO codecs.open
    functools.reduce logging.FileHandler pathlib.Path.touch pathlib.Path.open pathlib.Path.unlink pathlib.Path.write_text
    pathlib.Path.write_bytes numpy.save numpy.savez numpy.savetxt numpy.load numpy.fromfile torch.save torch.load
    torch.serialization.save torch.serialization.load""".split()  # noqa: SIM905
)


class Refused(Exception):
    """What is wrong with the file. The text is for the user."""


class Frozen(type):
    """The class of all stand-ins: the pickle operation BUILD cannot write to them. label: module and name in the file."""

    label: str

    def __setattr__(cls, name: str, value: Any) -> None:
        raise Refused("the pickle tries to change a class, which weights do not need")


class Inert(metaclass=Frozen):
    """An object of an unknown class, or the result of an unknown function: what the file gave to it, and nothing done with it."""

    __slots__ = ("arguments", "content", "state")
    label = "builtins.object"
    arguments: tuple[Any, ...]
    content: Any  # of a class made from dict, list or set
    state: Any

    def __new__(cls, *arguments: Any, **named: Any) -> Any:
        made = super().__new__(cls)
        made.arguments, made.content, made.state = (*arguments, *([named] if named else [])), None, None
        return made

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __setitem__(self, key: Any, value: Any) -> None:
        self.content = self.content if isinstance(self.content, dict) else {}
        self.content[key] = value

    def append(self, value: Any) -> None:
        """Also as `add`: of a list or a set."""
        self.content = self.content if isinstance(self.content, list) else []
        self.content.append(value)

    add = append

    def __call__(self, *arguments: Any) -> Inert:
        return Inert(self, *arguments)


class Table(dict[Any, Any], metaclass=Frozen):
    """Every kind of dictionary. Attributes that pickles give to it (`_metadata`) are dropped."""

    __slots__ = ()
    label = "builtins.dict"

    def __new__(cls, *arguments: Any) -> Table:
        return super().__new__(cls)

    def __init__(self, *arguments: Any) -> None:
        super().__init__(arguments[0] if arguments and isinstance(arguments[0], (dict, list, tuple)) else ())

    def __setstate__(self, state: Any) -> None:
        pass


def stand_in(label: str, build: Callable[..., Any] | None = None) -> Frozen:
    """The class that a pickle gets for a name. build: makes the value from the arguments; None: a record is made."""
    body: dict[str, Any] = {"__slots__": (), "label": label}
    if build is not None:
        body["__new__"] = lambda cls, *arguments: build(*arguments)
    return Frozen("Inert", (Inert,), body)


STAND_INS: dict[str, Frozen] = dict.fromkeys(
    (
        *("builtins.dict", "collections.OrderedDict", "collections.Counter", "flax.core.frozen_dict.FrozenDict"),
        *(f"haiku._src.data_structures.{name}" for name in ("FlatMapping", "FlatMap", "frozendict")),
    ),
    Table,
)


def stands_for(*labels: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """The function that follows makes the value of these names."""

    def register(build: Callable[..., Any]) -> Callable[..., Any]:
        STAND_INS.update({label: stand_in(label, build) for label in labels})
        return build

    return register


def find(module: str, name: str) -> Frozen:
    """The stand-in for a name. Raises Refused for one that says that the file was made to run code."""
    module = "builtins" if module == "__builtin__" else module.replace("numpy._core.", "numpy.core.")
    label = f"{module}.{name}"
    if RUNNING & {module, label, *name.split(".")[:-1]}:
        raise Refused(
            f"the pickle names {label:.120}, which is not needed for weights and could run code: the file is malicious or broken "
            "(nothing of it was run)"
        )
    if label not in STAND_INS:
        if len(STAND_INS) >= MAX_NAMES:
            raise Refused(f"the pickle names more than {MAX_NAMES} classes and functions")
        STAND_INS[label] = stand_in(label)
    return STAND_INS[label]


class Storage(NamedTuple):
    """The bytes of tensors. first: element where a view of it begins (torch before 0.4)."""

    dtype: str
    key: Any
    numel: int
    first: Any = 0


class TensorRecord(NamedTuple):
    """Where a tensor lies in its storage, in elements."""

    storage: Storage
    offset: Any
    size: Any
    stride: Any
    dtype: str


class ArrayType:
    """numpy.dtype. text: as numpy writes it without the order of bytes, f4; swapped: big-endian."""

    __slots__ = ("swapped", "text")

    def __init__(self, text: Any, *flags: Any) -> None:
        text = text.decode("latin1") if isinstance(text, bytes) else text
        self.text = text.lstrip("<>=|") if isinstance(text, str) else "unknown"
        self.swapped = isinstance(text, str) and text.startswith(">")

    def __setstate__(self, state: Any) -> None:
        self.swapped = state[1] in (">", b">")
        if any(entry is not None for entry in state[2:5]):
            self.text = "fields"


class Array:
    """A numpy array: type, shape, order and bytes."""

    __slots__ = ("data", "dtype", "fortran", "shape")

    def __init__(self, dtype: Any = None, shape: Any = (), fortran: Any = False, data: Any = b"") -> None:
        self.dtype, self.shape, self.fortran, self.data = dtype, shape, fortran, data

    def __setstate__(self, state: Any) -> None:
        _, self.shape, self.dtype, self.fortran, data = state
        self.data = data.encode("latin1") if isinstance(data, str) else data  # text of Python 2

    def is_of_numbers(self) -> bool:
        return isinstance(self.dtype, ArrayType) and self.dtype.text in ARRAYS


@stands_for("torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor_v3")
def tensor(storage: Any, offset: Any, size: Any, stride: Any, *rest: Any) -> Any:
    """Gradients and hooks are left out; the third of `rest` is the number type, where it is not the storage's."""
    kind = rest[2] if len(rest) > 2 else None
    dtype = kind.label.removeprefix("torch.") if isinstance(kind, Frozen) else getattr(storage, "dtype", "")
    if isinstance(storage, Storage) and dtype in DTYPES:
        return TensorRecord(storage, offset, size, stride, dtype)
    if not isinstance(storage, (Storage, Inert)):
        raise Refused("the pickle builds a tensor from something that is no storage")
    return find("torch", "Tensor")(storage, offset, size, stride)  # of a number type that is not known


@stands_for("torch.storage._load_from_bytes")
def nested_file(*arguments: Any) -> Any:
    """Tensors in a file that was written by pickle.dump."""
    raise Refused("the pickle holds torch files inside it, whose reading could run code: write it with torch.save")


@stands_for("torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state", "torch.device")
def first(value: Any, *rest: Any) -> Any:
    """What a wrapper was made of."""
    return value


@stands_for("torch._tensor._rebuild_from_type_v2")
def of_type(function: Any, kind: Any, arguments: Any, state: Any) -> Any:
    """A tensor with attributes: those are dropped. Nothing but a stand-in is ever called."""
    if not isinstance(function, Frozen):
        raise Refused("the pickle calls something that is no function")
    return function(*arguments)


@stands_for("jax._src.device_array.reconstruct_device_array", "jax._src.array._reconstruct_array")
def jax_array(function: Any, arguments: Any, state: Any, *rest: Any) -> Any:
    """A numpy array and what jax adds to one."""
    made = of_type(function, None, arguments, None)
    made.__setstate__(state)
    return made


@stands_for("numpy.core.multiarray._reconstruct")
def empty_array(kind: Any, shape: Any, dtype: Any) -> Array:
    """To be filled by BUILD."""
    return Array()


@stands_for("numpy.core.numeric._frombuffer")
def array_from_buffer(data: Any, dtype: Any, shape: Any, order: Any) -> Array:
    """Of pickle protocol 5."""
    kind = dtype if isinstance(dtype, ArrayType) else ArrayType(dtype)
    return Array(kind, shape, order == "F", bytes(memoryview(data)))


@stands_for("numpy.core.multiarray.scalar")
def scalar(dtype: Any, data: Any) -> Any:
    """One number from its bytes."""
    data = data.encode("latin1") if isinstance(data, str) else data
    if not Array(dtype).is_of_numbers():
        return find("numpy", "generic")(data)
    return struct.unpack((">" if dtype.swapped else "<") + ARRAYS[dtype.text][1], data)[0]


@stands_for("_codecs.encode")
def encode_text(text: Any, encoding: Any) -> bytes:
    """The one use that pickles of bytes make of it."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise Refused("the pickle encodes text in an unknown way; only latin1 is expected")
    return text.encode("latin1")


@stands_for("builtins.bytearray")
def byte_array(value: Any = b"", *encoding: Any) -> bytes:
    """Of bytes, never of a number: that would be memory as large as the number says."""
    return encode_text(value, *encoding) if isinstance(value, str) else bytes(memoryview(value))


@stands_for("builtins.getattr")
def attribute(owner: Any, name: Any, *rest: Any) -> Frozen:
    """How pickles name methods, nested classes and members of an enum. Nothing is looked up."""
    kind = owner if isinstance(owner, Frozen) else type(owner)
    if not isinstance(kind, Frozen) or not isinstance(name, str):
        raise Refused("the pickle looks up an attribute, which could run code")
    module, _, last = kind.label.rpartition(".")
    return find(module, f"{last}.{name}")


def sequence(kind: type, value: Any = ()) -> Any:
    """list, set or tuple of a sequence that the pickle holds: nothing else is walked through."""
    if not isinstance(value, (list, tuple, set, frozenset)):
        raise Refused(f"the pickle makes a {kind.__name__} of something that is no sequence")
    return kind(value)


def path_text(*parts: Any) -> str:
    """A path as its text."""
    if not all(isinstance(part, str) for part in parts):
        raise Refused("the pickle makes a path of something that is no text")
    return os.path.join(*parts) if parts else "."


BYOL = ("online_params", "target_params", "online_state", "target_state", "opt_state")
SHORT: dict[str, Callable[..., Any]] = {
    **{f"builtins.{kind.__name__}": functools.partial(sequence, kind) for kind in (list, tuple, set, frozenset)},
    "builtins.complex": complex,
    "collections.defaultdict": lambda *arguments: Table(*arguments[1:]),  # the factory is not called
    "torch.Size": functools.partial(sequence, tuple),
    "numpy.dtype": ArrayType,
    "byol.byol_experiment._ByolExperimentState": lambda *values: Table(list(zip(BYOL, values, strict=True))),
    **{
        f"{module}.{kind}Path": path_text
        for module in ("pathlib", "pathlib._local")
        for kind in ("", "Posix", "PurePosix", "Windows", "PureWindows")
    },
}
STAND_INS.update({label: stand_in(label, build) for label, build in SHORT.items()})


class PlanUnpickler(pickle.Unpickler):
    """storages: all that were named; None in a pickle that has none. Text of Python 2 is read as latin1, as Detectron2 does."""

    def __init__(self, stream: BinaryIO, storages: dict[str, Storage] | None) -> None:
        super().__init__(stream, encoding="latin1")
        self.storages = storages

    def find_class(self, module: str, name: str) -> Any:
        """A stand-in; nothing is imported."""
        return find(module, name)

    def persistent_load(self, pid: Any) -> Any:
        """('storage', type, key, device, number of elements[, view]), or a class of modules: ('module', class, file, source)."""
        if type(pid) is tuple and len(pid) == 4 and pid[0] == "module" and isinstance(pid[1], Frozen):
            return pid[1]
        if self.storages is None or type(pid) is not tuple or len(pid) not in (5, 6) or pid[0] != "storage":
            raise Refused("the pickle points to something outside it that is no torch storage")
        kind, key, numel, view = pid[1], pid[2], pid[4], pid[5] if len(pid) == 6 else None
        if not isinstance(kind, Frozen) or type(key) is not str or type(numel) is not int or numel < 0:
            raise Refused("the pickle describes a torch storage in an unknown way")
        name = kind.label.removeprefix("torch.").removeprefix("cuda.").removesuffix("Storage")
        dtype = "uint8" if name == "storage.Untyped" else STORAGES.get(name)
        if dtype is None:
            return Inert(kind, key, numel)
        storage = Storage(dtype, key, numel)
        if self.storages.setdefault(key, storage) != storage:
            raise Refused(f"the pickle describes the torch storage {key:.40} twice, and differently")
        return storage._replace(first=view[1]) if view is not None else storage


class Plan:
    """The answer while it is made.

    tensors: [storage's key, its type, type, number of elements, offset, size, stride]; the key of one in the blob is
    [first byte, bytes]. objects: [name, arguments, state] of each record.
    """

    def __init__(self, blob: int) -> None:
        self.tensors: list[Any] = []
        self.objects: list[Any] = []
        self._waiting: list[tuple[int, Inert]] = []
        self._numbers: dict[int, tuple[int, Any]] = {}  # id -> (number, the object itself, so that no id is used twice)
        self._blob, self._blob_size = blob, 0
        self._nodes = self._text = 0

    def of(self, value: Any) -> dict[str, Any]:
        """The whole answer. Each record is described once, so records may refer to each other in circles.

        Of a record beyond the limits (a whole data set, say) only the name is kept: nobody needs more.
        """
        tree = self._encode(value)
        while self._waiting:
            number, found = self._waiting.pop()
            try:
                content = [self._encode(found.arguments), self._encode(found.state)]
            except Refused:
                content = [["tuple", []], None]
            self.objects[number] = [type(found).label, *content]
        return {"tree": tree, "tensors": self.tensors, "objects": self.objects}

    def _encode(self, value: Any, depth: int = 0) -> Any:
        """A scalar as it is, everything else as [kind, content]."""
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
            return [
                "dict",
                [[self._encode(entry, depth + 1) for entry in entries] for entries in (value, value.values())],
            ]
        if type(value) in (list, tuple, set, frozenset):
            return [type(value).__name__, [self._encode(entry, depth + 1) for entry in value]]
        if type(value) is complex:
            return ["complex", [value.real, value.imag]]
        if isinstance(value, Frozen):
            dtype = value.label.removeprefix("torch.")
            return ["dtype", dtype] if dtype in DTYPES else value.label
        if isinstance(value, Storage):
            value = TensorRecord(value, 0, (value.numel,), (1,), value.dtype)
        if isinstance(value, TensorRecord) or (isinstance(value, Array) and value.is_of_numbers()):
            return ["tensor", self._number(value, self.tensors)]
        if isinstance(value, Array):  # of text or of objects
            value = find("numpy", "ndarray")(value.shape, value.data)
        if isinstance(value, Inert):
            if value.content is not None:
                return self._encode(value.content, depth)
            return ["object", self._number(value, self.objects)]
        if isinstance(value, ArrayType):
            return value.text
        raise Refused(f"the pickle holds a {type(value).__name__}, which weights do not need")

    def _number(self, value: Any, described: list[Any]) -> int:
        """Its place in the list of those that are described; an object that appears twice is described once."""
        if id(value) not in self._numbers:
            if isinstance(value, Inert):
                entry = None
                self._waiting.append((len(described), value))
            else:
                entry = self._tensor(value if isinstance(value, TensorRecord) else self._write(value))
            self._numbers[id(value)] = len(described), value
            described.append(entry)
        return self._numbers[id(value)][0]

    def _tensor(self, value: TensorRecord) -> list[Any]:
        dtype, key, numel, first = value.storage
        numbers = (first, value.offset, *value.size, *value.stride)
        if any(type(number) is not int for number in numbers):
            raise Refused("the pickle gives a tensor a size that is no whole number")
        return [key, dtype, value.dtype, numel, first + value.offset, list(value.size), list(value.stride)]

    def _write(self, value: Array) -> TensorRecord:
        """Put an array's bytes into the blob, in the order of this machine's."""
        dtype, letter = ARRAYS[value.dtype.text]
        shape, width = value.shape, struct.calcsize(letter)
        if type(shape) is not tuple or any(type(length) is not int or length < 0 for length in shape):
            raise Refused("the pickle gives an array a shape that is not made of whole numbers")
        if type(value.data) is not bytes or len(value.data) != math.prod(shape) * width:
            raise Refused(f"the pickle holds an array of shape {shape!s:.60} whose bytes do not fill it")
        data = value.data
        if value.dtype.swapped:
            swapped = array.array({1: "B", 2: "H", 4: "I", 8: "Q"}[width], data)
            swapped.byteswap()
            data = swapped.tobytes()
        key = [self._blob_size, len(data)]
        view = memoryview(data + bytes(-len(data) % ALIGNMENT))
        self._blob_size += len(view)
        while view:
            view = view[os.write(self._blob, view) :]
        stride = [math.prod(shape[:axis] if value.fortran else shape[axis + 1 :]) for axis in range(len(shape))]
        return TensorRecord(Storage(dtype, key, math.prod(shape)), 0, shape, stride, dtype)


def read_old(stream: BinaryIO, size: int) -> tuple[Any, dict[str, list[int]]]:
    """A file of torch before 1.6: four pickles, a list of storages, their bytes. Returns (value, key -> [first byte, bytes])."""
    storages: dict[str, Storage] = {}
    magic, protocol, system = (PlanUnpickler(stream, None).load() for _ in range(3))
    if magic != OLD_MAGIC or protocol != OLD_PROTOCOL or not isinstance(system, dict):
        raise Refused("the head of a torch file from before 1.6 is damaged")
    if system.get("little_endian") is not True:
        raise Refused("the file was written on a big-endian machine; such files are not read")
    value = PlanUnpickler(stream, storages).load()
    keys = PlanUnpickler(stream, None).load()
    if type(keys) is not list or sorted(map(str, keys)) != sorted(storages):
        raise Refused("the list of storages is not that of the tensors")
    places, at = {}, stream.tell()
    for key in keys:
        count, dtype = int.from_bytes(stream.read(8), "little"), storages[key].dtype
        length = count * int(dtype.lstrip(LETTERS) or 8) // 8
        if count != storages[key].numel or at + 8 + length > size:
            raise Refused(f"the storage {key:.40} is cut, or longer or shorter than its tensors say")
        places[key] = [at + 8, length]
        at = stream.seek(at + 8 + length)
    return value, places


def answer(kind: str, descriptor: int, offset: int, size: int, blob: int) -> dict[str, Any]:
    """The plan, or {"error": what is wrong}. The descriptor is moved."""
    places: dict[str, list[int]] = {}
    try:
        with open(descriptor, "rb", closefd=False) as stream:
            stream.seek(offset)
            if kind == "old":
                value, places = read_old(stream, size)
            else:
                value = PlanUnpickler(stream, {} if kind == "zip" else None).load()
            after = offset + size - stream.tell()
        if after:
            raise Refused(f"{after} bytes follow the end of the pickle; it was damaged, or holds a second file")
        return {**Plan(blob).of(value), "places": places}
    except MemoryError:
        return {"error": "reading it needs more memory than weights of its size do"}
    except RecursionError:
        return {"error": "its containers are nested too deeply"}
    except Refused as error:
        return {"error": str(error)}
    except Exception as error:  # pickle leaks a dozen types on damaged files
        return {"error": f"truncated, damaged or of another kind ({type(error).__name__}: {error!s:.160})"}


def limit(memory: int, seconds: int, output: int) -> bool:
    """Cap this process: bytes of memory, seconds of work, bytes of a written file. False where the system has no such caps."""
    try:
        import resource
    except ImportError:
        return False
    caps = {
        resource.RLIMIT_AS: memory,
        resource.RLIMIT_CPU: seconds,
        resource.RLIMIT_FSIZE: output,
        resource.RLIMIT_CORE: 0,
    }
    for kind, value in caps.items():
        _, most = resource.getrlimit(kind)
        value = value if most == resource.RLIM_INFINITY else min(value, most)
        resource.setrlimit(kind, (value, value))
    return True


def main() -> None:
    """The arguments above, from the command line."""
    descriptor, offset, size, blob, memory, seconds = map(int, sys.argv[2:])
    capped = limit(memory, seconds, 2 * size + (64 << 20))
    sys.stdout.write(json.dumps({**answer(sys.argv[1], descriptor, offset, size, blob), "capped": capped}))
