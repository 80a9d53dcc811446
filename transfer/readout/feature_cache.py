"""Features of a frozen encoder on disk: encoded once, memory-mapped afterwards, used only where they are what was asked for.

In: an encoder, images, a view (the centre crop, or a numbered augmented one). Out: float16 (N, D), in a file of 2 N D bytes (5.2 GB
for ImageNet and a ResNet-50) that is read where it lies.

| file         | content                                                                                                      |
|--------------|--------------------------------------------------------------------------------------------------------------|
| KEY.npy      | the array, as numpy writes it                                                                                 |
| KEY.json     | what it was made of (`made_of`, of which KEY is the hash), its shape and checksum; written after the array     |

What it was made of: every value of the encoder and how it wants its input, names, sizes and times of the image files, the view, the
image size, precision and kind of device. Where any of it differs the key does, so that a stale file is never found; a file that is
cut short or changed fails its checksum, and is encoded again. Files are published whole or not at all; of processes that want the
same features one encodes them and the others wait.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pretrain.base.atomic import atomic_file, is_temporary, one_at_a_time, write_json
from pretrain.base.errors import ConfigError, DataError, full_disk
from pretrain.data.index import Source
from pretrain.data.loader import ViewDataset
from pretrain.views.pipeline import ViewMaker
from pretrain.views.recipes import RECIPES, Recipe
from transfer.readout.features import EncodingSettings, FrozenEncoder, encode_in_order

CACHE = "features"  # kind of the cache folder
FORMAT, VERSION = "infomin-transfer/features", 1
STORED = np.dtype("<f2")
ABANDONED_SECONDS = 24 * 3600.0  # after which a temporary file that nobody wrote to is removed
CHECKSUM_BYTES = 1 << 24
COMPARED_IMAGES = 32  # whose features are also computed in float32, where the trunk runs in another precision
LARGEST_STORAGE_ERROR = 1e-2  # of float16, relative to the root mean square of the features; 3e-4 is usual


@dataclass(frozen=True)
class View:
    """One view of every image. name: "centre" or "augmented". number: of an augmented one, counted from 0."""

    name: str
    recipe: Recipe
    number: int = 0

    def __str__(self) -> str:
        return self.name if self.name == "centre" else f"{self.name} {self.number}"


CENTRE = View("centre", RECIPES["center"])


@dataclass(frozen=True)
class Encoding:
    """`EncodingSettings`."""

    seed: int
    image_size: int
    batch_size: int
    num_workers: int


def encoding_settings(config: Any) -> EncodingSettings:
    """Of a configuration whose image size is known."""
    return Encoding(config.seed, config.image_size, config.batch_size, config.num_workers)


@dataclass(frozen=True)
class FeatureCache:
    """Where the features of one encoder are kept.

    folder: of the files. state_sha256: of the encoder (`state_hash`). announce: for what is encoded, reused and found damaged.
    """

    folder: Path
    encoder: FrozenEncoder
    state_sha256: str
    settings: EncodingSettings
    announce: Callable[[str], None]

    def features(self, source: Source, view: View, *, title: str) -> Tensor:
        """float16 (N, D), memory-mapped on the CPU; encoded first where they are not kept.

        Raises ConfigError where the folder cannot be written, DataError where it has not enough room, and ConfigError for
        features that float16 cannot hold.
        """
        made_of = self.made_of(source, view)
        key = hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()[:32]
        path = self.folder / f"{key}.npy"
        shape = (len(source), self.encoder.module.feature_dim)
        title = f"{title}, {view}"
        kept = self._kept(path, made_of, shape)
        if kept is None:
            with self._alone(path, title):
                kept = self._kept(path, made_of, shape)  # of the process that was waited for
                if kept is None:
                    self._encode(path, made_of, shape, source, view, title=title)
                    return self._read_back(path, made_of, shape)
        self.announce(f"{title}: {shape[0]} images, features of an earlier run ({path})")
        return kept

    @contextmanager
    def _alone(self, path: Path, title: str) -> Iterator[None]:
        """While no other process encodes the same. What the disk refuses becomes a ConfigError."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            waits = f"{title}: another process encodes them; waiting for it"
            with one_at_a_time(path.with_name(f".{path.stem}.lock"), on_wait=lambda: self.announce(waits)):
                yield
        except OSError as error:
            words = full_disk(error) or f"cannot write features to {self.folder}: {error.strerror}"
            raise ConfigError(f"{words}; name another folder (--features FOLDER)") from None

    def _read_back(self, path: Path, made_of: dict[str, Any], shape: tuple[int, int]) -> Tensor:
        found = self._kept(path, made_of, shape)
        if found is None:
            raise DataError(f"{path}: what was written cannot be read back; name another folder (--features FOLDER)")
        return found

    def made_of(self, source: Source, view: View) -> dict[str, Any]:
        """Everything that decides the features; see the module."""
        sizes, times = source.stats()
        files = hashlib.sha256(sizes.tobytes() + times.tobytes()).hexdigest()
        made_of = {
            "format": FORMAT,
            "version": VERSION,
            "encoder": self.state_sha256,
            "contract": self.encoder.contract.to_dict(),
            "images": source.fingerprint(),
            "files": files,
            "view": view.name,
            "recipe": [repr(op) for op in view.recipe.ops],
            # The centre crop draws nothing.
            **({} if view.name == "centre" else {"number": view.number, "seed": self.settings.seed}),
            "image_size": self.settings.image_size,
            "precision": self.encoder.precision.name,
            "device": self.encoder.precision.device.type,
            "stored": STORED.name,
        }
        plain: dict[str, Any] = json.loads(json.dumps(made_of, default=str))
        return plain

    def _kept(self, path: Path, made_of: dict[str, Any], shape: tuple[int, int]) -> Tensor | None:
        """The features that the files hold; None where they are absent or not whole."""
        described = path.with_suffix(".json")
        if not path.exists() or not described.exists():
            return None
        try:
            description = json.loads(described.read_text(encoding="utf-8"))
            array = np.load(path, mmap_mode="c")  # private pages: torch warns of memory that it must not write to
            whole = description["made_of"] == made_of and description["crc32"] == _checksum(array)
            whole = whole and array.shape == shape and array.dtype == STORED
        except (OSError, EOFError, ValueError, KeyError, TypeError, SyntaxError):
            return None
        return torch.from_numpy(array) if whole else None

    def _encode(
        self, path: Path, made_of: dict[str, Any], shape: tuple[int, int], source: Source, view: View, *, title: str
    ) -> None:
        if path.exists() and path.with_suffix(".json").exists():
            self.announce(f"{title}: {path} is damaged; encoded again")
        size = shape[0] * shape[1] * STORED.itemsize
        self._make_room(size)
        self.announce(f"{title}: {shape[0]} images encoded once, {size / 1e6:.3g} MB in {path}")
        with atomic_file(path) as file:
            np.lib.format.write_array_header_1_0(file, {"descr": STORED.str, "fortran_order": False, "shape": shape})
            checksum, error, power = 0, 0.0, 0.0
            for block in encode_in_order(
                self.encoder, source, view.recipe, self.settings, views=(view.number,), title=title
            ):
                stored = block.half()
                error += float((stored.float() - block).square().sum())
                power += float(block.square().sum())
                content = stored.cpu().numpy().astype(STORED, copy=False).tobytes()
                checksum = zlib.crc32(content, checksum)
                file.write(content)
            relative = _relative(error, power)
            if not relative <= LARGEST_STORAGE_ERROR:
                raise ConfigError(
                    f"{title}: float16 holds these features with a relative error of {relative:.2g}, expected at most "
                    f"{LARGEST_STORAGE_ERROR:g}: they are not finite, or of a scale far from 1. Use "
                    "tools/linear_eval.py, which keeps float32 in memory"
                )
        write_json(
            path.with_suffix(".json"),
            {"made_of": made_of, "shape": shape, "crc32": checksum, "relative_error_of_storage": relative},
        )

    def _make_room(self, size: int) -> None:
        """Remove what killed runs left, and ask for the room before an hour of encoding."""
        for left in self.folder.glob(".*.tmp"):
            if is_temporary(left) and time.time() - left.stat().st_mtime > ABANDONED_SECONDS:
                left.unlink(missing_ok=True)
        free = shutil.disk_usage(self.folder).free
        if free < size:
            raise DataError(
                f"{self.folder}: the features need {size / 1e9:.2f} GB, found {free / 1e9:.2f} GB free; make room, or name "
                "another folder (--features FOLDER)"
            )


def _relative(error: float, power: float) -> float:
    """Root mean square error over root mean square; 0 where all features are 0; NaN where they are not finite."""
    return 0.0 if power == 0 else float(np.sqrt(error / power))


def _checksum(array: np.ndarray) -> int:
    flat, value = array.reshape(-1).view(np.uint8), 0
    for start in range(0, len(flat), CHECKSUM_BYTES):
        value = zlib.crc32(flat[start : start + CHECKSUM_BYTES].tobytes(), value)
    return value


def difference_to_float32(encoder: FrozenEncoder, images: Tensor) -> float:
    """Relative root mean square difference of the features of uint8 RGB images (B, 3, S, S) to those of a float32 trunk."""
    exact = replace(encoder, precision=replace(encoder.precision, dtype=None)).features(images)
    error = (encoder.features(images) - exact).square().sum()
    return _relative(float(error), float(exact.square().sum()))


def trunk_figures(
    encoder: FrozenEncoder, source: Source, settings: EncodingSettings, announce: Callable[[str], None]
) -> dict[str, Any]:
    """Precision of the trunk and how far its features are from float32's, measured on the first images of `source`."""
    name = encoder.precision.name
    figures: dict[str, Any] = {"trunk": name, "stored": "float16"}
    if name == "fp32":
        return figures
    dataset = ViewDataset(source, ViewMaker(RECIPES["center"], image_size=settings.image_size, num_views=1), seed=0)
    batch = dataset[[(0, index) for index in range(min(COMPARED_IMAGES, len(source)))]]
    if isinstance(batch, Exception):
        raise batch
    difference = difference_to_float32(encoder, batch.images[:, 0])
    announce(
        f"the encoder runs in {name}: its features differ from float32's by {100 * difference:.2g} % (root mean square, "
        f"{len(batch.index)} images); pass precision=fp32 for float32"
    )
    return {**figures, "relative_difference_to_fp32": difference, "compared_images": len(batch.index)}
