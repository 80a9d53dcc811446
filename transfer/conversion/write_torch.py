"""A torch file out of the tensors of another, each read once: verified, looked at and written on the way.

In: containers of CPU tensors, and the file that they were read from. Out: the file that torch.save writes, byte for byte apart
from the id it gives itself. torch.save would map every tensor into memory, copy it through a buffer and compute its checksum;
here the source's bytes pass through one buffer, and the checksum that the source states is carried over. Damage on the way
cannot pass: a reader that compares either file with its checksums finds it.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pretrain.base.errors import CheckpointError
from pretrain.base.weight_files.torch_files import TorchFile, open_archive

DESCRIPTOR = b"PK\x07\x08"  # begins what stands behind a record: its checksum, its size
CENTRAL_SIZE, CENTRAL_CHECKSUM = 46, 16  # of an entry of the index: bytes before the name, where its checksum stands


def write_torch_file(path: Path, content: Any, tensors: Mapping[str, Tensor], *, file: TorchFile) -> list[str]:
    """Write `content`, whose tensors are `tensors`: contiguous float32, on the CPU, each alone in its storage. Not yet flushed.

    file: where those of the tensors that lie in a file verbatim are read from, and verified. Returns the names of tensors
    with NaN or infinity. Raises CheckpointError for a damaged source, and like OSError for a disk that is full.
    """
    try:
        with open(path, "wb") as output, torch.serialization.skip_data():  # the tensors' places stay empty
            torch.save(content, output)
    except RuntimeError as error:  # torch reports a full disk so
        raise CheckpointError(f"could not write {path}: {error}") from error
    distinct = {tensor.data_ptr(): name for name, tensor in tensors.items() if tensor.numel()}.values()
    bad = []
    with open(path, "r+b", buffering=0) as output:
        for name, (offset, size, stated_at) in zip(distinct, _empty_records(path), strict=True):
            tensor = tensors[name]
            assert tensor.nbytes == size, "torch no longer stores tensors in the order in which it meets them"
            source = file.place(tensor)
            chunks = file.read(source) if source else iter([tensor.reshape(-1).numpy().view(np.uint8).data])
            at, checksum, finite = offset, 0, True
            for chunk in chunks:
                _write_at(output.fileno(), at, chunk)
                at += len(chunk)
                finite &= _is_finite(np.frombuffer(chunk, dtype=np.float32))
                checksum = source.CRC if source else zlib.crc32(chunk)
            if not finite:
                bad.append(name)
            _write_at(output.fileno(), at, DESCRIPTOR + struct.pack("<L", checksum))
            _write_at(output.fileno(), stated_at, struct.pack("<L", checksum))
    return bad


def _empty_records(path: Path) -> list[tuple[int, int, int]]:
    """Of each tensor: where its bytes begin, how many they are, and where the index states their checksum."""
    archive, offsets = open_archive(path)
    places, at = [], archive.start_dir
    for record in archive.infolist():
        if record.filename.startswith("archive/data/") and record.file_size:
            places.append((offsets[record.filename], record.file_size, at + CENTRAL_CHECKSUM))
        at += CENTRAL_SIZE + len(record.filename.encode()) + len(record.extra) + len(record.comment)
    return places


def _is_finite(values: np.ndarray) -> bool:
    """As for tensors (transfer/conversion/values.py); numpy's sum starts no threads for a piece of a MiB."""
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(values.sum())) or bool(np.isfinite(values).all())


def _write_at(descriptor: int, offset: int, data: bytes | memoryview) -> None:
    view, written = memoryview(data), 0
    while written < len(view):
        written += os.pwrite(descriptor, view[written:], offset + written)
