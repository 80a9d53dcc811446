"""Damaged weight files by the thousand, and the rule that each of them must keep.

In: a seed. Out: counts of outcomes per format. A mutated file must end in a CheckpointError or in the original content; where a
format has no checksum (safetensors, pickles, torch before 1.6, and a torch zip whose checksums the mutation mends), changed
values cannot be told from intended ones, and are counted. The child's work runs in this process, which makes a thousand
files a second possible; tests/transfer/conversion/test_attacks.py uses the real child too.
"""

from __future__ import annotations

import io
import json
import pickle
import random
import resource
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from safetensors.torch import load_file, save

from pretrain.base.errors import CheckpointError
from pretrain.base.weight_files import pickle_child, torch_files
from transfer.conversion.weight_files import read_weight_file

FORMATS = ("torch zip", "torch zip, checksums mended", "old torch", "safetensors", "pickle")
CHECKED = ("torch zip",)  # formats with a checksum over all that is read
EXTREMES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 1 << 40, (1 << 63) - 1, (1 << 64) - 1)


def content() -> dict[str, Any]:
    """What every seed file holds."""
    generator = torch.Generator().manual_seed(0)
    return {
        "conv1.weight": torch.randn(4, 3, 3, 3, generator=generator),
        "bn1.bias": torch.randn(4, generator=generator),
        "count": torch.tensor(7),
    }


def seed_file(kind: str) -> bytes:
    """A small whole file."""
    if kind == "safetensors":
        return save(content())
    if kind == "pickle":
        return pickle.dumps({name: np.asarray(tensor) for name, tensor in content().items()}, protocol=2)
    stream = io.BytesIO()
    torch.save(content(), stream, _use_new_zipfile_serialization=kind != "old torch")
    return stream.getvalue()


def mutate(data: bytes, rng: random.Random) -> bytes:
    """One of eight kinds of damage."""
    changed = bytearray(data)
    at, size = rng.randrange(len(data)), rng.choice((1, 2, 4, 8, 16, 64))
    kind = rng.randrange(8)
    if kind == 0:  # one bit: what rots
        changed[at] ^= 1 << rng.randrange(8)
    elif kind == 1:  # some bytes
        for _ in range(rng.randint(1, 8)):
            changed[rng.randrange(len(data))] = rng.randrange(256)
    elif kind == 2:  # the end is missing
        del changed[at:]
    elif kind == 3:  # a piece of it in another place
        other = rng.randrange(len(data))
        changed[at : at + size] = data[other : other + size]
    elif kind == 4:  # a piece is missing
        del changed[at : at + size]
    elif kind == 5:  # something in between
        changed[at:at] = rng.randbytes(size)
    elif kind == 6:  # a length field
        width = rng.choice((1, 2, 4, 8))
        number = rng.choice(EXTREMES) & ((1 << 8 * width) - 1)
        changed[at : at + width] = number.to_bytes(width, rng.choice(("little", "big")))
    else:  # text that a pickle or a header may hold
        changed[at : at + size] = rng.choice(
            (b"cos\nsystem\n", b"R", b"b.", b"\x93", b'"shape":[9]', b"Q", b"PK\x03\x04")
        )
    return bytes(changed)


def mend(whole: bytes, rng: random.Random) -> bytes:
    """A torch zip whose pickle is damaged and whose checksums are right, so that the damage reaches the unpickler."""
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(whole)) as old, zipfile.ZipFile(stream, "w") as new:
        for name in old.namelist():
            member = old.read(name)
            new.writestr(name, mutate(member, rng) if name.endswith("data.pkl") else member)
    return stream.getvalue()


def ask_here(kind: str, file: BinaryIO, blob: BinaryIO, *, offset: int, size: int) -> dict[str, Any]:
    """Stands in for torch_files.ask_child: through JSON, an error as CheckpointError."""
    plan: dict[str, Any] = json.loads(json.dumps(pickle_child.answer(kind, file.fileno(), offset, size, blob.fileno())))
    if "error" in plan:
        raise CheckpointError(plan["error"])
    return plan


@contextmanager
def child_in_this_process() -> Iterator[None]:
    """The child's work, here: a thousand files a second. Memory is capped at what this process has and 1 GiB, as the child's is."""
    with open("/proc/self/statm") as file:
        now = int(file.read().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    original, torch_files.ask_child = torch_files.ask_child, ask_here  # type: ignore[assignment]
    resource.setrlimit(resource.RLIMIT_AS, (now + (1 << 30), before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
        torch_files.ask_child = original


def is_original(found: Any) -> bool:
    """Whether a file's content is what was saved, to the bit."""
    wanted = content()
    return (
        isinstance(found, dict)
        and sorted(map(str, found)) == sorted(wanted)
        and all(
            isinstance(found[name], torch.Tensor)
            and found[name].dtype == tensor.dtype
            and found[name].shape == tensor.shape
            and found[name].detach().contiguous().numpy().tobytes() == tensor.numpy().tobytes()
            for name, tensor in wanted.items()
        )
    )


def outcome(read: Callable[[Path], Any], path: Path) -> str:
    """refused, original, other values, or the type of what was thrown."""
    try:
        found = read(path)
    except CheckpointError:
        return "refused"
    except Exception as error:
        return f"threw {type(error).__name__}"
    return "original" if is_original(found) else "other values"


def read_raw(kind: str) -> Callable[[Path], Any]:
    """The library alone: the control."""
    if kind == "safetensors":
        return lambda path: load_file(path)
    return lambda path: torch.load(path, map_location="cpu", weights_only=True)


def fuzz(kind: str, count: int, folder: Path, *, seed: int, control: bool) -> tuple[Counter[str], Counter[str]]:
    """(outcomes of our reader, outcomes of the library alone) over `count` mutated files of one format."""
    rng = random.Random(f"{kind} {seed}")
    whole = seed_file("torch zip" if kind.startswith("torch zip") else kind)
    path = folder / "mutated"
    ours: Counter[str] = Counter()
    raw: Counter[str] = Counter()
    with warnings.catch_warnings(), child_in_this_process():
        warnings.simplefilter("ignore")
        for _ in range(count):
            path.write_bytes(mend(whole, rng) if kind.endswith("mended") else mutate(whole, rng))
            ours[outcome(read_weight_file, path)] += 1
            if control and kind != "pickle":  # pickle.load of such files is not safe even here
                raw[outcome(read_raw(kind), path)] += 1
            path.unlink()
    return ours, raw
