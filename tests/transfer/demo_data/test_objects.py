"""Kinds of object and sprites."""

from __future__ import annotations

import numpy as np

from tests.cases import each
from transfer.demo_data.config import CLASS_NAMES
from transfer.demo_data.objects import random_light, random_palette, render_sprite
from transfer.demo_data.photos import LUMA
from transfer.demo_data.shapes import KINDS, LINE, ellipse, smooth, turned


@each("name", CLASS_NAMES)
def test_a_kind_stays_near_its_unit_square(name: str) -> None:
    rng = np.random.default_rng(1)
    for _ in range(40):
        layers = KINDS[name].draw(rng).layers
        points = np.concatenate([curve for layer in layers if layer.solid for curve in layer.curves])
        assert np.isfinite(points).all()
        assert np.abs(points).max() < 1.7


@each("class_index", range(len(CLASS_NAMES)))
def test_sprite_has_the_asked_long_side(class_index: int) -> None:
    for seed in range(6):
        rng = np.random.default_rng(seed)
        sprite = render_sprite(class_index, long_side=60, light=random_light(rng), rng=rng)
        rows, columns = np.flatnonzero((sprite.alpha > 0.5).any(1)), np.flatnonzero((sprite.alpha > 0.5).any(0))
        side = max(np.ptp(rows), np.ptp(columns)) + 1
        assert 50 <= side <= 63  # a stroke's round end or a thin tip may fall short of its points' box
        assert sprite.colour.min() >= 0 and sprite.colour.max() <= 255
        assert sprite.colour.shape == (*sprite.alpha.shape, 3)


def test_line_colour_is_darker_or_lighter_than_the_body_equally_often() -> None:
    rng = np.random.default_rng(0)
    darker = [float(LUMA @ (p[LINE] - p[0])) < 0 for p in (random_palette(rng) for _ in range(400))]
    assert 0.4 < np.mean(darker) < 0.6


def test_ellipse_points_satisfy_its_equation() -> None:
    points = ellipse(1, 2, 3, 0.5)
    np.testing.assert_allclose(((points - [1, 2]) / [3, 0.5]).__pow__(2).sum(1), 1)


def test_corner_cutting_keeps_the_centre_and_turning_keeps_distances() -> None:
    square = np.array([[0, 0], [1, 0], [1, 1], [0, 1.0]])
    np.testing.assert_allclose(smooth(square).mean(0), [0.5, 0.5])
    assert len(smooth(square)) == 16
    np.testing.assert_allclose(turned(np.array([[1.0, 0]]), np.pi / 2), [[0, 1]], atol=1e-12)
