"""What is measured of a run on its way: kNN probe, effective rank, spread of the embeddings. It changes nothing in the run.

In: a fixed set of images, the network in training. Out: figures for the log, after every few epochs, before the first step
(random weights are the baseline of everything that follows) and after the last.

The main rank measures, since BatchNorm statistics differ between ranks. The others wait; after each batch all ranks tell each
other whether to go on, so that none waits longer than a batch takes and a stop signal to any of them ends the measurement.
"""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from pretrain.base.errors import DataError
from pretrain.base.signals import StopFlag
from pretrain.run.ranks import Ranks, gather_values
from pretrain.run.representation import effective_rank, knn_accuracy, spread
from pretrain.views.pipeline import ViewMaker
from pretrain.views.recipes import RECIPES

HELD_OUT = 5  # every fifth image of a class is asked about
IMAGES_AT_ONCE = 64

logger = logging.getLogger(__name__)

Towers = list[tuple[Tensor, Tensor]]
"""Of each tower (features (B, F), embeddings (B, D)) of some images."""


@dataclass(frozen=True)
class MonitorImages:
    """The images that are looked at, the same every time.

    count: how many.
    read: position -> uint8 (H, W, 3) RGB; raises DataError.
    labels: int64 (count,), or None where nothing is known.
    """

    count: int
    read: Callable[[int], np.ndarray]
    labels: Tensor | None = None


def held_out(labels: Tensor) -> Tensor:
    """bool (N,): every fifth image of each class in the order given. Of a class of fewer than five none is asked about."""
    chosen = torch.zeros(len(labels), dtype=torch.bool)
    for label in labels.unique():
        chosen[torch.nonzero(labels == label).flatten()[HELD_OUT - 1 :: HELD_OUT]] = True
    return chosen


def num_asked(labels: Tensor) -> int:
    """How many images the probe asks about."""
    return int(held_out(labels).sum())


def chance(labels: Tensor) -> float:
    """Accuracy in percent of always naming the class that is most frequent among the images asked about."""
    asked = labels[held_out(labels)]
    return 100 * float(asked.bincount().max()) / len(asked)


@contextlib.contextmanager
def evaluation(module: nn.Module) -> Iterator[None]:
    """`module` in eval mode without gradients; afterwards every submodule has its own mode again, and torch's generator its state."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            yield
    finally:
        for part, mode in modes:
            part.training = mode


class Monitor:
    """Measures a network on `images` after every `every_steps` steps, before the first and after the last."""

    def __init__(
        self,
        images: MonitorImages | None,
        *,
        encode: Callable[[nn.Module, Tensor], Towers],
        image_size: int,
        neighbours: int,
        every_steps: int,
        num_steps: int,
        ranks: Ranks,
        stop: StopFlag,
        measured: int | None = None,
        threads: int = 1,
    ) -> None:
        """images: None on ranks that wait. encode: the network and uint8 (B, 3, S, S) on the CPU -> its towers' outputs.

        every_steps: 0: never. num_steps: of the whole run. measured: step of the newest measurement that the log already
        holds. threads: that read images.
        """
        self._images, self._encode, self._neighbours = images, encode, neighbours
        self._crop = ViewMaker(RECIPES["center"], image_size=image_size, num_views=1)
        self._every, self._num_steps, self._ranks, self._stop = every_steps, num_steps, ranks, stop
        self._measured, self._threads = measured, max(1, threads)
        self._unreadable: set[int] = set()

    def is_due(self, step: int) -> bool:
        """True after `step` steps of the run, if that was not measured before."""
        if self._every == 0 or (self._measured is not None and step <= self._measured):
            return False
        return step % self._every == 0 or step == self._num_steps

    def after_epoch(self, network: nn.Module, step: int) -> dict[str, float] | None:
        """Called on every rank after every step: the figures on the main rank where they are due, else none.

        knn: top-1 of the probe, percent; with labels only. effective_rank: of the features. effective_rank_embedding,
        embedding_std: of the embeddings. A stop signal to any rank ends the measurement: None on every rank, and it stays due.
        """
        if not self.is_due(step):
            return {}
        towers: list[list[tuple[Tensor, Tensor]]] = []
        known: list[int] = []
        with evaluation(network):
            batches = self._batches() if self._ranks.is_main else None
            while True:
                done = batches is None
                if batches is not None:
                    found = next(batches, None)
                    done = found is None
                    if found is not None:
                        known += found[0]
                        towers.append(self._encode(network, found[1]))
                told = gather_values((self._stop.is_set, done), self._ranks)
                if any(stopping for stopping, _ in told):
                    logger.info("asked to stop: the next start measures step %d", step)
                    return None
                if told[0][1]:
                    break
        self._measured = step
        if not towers:
            return {}
        with torch.random.fork_rng(devices=[]):
            return self._figures(known, towers)

    def _figures(self, known: list[int], batches: list[Towers]) -> dict[str, float]:
        by_tower = [
            tuple(torch.cat(parts).float() for parts in zip(*tower, strict=True))
            for tower in zip(*batches, strict=True)
        ]
        features = torch.cat([features for features, _ in by_tower], dim=1)
        figures: dict[str, float] = {}
        labels = (
            self._images.labels[known].to(features.device) if self._images and self._images.labels is not None else None
        )
        if labels is not None:
            asked = held_out(labels.cpu()).to(features.device)
            if asked.any():
                figures["knn"] = knn_accuracy(
                    bank=features[~asked],
                    bank_labels=labels[~asked],
                    queries=features[asked],
                    query_labels=labels[asked],
                    neighbours=self._neighbours,
                )
        ranks = [effective_rank(embeddings) for _, embeddings in by_tower]
        spreads = [spread(embeddings) for _, embeddings in by_tower]
        figures["effective_rank"] = effective_rank(features)
        figures["effective_rank_embedding"] = sum(ranks) / len(ranks)
        figures["embedding_std"] = sum(spreads) / len(spreads)
        return {name: value for name, value in figures.items() if math.isfinite(value)}

    def _batches(self) -> Iterator[tuple[list[int], Tensor]]:
        """(positions, uint8 (B, 3, S, S)) of the images that can be read."""
        assert self._images is not None
        with ThreadPoolExecutor(self._threads) as pool:
            for start in range(0, self._images.count, IMAGES_AT_ONCE):
                positions = range(start, min(start + IMAGES_AT_ONCE, self._images.count))
                read = list(pool.map(self._read, positions))
                found = [(position, view) for position, view in zip(positions, read, strict=True) if view is not None]
                if found:
                    yield [position for position, _ in found], torch.stack([view for _, view in found])

    def _read(self, position: int) -> Tensor | None:
        assert self._images is not None
        try:
            return self._crop(self._images.read(position), seed=0, epoch=0, index=position).images[0]
        except DataError as error:  # it could be read when the run began; a probe does not end a run
            if position not in self._unreadable:
                self._unreadable.add(position)
                logger.warning("%s; the monitor goes on without it", error)
            return None
