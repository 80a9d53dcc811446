"""Randomness without state: a generator is determined by (seed, epoch, sample index, view, stream).

It is a numpy Generator at the start of its own sequence, made in about 3 us. Nothing depends on what was drawn before, so workers, prefetching, batch composition and restarts cannot change a view.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.random.bit_generator import ISeedSequence

# What the numbers are for. Streams of one sample never share a value; never renumber (it would change every run).
VIEW_STREAM = 0
PATCHES_STREAM = 1
PERMUTATION_STREAM = 2
ORDER_STREAM = 3
PAIR_STREAM = 4  # what is drawn once for the two views of an image
CROPS_STREAM = 5  # the crops of a whole batch of images in memory
NEGATIVES_STREAM = 6  # which rows of a memory bank a step is compared with
DETECTION_STREAM = 7  # augmentation of an image that a detector is trained on
DETECTION_STEP_STREAM = 8  # what a detector draws in a step (epoch: the iteration; index: the rank)

_WORD = 2**64


class _Key(ISeedSequence):
    """Gives a Philox its key. With `key=` alone numpy first draws a seed from the system, which takes five times as long."""

    def __init__(self, *words: int) -> None:
        self._words = np.array(words, dtype=np.uint64)

    def generate_state(self, n_words: int, dtype: Any = np.uint64) -> np.ndarray:
        """The key: all that Philox asks for."""
        return self._words


def sample_generator(
    *, seed: int, epoch: int, index: int, view: int = 0, stream: int = VIEW_STREAM
) -> np.random.Generator:
    """Philox4x64 keyed by (seed, stream), its counter at (0, view, index, epoch).

    The low word of the counter is the one that advances: 2^64 blocks before two sequences could meet.
    All arguments in [0, 2^64); ValueError otherwise.
    """
    if min(seed, epoch, index, view, stream) < 0 or max(seed, epoch, index, view, stream) >= _WORD:
        raise ValueError(f"expected integers in [0, 2^64), found {seed=}, {epoch=}, {index=}, {view=}, {stream=}")
    counter = np.array((0, view, index, epoch), dtype=np.uint64)
    bits = np.random.Philox(_Key(seed, stream), counter=counter)  # type: ignore[arg-type]  # the stubs know SeedSequence alone
    return np.random.Generator(bits)


def uniform(rng: np.random.Generator, low: float, high: float) -> float:
    """`rng.uniform(low, high)`, the same number in a sixth of the time."""
    return low + (high - low) * rng.random()
