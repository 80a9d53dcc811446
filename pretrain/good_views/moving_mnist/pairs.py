"""Pairs of Moving-MNIST views: a digit that moves over a colour image and bounces off the edges, and one single image.

In: a `World`, what is shared, (seed, split) and a range of indices. Out: `PairBatch`, a pure function of these: no batch size,
order or restart changes a pair. View 1 of an index is the same whatever is shared, so sharings differ by view 2 alone.

View 1 is `num_frames` frames. View 2 is one image, `future_steps` frames after the last of them where the position is shared.
What is not shared is drawn anew: another digit, another trajectory, another background. One CPU core makes about 11,000 pairs of
10 frames a second.
Source: docs/specification.md 3; what the paper leaves open is decided in config.SceneConfig.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pretrain.good_views.moving_mnist.config import DIGIT_SIZE, SceneConfig
from pretrain.good_views.moving_mnist.factors import Sharing
from pretrain.good_views.moving_mnist.pools import Pool, World
from pretrain.views.rng import sample_generator

# Apart from the streams of views/rng.py. Never renumber: it would change every pair.
STREAM = 1000
SPLITS = {"train": 0, "held_out": 1, "probe_train": 2, "probe_test": 3}

# One row of uniform numbers a view, in this order. Philox advances by blocks of four.
DIGIT, BACKGROUND, CROP_X, CROP_Y, START_X, START_Y, ANGLE, SPEED = range(DRAWS := 8)
BLOCK = 4


@dataclass(frozen=True)
class Factors:
    """What a view shows; integers are int64.

    digit, background: (B,) classes.
    position: float32 (B, 2) x, y of the box's centre, pixels, in the frame that view 2 shows (of view 1: of its own trajectory).
    digit_index, background_index: (B,) images of the pools.
    crop: (B, 2) x, y of the canvas in the background.
    offsets: (B, T, 2) x, y of the digit's box in every frame.
    """

    digit: Tensor
    position: Tensor
    background: Tensor
    digit_index: Tensor
    background_index: Tensor
    crop: Tensor
    offsets: Tensor


@dataclass(frozen=True)
class PairBatch:
    """view_1 uint8 (B, T, 3, H, W), view_2 uint8 (B, 3, H, W), and the factors of each."""

    view_1: Tensor
    view_2: Tensor
    factors_1: Factors
    factors_2: Factors

    def __len__(self) -> int:
        return len(self.view_1)


@dataclass(frozen=True)
class PairMaker:
    """`PairMaker(world, scene, seed=0)(sharing, split="train", start=0, count=128)` -> PairBatch."""

    world: World
    scene: SceneConfig
    seed: int = 0

    def __call__(self, sharing: Sharing, *, split: str, start: int, count: int) -> PairBatch:
        """The pairs start .. start + count - 1 of a split of SPLITS, which has no end. start >= 0, count >= 1."""
        draws = _draw(seed=self.seed, split=split, start=start, count=count)
        world, scene = self.world, self.scene
        drawn_1, drawn_2 = draws[:, 0], draws[:, 1]
        digits = _choose(world.digits, drawn_1[:, DIGIT]), _choose(world.digits, drawn_2[:, DIGIT])
        backgrounds = (
            _choose(world.backgrounds, drawn_1[:, BACKGROUND]),
            _choose(world.backgrounds, drawn_2[:, BACKGROUND]),
        )
        digit_2, background_2 = digits[1], backgrounds[1]
        if "digit" in sharing.factors:
            same = scene.same_digit == "instance"
            digit_2 = digits[0] if same else _classmate(world.digits, digits[0], drawn_2[:, DIGIT])
        if "background" in sharing.factors:
            same = scene.same_background == "image"
            background_2 = (
                backgrounds[0] if same else _classmate(world.backgrounds, backgrounds[0], drawn_2[:, BACKGROUND])
            )
        shown = scene.num_frames - 1 + scene.future_steps
        steps = np.append(np.arange(scene.num_frames), shown)
        offsets_1 = trajectory(drawn_1, steps, scene)
        offsets_2 = offsets_1[:, -1:] if "position" in sharing.factors else trajectory(drawn_2, steps[-1:], scene)
        crops = [_crop(drawn, scene) for drawn in (drawn_1, drawn_2)]
        view_1 = render(world, digits[0], backgrounds[0], crops[0], offsets_1[:, :-1], scene.canvas)
        view_2 = render(world, digit_2, background_2, crops[1], offsets_2, scene.canvas)
        return PairBatch(
            torch.from_numpy(view_1),
            torch.from_numpy(view_2[:, 0]),
            _factors(world, digits[0], backgrounds[0], crops[0], offsets_1[:, :-1], offsets_1[:, -1]),
            _factors(world, digit_2, background_2, crops[1], offsets_2, offsets_2[:, -1]),
        )

    def batches(self, sharing: Sharing, *, split: str, num_batches: int, batch_size: int) -> Iterator[PairBatch]:
        """The first num_batches * batch_size pairs of a split, in order."""
        for batch in range(num_batches):
            yield self(sharing, split=split, start=batch * batch_size, count=batch_size)


def trajectory(drawn: np.ndarray, steps: np.ndarray, scene: SceneConfig) -> np.ndarray:
    """Offsets int64 (B, T, 2) of the digit's box at `steps` (T,), from the draws (B, DRAWS) of a view.

    Straight flight folded back into [0, free range]: at every instant the speed is the one drawn, also at an edge, and a
    position at any time is uniform. Rounded to whole pixels, so a frame's step may be up to a pixel off along an axis.
    """
    start = drawn[:, [START_X, START_Y]] * scene.free_range
    low, high = scene.speed
    speed = low + (high - low) * drawn[:, SPEED]
    angle = 2 * np.pi * drawn[:, ANGLE]
    velocity = speed[:, None] * np.stack((np.cos(angle), np.sin(angle)), axis=1)
    flight = start[:, None, :] + steps[None, :, None] * velocity[:, None, :]
    return np.rint(fold(flight, scene.free_range)).astype(np.int64)


def fold(distance: np.ndarray, length: float) -> np.ndarray:
    """A coordinate that goes on without walls -> the one between mirrors at 0 and `length`."""
    remainder = np.mod(distance, 2 * length)
    return np.minimum(remainder, 2 * length - remainder)


def render(
    world: World, digits: np.ndarray, backgrounds: np.ndarray, crops: np.ndarray, offsets: np.ndarray, canvas: int
) -> np.ndarray:
    """uint8 (B, T, 3, canvas, canvas). A digit is white ink: each pixel is the lighter of ink and background.

    digits, backgrounds (B,): images of the pools; crops (B, 2): x, y of the canvas in the background; offsets (B, T, 2).
    """
    count, num_frames = offsets.shape[:2]
    frames = np.empty((count, num_frames, 3, canvas, canvas), dtype=np.uint8)
    images, ink = world.backgrounds.images, world.digits.images
    for row, (digit, background, (x, y)) in enumerate(zip(digits, backgrounds, crops, strict=True)):
        frames[row] = images[background, :, y : y + canvas, x : x + canvas]
        for frame, (left, top) in zip(frames[row], offsets[row], strict=True):
            box = frame[:, top : top + DIGIT_SIZE, left : left + DIGIT_SIZE]
            np.maximum(box, ink[digit], out=box)
    return frames


def _draw(*, seed: int, split: str, start: int, count: int) -> np.ndarray:
    """Uniform numbers (count, 2 views, DRAWS) in [0, 1): one sequence a split, of which a pair owns the same stretch always."""
    generator = sample_generator(seed=seed, epoch=SPLITS[split], index=0, stream=STREAM)
    generator.bit_generator.advance(start * 2 * DRAWS // BLOCK)  # type: ignore[attr-defined]
    return generator.random((count, 2, DRAWS))


def _choose(pool: Pool, drawn: np.ndarray) -> np.ndarray:
    """Images of the pool, uniformly, from numbers in [0, 1)."""
    return (drawn * len(pool)).astype(np.int64)


def _classmate(pool: Pool, chosen: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """For each chosen image one of its class, uniformly, and never itself where the class has another."""
    result = chosen.copy()
    for label in range(len(pool.classes)):
        members = np.flatnonzero(pool.labels == label)
        rows = np.flatnonzero(pool.labels[chosen] == label)
        if len(members) > 1:
            own = np.searchsorted(members, chosen[rows])
            further = 1 + (drawn[rows] * (len(members) - 1)).astype(np.int64)
            result[rows] = members[(own + further) % len(members)]
    return result


def _crop(drawn: np.ndarray, scene: SceneConfig) -> np.ndarray:
    return (drawn[:, [CROP_X, CROP_Y]] * (scene.background_size - scene.canvas + 1)).astype(np.int64)


def _factors(
    world: World, digits: np.ndarray, backgrounds: np.ndarray, crop: np.ndarray, offsets: np.ndarray, shown: np.ndarray
) -> Factors:
    return Factors(
        digit=torch.from_numpy(world.digits.labels[digits]),
        position=torch.from_numpy(shown + DIGIT_SIZE / 2).float(),
        background=torch.from_numpy(world.backgrounds.labels[backgrounds]),
        digit_index=torch.from_numpy(digits),
        background_index=torch.from_numpy(backgrounds),
        crop=torch.from_numpy(crop),
        offsets=torch.from_numpy(offsets),
    )
