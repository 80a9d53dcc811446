"""A frozen generator as one safe file: safetensors, with all that its use needs in the metadata.

In: a generator and what it came from. Out: `NAME.safetensors`, whole or absent; and back, checked. Nothing in such a file can
run. Metadata: one entry FORMAT, a JSON of version, digest (sha256 over names and bytes of all tensors) and record.
"""

from __future__ import annotations

import base64
import dataclasses
import functools
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from pretrain.base.atomic import atomic_file
from pretrain.base.errors import CheckpointError, ConfigError
from pretrain.base.strict import from_mapping
from pretrain.views.generator import Generator, GeneratorConfig

FORMAT = "infomin-transfer/generator"
VERSION = 1
EMBEDDED = "data:application/x-safetensors;base64,"
MAX_BYTES = 64 * 2**20  # some thousand times what the largest sensible one needs
Triple = tuple[float, float, float]


@dataclass(frozen=True)
class GeneratorRecord:
    """Where a generator comes from.

    space_mean, space_std: how its colour space was normalised. mean, std: of the learned channels over the training images.
    mode: "unsupervised", "semi-supervised" or "supervised". training: figures of the game, free in form.
    """

    config: GeneratorConfig
    mode: str
    seed: int
    space_mean: Triple
    space_std: Triple
    mean: Triple
    std: Triple
    training: dict = field(default_factory=dict)


@dataclass(frozen=True)
class FrozenGenerator:
    """A generator in evaluation mode whose parameters take no gradient, and its record."""

    generator: Generator
    record: GeneratorRecord

    @property
    def mean(self) -> Triple:
        """Of the learned channels over the images that it was trained on."""
        return self.record.mean

    def to_space(self, rgb: Tensor) -> Tensor:
        """RGB in [0, 1], (..., 3, H, W) -> learned channels of the same shape."""
        return self.generator.from_rgb(rgb.reshape(-1, *rgb.shape[-3:])).view(rgb.shape)

    def to_rgb(self, learned: Tensor) -> Tensor:
        """Inverse of `to_space`."""
        return self.generator.to_rgb(learned.reshape(-1, *learned.shape[-3:])).view(learned.shape)


def write_generator(path: Path, generator: Generator, record: GeneratorRecord) -> None:
    """Publish the file atomically. Raises CheckpointError if the disk does not take it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as file:
            file.write(generator_bytes(generator, record))
    except OSError as error:
        raise CheckpointError(f"could not write the generator {path}: {error.strerror or error}") from error


def generator_bytes(generator: Generator, record: GeneratorRecord) -> bytes:
    """The whole file: equal inputs give equal bytes."""
    tensors = {name: value.detach().cpu().contiguous() for name, value in generator.state_dict().items()}
    about = {"version": VERSION, "digest": _digest(tensors), "record": dataclasses.asdict(record)}
    # One entry only: safetensors writes several in any order, and equal generators should be equal files.
    return save(tensors, metadata={FORMAT: json.dumps(about, sort_keys=True, allow_nan=False)})


def load_generator(path: Path) -> FrozenGenerator:
    """Read a generator. Raises CheckpointError: absent, not a generator, damaged, or of another version."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise CheckpointError(f"{path}: {path.stat().st_size} bytes, expected a generator of at most {MAX_BYTES}")
        data = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"cannot read the generator {path}: {error.strerror or error}") from None
    return generator_from_bytes(data, where=str(path))


def generator_from_bytes(data: bytes, *, where: str) -> FrozenGenerator:
    """Inverse of `generator_bytes`. Raises CheckpointError, whose text begins with `where`."""
    metadata, tensors = _parse(data, where)
    if FORMAT not in metadata:
        raise CheckpointError(
            f"{where} is a safetensors file but no generator (its metadata lacks {FORMAT!r}); "
            "name a generator.safetensors that tools/learn_views.py wrote"
        )
    try:
        about = json.loads(metadata[FORMAT])
        version, digest, values = about["version"], about["digest"], about["record"]
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{where}: a generator whose description cannot be used: {error!r}") from None
    if version != VERSION:
        raise CheckpointError(f"{where}: expected generator version {VERSION}, found {version!r}")
    if digest != _digest(tensors):
        raise CheckpointError(f"{where}: its weights are not those it was written with (damaged)")
    try:
        record = from_mapping(GeneratorRecord, values, where="record")
        generator = Generator(record.config)
        generator.load_state_dict(tensors)
    except (RuntimeError, ConfigError) as error:
        reason = str(error).splitlines()[:2]
        raise CheckpointError(
            f"{where}: a generator whose description cannot be used: {' '.join(line.strip() for line in reason)}"
        ) from None
    found = (generator.space.mean, generator.space.std)
    if found != (record.space_mean, record.space_std):
        raise CheckpointError(
            f"{where}: made for {record.config.space} normalised by mean {record.space_mean} and std {record.space_std}, "
            f"here it is {found[0]} and {found[1]}"
        )
    return FrozenGenerator(generator.eval().requires_grad_(False), record)


def embed_generator(path: Path) -> str:
    """The file as text, for a recipe. Raises CheckpointError as `load_generator` does."""
    load_generator(path)
    return EMBEDDED + base64.b64encode(path.read_bytes()).decode()


@functools.lru_cache(maxsize=4)  # a loader asks for it at every view
def embedded_generator(text: str) -> FrozenGenerator:
    """Inverse of `embed_generator`. Raises CheckpointError for other text and for a damaged generator."""
    where = "the generator in the recipe"
    try:
        if not text.startswith(EMBEDDED):
            raise ValueError(text[:60])
        data = base64.b64decode(text.removeprefix(EMBEDDED), validate=True)
    except ValueError as error:
        raise CheckpointError(
            f"{where}: expected {EMBEDDED}..., found {error}; a path stands in a recipe file: type views.recipe=RECIPE.yaml"
        ) from None
    return generator_from_bytes(data, where=where)


def _parse(data: bytes, where: str) -> tuple[Mapping[str, str], dict[str, Tensor]]:
    try:
        header_length = int.from_bytes(data[:8], "little")
        tensors = load(data)
        metadata = json.loads(data[8 : 8 + header_length]).get("__metadata__", {})
    except (SafetensorError, ValueError, AttributeError, KeyError) as error:
        raise CheckpointError(
            f"{where} is not a readable generator: not a safetensors file, or truncated ({error})"
        ) from None
    return metadata, tensors


def _digest(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        digest.update(f"{name}\0{value.dtype}\0{tuple(value.shape)}\0".encode())
        digest.update(value.contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def record_of(
    generator: Generator, *, mode: str, seed: int, mean: Triple, std: Triple, training: Any
) -> GeneratorRecord:
    """A record with the space's figures filled in."""
    space = generator.space
    return GeneratorRecord(generator.config, mode, seed, space.mean, space.std, mean, std, training)
