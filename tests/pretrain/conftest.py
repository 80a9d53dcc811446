"""A tiny folder of images and a tiny run on it: the real code at 32 px."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pretrain.base.architecture import ARCHITECTURES, Architecture
from pretrain.base.strict import from_mapping, merge
from pretrain.config import RunConfig

NUM_IMAGES = 18  # two batches of 8 an epoch, and two images left over


def write_images(root: Path, count: int = NUM_IMAGES) -> Path:
    """`count` PNGs of smooth random colour, 48 x 40, in `root`."""
    root.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for index in range(count):
        coarse = rng.integers(0, 256, (6, 5, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((48, 40), Image.Resampling.BICUBIC).save(root / f"{index:03d}.png")
    return root


def in_classes(images: Path) -> Path:
    """Links to the images of a folder in two class folders."""
    root = images.parent / f"{images.name}_classes"
    for number, image in enumerate(sorted(images.iterdir())):
        folder = root / ("odd" if number % 2 else "even")
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / image.name).exists():
            (folder / image.name).symlink_to(image)
    return root


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory):
    """Folder of NUM_IMAGES images, shared by the session: read only."""
    return write_images(tmp_path_factory.mktemp("images"))


TINY = {
    "encoder": {"arch": "resnet18_half"},
    "data": {"num_workers": 0},
    "method": {
        "name": "infomin",
        "queue_size": 20,
        "momentum": 0.9,
        "batchnorm_images": 4,
    },  # K is no multiple of the batch
    "views": {"image_size": 32, "patch_size": 16, "blur_kernel": 5},
    "optimizer": {"batch_size": 8, "epochs": 3, "learning_rate": 0.03},
    "runtime": {"device": "cpu", "precision": "fp32", "log_every_steps": 1},
}


@pytest.fixture(scope="session")
def tiny_config(image_folder):
    """Function: nested overrides -> RunConfig of a six-step run."""

    def build(**over) -> RunConfig:
        values = merge(merge(TINY, {"data": {"root": str(image_folder)}}), over)
        return from_mapping(RunConfig, values, where="test")

    return build


@pytest.fixture
def free_port():
    """A TCP port that nothing listens on."""
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def tiny_encoder(monkeypatch):
    """One block a stage, an eighth as wide."""
    monkeypatch.setitem(ARCHITECTURES, "tiny", Architecture(bottleneck=False, layers=(1, 1, 1, 1), base_channels=8))
