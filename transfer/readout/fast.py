"""The fast readout's measurements on cached features: the best of many linear heads, few labels, nearest neighbours.

In: features of training and validation images, labels, `FastConfig`. Out: `Choice`s and plain figures. Read `choose_head` first.
Nothing here sees a validation label before one head is chosen.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from pretrain.base.errors import ConfigError, DataError
from pretrain.data.source import some_of_each_class
from pretrain.run.representation import nearest_rows, vote_accuracy
from pretrain.run.schedule import LearningRate
from transfer.readout.fast_config import FastConfig
from transfer.readout.features import FeatureScale, batches_per_epoch, cached_batches, feature_scale
from transfer.readout.heads import Head, LinearHeads, starting_layer, train_epochs
from transfer.readout.linear import MAX_TOP

TWO = "expected two or more, one to train on and one to compare the heads on"


@dataclass(frozen=True)
class Features:
    """Cached features and their labels.

    train_views: (N, D) of each view that heads are trained on. train_centre: (N, D) of the centre crops of the same images.
    val_centre: (M, D). train_labels: int64 (N,). val_labels: int64 (M,). Labels lie on the device that the heads are trained on.
    """

    train_views: Sequence[Tensor]
    train_centre: Tensor
    val_centre: Tensor
    train_labels: Tensor
    val_labels: Tensor
    num_classes: int


@dataclass(frozen=True)
class Tried:
    """A head of a sweep. held_out_top1: percent on the held-out training images; None: it diverged."""

    head: Head
    held_out_top1: float | None


@dataclass(frozen=True)
class Choice:
    """A sweep's outcome.

    tried: every head. chosen: the best of them on the held-out images. num_fit, num_held_out: images trained and compared on.
    top1, top5: percent on the validation images of the chosen pair, trained on fit and held-out images together.
    """

    tried: tuple[Tried, ...]
    chosen: Tried
    num_fit: int
    num_held_out: int
    top1: float
    top5: float

    def to_dict(self) -> dict[str, Any]:
        """For the record: how many heads were tried and what each reached, so that the choice can be judged."""
        return {
            "heads_tried": len(self.tried),
            "heads": [[t.head.learning_rate, t.head.weight_decay, t.held_out_top1] for t in self.tried],
            "diverged": sum(t.held_out_top1 is None for t in self.tried),
            "chosen": {"learning_rate": self.chosen.head.learning_rate, "weight_decay": self.chosen.head.weight_decay},
            "chosen_by": f"top-1 on {self.num_held_out} held-out training images; of equal ones the first",
            "held_out_top1": self.chosen.held_out_top1,
            "num_fit": self.num_fit,
            "trained_again_on": self.num_fit + self.num_held_out,
            "top1": self.top1,
            "top5": self.top5,
        }


def choose_head(features: Features, config: FastConfig, *, positions: Tensor | None = None) -> Choice:
    """Train every head on a part of the training images, compare them on the rest, train the best pair on all, measure it once.

    positions: int64, the training images whose labels may be seen; all where it is None. Raises DataError where a class has one
    image only, ConfigError where every head diverges.
    """
    labels = features.train_labels
    seen = torch.arange(len(labels)) if positions is None else positions
    fit, held_out = hold_out(seen, labels.cpu()[seen], share=config.held_out, seed=config.seed)
    heads, scale = _train(features, config, config.heads, fit)
    correct = _correct(heads, features.train_centre, labels, held_out, scale, k=1)[:, 0]
    tried = tuple(
        Tried(head, 100 * count / len(held_out) if math.isfinite(count) else None)
        for head, count in zip(heads.heads, correct.tolist(), strict=True)
    )
    best = max((t for t in tried if t.held_out_top1 is not None), key=lambda t: t.held_out_top1 or 0.0, default=None)
    if best is None:
        smallest = min(config.learning_rates)
        raise ConfigError(
            f"all {len(tried)} heads diverged; pass smaller rates: learning_rates=[{smallest / 1e4:g}, {smallest / 1e3:g}, "
            f"{smallest / 100:g}], or standardize=true"
        )
    heads, scale = _train(features, config, [best.head], seen)
    top = min(MAX_TOP, features.num_classes)
    every = torch.arange(len(features.val_labels))
    first, among = _correct(heads, features.val_centre, features.val_labels, every, scale, k=top)[0].tolist()
    if not math.isfinite(first):
        raise ConfigError(
            f"the chosen head (learning_rate={best.head.learning_rate:g}) diverged when trained on all images; leave its rate "
            "out of learning_rates"
        )
    return Choice(tried, best, len(fit), len(held_out), 100 * first / len(every), 100 * among / len(every))


def hold_out(positions: Tensor, labels: Tensor, *, share: float, seed: int) -> tuple[Tensor, Tensor]:
    """(fit, held-out) of `positions` (n,) with `labels` (n,): a share of each class, at least one image, at most all but one.

    Raises DataError for a class with a single image.
    """
    counts = torch.bincount(labels)
    single = torch.nonzero(counts == 1).flatten().tolist()
    if single:
        raise DataError(f"{len(single)} classes have a single training image here (class number {single[0]}); {TWO}")
    chosen = torch.tensor(some_of_each_class(labels.tolist(), share, seed=seed))
    is_held_out = torch.zeros(len(positions), dtype=torch.bool)
    is_held_out[chosen] = True
    for label in torch.nonzero(torch.bincount(labels[is_held_out], minlength=len(counts)) == counts).flatten().tolist():
        if counts[label]:  # a share near 1 of a small class: keep one to train on
            is_held_out[torch.nonzero(labels == label)[0]] = False
    return positions[~is_held_out], positions[is_held_out]


def smallest_class(labels: Tensor, class_names: Sequence[str]) -> tuple[int, str]:
    """(images, name) of the class with the fewest. Raises DataError where that is a single one."""
    number, name = min(zip(torch.bincount(labels, minlength=len(class_names)).tolist(), class_names, strict=True))
    if number < 2:
        raise DataError(f"class {name!r} has {number} training image; {TWO}")
    return number, name


def too_few(fraction: float, smallest: tuple[int, str]) -> str | None:
    """Why a readout with this share of the labels is impossible, None where it is not. smallest: of `smallest_class`."""
    number, name = smallest
    drawn = max(1, round(fraction * number))
    if drawn >= 2:
        return None
    return (
        f"{100 * fraction:g} % of the labels is left out: of the {number} training images of class {name!r} that is {drawn}; {TWO} "
        f"(a fraction of {2 / number:.2g} or more)"
    )


def _train(
    features: Features, config: FastConfig, heads: Sequence[Head], positions: Tensor
) -> tuple[LinearHeads, FeatureScale | None]:
    steps = batches_per_epoch(len(positions), config)
    epochs = max(config.epochs, -(-config.least_steps // steps))
    longer = epochs / config.epochs
    schedule = LearningRate(
        base=1.0,
        epochs=epochs,
        steps_per_epoch=steps,
        kind=config.schedule,
        decay=config.decay,
        milestones=tuple(round(milestone * longer) for milestone in config.milestones),
    )
    device, dim = features.train_labels.device, features.train_centre.shape[1]
    layer = starting_layer(dim, features.num_classes, start=config.classifier_start, seed=config.seed)
    classifier = LinearHeads(layer, heads, momentum=config.momentum, device=device)
    scale = None
    if config.standardize:
        of_views = feature_scale(features.train_views, positions)
        scale = FeatureScale(of_views.mean.to(device), of_views.factor.to(device))
    batches = cached_batches(
        features.train_views, features.train_labels, replace(config, epochs=epochs), positions=positions
    )
    scaled = batches if scale is None else ((scale(rows), labels) for rows, labels in batches)
    for _ in train_epochs(classifier, scaled, schedule):
        pass
    return classifier, scale


@torch.no_grad()
def _correct(
    heads: LinearHeads, table: Tensor, labels: Tensor, positions: Tensor, scale: FeatureScale | None, *, k: int
) -> Tensor:
    """How many of the images at `positions` each head has right, and right among its k best: (H, 2); NaN for one that diverged."""
    right = torch.zeros(len(heads.heads), 2, dtype=torch.float64, device=labels.device)
    for index in positions.split(heads.block_rows()):
        rows = table[index.to(table.device)].to(labels.device, torch.float32)
        logits = heads.logits(rows if scale is None else scale(rows))
        hits = logits.topk(k, dim=2).indices == labels[index.to(labels.device), None, None]
        right += torch.stack([hits[:, :, 0].sum(0), hits.any(2).sum(0)], dim=1)
        right[~logits.isfinite().flatten(2).all(2).all(0)] = math.nan
    return right


def few_labels(
    features: Features, config: FastConfig, *, fraction: float, announce: Callable[[str], None]
) -> list[dict[str, Any]]:
    """The same readout with the labels of a share of each class, for each of `fraction_seeds`: what `Choice.to_dict` says, with
    the seed. Smaller shares of a seed are part of its larger ones. Only these labels are seen, also in the choice."""
    results = []
    for seed in config.fraction_seeds:
        drawn = some_of_each_class(features.train_labels.tolist(), float(fraction), seed=seed)
        choice = choose_head(features, replace(config, seed=seed), positions=torch.tensor(drawn))
        announce(f"{100 * fraction:g} % of the labels ({len(drawn)} images), seed {seed}: top-1 {choice.top1:.2f} %")
        results.append({"seed": seed, "num_images": len(drawn), **choice.to_dict()})
    return results


def nearest_neighbours(features: Features, config: FastConfig) -> dict[str, float]:
    """Figures "knn_K/top1" (votes weighted by similarity) and "knn_K_equal_votes/top1" of every K, on centre crops."""
    if not config.neighbours:
        return {}
    similarity, labels = nearest_rows(
        bank=features.train_centre,
        bank_labels=features.train_labels,
        queries=features.val_centre.to(features.val_labels.device),
        neighbours=max(config.neighbours),
    )
    return {
        f"{name}/top1": vote_accuracy(
            similarity[:, :count], labels[:, :count], features.val_labels, temperature=temperature
        )
        for count in config.neighbours
        for name, temperature in ((f"knn_{count}", config.temperature), (f"knn_{count}_equal_votes", math.inf))
    }
