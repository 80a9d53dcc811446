"""The encoders: shapes, seeds, and that what and where can both be read off them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from pretrain.good_views.moving_mnist.config import EncoderConfig, SceneConfig
from pretrain.good_views.moving_mnist.encoders import (
    ImageEncoder,
    SequenceEncoder,
    average_cells,
    build_encoders,
    expected_places,
)

SMALL = EncoderConfig(input_pixels=32, width=4, feature_dim=16, num_points=2, head_dim=8)


def noise(*shape):
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_shapes_of_features_and_embeddings():
    networks = build_encoders(SMALL, SceneConfig(num_frames=5), seed=0)
    view_1, view_2 = noise(3, 5, 3, 64, 64), noise(3, 3, 64, 64)
    assert networks.encoder_1(view_1).shape == networks.encoder_2(view_2).shape == (3, 16)
    first, second = networks(view_1, view_2)
    assert first.shape == second.shape == (3, 8)
    torch.testing.assert_close(first.norm(dim=1), torch.ones(3))


def test_averaging_is_average_pooling():
    images = torch.rand(2, 3, 12, 12)
    for factor in (1, 2, 3):
        torch.testing.assert_close(average_cells(images, factor), functional.avg_pool2d(images, factor))


def test_expected_places_of_a_peak_are_where_it_stands():
    maps = torch.full((1, 2, 5, 9), -100.0)
    maps[0, 0, 4, 0] = 100  # bottom left
    maps[0, 1, 2, 8] = 100  # middle of the right edge
    torch.testing.assert_close(expected_places(maps), torch.tensor([[[-1.0, 1.0], [1.0, 0.0]]]))
    torch.testing.assert_close(expected_places(torch.zeros(1, 1, 4, 4)), torch.zeros(1, 1, 2), atol=1e-6, rtol=0)


def test_networks_are_a_function_of_the_seed_and_leave_the_generator_alone():
    scene = SceneConfig(num_frames=2)
    state = torch.random.get_rng_state()
    first, again, other = (build_encoders(SMALL, scene, seed=seed).state_dict() for seed in (0, 0, 1))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["encoder_1.frames.project.weight"], other["encoder_1.frames.project.weight"])


def test_the_head_is_the_one_of_the_configuration():
    linear = build_encoders(replace(SMALL, head="linear"), SceneConfig(num_frames=2), seed=0)
    assert sum(parameter.numel() for parameter in linear.head_1.parameters()) == 16 * 8 + 8


def test_the_order_of_frames_reaches_the_features():
    """A film and the same film backwards differ, or no motion could be read."""
    encoder = SequenceEncoder(SMALL, num_frames=4).eval()
    film = noise(2, 4, 3, 64, 64)
    assert not torch.allclose(encoder(film), encoder(film.flip(1)), atol=1e-4)


@pytest.mark.parametrize("count", [1, 3])
def test_an_image_is_encoded_alike_in_any_batch(count):
    encoder = ImageEncoder(SMALL).eval()
    images = noise(4, 3, 64, 64)
    torch.testing.assert_close(encoder(images)[:count], encoder(images[:count]), rtol=1e-4, atol=1e-5)
