"""A torch file whose tensors' checksums are carried over from the file that they were read from.

In: containers of CPU tensors, and the source's record of each. Out: the file that torch.save writes, byte for byte apart
from the id it gives itself. torch.save copies each tensor through a buffer of its own and computes its checksum; here it is
written once, from the pages of the source, beside the checksum that the source states. Damage on the way cannot pass:
whoever holds either file against its checksums finds it.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pretrain.errors import CheckpointError
from pretrain.safe_reader.zip_records import DESCRIPTOR, Record, read_records


def write_torch_file(
    path: Path, content: Any, tensors: Mapping[str, Tensor], *, place: Callable[[Tensor], Record | None]
) -> None:
    """Write `content`, whose tensors are `tensors`: contiguous, on the CPU, each alone in its storage. Not yet flushed.

    place: the record of the source whose bytes are exactly a tensor's, None where there is none. Raises CheckpointError or
    OSError for a disk that is full.
    """
    try:
        with open(path, "wb") as file, torch.serialization.skip_data():  # the tensors' places stay empty
            torch.save(content, file)
    except RuntimeError as error:  # torch reports a full disk so
        raise CheckpointError(f"could not write {path}: {error}") from error
    distinct = {tensor.data_ptr(): tensor for tensor in tensors.values() if tensor.numel()}.values()
    with open(path, "r+b", buffering=0) as file:
        records = read_records(file)
        empty = [record for name, record in records.items() if name.startswith("archive/data/") and record.size]
        for tensor, record in zip(distinct, empty, strict=True):
            data = tensor.reshape(-1).numpy().view(np.uint8).data
            assert len(data) == record.size, "torch no longer stores tensors in the order in which it meets them"
            _write_at(file.fileno(), record.offset, data)
            source = place(tensor)
            checksum = struct.pack("<L", zlib.crc32(data) if source is None else source.checksum)
            _write_at(file.fileno(), record.offset + record.size, DESCRIPTOR + checksum)
            _write_at(file.fileno(), record.stated_at, checksum)


def _write_at(descriptor: int, offset: int, data: bytes | memoryview) -> None:
    view, written = memoryview(data), 0
    while written < len(view):
        written += os.pwrite(descriptor, view[written:], offset + written)
