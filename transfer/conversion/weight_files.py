"""Any weight file to nested dictionaries of tensors, without running anything that is in it.

In: a path (safetensors, torch zip, old torch, pickle of arrays), recognised by its first bytes. Out: plain containers whose
leaves are tensors, scalars and records of other libraries' objects, or a CheckpointError. There is no retry with weaker
settings. Tensors lie on the file's own pages where they can: they are read when used, and cost memory only then.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from torch import Tensor

from pretrain.base.errors import CheckpointError
from pretrain.base.weight_files.torch_files import HEAD_SIZE, TorchFile, is_pickled, open_torch_file, reason
from pretrain.run.checkpoint import resolve_checkpoint

MAX_HEADER = 16 << 20  # bytes of JSON before the tensors of a safetensors file; some 100 thousand tensors
LFS_POINTER = b"version https://git-lfs.github.com/spec/"
CHUNK = 1 << 20
HUB_FILES = (
    "model.safetensors",
    "pytorch_model.bin",
)  # of a model's folder, in the order in which transformers takes them


def weight_file_of(path: Path) -> Path:
    """`path` itself; of a folder the file that is meant: of a Hugging Face model its weights, of our run its newest checkpoint.

    Raises CheckpointError for a folder that is neither.
    """
    for name in HUB_FILES if path.is_dir() else ():
        if (path / name).is_file():
            return path / name
    return resolve_checkpoint(path)


def read_weight_file(path: Path) -> Any:
    """The content of a weight file, tensors on the CPU. Raises CheckpointError for whatever goes wrong.

    The checksums of a torch zip are verified, since torch does not: a flipped bit would load as a wrong weight. The other
    formats have none: there, only damage to the structure is found.
    """
    return open_weight_file(path, verify_all=True).content


def open_weight_file(path: Path, *, verify_all: bool = False) -> TorchFile:
    """The same for a reader that needs only some of the tensors: none may be used before it went through `verify`.

    Whether a tensor that nobody uses is damaged does not change what is written, so not looking is sound; and three
    quarters of a pre-training checkpoint are optimizer, queue and the other network.
    """
    try:
        with open(path, "rb") as file:
            head = file.read(max(HEAD_SIZE, len(LFS_POINTER)))
        if not head:
            raise CheckpointError(f"{path} is empty (0 bytes)")
        if head.startswith(LFS_POINTER):
            raise CheckpointError(
                f"{path} is a Git LFS pointer of {path.stat().st_size} bytes, not the weights it stands for; run `git lfs pull` in "
                "its repository (git lfs install first, where it was never used), or download the file itself"
            )
        if head[8:9] == b"{":
            content = _read_safetensors(path, header_size=int.from_bytes(head[:8], "little"))
            return TorchFile(content)
        if is_pickled(head):
            return open_torch_file(path, verify_all=verify_all)
    except CheckpointError:
        raise
    except FileNotFoundError:
        raise CheckpointError(f"no weight file at {path}") from None
    except IsADirectoryError:
        raise CheckpointError(f"{path} is a folder; expected a weight file") from None
    except Exception as error:  # the libraries below leak a dozen types on damaged files
        raise CheckpointError(f"cannot read {path}: {reason(error)}") from None
    raise CheckpointError(
        f"{path} is no weight file: expected a torch file (.pth, .pt, .ckpt), .safetensors or a pickle of arrays (.pkl)"
    )


def _read_safetensors(path: Path, *, header_size: int) -> dict[str, Tensor]:
    """The library compares the offsets with the file; twice the same name, which it does not see, is refused here."""
    from safetensors.torch import load_file

    if header_size > min(MAX_HEADER, path.stat().st_size):
        raise CheckpointError(f"cannot read {path}: its header claims {header_size} bytes; it is cut short or damaged")
    with open(path, "rb") as file:
        file.seek(8)
        json.loads(file.read(header_size), object_pairs_hook=_once)
    tensors: dict[str, Tensor] = load_file(path)
    return tensors


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("a name stands in the header twice")
    return table


def file_sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's content."""
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(CHUNK))
    with open(path, "rb", buffering=0) as file:
        while count := file.readinto(buffer):
            digest.update(buffer[:count])
    return digest.hexdigest()
