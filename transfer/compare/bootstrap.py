"""How much the test images decide: a paired bootstrap over them, so that even one seed has an interval.

In: a figure of each run under the same resamples of the test images. Out: the mean difference with an interval over images.
It says nothing of seeds: how far another fine-tuning or pre-training would move the figure is statistics.py's.

A resample holds as many images as the test set, drawn with replacement, each as often as it was drawn. (Dropping the
repetitions leaves 63 % of the images and intervals about a quarter too narrow: tests/benchmarks/coverage.py.)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pretrain.base.figures import CONFIDENCE

RESAMPLES = 1000


@dataclass(frozen=True)
class ImageBootstrap:
    """Ours minus baseline on the test images, and how far other images of the kind would move it.

    mean: on the images themselves. half_width: t(n - 1) times the resamples' standard deviation, times sqrt(n / (n - 1)).
    n: number of test images.
    level: of the interval.
    runs: of ours and of the baseline whose figures are averaged.
    """

    mean: float
    half_width: float
    n: int
    level: float
    runs: tuple[int, int]


def resampled(num_images: int, *, resamples: int = RESAMPLES, seed: int = 0) -> np.ndarray:
    """(1 + resamples, num_images) copies of each image: once each, then each resample. The same for all runs on one test set."""
    drawn = np.random.default_rng(seed).multinomial(num_images, np.full(num_images, 1 / num_images), size=resamples)
    return np.concatenate([np.ones((1, num_images), dtype=drawn.dtype), drawn])


def accuracy_of(correct: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(I,) whether each image is right, (B, I) copies -> (B,) accuracy in percent."""
    return 100.0 * (weights @ correct.astype(np.float64)) / weights.sum(axis=1)


def paired_bootstrap(
    ours: Sequence[np.ndarray], baseline: Sequence[np.ndarray], *, num_images: int, comparisons: int = 1
) -> ImageBootstrap | None:
    """ours, baseline: of each run its figure on the images and on each resample (1 + B,), the resamples of all the same.

    The interval is symmetric around the figure on the images. Of those tried (percentile, basic) it covers best with few
    images, as AP is a little higher on a list with repetitions. None for fewer than two images or no finite figure.
    """
    from scipy.special import stdtrit  # takes a moment to import

    if not ours or not baseline or num_images < 2:
        return None
    difference = np.mean(ours, axis=0) - np.mean(baseline, axis=0)
    draws = difference[1:][np.isfinite(difference[1:])]
    if not math.isfinite(difference[0]) or len(draws) < 2:
        return None
    level = 1 - (1 - CONFIDENCE) / comparisons
    quantile = float(stdtrit(num_images - 1, (1 + level) / 2))
    half_width = quantile * float(draws.std(ddof=1)) * math.sqrt(num_images / (num_images - 1))
    return ImageBootstrap(float(difference[0]), half_width, num_images, level, (len(ours), len(baseline)))
