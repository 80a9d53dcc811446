"""Makers that the tests of games and evaluations share: class folders in two colours, a configuration of seconds, batches."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from pretrain.base.strict import from_mapping, merge
from pretrain.good_views.view_learning.config import GameConfig
from pretrain.good_views.view_learning.data import GameData, GameImages, load_game_images
from pretrain.good_views.view_learning.game import Game, GameBatch

CLASSES = ("cross", "stripes", "tiles")
SMALL = {"kind": "small", "width": 4, "feature_dim": 8}
TINY = {
    "image_size": 16,
    "generator": {"hidden_width": 4, "num_blocks": 2},
    "estimator": {"encoder": SMALL, "bound": "dv", "embedding_dim": 8, "num_negatives": 12},
    "classifier": SMALL,
    "optimizer": {"epochs": 2, "milestones": [1], "batch_size": 8, "labelled_batch_size": 6, "learning_rate": 2e-3},
    "runtime": {"device": "cpu", "log_every_steps": 1},
}


def write_classes(root: Path, per_class: int = 8, size: int = 20, seed: int = 0) -> Path:
    """root/CLASS/NN.png: a pattern a class in random colours."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:size, :size]
    patterns = (rows == columns) | (rows + columns == size - 1), rows % 4 < 2, (rows % 8 < 4) ^ (columns % 8 < 4)
    for name, pattern in zip(CLASSES, patterns, strict=True):
        (root / name).mkdir(parents=True, exist_ok=True)
        for number in range(per_class):
            one, two = rng.integers(0, 256, (2, 3))
            image = np.where(pattern[:, :, None], one, two) + rng.integers(-8, 9, (size, size, 3))
            Image.fromarray(np.clip(image, 0, 255).astype(np.uint8)).save(root / name / f"{number:02d}.png")
    return root


def game_config(**over) -> GameConfig:
    return from_mapping(GameConfig, merge(TINY, over), where="test")


def images_of(root: Path, config: GameConfig, labelled: Path | None = None) -> GameImages:
    return load_game_images(root, labelled, config, announce=lambda text: None)


def data_of(root: Path, config: GameConfig, seed: int = 0) -> GameData:
    return GameData.of(images_of(root, config), config, seed=seed)


def game_of(config: GameConfig, seed: int = 0, num_images: int = 24) -> Game:
    classes = len(CLASSES) if config.uses_labels else 0
    return Game(
        config, num_images=num_images, num_classes=classes, steps_per_epoch=3, seed=seed, device=torch.device("cpu")
    )


def random_batch(config: GameConfig, seed: int = 0, count: int = 8) -> GameBatch:
    """Crops of noise that is smooth, so that two crops of an image share something."""
    generator = torch.Generator().manual_seed(seed)
    base = torch.rand(count, 3, 4, 4, generator=generator)
    images = torch.nn.functional.interpolate(base, size=(16, 16), mode="bilinear")
    noise = 0.05 * torch.rand(2, count, 3, 16, 16, generator=generator)
    first, second = (images + noise).clamp(0, 1)
    labelled = first[:6] if config.uses_labels else first[:0]
    labels = torch.arange(6) % 3 if config.uses_labels else torch.arange(0)
    return GameBatch(first, second, torch.arange(count), labelled, labels)
