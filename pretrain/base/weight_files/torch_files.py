"""The one reader of files that are, or contain, pickles: torch's zip, torch before 1.6, pickles of arrays.

In: a path. Out: nested containers of CPU tensors on the file's own pages, or a CheckpointError, whatever went wrong below. The
pickle is read by a child process with caps, which never runs what is in it; nothing of a damaged file is returned:
every record of a zip is held against its checksum. Other formats have none: only what breaks their structure is found.
There is no second try with weaker settings.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from torch import Tensor

from pretrain.base.errors import CheckpointError
from pretrain.base.weight_files.pickle_process import Kind, reading
from pretrain.base.weight_files.tensor_plan import Places, PlanError, build
from pretrain.base.weight_files.zip_records import (
    Record,
    Records,
    ZipError,
    check_checksums,
    checked_chunks,
    read_records,
)

# Begins every file of torch's format before 1.6: the pickled magic number 0x1950a86a20f9469cfc6c.
OLD_TORCH = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
ZIP = b"PK\x03\x04"
HEAD_SIZE = 16


def is_pickled(head: bytes) -> bool:
    """Whether a file that begins with `head` is read here."""
    return head.startswith(ZIP) or head[:1] == b"\x80" or (bool(head) and head[:1] in b"(}])c")


def nothing_to_verify(tensors: Iterable[Tensor]) -> None:
    """Of a format without checksums, or of a file that was verified whole."""


def lies_nowhere(tensor: Tensor) -> Record | None:
    """Of a format whose tensors are not records of a zip."""
    return None


def nothing_to_read(record: Record) -> Iterator[memoryview]:
    """Of a format without records."""
    return iter(())


@dataclass(frozen=True)
class TorchFile:
    """content: containers and tensors. verify: hold the bytes of some of its tensors against their checksums.

    place: the record of the file whose bytes are exactly a tensor's, None where there is none. read: its bytes in pieces, whose
    checksum is held against them behind the last one.
    """

    content: Any
    verify: Callable[[Iterable[Tensor]], None] = nothing_to_verify
    place: Callable[[Tensor], Record | None] = lies_nowhere
    read: Callable[[Record], Iterator[memoryview]] = nothing_to_read


def read_torch_file(path: Path) -> Any:
    """The content of a torch file or of a pickle of arrays, all of it verified. Raises CheckpointError."""
    file = open_torch_file(path, verify_all=True)
    return file.content


def in_memory(content: Any) -> Any:
    """The same containers with tensors of their own, for whoever goes on writing to them or to the file.

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
        with reading(file, blob, kind, offset=0, size=file.seek(0, 2)) as child:
            plan = child.plan()
        places = {key: (first, count) for key, (first, count) in plan["places"].items()}
        return TorchFile(build(plan, places, file, blob))
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
    except (CheckpointError, PlanError, ZipError) as error:
        raise CheckpointError(f"cannot read {path}: {error}") from None
    except Exception as error:  # the libraries below leak a dozen types on damaged files
        raise CheckpointError(f"cannot read {path}: {reason(error)}") from None


def _open_zip(path: Path, file: BinaryIO, blob: BinaryIO, *, verify_all: bool) -> TorchFile:
    records = read_records(file)
    root = _root(records)
    places = _places(records, root)
    stored = {f"{root}data/{key}" for key in places}
    record = records[f"{root}data.pkl"]
    with reading(file, blob, "zip", offset=record.offset, size=record.size) as child:
        check_checksums(
            file, records if verify_all else {k: v for k, v in records.items() if k not in stored}
        )  # meanwhile
        plan = child.plan()
    order = records.get(f"{root}byteorder")
    if order is not None:
        file.seek(order.offset)
        if file.read(order.size) != b"little":
            raise ZipError("it was written on a big-endian machine; such files are not read")
    storages: dict[int, str] = {}
    content = build(plan, places, file, blob, storages)

    def verify(tensors: Iterable[Tensor]) -> None:
        with _one_error(path), open(path, "rb") as again:
            used = [tensor.untyped_storage().data_ptr() for tensor in tensors if tensor.numel()]
            if not all(address in storages for address in used):
                raise ZipError("a tensor was copied before it was verified")
            names = {f"{root}data/{storages[address]}" for address in used}
            check_checksums(again, {name: records[name] for name in records if name in names})

    def place(tensor: Tensor) -> Record | None:
        key = storages.get(tensor.data_ptr()) if tensor.numel() and tensor.is_contiguous() else None
        record = records[f"{root}data/{key}"] if key is not None else None
        return record if record and record.size == tensor.numel() * tensor.element_size() else None

    def read(record: Record) -> Iterator[memoryview]:
        with _one_error(path), open(path, "rb", buffering=0) as again:
            yield from checked_chunks(again, record)

    return TorchFile(content, nothing_to_verify if verify_all else verify, place, read)


def _root(records: Records) -> str:
    """The folder that torch puts all records into. Raises ZipError for a zip that torch.save did not write."""
    roots = [name.removesuffix("data.pkl") for name in records if name.rpartition("/")[2] == "data.pkl"]
    if len(roots) != 1:
        raise ZipError("it is a zip, but no torch file: expected one data.pkl in it")
    if f"{roots[0]}constants.pkl" in records:
        raise ZipError("it is a TorchScript program; expected weights (save the module's state_dict)")
    return roots[0]


def _places(records: Records, root: str) -> Places:
    folder = f"{root}data/"
    return {
        name.removeprefix(folder): (record.offset, record.size)
        for name, record in records.items()
        if name.startswith(folder)
    }


def reason(error: Exception) -> str:
    """One line of an error of a library below."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"truncated, damaged or of another kind ({type(error).__name__}: {(lines or ['no message'])[0]:.160})"
