"""Supervised pre-training: the baseline that contrastive methods are compared with, on the same images with their labels.

An encoder and a linear layer over its features, cross-entropy against the class of each image (the folder it lies in). For the
loop it is what `Contrast` is: `trained`, `step`, `after_step`. No key network, no memory, nothing to remember.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pretrain.base.contract import InputContract
from pretrain.config import EncoderConfig, MethodConfig
from pretrain.data.loader import ViewBatch
from pretrain.model.channels import channels_of
from pretrain.model.contrast import StepOutput, build_encoder
from pretrain.model.encoder import ResNetEncoder
from pretrain.model.loss import full_precision
from pretrain.run.ranks import Ranks


class Classifier(nn.Module):
    """encoder, and head: Linear(features, classes)."""

    encoder: ResNetEncoder

    def __init__(self, encoder: ResNetEncoder, num_classes: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(encoder.feature_dim, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, S, S) -> logits (B, classes)."""
        logits: Tensor = self.head(self.encoder(images))
        return logits


class Supervised(nn.Module):
    """query: the classifier, by the name that a contrastive method's query network has in a checkpoint.

    labels: (N,) int64, the class of each image of the source.
    """

    labels: Tensor

    def __init__(
        self, *, encoder: EncoderConfig, config: MethodConfig, contract: InputContract, seed: int, labels: Tensor
    ) -> None:
        super().__init__()
        torch.manual_seed(seed)  # the only use of the global generator: initialisation
        self.config, self.contract = config, contract
        (self.tower,) = config.towers
        self.query = Classifier(build_encoder(encoder, tower=self.tower), int(labels.max()) + 1)
        self.register_buffer("labels", labels, persistent=False)  # they follow from the images' names

    @property
    def trained(self) -> Classifier:
        """What takes gradient."""
        return self.query

    def step(self, batch: ViewBatch, *, forward: Callable[..., Any], ranks: Ranks, step: int) -> StepOutput:
        """Mean cross-entropy (nats) of one batch of uint8 views on the device, and the share that is classified rightly."""
        del ranks, step  # every rank's batch stands for itself
        logits = full_precision(forward(self._channels(batch.images[:, 0])))
        labels = self.labels[batch.index]
        loss = F.cross_entropy(logits, labels)
        accuracy = (logits.detach().argmax(dim=1) == labels).float().mean()
        figures = {"loss": loss.detach(), "loss_instance": loss.detach(), "accuracy": accuracy}
        return StepOutput(loss, {}, batch.index, figures)

    def after_step(
        self, outputs: Sequence[StepOutput], *, ranks: Ranks, momentum: float, sound: Tensor | None = None
    ) -> None:
        """Nothing follows an optimiser step."""

    def tower_outputs(self, images: Tensor) -> list[tuple[Tensor, Tensor]]:
        """uint8 (B, 3, S, S) -> features and logits scaled to length 1, as the monitor asks of every method."""
        features = self.query.encoder(self._channels(images))
        return [(features, F.normalize(self.query.head(features), dim=1))]

    def _channels(self, images: Tensor) -> Tensor:
        return channels_of(images, self.tower, self.contract, dtype=next(self.query.parameters()).dtype)
