"""Pairs of views: bouncing, determinism, what is drawn anew, and that labels say what pixels show."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pretrain.good_views.moving_mnist.config import SceneConfig
from pretrain.good_views.moving_mnist.factors import SHARINGS, Sharing
from pretrain.good_views.moving_mnist.pairs import DRAWS, SPEED, PairMaker, fold, render, trajectory
from tests.cases import each

DIGIT = SHARINGS[0]


def walked(start, velocity, num_steps, length, substeps=4000):
    """A ball walked in tiny steps that turns round at walls: slow and plain."""
    place, places = start, [start]
    for _ in range(num_steps):
        for _ in range(substeps):
            place += velocity / substeps
            if place < 0 or place > length:
                velocity = -velocity
                place = -place if place < 0 else 2 * length - place
        places.append(place)
    return places


@each(("start", "velocity"), [(3.0, 4.5), (35.0, 4.9), (0.5, -2.2), (18.0, 30.0)])
def test_folding_is_a_ball_that_turns_round_at_the_walls(start, velocity):
    expected = walked(start, velocity, 40, 36.0)
    np.testing.assert_allclose(fold(start + velocity * np.arange(41), 36.0), expected, atol=1e-6)


def test_the_digit_stays_inside_the_canvas_at_any_speed():
    rng = np.random.default_rng(0)
    scene = SceneConfig(speed=(0.0, 36.0))
    offsets = trajectory(rng.random((500, DRAWS)), np.arange(200), scene)
    assert offsets.min() == 0 and offsets.max() == scene.free_range


def test_a_step_between_walls_has_the_speed_that_was_drawn():
    rng = np.random.default_rng(0)
    drawn = rng.random((2000, DRAWS))
    scene = SceneConfig(speed=(2.0, 5.0))
    long_way = trajectory(drawn, np.array([0, 1, 2]), scene)
    step = np.linalg.norm(long_way[:, 1] - long_way[:, 0], axis=1)
    turned = ((long_way[:, 0] < 6) | (long_way[:, 0] > 30)).any(1)
    speed = 2 + 3 * drawn[:, SPEED]
    assert (~turned).sum() > 500
    assert np.abs(step - speed)[~turned].max() <= np.sqrt(2)  # rounding, half a pixel at each end along each axis
    assert abs((step - speed)[~turned].mean()) < 0.1
    assert (step <= speed + np.sqrt(2)).all()  # a wall only shortens the way between two frames


def test_positions_are_uniform_at_any_time_so_a_constant_guess_is_off_by_13_8_pixels():
    """The mean distance from the middle of a square of side s is s (sqrt 2 + asinh 1) / 6."""
    rng = np.random.default_rng(0)
    offsets = trajectory(rng.random((20_000, DRAWS)), np.array([0, 12]), SceneConfig())
    expected = 36 * (np.sqrt(2) + np.arcsinh(1)) / 6
    assert round(expected, 1) == 13.8
    for time in range(2):
        distance = np.linalg.norm(offsets[:, time] - 18, axis=1).mean()
        assert distance == pytest.approx(expected, abs=0.2)


def test_rendering_is_the_lighter_of_ink_and_background(worlds, scene):
    world = worlds.train
    offsets = np.array([[[3, 7], [36, 36]]])
    (frames,) = render(world, np.array([5]), np.array([2]), np.array([[4, 1]]), offsets, 64)
    for frame, (x, y) in zip(frames, offsets[0], strict=True):
        expected = world.backgrounds.images[2][:, 1:65, 4:68].copy()
        for row in range(28):
            for column in range(28):
                for channel in range(3):
                    expected[channel, y + row, x + column] = max(
                        expected[channel, y + row, x + column], world.digits.images[5][row, column]
                    )
        assert np.array_equal(frame, expected)


def test_a_pair_is_a_function_of_seed_split_and_index(worlds, scene):
    maker = PairMaker(worlds.train, scene, seed=3)
    whole = maker(DIGIT, split="train", start=10, count=6)
    for row in range(6):
        one = maker(DIGIT, split="train", start=10 + row, count=1)
        assert torch.equal(one.view_1[0], whole.view_1[row]) and torch.equal(one.view_2[0], whole.view_2[row])
        assert torch.equal(one.factors_2.position[0], whole.factors_2.position[row])
    others = [
        PairMaker(worlds.train, scene, seed=4)(DIGIT, split="train", start=10, count=6),
        maker(DIGIT, split="held_out", start=10, count=6),
        maker(DIGIT, split="train", start=16, count=6),
    ]
    for other in others:
        assert not (other.view_1 == whole.view_1).flatten(1).all(1).any()


def test_batches_are_the_split_in_order(worlds, scene):
    maker = PairMaker(worlds.train, scene)
    batches = list(maker.batches(DIGIT, split="train", num_batches=3, batch_size=4))
    whole = maker(DIGIT, split="train", start=0, count=12)
    assert [len(batch) for batch in batches] == [4, 4, 4]
    assert torch.equal(torch.cat([batch.view_2 for batch in batches]), whole.view_2)


def test_view_one_is_the_same_whatever_is_shared(worlds, scene):
    maker = PairMaker(worlds.train, scene)
    batches = [maker(sharing, split="train", start=0, count=8) for sharing in SHARINGS]
    assert all(torch.equal(batch.view_1, batches[0].view_1) for batch in batches)
    assert len({batch.view_2.numpy().tobytes() for batch in batches}) == len(SHARINGS)


def test_a_factor_that_is_not_shared_is_the_same_in_all_sharings_that_draw_it_anew(worlds, scene):
    """Sharings then differ by what they share, not by luck."""
    maker = PairMaker(worlds.train, scene)
    first = maker(Sharing(("digit",)), split="train", start=0, count=50).factors_2
    second = maker(Sharing(("position",)), split="train", start=0, count=50).factors_2
    assert torch.equal(first.background_index, second.background_index)
    assert torch.equal(first.crop, second.crop)


def test_a_shared_position_is_where_the_digit_will_be(worlds):
    scene = SceneConfig(num_frames=3, future_steps=4, background_size=72)
    later = SceneConfig(num_frames=7, future_steps=0, background_size=72)
    sharing = Sharing(("position",))
    pair = PairMaker(worlds.train, scene)(sharing, split="train", start=0, count=30)
    film = PairMaker(worlds.train, later)(sharing, split="train", start=0, count=30)
    assert torch.equal(pair.factors_2.offsets[:, 0], film.factors_1.offsets[:, -1])
    assert torch.equal(pair.factors_1.position, pair.factors_2.position)
    assert not torch.equal(pair.factors_1.offsets[:, -1], pair.factors_2.offsets[:, 0])


def test_the_position_is_the_middle_of_the_digits_box(worlds, scene):
    pair = PairMaker(worlds.train, scene)(DIGIT, split="train", start=0, count=30)
    assert torch.equal(pair.factors_2.position, pair.factors_2.offsets[:, 0] + 14.0)
    assert pair.factors_2.position.min() >= 14 and pair.factors_2.position.max() <= 50


def test_sharing_a_class_takes_another_image_of_it(worlds):
    scene = SceneConfig(num_frames=2, background_size=72, same_digit="class", same_background="class")
    pair = PairMaker(worlds.train, scene)(Sharing(("digit", "background")), split="train", start=0, count=400)
    first, second = pair.factors_1, pair.factors_2
    assert torch.equal(first.digit, second.digit) and torch.equal(first.background, second.background)
    assert (first.digit_index != second.digit_index).all()
    assert (first.background_index != second.background_index).all()
    # Any of the other five digits of a class is as likely: no image is left out or preferred.
    further = (second.digit_index - first.digit_index) % 6
    assert torch.bincount(further, minlength=6)[1:].min() > 400 / 5 * 0.6


def test_crops_reach_every_corner_of_the_background(worlds, scene):
    pair = PairMaker(worlds.train, scene)(DIGIT, split="train", start=0, count=600)
    assert pair.factors_1.crop.min() == 0 and pair.factors_1.crop.max() == 72 - 64
