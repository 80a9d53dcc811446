"""What a game is played on: unlabelled images, labelled ones where the mode has them, and the batch of any step.

`GameData.batch(step)` is a pure function of (seed, step), so that a game restarts anywhere.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from pretrain.base.errors import DataError
from pretrain.data.order import GlobalBatches
from pretrain.data.source import ImageSource, some_of_each_class
from pretrain.good_views.view_learning.config import GameConfig
from pretrain.good_views.view_learning.game import GameBatch
from pretrain.good_views.view_learning.pixels import PixelSet, cut, draw_boxes, load_classes, load_images
from pretrain.model.memory import require_enough_rows
from pretrain.views.rng import CROPS_STREAM, sample_generator

LABELLED_SEED = 2**32  # added to the seed: the labelled images have an order of their own
FIRST, SECOND, LABELLED = range(3)  # which crops of a step


@dataclass(frozen=True)
class GameImages:
    """unlabelled: all images.
    labelled: those that may be used with their class, None in unsupervised mode.
    fingerprint: of the listings.
    """

    unlabelled: PixelSet
    labelled: PixelSet | None
    fingerprint: str

    def to(self, device: torch.device) -> GameImages:
        """On `device`."""
        return replace(
            self, unlabelled=self.unlabelled.to(device), labelled=self.labelled.to(device) if self.labelled else None
        )


def load_game_images(
    data: Path, labelled: Path | None, config: GameConfig, *, announce: Callable[[str], None]
) -> GameImages:
    """Decode what the mode needs. `labelled` None: the class folders of `data`.

    Raises DataError for unreadable images, for labels that are missing, and for too few images for the batch or the bank.
    """
    side, skip = config.data.side, config.data.skip_unreadable
    unlabelled, fingerprint = load_images(data, side=side, skip_unreadable=skip, announce=announce)
    size = config.optimizer.batch_size
    GlobalBatches(len(unlabelled), size, seed=0)
    if config.estimator.bound == "memory_bank":
        require_enough_rows(
            num_negatives=config.estimator.num_negatives, num_images=len(unlabelled), key="estimator.num_negatives"
        )
    if not config.uses_labels:
        return GameImages(unlabelled, None, fingerprint)
    try:
        known = load_classes(labelled or data, side=side, skip_unreadable=skip, announce=announce)
    except DataError as error:
        raise DataError(
            f"a {config.mode} game needs labels: {error}. Name class folders with --labelled FOLDER, give --data class folders "
            "and --labels-per-class N, or pass --mode unsupervised"
        ) from None
    if len(known.classes) < 2:
        raise DataError(
            f"{labelled or data}: one class ({known.classes[0]}) tells nothing; expected at least 2 folders"
        )
    fewest = int(torch.bincount(known.labels, minlength=len(known.classes)).min())
    if config.labels_per_class is not None and fewest < config.labels_per_class:
        raise DataError(
            f"{labelled or data}: a class has {fewest} images, expected at least labels_per_class={config.labels_per_class}"
        )
    if known.images.shape[2:] != unlabelled.images.shape[2:]:
        raise DataError(
            f"{labelled}: images of {tuple(known.images.shape[2:])} px, those of {data} have "
            f"{tuple(unlabelled.images.shape[2:])}; pass data.side={min(known.images.shape[2:])}"
        )
    num_labelled = len(known) if config.labels_per_class is None else config.labels_per_class * len(known.classes)
    if num_labelled < config.optimizer.labelled_batch_size:
        raise DataError(
            f"{num_labelled} labelled images do not fill a batch of {config.optimizer.labelled_batch_size}; "
            f"pass optimizer.labelled_batch_size={num_labelled}, or label more"
        )
    if labelled is not None:
        fingerprint += " " + ImageSource(labelled).fingerprint()
    return GameImages(unlabelled, known, fingerprint)


@dataclass(frozen=True)
class GameData:
    """One seed's batches. labelled: the images whose labels this seed may see."""

    unlabelled: PixelSet
    labelled: PixelSet | None
    config: GameConfig
    seed: int

    @classmethod
    def of(cls, images: GameImages, config: GameConfig, *, seed: int) -> GameData:
        """labels_per_class images of every class, drawn by `seed`; all of them where it is None."""
        known = images.labelled
        if known is not None and config.labels_per_class is not None:
            known = known.take(some_of_each_class(known.labels.tolist(), config.labels_per_class, seed=seed))
        return cls(images.unlabelled, known, config, seed)

    @property
    def steps_per_epoch(self) -> int:
        """Batches in one pass over the unlabelled images."""
        return GlobalBatches(len(self.unlabelled), self.config.optimizer.batch_size, seed=self.seed).steps_per_epoch

    def batch(self, step: int) -> GameBatch:
        """Crops of global step `step`, counted from 0, on the device of the images."""
        _, rows = GlobalBatches(len(self.unlabelled), self.config.optimizer.batch_size, seed=self.seed).batch(step)
        index = torch.from_numpy(rows.copy()).to(self.unlabelled.images.device)
        first, second = (self._crops(self.unlabelled, index, step, which) for which in (FIRST, SECOND))
        if self.labelled is None:
            return GameBatch(first, second, index, first[:0], index[:0])
        batches = GlobalBatches(
            len(self.labelled), self.config.optimizer.labelled_batch_size, seed=self.seed + LABELLED_SEED
        )
        chosen = torch.from_numpy(batches.batch(step)[1].copy()).to(index.device)
        crops = self._crops(self.labelled, chosen, step, LABELLED)
        return GameBatch(first, second, index, crops, self.labelled.labels[chosen])

    def _crops(self, pixels: PixelSet, index: torch.Tensor, step: int, which: int) -> torch.Tensor:
        rng = sample_generator(seed=self.seed, epoch=step, index=which, stream=CROPS_STREAM)
        height, width = pixels.images.shape[2:]
        boxes = draw_boxes(rng, len(index), height=height, width=width, scale=self.config.crop_scale)
        return cut(pixels.images[index], boxes, size=self.config.image_size)
