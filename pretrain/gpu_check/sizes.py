"""How large each part of the GPU check is, and the configurations and batches that it trains on."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from pretrain.base.strict import from_mapping, merge
from pretrain.config import RunConfig, method_values
from pretrain.data.loader import ViewBatch

GIB = 2**30


@dataclass(frozen=True)
class Sizes:
    """Of one check.

    batch_size: images a step. queue_size: keys.
    turns: of the interleaved timing; step_seconds: what all its steps together may take.
    loss_steps, loss_batch: of the comparison of number types, float32 among them, and of the exact resume.
    resume_steps: of the run that is cut in the middle.
    num_jpegs, jpeg_side: that the input is measured on; stream_steps, stream_seconds: how long at most, for each method.
    compile: whether the compiler works or the networks run as they are (its path is walked all the same).
    """

    arch: str = "resnet50"
    image_size: int = 224
    patch_size: int = 64
    batch_size: int = 256
    queue_size: int = 65536
    turns: int = 5
    step_seconds: float = 100.0
    loss_steps: int = 50
    loss_batch: int = 64
    resume_steps: int = 6
    num_jpegs: int = 1024
    jpeg_side: int = 500
    stream_steps: int = 40
    stream_seconds: float = 40.0
    compile: bool = True


MINIATURE = Sizes(
    arch="resnet18_half",
    image_size=32,
    patch_size=20,
    batch_size=8,
    queue_size=64,
    turns=2,
    step_seconds=1.0,
    loss_steps=3,
    loss_batch=8,
    resume_steps=4,
    num_jpegs=16,
    jpeg_side=64,
    stream_steps=4,
    compile=False,
)


def batch_that_fits(memory: int) -> int:
    """Images a step of a ResNet-50 at 224 px, by the device's memory in bytes; InfoMin's step is the largest."""
    for least, images in ((60, 256), (30, 128), (14, 64)):
        if memory >= least * GIB:
            return images
    return 32


def sizes_of(batch_size: int) -> Sizes:
    """Of a GPU that takes `batch_size` images of InfoMin in half precision: float32 takes half as many."""
    whole = Sizes()
    return replace(whole, batch_size=batch_size, loss_batch=min(whole.loss_batch, batch_size // 2))


def run_config(method: str, sizes: Sizes, *, device: str, root: Path | None = None, **runtime: Any) -> RunConfig:
    """The method's own values at these sizes. root: of its images. runtime: further values of that group."""
    own = {
        "data": {"root": str(root or "none"), "num_workers": loader_processes(device)},
        "encoder": {"arch": sizes.arch},
        "method": {"queue_size": sizes.queue_size, "batchnorm_images": min(32, sizes.batch_size // 2)},
        "views": {"image_size": sizes.image_size, "patch_size": sizes.patch_size},
        "optimizer": {"batch_size": sizes.batch_size, "learning_rate": 0.03 * sizes.batch_size / 256, "epochs": 10_000},
        "runtime": {"device": device, **runtime},
    }
    return from_mapping(RunConfig, merge(method_values(method), own), where="gpu check")


def loader_processes(device: str) -> int:
    """All cores but the one that feeds the device; none in a miniature, where processes cost more than they save."""
    return max(1, len(os.sched_getaffinity(0)) - 1) if device == "cuda" else 0


def synthetic_batch(
    config: RunConfig, *, device: torch.device, batch_size: int | None = None, seed: int = 0
) -> ViewBatch:
    """Views as the loader makes them, of smooth random pictures, on the device."""
    size, count = config.views.image_size, batch_size or config.optimizer.batch_size
    generator = torch.Generator().manual_seed(seed)

    def pictures(number: int, side: int) -> torch.Tensor:
        coarse = torch.rand(number, 3, 8, 8, generator=generator)
        smooth = torch.nn.functional.interpolate(coarse, size=(side, side), mode="bilinear", align_corners=False)
        return (255 * smooth).to(torch.uint8)

    patches = order = None
    if config.method.jigsaw:
        patches = pictures(9 * count, config.views.patch_size).unflatten(0, (count, 9))
        order = torch.rand(count, 9, generator=generator).argsort(dim=1)
    views = config.method.num_views
    images = pictures(views * count, size).unflatten(0, (count, views))
    return ViewBatch(torch.arange(count), images, patches, order).to(device)


def write_jpegs(folder: Path, sizes: Sizes) -> int:
    """Photograph-like JPEGs, smooth with grain; returns their mean size in bytes."""
    rng = np.random.default_rng(0)
    width, height = sizes.jpeg_side, sizes.jpeg_side * 3 // 4
    total = 0
    for index in range(sizes.num_jpegs):
        coarse = rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)
        smooth = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC).astype(np.int16)
        picture = np.clip(smooth + rng.integers(-12, 13, smooth.shape, dtype=np.int16), 0, 255).astype(np.uint8)
        data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes()
        (folder / f"{index:05d}.jpg").write_bytes(data)
        total += len(data)
    return total // sizes.num_jpegs
