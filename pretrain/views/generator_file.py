"""A frozen generator as one safe file: safetensors, with all that its use needs in the metadata.

Nothing in such a file can run. A recipe refers to it by path and sha256. Metadata: one entry FORMAT, a JSON of version, digest (sha256 over names and bytes of all tensors) and record.
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
EMBEDDED = "data:application/x-safetensors;base64,"  # in recipes of the first versions: the whole file as text
MAX_BYTES = 64 * 2**20  # some thousand times what the largest sensible one needs
Triple = tuple[float, float, float]


@dataclass(frozen=True)
class GeneratorRecord:
    """Where a generator comes from.

    mode: "unsupervised", "semi-supervised" or "supervised".
    seed: of the game.
    space_mean, space_std: how its colour space was normalised.
    mean, std: of the learned channels over the training images.
    training: figures of the game, free in form.
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


def referenced_bytes(source: str, sha256: str) -> bytes:
    """The file that a recipe refers to, by its path or (first versions) as text. Raises ConfigError unless it has that hash."""
    data = source_bytes(source)
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        where = "in the recipe" if source.startswith(EMBEDDED) else source
        raise ConfigError(
            f"the generator {where} is not the one that the recipe was made with: expected sha256 {sha256}, found {found}; "
            "put that file back, or name the recipe that was written beside this one"
        )
    return data


def source_bytes(source: str) -> bytes:
    """The bytes of a path, or of a generator as text. Raises ConfigError for an absent file and for damaged text."""
    try:
        if source.startswith(EMBEDDED):
            return base64.b64decode(source.removeprefix(EMBEDDED), validate=True)
        if Path(source).stat().st_size > MAX_BYTES:
            raise ConfigError(f"{source}: expected a generator of at most {MAX_BYTES} bytes, found a larger file")
        return Path(source).read_bytes()
    except ValueError:
        raise ConfigError(f"the generator in the recipe: expected base64 after {EMBEDDED}, found other text") from None
    except OSError as error:
        raise ConfigError(
            f"the recipe's generator: expected a file at {source}, found none ({error.strerror or error}); "
            "a recipe and its generator are moved together"
        ) from None


@functools.lru_cache(maxsize=4)  # a loader asks for it at every view
def referenced_generator(source: str, sha256: str) -> FrozenGenerator:
    """The generator that a recipe refers to. Raises ConfigError as `referenced_bytes`, CheckpointError if it is damaged."""
    where = "the generator in the recipe" if source.startswith(EMBEDDED) else source
    return generator_from_bytes(referenced_bytes(source, sha256), where=where)


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
