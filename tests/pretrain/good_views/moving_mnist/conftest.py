"""The worlds of tiny_world.py and configurations of a fraction of a second."""

from __future__ import annotations

import pytest

from pretrain.good_views.moving_mnist.config import (
    EncoderConfig,
    MovingMnistConfig,
    ProbeConfig,
    SceneConfig,
    TrainingConfig,
)
from pretrain.good_views.moving_mnist.pools import Worlds
from tests.pretrain.good_views.moving_mnist.tiny_world import make_world, write_sources


@pytest.fixture(scope="session")
def worlds():
    return Worlds(make_world(0), make_world(1))


@pytest.fixture(scope="session")
def scene():
    return SceneConfig(num_frames=4, background_size=72)


@pytest.fixture(scope="session")
def tiny():
    """A configuration whose cells take a fraction of a second."""
    return MovingMnistConfig(
        scene=SceneConfig(num_frames=2, future_steps=1, background_size=72),
        encoder=EncoderConfig(input_pixels=32, width=4, feature_dim=16, num_points=2, head_dim=8),
        training=TrainingConfig(batch_size=16, steps=3, supervised_steps=3, device="cpu"),
        probe=ProbeConfig(num_train=60, num_test=40, weight_decay=0.1, information_batches=2),
    )


@pytest.fixture
def sources(tmp_path):
    """(digits .npz, folder of backgrounds) on disk."""
    write_sources(tmp_path)
    return tmp_path / "digits.npz", tmp_path / "backgrounds"
