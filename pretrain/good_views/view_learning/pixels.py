"""Images held in memory as bytes, and crops cut out of them in batches, on the device.

For data sets of small images (STL-10: 105,000 x 96 px are 2.9 GB), where a training loop of small networks would wait for
decoders.

Crops are torchvision's RandomResizedCrop but for two things: boxes are not rounded to whole pixels, and a box larger than
the crop is sampled without antialiasing (at most 96 -> 64 px at the paper's scale).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from pretrain.base.errors import DataError
from pretrain.base.image_files import read_image
from pretrain.data.index import SCAN_THREADS
from pretrain.data.source import LEAVE_OUT, SKIP, ClassFolders, ImageSource, ScanReport, scan_images
from pretrain.views.operations import CROP_TRIES, CenterCrop, Frame, Range


@dataclass(frozen=True)
class PixelSet:
    """images: uint8 (N, 3, H, W).
    labels: int64 (N,), all -1 where there are none.
    classes: their names.
    """

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return self.images.shape[0]

    def to(self, device: torch.device) -> PixelSet:
        """On `device`."""
        return PixelSet(self.images.to(device), self.labels.to(device), self.classes)

    def take(self, rows: Sequence[int]) -> PixelSet:
        """The images of these rows."""
        index = torch.as_tensor(rows, device=self.images.device)
        return PixelSet(self.images[index], self.labels[index], self.classes)


def load_images(
    root: Path, *, side: int | None, skip_unreadable: bool, announce: Callable[[str], None]
) -> tuple[PixelSet, str]:
    """Every image under `root`, without labels, and the listing's fingerprint. Raises DataError as `decode` does."""
    if (root / "train").is_dir() and (root / "val").is_dir():
        raise DataError(f"{root}: holds train/ and val/; views are learned on one of them: name {root / 'train'}")
    source = ImageSource(root)
    images, kept = decode(source.paths, side=side, skip_unreadable=skip_unreadable, announce=announce)
    return PixelSet(images, torch.full((len(kept),), -1)), source.fingerprint()


def load_classes(
    root: Path, *, side: int | None, skip_unreadable: bool | None = None, announce: Callable[[str], None]
) -> PixelSet:
    """Class folders under `root`. Raises DataError as ClassFolders.load and `decode` do."""
    folders = ClassFolders.load(root)
    images, kept = decode(folders.paths, side=side, skip_unreadable=skip_unreadable, announce=announce)
    return PixelSet(images, torch.tensor(folders.labels)[list(kept)], folders.classes)


def decode(
    paths: Sequence[Path], *, side: int | None, skip_unreadable: bool | None, announce: Callable[[str], None]
) -> tuple[Tensor, tuple[int, ...]]:
    """(uint8 (N, 3, H, W), which of `paths` they are).

    side: every image is resized (shorter side) and cut (centre) to side x side; None: all must have one size as they are.
    JPEGs that lack their last bytes are announced. skip_unreadable: None where the command has no switch for it.
    Raises DataError for unreadable files (named, unless `skip_unreadable`), for sizes that differ, for nothing left.
    """
    with ThreadPoolExecutor(SCAN_THREADS) as pool:
        results = list(pool.map(lambda path: _pixels(path, side), paths))
    bad = tuple((path, found) for path, found in zip(paths, results, strict=True) if isinstance(found, str))
    kept = tuple(index for index, found in enumerate(results) if not isinstance(found, str))
    if bad:
        report = ScanReport(num_ok=len(kept), bad=bad)
        if not skip_unreadable or not kept:
            raise DataError(report.describe(advice="repair or remove them" if skip_unreadable is None else LEAVE_OUT))
        announce(report.describe(advice=f"left out ({SKIP})"))
    whole = scan_images([paths[index] for index in kept])
    if whole.truncated:
        announce(whole.describe_truncated())
    arrays = [found for found in results if not isinstance(found, str)]
    for index in kept:
        shape, first = results[index].shape, arrays[0].shape  # type: ignore[union-attr]
        if shape != first:
            raise DataError(
                f"{paths[index]}: {shape[0]} x {shape[1]} px, the first image has {first[0]} x {first[1]}; images in memory "
                f"need one size: pass data.side={min(first[:2])} to resize and cut all of them"
            )
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).contiguous(), kept


def _pixels(path: Path, side: int | None) -> np.ndarray | str:
    """The image, or why it cannot be read."""
    try:
        image = read_image(path)
    except DataError as error:
        return str(error).removeprefix(f"{path}: ")
    if side is None:
        return image
    height, width = image.shape[:2]
    crop = CenterCrop(resize_ratio=1.0)
    return crop.apply(crop.draw(None, Frame(height, width, side)), image)


@dataclass(frozen=True)
class Boxes:
    """top, left, height, width (B,) in pixels of the source, fractions allowed; mirrored (B,) bool."""

    top: np.ndarray
    left: np.ndarray
    height: np.ndarray
    width: np.ndarray
    mirrored: np.ndarray


def draw_boxes(
    rng: np.random.Generator, count: int, *, height: int, width: int, scale: Range, ratio: Range = (3 / 4, 4 / 3)
) -> Boxes:
    """RandomResizedCrop's boxes for `count` images of one size, and a fair coin for the mirror.

    Of CROP_TRIES tries the first that fits; else the largest central box (exact for images that are about square).
    """
    area = height * width * rng.uniform(*scale, (CROP_TRIES, count))
    aspect = np.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1]), (CROP_TRIES, count)))
    widths, heights = np.sqrt(area * aspect), np.sqrt(area / aspect)
    fits = (widths <= width) & (heights <= height)
    first = fits.argmax(0)
    found, columns = fits.any(0), np.arange(count)
    box_width = np.where(found, widths[first, columns], min(width, height * ratio[1]))
    box_height = np.where(found, heights[first, columns], min(height, width / ratio[0]))
    place = rng.random((2, count))
    place[:, ~found] = 0.5
    return Boxes(
        top=place[0] * (height - box_height),
        left=place[1] * (width - box_width),
        height=box_height,
        width=box_width,
        mirrored=rng.random(count) < 0.5,
    )


def central_boxes(count: int, *, height: int, width: int, resize_ratio: float = 70 / 64) -> Boxes:
    """The central square of 1 / resize_ratio of the shorter side: "resize 70, centre crop 64" [specification 4]."""
    side = min(height, width) / resize_ratio
    full = np.full(count, side)
    return Boxes(
        np.full(count, (height - side) / 2), np.full(count, (width - side) / 2), full, full, np.zeros(count, dtype=bool)
    )


def cut(images: Tensor, boxes: Boxes, *, size: int) -> Tensor:
    """uint8 (B, 3, H, W), one box an image -> float32 (B, 3, size, size) in [0, 1] on their device, bilinear."""
    device = images.device
    steps = (torch.arange(size, device=device) + 0.5) / size

    def positions(start: np.ndarray, extent: np.ndarray, total: int, mirrored: np.ndarray | None) -> Tensor:
        """(B, size) in grid_sample's units, -1 and 1 the outer borders of the image."""
        low, length = (
            torch.as_tensor(values, dtype=torch.float32, device=device)[:, None] for values in (start, extent)
        )
        walk = steps.expand(len(start), -1)
        if mirrored is not None:
            walk = torch.where(torch.as_tensor(mirrored, device=device)[:, None], 1 - walk, walk)
        return 2 * (low + walk * length) / total - 1

    x = positions(boxes.left, boxes.width, images.shape[3], boxes.mirrored)
    y = positions(boxes.top, boxes.height, images.shape[2], None)
    grid = torch.stack((x[:, None, :].expand(-1, size, -1), y[:, :, None].expand(-1, -1, size)), dim=-1)
    crops = functional.grid_sample(
        images.to(torch.float32), grid, mode="bilinear", padding_mode="border", align_corners=False
    )
    return crops.div_(255).clamp_(0, 1)
