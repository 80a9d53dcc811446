"""A seed picks the same labelled images for a readout, a game in which views are learned, and an evaluation of views."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from pretrain.data.source import some_of_each_class
from pretrain.good_views.view_learning.data import GameData
from pretrain.good_views.view_learning.evaluation import _labelled
from pretrain.good_views.view_learning.pixels import load_classes
from tests.pretrain.good_views.view_learning.tiny_game import game_config, images_of, write_classes
from transfer.readout.features import few_per_class, load_splits


@pytest.mark.parametrize("seed", [0, 3])
def test_one_seed_picks_the_same_images_everywhere(tmp_path: Path, seed: int) -> None:
    write_classes(tmp_path / "train", per_class=12)
    write_classes(tmp_path / "val", per_class=1)
    train, _ = load_splits(tmp_path)
    few = few_per_class(train, 4, seed=seed)
    pixels = load_classes(tmp_path / "train", side=None, announce=print)
    expected = pixels.take([train.source.names.index(name) for name in few.source.names])
    config = game_config(labels_per_class=4)
    game = GameData.of(images_of(tmp_path / "train", config), config, seed=seed).labelled
    evaluated = _labelled(pixels, 4, seed=seed)
    assert game is not None
    for found in (game, evaluated):
        assert torch.equal(found.images, expected.images) and torch.equal(found.labels, expected.labels)


def test_every_image_of_a_class_is_as_likely() -> None:
    labels = [1, 0, 1, 0, 1, 0, 0, 0]
    drawn = [some_of_each_class(labels, 2, seed=seed) for seed in range(400)]
    assert all(rows == sorted(rows) and [labels[row] for row in rows].count(1) == 2 for rows in drawn)
    counts = np.bincount(np.concatenate(drawn), minlength=8)
    assert (
        np.abs(counts[[0, 2, 4]] / 400 - 2 / 3).max() < 0.1
        and np.abs(counts[[1, 3, 5, 6, 7]] / 400 - 2 / 5).max() < 0.1
    )
    assert some_of_each_class(labels, 99, seed=0) == list(range(8))
