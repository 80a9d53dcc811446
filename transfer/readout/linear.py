"""Linear readout: how much a linear classifier reads off the frozen encoder. Read `train_classifier` first.

In: a frozen encoder, labelled images, `LinearConfig`. Out: the history (loss, top-1, top-5 of every epoch), the
last epoch's answer to every validation image, and the check
that no tensor of the encoder moved meanwhile.
Source: docs/specification.md 1.7.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from tqdm import tqdm

from pretrain.base.errors import ConfigError
from pretrain.run.schedule import LearningRate
from pretrain.views.recipes import RECIPES
from transfer.readout.config import LinearConfig
from transfer.readout.features import (
    FrozenEncoder,
    LabelledImages,
    batches_per_epoch,
    cached_batches,
    encode_table,
    feature_scale,
    fresh_batches,
    state_hash,
    training_recipe,
)
from transfer.readout.heads import Head, LinearHeads, starting_layer, train_epochs

MAX_TOP = 5
FAR_ABOVE = 10  # times ln C

Batches = Iterator[tuple[Tensor, Tensor]]  # (features (B, D), labels (B,)), epoch after epoch


@dataclass(frozen=True)
class Validation:
    """Features float32 (N, D) and labels (N,) of the validation split, encoded once: nothing about them is random."""

    features: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Trained:
    """history: an entry an epoch. best: int64 (N, k) on the CPU, the k classes of the highest logits of every validation image
    after the last epoch, the highest first; k = min(MAX_TOP, C)."""

    history: tuple[dict[str, float], ...]
    best: Tensor


@torch.no_grad()
def accuracy(logits: Tensor, labels: Tensor, *, k: int) -> tuple[float, float]:
    """Top-1 and top-k accuracy in percent. logits: (N, C), labels: (N,), 1 <= k <= C."""
    best = logits.topk(k, dim=1).indices
    hits = best == labels[:, None]
    return 100 * hits[:, 0].float().mean().item(), 100 * hits.any(dim=1).float().mean().item()


def train_classifier(
    batches: Batches,
    validation: Validation,
    config: LinearConfig,
    *,
    num_train: int,
    num_classes: int,
    announce: Callable[[str], None],
) -> Trained:
    """SGD on one linear layer, started as the configuration says (seeded); one entry of the history an epoch.

    batches: exactly config.epochs times ceil(num_train / batch_size) of them. Raises ConfigError when the loss or an
    accuracy stops being finite, with a rate to try; announces at once, once, that the loss is far above a constant answer's.
    """
    device, dim = validation.features.device, validation.features.shape[1]
    layer = starting_layer(dim, num_classes, start=config.classifier_start, seed=config.seed)
    only = Head(config.scaled_learning_rate, config.weight_decay)
    classifier = LinearHeads(layer, [only], momentum=config.momentum, device=device)
    steps = batches_per_epoch(num_train, config)
    schedule = LearningRate(
        base=1.0,
        epochs=config.epochs,
        steps_per_epoch=steps,
        kind=config.schedule,
        decay=config.decay,
        milestones=config.milestones,
    )
    history: list[dict[str, float]] = []
    constant_answer = math.log(num_classes)
    with tqdm(total=config.epochs * steps, unit="step", desc="readout") as bar:
        counted = _counting(batches, bar)
        for epoch, losses in enumerate(train_epochs(classifier, counted, schedule)):
            rate = only.learning_rate * schedule(epoch * steps)
            logits = classifier.logits(validation.features)[:, 0]
            mean_loss = losses.item()
            if not (math.isfinite(mean_loss) and torch.isfinite(logits).all()):
                raise ConfigError(_diverged(config, epoch + 1, mean_loss))
            above = mean_loss > FAR_ABOVE * constant_answer
            if above and not any(entry["train_loss"] > FAR_ABOVE * constant_answer for entry in history):
                announce(
                    f"epoch {epoch + 1}: the training loss is {mean_loss:.3g}; a constant answer has {constant_answer:.3g}. "
                    f"{_lower_rate(config)}"
                )
            k = min(MAX_TOP, num_classes)
            top1, top5 = accuracy(logits, validation.labels, k=k)
            history.append(
                {"epoch": epoch + 1, "learning_rate": rate, "train_loss": mean_loss, "top1": top1, "top5": top5}
            )
            bar.set_postfix({"loss": f"{mean_loss:.3f}", "top1": f"{top1:.1f}"})
    return Trained(tuple(history), logits.topk(k, dim=1).indices.cpu())


def _counting(batches: Batches, bar: tqdm) -> Batches:
    for batch in batches:
        yield batch
        bar.update()


def _diverged(config: LinearConfig, epoch: int, loss: float) -> str:
    return f"the readout diverged in epoch {epoch} (loss {loss}). {_lower_rate(config)}"


def _lower_rate(config: LinearConfig) -> str:
    return (
        f"learning_rate={config.learning_rate:g} is too high for these features: pass learning_rate={config.learning_rate / 10:g}, "
        "or --config-file small, which makes a readout insensitive to the scale of its features (30 is made for 2048 features of "
        "a 224 px ResNet-50 at batch 256)"
    )


@contextmanager
def encoder_stands_still(module: nn.Module) -> Iterator[Callable[[], str]]:
    """Assert that the block changed no parameter and no buffer of `module`; yields a function that returns the hash.

    An AssertionError is a bug of ours, not the user's, so it keeps its traceback.
    """
    before = state_hash(module)
    yield lambda: before
    after = state_hash(module)
    assert before == after, f"the frozen encoder moved during the readout: {before[:12]} before, {after[:12]} after"


def measure(
    encoder: FrozenEncoder,
    train: LabelledImages,
    val: LabelledImages,
    config: LinearConfig,
    *,
    announce: Callable[[str], None],
) -> Trained:
    """Encode, train, validate. Raises as `train_classifier`."""
    title = "validation features"
    held_out = encode_table(encoder, val, RECIPES["center"], config, num_views=1, title=title)[0]
    if config.cached_views == 0:
        batches = fresh_batches(encoder, train, config)
    else:
        views = min(config.cached_views, config.epochs)  # no epoch would look at the others
        table = encode_table(
            encoder, train, training_recipe(config), config, num_views=views, title="training features"
        )
        if config.standardize:
            table, held_out = standardized(table, held_out)
        batches = cached_batches(table, train.labels.to(table.device), config)
    validation = Validation(held_out, val.labels.to(held_out.device))
    return train_classifier(
        batches, validation, config, num_train=len(train), num_classes=len(train.classes), announce=announce
    )


def standardized(table: Tensor, held_out: Tensor) -> tuple[Tensor, Tensor]:
    """Both with the mean and deviation of `table` (V, N, D) over views and images taken out; dead features become 0."""
    scale = feature_scale(table)
    return scale(table), scale(held_out)
