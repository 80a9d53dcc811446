"""Contrastive training of two encoders on pairs of views that differ in kind, and how much it found on pairs held out.

The two views may have different channels, so nothing is shared: each side has its encoder and its projection head, and the
negatives of a row are the other rows of its batch, both ways round [docs/specification.md 3 and 4: I_NCE as a neural proxy].
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from functools import partial

import torch
from torch import Tensor, nn

from pretrain.base.errors import ConfigError, UserError
from pretrain.good_views.information import Estimate, Scores, estimate, in_batch, info_nce
from pretrain.model.heads import ProjectionHead
from pretrain.run.descend import at_once, descend

PairBatches = Iterable[tuple[Tensor, Tensor]]


class PairEncoders(nn.Module):
    """Two encoders and two projection heads. State-dict names: encoder_1.*, head_1.*, encoder_2.*, head_2.*."""

    def __init__(
        self, encoder_1: nn.Module, encoder_2: nn.Module, *, embedding_dim: int = 128, head: str = "mlp"
    ) -> None:
        """Each encoder: images -> (B, feature_dim), and an attribute `feature_dim`. head: a kind of pretrain.model.heads."""
        super().__init__()
        self.encoder_1, self.encoder_2 = encoder_1, encoder_2
        self.head_1 = ProjectionHead(head, int(encoder_1.feature_dim), embedding_dim)  # type: ignore[arg-type]
        self.head_2 = ProjectionHead(head, int(encoder_2.feature_dim), embedding_dim)  # type: ignore[arg-type]

    def forward(self, view_1: Tensor, view_2: Tensor) -> tuple[Tensor, Tensor]:
        """view_1 (B, ...), view_2 (B, ...) -> unit vectors (B, embedding_dim) of each."""
        return self.head_1(self.encoder_1(view_1)), self.head_2(self.encoder_2(view_2))

    def features(self, view_1: Tensor, view_2: Tensor) -> Tensor:
        """What a probe reads: both encoders' features side by side, (B, feature_dim_1 + feature_dim_2), no head."""
        return torch.cat((self.encoder_1(view_1), self.encoder_2(view_2)), dim=1)


def train_pair(
    networks: PairEncoders,
    batches: PairBatches,
    *,
    learning_rate: float = 1e-3,
    temperature: float = 0.1,
    weight_decay: float = 0.0,
    num_steps: int | None = None,
) -> list[float]:
    """Raise the symmetric in-batch InfoNCE of `networks` by Adam over `batches`; its value (nats) before every step.

    num_steps: how many batches there will be; the rate then falls to zero along a cosine, else it stays. Everything runs on
    the device of the batches. Raises ConfigError for a batch of one pair (it has no negative), UserError where loss or
    gradient is not finite: the networks are then as before that step.
    """
    optimizer = torch.optim.Adam(networks.parameters(), lr=learning_rate, weight_decay=weight_decay)
    networks.train()
    history: list[float] = []
    for step, (view_1, view_2) in enumerate(batches):
        if num_steps is not None:
            optimizer.param_groups[0]["lr"] = learning_rate * 0.5 * (1 + math.cos(math.pi * min(1.0, step / num_steps)))
        information = symmetric_information(*networks(view_1, view_2), temperature=temperature)
        descend(optimizer, -information, check=at_once(partial(_diverged, step, learning_rate)))
        history.append(float(information.detach()))
    return history


def _diverged(step: int, learning_rate: float, loss: float, norm: float) -> UserError:
    return UserError(
        f"training on the pair of views diverged at step {step}: information {-loss:g} nats, gradient {norm:g}; expected "
        f"finite figures. Lower the learning rate (it is {learning_rate:g})"
    )


def symmetric_information(embedding_1: Tensor, embedding_2: Tensor, *, temperature: float) -> Tensor:
    """Mean of InfoNCE from view 1 to 2 and from 2 to 1, nats, of unit vectors (B, D) each; negatives from the batch."""
    matrix = _critic(embedding_1, embedding_2, temperature)
    return 0.5 * (info_nce(in_batch(matrix)) + info_nce(in_batch(matrix.T)))


def _critic(embedding_1: Tensor, embedding_2: Tensor, temperature: float) -> Tensor:
    if temperature <= 0:
        raise ConfigError(f"temperature: expected a positive number, found {temperature}")
    if embedding_1.shape[0] < 2:
        raise ConfigError("a batch of one pair has no negative: expected at least 2 pairs a batch")
    return embedding_1.float() @ embedding_2.float().T / temperature


def held_out_information(
    networks: PairEncoders, batches: PairBatches, *, temperature: float = 0.1, bound: str = "info_nce"
) -> Estimate:
    """The `bound` (a name of pretrain.good_views.information.BOUNDS) on pairs that were not trained on, encoders in evaluation mode.

    Give batches of one size: a batch of B has B - 1 negatives and a ceiling of log B.
    """
    was_training = networks.training
    networks.eval()
    try:
        return estimate(bound, _held_out_scores(networks, batches, temperature))
    finally:
        networks.train(was_training)


@torch.no_grad()
def _held_out_scores(networks: PairEncoders, batches: PairBatches, temperature: float) -> Iterator[Scores]:
    for view_1, view_2 in batches:
        embedding_1, embedding_2 = networks(view_1, view_2)
        yield in_batch(_critic(embedding_1, embedding_2, temperature))
