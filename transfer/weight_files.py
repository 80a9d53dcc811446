"""Any weight file to nested dictionaries of tensors, without running anything that is in it.

In: a path (safetensors, torch zip, old torch, pickle of arrays), recognised by its first bytes. Out: plain containers whose
leaves are tensors and scalars, or a CheckpointError. There is no retry with weaker settings.
"""

from __future__ import annotations

import argparse
import collections
import hashlib
import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pretrain.errors import CheckpointError
from transfer.safe_pickle import SafeUnpickler

# Begins every file of torch's format before 1.6: the pickled magic number 0x1950a86a20f9469cfc6c.
OLD_TORCH = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
ZIP = b"PK\x03\x04"
# What old training scripts store beside the tensors. Plain records: making one runs nothing.
HARMLESS_RECORDS: list[Any] = [argparse.Namespace, collections.defaultdict, dict, list, set]


def read_weight_file(path: Path) -> Any:
    """The content of a weight file, tensors on the CPU. Raises CheckpointError for whatever goes wrong.

    The checksums of a zip are verified first, since torch does not: a flipped bit would load as a wrong weight.
    """
    try:
        with open(path, "rb") as file:
            head = file.read(16)
        if not head:
            raise CheckpointError(f"{path} is empty (0 bytes)")
        return _reader(head)(path)
    except CheckpointError:
        raise
    except FileNotFoundError:
        raise CheckpointError(f"no weight file at {path}") from None
    except IsADirectoryError:
        raise CheckpointError(f"{path} is a folder; expected a weight file") from None
    except Exception as error:  # the libraries below leak a dozen types on damaged files
        raise CheckpointError(f"cannot read {path}: {_reason(error)}") from None


def _reader(head: bytes) -> Any:
    if head.startswith(ZIP):
        return _read_torch_zip
    if head.startswith(OLD_TORCH):
        return _read_torch
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 100_000_000:
        return _read_safetensors
    if head[:1] == b"\x80" or head[:1] in b"(}])c":
        return _read_pickle
    return _read_unknown


def _read_torch_zip(path: Path) -> Any:
    with zipfile.ZipFile(path) as archive:
        damaged = archive.testzip()
    if damaged is not None:
        raise CheckpointError(f"{path} is damaged: the checksum of {damaged} does not match its bytes")
    return _read_torch(path)


def _read_torch(path: Path) -> Any:
    with torch.serialization.safe_globals(HARMLESS_RECORDS):
        return torch.load(path, map_location="cpu", weights_only=True)


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    tensors: dict[str, Tensor] = load_file(path)
    return tensors


def _read_pickle(path: Path) -> Any:
    with open(path, "rb") as file:
        content = file.read()
    return _as_tensors(SafeUnpickler(io.BytesIO(content), size=len(content)).load())


def _read_unknown(path: Path) -> Any:
    raise CheckpointError(
        f"{path} is no weight file: expected a torch file (.pth, .pt, .ckpt), .safetensors or a pickle of arrays (.pkl)"
    )


def _as_tensors(value: Any) -> Any:
    if isinstance(value, np.ndarray) and value.dtype.kind in "fiub":
        return torch.from_numpy(np.ascontiguousarray(value))
    if isinstance(value, dict):
        return {key: _as_tensors(entry) for key, entry in value.items()}
    return value


def _reason(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if "Weights only load failed" in str(error) or "Unsupported global" in str(error):
        told = next((line for line in lines if "GLOBAL" in line or "global" in line), lines[0])
        return f"it holds Python objects that are not tensors, and loading those could run code ({told:.160})"
    return f"truncated, damaged or of another kind ({type(error).__name__}: {(lines or ['no message'])[0]:.160})"


def file_sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's content."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
