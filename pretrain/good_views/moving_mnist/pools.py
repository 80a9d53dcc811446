"""Digits and backgrounds: two pools each, one to train on and one held out, that have no image in common.

Nothing here is drawn at random: which images are held out is a function of the files alone.
"""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from pretrain.base.errors import DataError
from pretrain.base.image_files import read_image
from pretrain.data.source import ClassFolders
from pretrain.good_views.moving_mnist.config import DIGIT_SIZE, SceneConfig

TORCHVISION = "torchvision:"
NUM_DIGIT_CLASSES = 10
MIN_BACKGROUNDS = 2  # a class: one to train on and one held out
TEST_FOLDERS = ("test", "val")


@dataclass(frozen=True)
class Pool:
    """images: uint8 (N, ...).
    labels: int64 (N,); every class has an image.
    classes: the names of 0 .. C-1.
    """

    images: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        assert len(self.images) == len(self.labels)
        assert set(np.unique(self.labels)) == set(range(len(self.classes))), "a class without an image"

    def __len__(self) -> int:
        return len(self.labels)

    def fingerprint(self) -> str:
        """sha256 of pixels and labels, 16 hex digits."""
        return hashlib.sha256(self.images.tobytes() + self.labels.tobytes()).hexdigest()[:16]


@dataclass(frozen=True)
class World:
    """What scenes of one split are made of: digits (N, 28, 28) and backgrounds (N, 3, S, S)."""

    digits: Pool
    backgrounds: Pool


@dataclass(frozen=True)
class Worlds:
    """Train and held out; no digit and no background is in both."""

    train: World
    held_out: World


def load_worlds(digits: str, backgrounds: str, *, scene: SceneConfig, held_out_share: float) -> Worlds:
    """Read both sources. Raises DataError for anything missing, of another shape, or too little of it."""
    digit_pools = load_digits(digits, held_out_share=held_out_share)
    background_pools = load_backgrounds(backgrounds, size=scene.background_size, held_out_share=held_out_share)
    train, held_out = (
        World(digit_pool, _dimmed(background_pool, scene.background_brightness))
        for digit_pool, background_pool in zip(digit_pools, background_pools, strict=True)
    )
    return Worlds(train, held_out)


def _dimmed(pool: Pool, brightness: float) -> Pool:
    if brightness == 1:
        return pool
    levels = np.rint(np.arange(256) * brightness).astype(np.uint8)
    return replace(pool, images=levels[pool.images])


def _folder_of(source: str) -> Path:
    """DIR of torchvision:DIR; a `~` that begins it reached us without the shell's help."""
    return Path(source.removeprefix(TORCHVISION)).expanduser()


def load_digits(source: str, *, held_out_share: float) -> tuple[Pool, Pool]:
    """(train, held out) from FILE.npz with `images` uint8 (N, 28, 28) and `labels` integers (N,) in [0, 10), of which a share
    of each class is held out; or from torchvision:DIR, where MNIST is downloaded and keeps its own split."""
    if source.startswith(TORCHVISION):
        return _torchvision_digits(_folder_of(source))
    images, labels = _read_npz(Path(source))
    return split_by_class(images, labels, tuple(str(digit) for digit in range(NUM_DIGIT_CLASSES)), held_out_share)


def load_backgrounds(source: str, *, size: int, held_out_share: float) -> tuple[Pool, Pool]:
    """(train, held out) as RGB squares of `size` px: DIR/train/CLASS and DIR/test/CLASS (or val), or DIR/CLASS of which a
    share of each class is held out, or torchvision:DIR, where STL-10 is downloaded (2.6 GB) and keeps its own split."""
    if source.startswith(TORCHVISION):
        return _torchvision_backgrounds(_folder_of(source), size)
    root = Path(source)
    test = next((root / name for name in TEST_FOLDERS if (root / name).is_dir()), None)
    if (root / "train").is_dir() and test is not None:
        train, held_out = ClassFolders.load(root / "train"), ClassFolders.load(test)
        if train.classes != held_out.classes:
            raise DataError(
                f"{root}: expected the same class folders in train/ and {test.name}/, found {', '.join(train.classes)} "
                f"and {', '.join(held_out.classes)}"
            )
        _require_enough(root, train.labels, train.classes, least=1)
        return _read_folders(train, size), _read_folders(held_out, size)
    folders = ClassFolders.load(root)
    _require_enough(root, folders.labels, folders.classes, least=MIN_BACKGROUNDS)
    pool = _read_folders(folders, size)
    return split_by_class(pool.images, pool.labels, pool.classes, held_out_share)


def split_by_class(
    images: np.ndarray, labels: np.ndarray, classes: tuple[str, ...], held_out_share: float
) -> tuple[Pool, Pool]:
    """Hold out a share of each class, at least one image and at most all but one, evenly spread over the order given.

    Every class needs two images or more (AssertionError of the pools otherwise).
    """
    held_out = np.zeros(len(labels), dtype=bool)
    for label in range(len(classes)):
        members = np.flatnonzero(labels == label)
        count = min(max(1, round(held_out_share * len(members))), len(members) - 1)
        held_out[members[np.arange(count) * len(members) // max(count, 1)]] = True
    return (
        Pool(images[~held_out], labels[~held_out], classes),
        Pool(images[held_out], labels[held_out], classes),
    )


def _read_npz(path: Path) -> tuple[np.ndarray, np.ndarray]:
    expected = f"expected an .npz file with images uint8 (N, {DIGIT_SIZE}, {DIGIT_SIZE}) and labels integers (N,)"
    if not path.is_file():
        raise DataError(
            f"--digits {path}: {expected}, found no such file; pass --digits torchvision:DIR to download MNIST"
        )
    try:
        # Opened here: np.load leaves a file that it cannot read open.
        with open(path, "rb") as raw, np.load(raw, allow_pickle=False) as file:
            missing = [name for name in ("images", "labels") if name not in file]
            if missing:
                raise DataError(f"--digits {path}: {expected}, found {', '.join(file.files) or 'nothing'}")
            images, labels = file["images"], file["labels"]
    except (OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"--digits {path}: {expected}, found a file that cannot be read as such ({error})") from None
    if images.shape[1:] != (DIGIT_SIZE, DIGIT_SIZE) or images.dtype != np.uint8:
        raise DataError(f"--digits {path}: {expected}, found images {images.dtype} {images.shape}")
    if labels.shape != images.shape[:1] or labels.dtype.kind not in "iu":
        raise DataError(f"--digits {path}: {expected}, found labels {labels.dtype} {labels.shape}")
    counts = np.bincount(labels[(labels >= 0) & (labels < NUM_DIGIT_CLASSES)], minlength=NUM_DIGIT_CLASSES)
    if counts.sum() < len(labels) or counts.min() < 2:
        raise DataError(
            f"--digits {path}: expected labels 0 to 9 with two images of each or more (one is held out), found the counts "
            f"{counts.tolist()} and {len(labels) - counts.sum()} other labels"
        )
    return images, labels.astype(np.int64)


def _read_folders(folders: ClassFolders, size: int) -> Pool:
    images = np.stack([_square(read_image(path), size) for path in folders.paths])
    return Pool(images, np.array(folders.labels, dtype=np.int64), folders.classes)


def _square(image: np.ndarray, size: int) -> np.ndarray:
    """uint8 (H, W, 3) -> (3, size, size): the middle square, scaled."""
    side = min(image.shape[:2])
    top, left = (image.shape[0] - side) // 2, (image.shape[1] - side) // 2
    middle = image[top : top + side, left : left + side]
    if side != size:
        way = cv2.INTER_AREA if side > size else cv2.INTER_LINEAR
        middle = cv2.resize(middle, (size, size), interpolation=way)
    return np.ascontiguousarray(middle.transpose(2, 0, 1))


def _require_enough(root: Path, labels: Sequence[int], classes: Sequence[str], *, least: int) -> None:
    counts = np.bincount(labels, minlength=len(classes))
    if len(classes) < 2 or counts.min() < least:
        raise DataError(
            f"--backgrounds {root}: expected two class folders or more with at least {least} images each, found "
            + ", ".join(f"{name} {count}" for name, count in zip(classes, counts, strict=True))
        )


def _torchvision_digits(root: Path) -> tuple[Pool, Pool]:
    from torchvision.datasets import MNIST

    classes = tuple(str(digit) for digit in range(NUM_DIGIT_CLASSES))
    splits = [_download(MNIST, root, train=train) for train in (True, False)]
    train, held_out = (Pool(split.data.numpy(), split.targets.numpy(), classes) for split in splits)
    return train, held_out


def _torchvision_backgrounds(root: Path, size: int) -> tuple[Pool, Pool]:
    from torchvision.datasets import STL10

    splits = [_download(STL10, root, split=split) for split in ("train", "test")]
    train, held_out = (
        Pool(
            np.stack([_square(image.transpose(1, 2, 0), size) for image in split.data]),
            split.labels.astype(np.int64),
            tuple(split.classes),
        )
        for split in splits
    )
    return train, held_out


def _download(dataset: Any, root: Path, **split: Any) -> Any:
    """torchvision raises RuntimeError or OSError (URLError is one) when it cannot download or finds a broken file."""
    try:
        return dataset(root, download=True, **split)
    except (RuntimeError, OSError) as error:
        raise DataError(
            f"{TORCHVISION}{root}: {dataset.__name__} could not be downloaded there or read: {error}; "
            "give a file or folder of your own instead"
        ) from None
