"""Bundled photos and their re-colouring."""

from __future__ import annotations

import socket

import numpy as np
import pytest

from tests.cases import each
from transfer.demo_data.photos import LUMA, PHOTO_FILES, hue_matrix, photo_crop, photo_pyramids, random_colour


def test_every_photo_is_bundled_and_nothing_is_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("network used")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    photo_pyramids.cache_clear()
    pyramids = photo_pyramids()
    assert len(pyramids) == len(PHOTO_FILES)
    assert all(level.dtype == np.uint8 and level.shape[2] == 3 for levels in pyramids for level in levels)


@each("angle", [0.0, 0.7, 3.0])
def test_hue_rotation_keeps_greys_and_luma(angle: float) -> None:
    matrix = hue_matrix(angle, 0.8)
    np.testing.assert_allclose(matrix @ [1, 1, 1], 1, atol=3e-3)
    np.testing.assert_allclose(LUMA @ matrix, LUMA, atol=3e-3)


def test_hue_rotation_by_nothing_is_the_identity_and_by_something_is_not() -> None:
    np.testing.assert_allclose(hue_matrix(0.0, 1.0), np.eye(3), atol=1e-6)
    assert np.abs(hue_matrix(1.0, 1.0) - np.eye(3)).max() > 0.3


def test_random_colours_are_inside_the_cube_and_of_every_hue() -> None:
    rng = np.random.default_rng(0)
    colours = np.stack([random_colour(rng) for _ in range(300)])
    assert colours.min() >= 0 and colours.max() <= 255
    assert set(colours.argmax(1)) == set(colours.argmin(1)) == {0, 1, 2}


def test_a_crop_comes_from_the_photos_asked_for() -> None:
    rng = np.random.default_rng(0)
    grass = [photo_crop(rng, 32, 32, photos=("grass.png",)).std() for _ in range(20)]
    moon = [photo_crop(rng, 32, 32, photos=("moon.png",)).std() for _ in range(20)]
    assert min(grass) > np.median(moon)  # the moon is smooth, grass is not
