"""The one reader of strangers' files that are, or contain, pickles: torch's zip, torch before 1.6, pickles of arrays.

In: a path. Out: nested containers of CPU tensors on the file's own pages, or a CheckpointError, whatever went wrong below. The
pickle is read by a child process with caps (pickle_child.py), which never runs what is in it; objects of other libraries come
back as `ForeignObject`. Nothing of a damaged zip is returned: its records are compared with their checksums. The other formats
have none: only what breaks their structure is found. There is no second try with weaker settings.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import mmap
import signal
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal
from zipfile import BadZipFile, ZipFile, ZipInfo

import torch
from torch import Tensor

from pretrain.base.errors import CheckpointError
from pretrain.base.weight_files.pickle_child import DTYPES

# Begins every file of torch's format before 1.6: the pickled magic number 0x1950a86a20f9469cfc6c.
OLD_TORCH = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
ZIP, END, END_64, LOCATOR_64 = b"PK\x03\x04", b"PK\x05\x06\0\0\0\0", b"PK\x06\x06", b"PK\x06\x07"
HEAD_SIZE = 16
LOCAL_HEADER = 30  # bytes before a record's name
HAS_DESCRIPTOR, UTF_8 = 1 << 3, 1 << 11
DESCRIPTOR_SIZES = (0, 16, 24)
MAX_INDEX = 16 << 20  # some 200 thousand records
CHUNK = 1 << 20
MAX_DIMENSIONS = 32
MAX_REPEATS = 16  # all tensors together, as a multiple of the file: several may share one storage
# -I -S: no site-packages, no variables of the environment, no folder of the user's on the import path.
START = [
    sys.executable,
    "-I",
    "-S",
    "-c",
    "import sys; sys.path.insert(0, sys.argv.pop(1)); from pretrain.base.weight_files.pickle_child import main; main()",
    str(Path(__file__).resolve().parents[3]),
]
BASE_MEMORY = 512 << 20  # a million objects make some 250 MB
MEMORY_PER_BYTE = 6  # text of protocol 2 is held as text and as bytes
BASE_SECONDS, SECONDS_PER_GB = 30, 60
MAX_BYTES = 8 << 30

Kind = Literal["zip", "old", "pickle"]
logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class ForeignObject:
    """An object of a library that was not loaded: its class or function, and what the file gave to it."""

    name: str
    arguments: tuple[Any, ...] = ()
    state: Any = None


def nothing_to_verify(tensors: Iterable[Tensor]) -> None:
    """Of a format without checksums, or of a file that was verified whole."""


def no_record(tensor: Tensor) -> ZipInfo | None:
    """Of a format whose tensors are not records of a zip."""
    return None


def nothing_to_read(record: ZipInfo) -> Iterator[bytes]:
    """Belongs to `no_record`."""
    raise AssertionError("no tensor of this file is a record of a zip")


@dataclass(frozen=True)
class TorchFile:
    """A file's content, and what is known of its tensors.

    verify: compare the records of these tensors with their checksums. place: the record whose bytes are exactly this tensor's.
    read: the bytes of such a record, verified behind the last. foreign: names of what came back as `ForeignObject`.
    """

    content: Any
    verify: Callable[[Iterable[Tensor]], None] = nothing_to_verify
    place: Callable[[Tensor], ZipInfo | None] = no_record
    read: Callable[[ZipInfo], Iterator[bytes]] = nothing_to_read
    foreign: tuple[str, ...] = ()


def is_pickled(head: bytes) -> bool:
    """Whether a file that begins with `head` is read here."""
    return head.startswith(ZIP) or head[:1] == b"\x80" or (bool(head) and head[:1] in b"(}])c")


def read_torch_file(path: Path) -> Any:
    """The content of a torch file or of a pickle of arrays, all of it verified. Raises CheckpointError."""
    return open_torch_file(path, verify_all=True).content


def in_memory(content: Any) -> Any:
    """The same containers with tensors of their own, for a caller that writes to them or to the file.

    A tensor on the pages of a file that is written anew in place (Detectron2 saves so) ends the process by SIGBUS.
    """
    if isinstance(content, Tensor):
        return content.clone()
    if isinstance(content, dict):
        return {key: in_memory(entry) for key, entry in content.items()}
    if isinstance(content, (list, tuple)):
        return type(content)(in_memory(entry) for entry in content)
    return content


def open_torch_file(path: Path, *, verify_all: bool = False) -> TorchFile:
    """The same, where tensors are not verified yet: none may be used before it went through `verify`.

    Raises CheckpointError; so does `verify`, for a damaged tensor and for one that is not of this file (a copy: too late).
    """
    with _one_error(path), open(path, "rb") as file, tempfile.TemporaryFile() as blob:
        head = file.read(HEAD_SIZE)
        if head.startswith(ZIP):
            return _open_zip(path, file, blob, verify_all=verify_all)
        kind: Kind = "old" if head.startswith(OLD_TORCH) else "pickle"
        plan = ask_child(kind, file, blob, offset=0, size=file.seek(0, 2))
        return TorchFile(build(plan, plan["places"], file, blob), foreign=_foreign(plan))
    raise AssertionError("unreachable")


@contextmanager
def _one_error(path: Path) -> Iterator[None]:
    """Whatever is thrown inside becomes a CheckpointError that names the file."""
    try:
        yield
    except FileNotFoundError:
        raise CheckpointError(f"no weight file at {path}") from None
    except IsADirectoryError:
        raise CheckpointError(f"{path} is a folder; expected a weight file") from None
    except CheckpointError as error:
        raise CheckpointError(f"cannot read {path}: {error}") from None
    except Exception as error:  # the libraries below leak a dozen types on damaged files
        raise CheckpointError(f"cannot read {path}: {reason(error)}") from None


def reason(error: Exception) -> str:
    """One line of an error of a library below."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"truncated, damaged or of another kind ({type(error).__name__}: {(lines or ['no message'])[0]:.160})"


def ask_child(kind: Kind, file: BinaryIO, blob: BinaryIO, *, offset: int, size: int) -> dict[str, Any]:
    """The child's plan of `size` bytes of `file` from `offset`; bytes of pickled arrays go to `blob`. This process unpickles nothing.

    Raises CheckpointError (without the file's name) when the child refused, or was stopped by a cap. Where the system knows no
    caps on a process (Windows), the log says so and the reading goes on without them.
    """
    if size > MAX_BYTES:
        raise CheckpointError(f"its pickle has {size} bytes; at most {MAX_BYTES} are read")
    memory, seconds = BASE_MEMORY + MEMORY_PER_BYTE * size, BASE_SECONDS + SECONDS_PER_GB * size // (1 << 30)
    numbers = (file.fileno(), offset, size, blob.fileno(), memory, seconds)
    command = [*START, kind, *map(str, numbers)]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            pass_fds=(file.fileno(), blob.fileno()),
            timeout=2 * seconds,
        )
    except subprocess.TimeoutExpired:
        raise CheckpointError(f"reading it took more than {2 * seconds} s, and was stopped") from None
    caps = f"its caps are {memory >> 20} MiB of memory and {seconds} s of work"
    if done.returncode < 0:
        name = signal.Signals(-done.returncode).name
        raise CheckpointError(f"the process that reads it was stopped ({name}; {caps})")
    if done.returncode:
        last = (done.stderr.decode(errors="replace").strip().splitlines() or ["without a message"])[-1]
        raise CheckpointError(f"the process that reads it failed ({last:.160}; {caps})")
    plan: dict[str, Any] = json.loads(done.stdout)
    if not plan["capped"]:
        logger.warning("this system has no caps on a process: the pickle was read without one on its memory")
    if "error" in plan:
        raise CheckpointError(plan["error"])
    return plan


def _open_zip(path: Path, file: BinaryIO, blob: BinaryIO, *, verify_all: bool) -> TorchFile:
    archive, offsets = open_archive(path)
    root = _root(offsets)
    folder = f"{root}data/"
    stored = {name.removeprefix(folder): name for name in offsets if name.startswith(folder)}
    check_records(archive, (name for name in offsets if verify_all or not name.startswith(folder)))
    if f"{root}byteorder" in offsets and archive.read(f"{root}byteorder") != b"little":
        raise CheckpointError("it was written on a big-endian machine; such files are not read")
    pickled = archive.getinfo(f"{root}data.pkl")
    plan = ask_child("zip", file, blob, offset=offsets[pickled.filename], size=pickled.file_size)
    places = {key: (offsets[name], archive.getinfo(name).file_size) for key, name in stored.items()}
    addresses: dict[int, str] = {}
    content = build(plan, places, file, blob, addresses)

    def verify(tensors: Iterable[Tensor]) -> None:
        with _one_error(path):
            used = [tensor.untyped_storage().data_ptr() for tensor in tensors if tensor.numel()]
            if not all(address in addresses for address in used):
                raise CheckpointError("a tensor was copied before it was verified")
            check_records(archive, dict.fromkeys(stored[addresses[address]] for address in used))

    def place(tensor: Tensor) -> ZipInfo | None:
        key = addresses.get(tensor.data_ptr()) if tensor.numel() and tensor.is_contiguous() else None
        record = archive.getinfo(stored[key]) if key is not None else None
        return record if record and record.file_size == tensor.numel() * tensor.element_size() else None

    def read(record: ZipInfo) -> Iterator[bytes]:
        with _one_error(path):
            yield from checked_chunks(archive, record)

    return TorchFile(content, nothing_to_verify if verify_all else verify, place, read, _foreign(plan))


def open_archive(path: Path) -> tuple[ZipFile, dict[str, int]]:
    """A torch zip and where the bytes of each record begin. Raises CheckpointError or BadZipFile.

    Stricter than a zip needs to be, since torch writes only one kind: nothing before, between or after the records, nothing
    compressed, no name twice. So a file that is two things at once, or that unpacks to more than it is, is refused.
    """
    with open(path, "rb") as file:
        _check_end(file)
    archive = ZipFile(path)
    assert archive.fp is not None
    offsets: dict[str, int] = {}
    at = 0
    for record in archive.infolist():
        name = record.orig_filename
        if record.compress_type or record.compress_size != record.file_size:
            raise CheckpointError(
                f"{name:.60} is compressed: a bomb, a TorchScript program, or weights to be saved with torch.save again"
            )
        if record.flag_bits & ~(HAS_DESCRIPTOR | UTF_8):
            raise CheckpointError(f"{name:.60} is encrypted, or stored in an unknown way")
        if name in offsets or name != record.filename or {"..", ""} & set(name.split("/")):
            raise CheckpointError(f"the name {name!r:.60} stands in it twice, or leads out of it")
        if record.header_offset - at not in DESCRIPTOR_SIZES:
            raise CheckpointError(f"the bytes before {name:.60} belong to nothing, or to two records")
        archive.fp.seek(record.header_offset)
        header = archive.fp.read(LOCAL_HEADER)
        offsets[name] = record.header_offset + LOCAL_HEADER + sum(struct.unpack("<HH", header[26:30]))
        at = offsets[name] + record.file_size
    if archive.start_dir - at not in DESCRIPTOR_SIZES:
        raise CheckpointError("its index and its records do not meet; it was damaged, or holds a second file")
    return archive, offsets


def _check_end(file: BinaryIO) -> None:
    """Raises CheckpointError unless the file ends with the end of a zip, and its index is no larger than that of any weights."""
    size = file.seek(0, 2)
    file.seek(max(0, size - 98))
    tail = file.read().rjust(98, b"\0")
    if not tail[76:].startswith(END) or not tail.endswith(b"\0\0"):
        raise CheckpointError("it does not end with the end of a zip: cut short, or followed by something else")
    wide = tail[:4] == END_64 and tail[56:60] == LOCATOR_64
    (index_size,) = struct.unpack("<Q", tail[40:48]) if wide else struct.unpack("<L", tail[88:92])
    if index_size > MAX_INDEX:
        raise CheckpointError("its index is larger than that of any weights")


def _root(names: Mapping[str, int]) -> str:
    """The folder that torch puts all records into. Raises CheckpointError for a zip that torch.save did not write."""
    roots = [name.removesuffix("data.pkl") for name in names if name.rpartition("/")[2] == "data.pkl"]
    if len(roots) != 1:
        raise CheckpointError("it is a zip, but no torch file: expected one data.pkl in it")
    if f"{roots[0]}constants.pkl" in names:
        raise CheckpointError("it is a TorchScript program; expected weights (save the module's state_dict)")
    return roots[0]


def check_records(archive: ZipFile, names: Iterable[str]) -> None:
    """Read every record once and compare it with its checksum (torch does not). Raises CheckpointError naming the damaged one."""
    for name in names:
        for _ in checked_chunks(archive, archive.getinfo(name)):
            pass


def checked_chunks(archive: ZipFile, record: ZipInfo) -> Iterator[bytes]:
    """The bytes of a record, a MiB at a time. Raises CheckpointError at the last where the checksum does not match.

    Plain reads, not the memory map: pages that nobody uses afterwards do not stay in this process.
    """
    try:
        with archive.open(record) as member:
            while chunk := member.read(CHUNK):
                yield chunk
    except BadZipFile as error:
        if "CRC" not in str(error):
            raise
        raise CheckpointError(
            f"it is damaged: the checksum of {record.filename:.60} does not match its bytes (so it is, too, in a sound file that "
            "was saved after torch.serialization.set_crc32_options(False): save that one again without)"
        ) from None


def build(
    plan: Mapping[str, Any],
    places: Mapping[str, tuple[int, int]],
    file: BinaryIO,
    blob: BinaryIO,
    addresses: dict[int, str] | None = None,
) -> Any:
    """The content that a child's plan describes: tensors are mapped, so that they are read from disk when used.

    The plan is not believed: every tensor must lie inside its storage, and have no more elements than that has; otherwise
    CheckpointError. places: key of a storage -> (first byte in the file, bytes). addresses: is filled with where each begins in
    memory -> its key.
    """
    pages, blob_pages = _mapped(file), _mapped(blob)
    bases: dict[tuple[str, str], Tensor] = {}
    tensors, total = [], 0
    for key, storage_dtype, dtype, numel, offset, size, stride in plan["tensors"]:
        if isinstance(key, str) and key not in places:
            raise CheckpointError(f"the storage {key:.40} of a tensor is not in the file")
        first, count = places[key] if isinstance(key, str) else key
        if numel * _dtype(storage_dtype).itemsize != count:
            raise CheckpointError(f"the storage {key!s:.40} has {count} bytes, not those of {numel} {storage_dtype}")
        if (str(key), dtype) not in bases:
            bases[str(key), dtype] = _elements(
                pages if isinstance(key, str) else blob_pages, first, count, _dtype(dtype)
            )
        tensors.append(_view(bases[str(key), dtype], offset, size, stride))
        total += tensors[-1].nbytes
        if total > MAX_REPEATS * (len(pages) + len(blob_pages)):
            raise CheckpointError(f"its tensors together are more than {MAX_REPEATS} times as large as the file")
    if addresses is not None:
        addresses |= {base.untyped_storage().data_ptr(): key for (key, _), base in bases.items() if base.numel()}
    return _decode(plan, tensors)


def _mapped(file: BinaryIO) -> mmap.mmap | bytes:
    """Private pages: writing to them does not change the file."""
    return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) if file.seek(0, 2) else b""


def _elements(pages: mmap.mmap | bytes, first: int, size: int, dtype: torch.dtype) -> Tensor:
    """The whole elements of `dtype` in `size` bytes, 1-D. Those that do not begin on an element's border are copied."""
    if first < 0 or size < 0 or first + size > len(pages):
        raise CheckpointError("a tensor lies outside the file")
    if size < dtype.itemsize:
        return torch.empty(0, dtype=dtype)
    if first % dtype.itemsize:
        return torch.frombuffer(bytearray(pages[first : first + size]), dtype=dtype, count=size // dtype.itemsize)
    return torch.frombuffer(pages, dtype=dtype, count=size // dtype.itemsize, offset=first)


def _view(base: Tensor, offset: int, size: list[int], stride: list[int]) -> Tensor:
    if len(size) != len(stride) or len(size) > MAX_DIMENSIONS or min((offset, *size, *stride)) < 0:
        raise CheckpointError("a tensor has an impossible shape")
    elements = math.prod(size)
    last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True)) if elements else offset
    if elements > base.numel() or last >= base.numel() + (not elements):
        raise CheckpointError(
            f"a tensor of shape {tuple(size)!s:.60} does not fit the {base.numel()} elements of its storage"
        )
    return base.as_strided(size, stride, offset)


def _dtype(name: str) -> torch.dtype:
    assert name in DTYPES
    dtype: torch.dtype = getattr(torch, name)
    return dtype


SEQUENCES: dict[str, Any] = {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset}
NAMESPACES = ("argparse.Namespace", "types.SimpleNamespace")


def _decode(plan: Mapping[str, Any], tensors: list[Tensor]) -> Any:
    """The tree. Records may refer to each other in circles: all are made, then filled."""
    objects: list[Any] = [
        argparse.Namespace() if name in NAMESPACES else ForeignObject(name) for name, _, _ in plan["objects"]
    ]

    def decode(node: Any) -> Any:
        if not isinstance(node, list):
            return node
        kind, content = node
        if kind == "dict":
            return {decode(key): decode(value) for key, value in zip(*content, strict=True)}
        if kind == "tensor":
            return tensors[content]
        if kind == "object":
            return objects[content]
        if kind == "bytes":
            return content.encode("latin1")
        if kind == "dtype":
            return _dtype(content)
        if kind == "complex":
            return complex(*content)
        return SEQUENCES[kind](decode(entry) for entry in content)

    for made, (name, arguments, state) in zip(objects, plan["objects"], strict=True):
        if name in NAMESPACES:
            made.__dict__.update(decode(state) or {})
        else:
            made.__dict__.update(arguments=decode(arguments), state=decode(state))
    return decode(plan["tree"])


def _foreign(plan: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of the classes and functions that only records stand for."""
    return tuple(sorted({name for name, _, _ in plan["objects"] if name not in NAMESPACES}))
