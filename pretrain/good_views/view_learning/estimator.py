"""The estimator of a game: two encoders, one a view, and a bound on the information that they find.

Nats, differentiable by the views and by the networks. Source: docs/specification.md 4.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import spectral_norm

from pretrain.good_views.encoders import VIEW_CHANNELS, build_view_encoder
from pretrain.good_views.information import Scores, donsker_varadhan, in_batch, info_nce
from pretrain.good_views.view_learning.config import EstimatorConfig
from pretrain.model.loss import bank_logits
from pretrain.model.memory import draw_others, move_rows


class Estimator(nn.Module):
    """view_1 (B, 1, S, S), view_2 (B, 2, S, S) -> nats. bank_1, bank_2: (N, dim), empty without a bank."""

    bank_1: Tensor
    bank_2: Tensor

    def __init__(self, config: EstimatorConfig, *, num_images: int, seed: int) -> None:
        """num_images: N, rows of the memory bank where there is one."""
        super().__init__()
        self.config = config
        self.seed = seed
        self.encoders = nn.ModuleList(build_view_encoder(config.encoder, channels) for channels in VIEW_CHANNELS)
        self.heads = nn.ModuleList(
            nn.Linear(int(encoder.feature_dim), config.dim)  # type: ignore[arg-type]
            for encoder in self.encoders
        )
        if config.spectral_norm:
            for module in list(self.modules()):
                if isinstance(module, nn.Conv2d | nn.Linear):
                    spectral_norm(module)
        rows = num_images if config.bound == "memory_bank" else 0
        generator = torch.Generator().manual_seed(seed)
        for side in (1, 2):
            start = functional.normalize(torch.randn(rows, config.dim, generator=generator), dim=1)
            self.register_buffer(f"bank_{side}", start)

    def embed(self, view_1: Tensor, view_2: Tensor) -> tuple[Tensor, Tensor]:
        """(B, dim) of each view: raw for dv, of unit length otherwise."""
        one, two = (
            head(encoder(view)) for head, encoder, view in zip(self.heads, self.encoders, (view_1, view_2), strict=True)
        )
        return (one, two) if self.config.bound == "dv" else (functional.normalize(one), functional.normalize(two))

    def scores(self, embeddings: tuple[Tensor, Tensor], *, index: Tensor, step: int) -> tuple[Scores, Scores]:
        """The critic's values from view 1 to 2 and from 2 to 1. index (B,): rows of the images, for the bank."""
        one, two = embeddings
        config = self.config
        if config.bound == "memory_bank":
            others = draw_others(len(self.bank_1), config.num_negatives, seed=self.seed, step=step, device=index.device)
            first, second = (
                Scores(*bank_logits(query=query, bank=bank, index=index, others=others, temperature=config.temperature))
                for query, bank in ((one, self.bank_2), (two, self.bank_1))
            )
            return first, second
        # A dot product of D raw numbers is divided by sqrt(D), so that a fresh critic's values do not depend on D (ours).
        scale = math.sqrt(config.dim) if config.bound == "dv" else config.temperature
        matrix = one.float() @ two.float().T / scale
        return in_batch(matrix), in_batch(matrix.T)

    def information(self, scores: tuple[Scores, Scores]) -> Tensor:
        """The bound in nats: for dv over all pairs, for the others the mean of both directions.

        The source adds its directions up; the mean keeps the figure in nats of I, and halves its weight in the loss.
        """
        if self.config.bound == "dv":
            return donsker_varadhan(scores[0])
        return 0.5 * (info_nce(scores[0]) + info_nce(scores[1]))

    def forward(self, view_1: Tensor, view_2: Tensor, *, index: Tensor, step: int) -> Tensor:
        """The bound on this batch, nats."""
        return self.information(self.scores(self.embed(view_1, view_2), index=index, step=step))

    @torch.no_grad()
    def remember(self, embeddings: tuple[Tensor, Tensor], *, index: Tensor) -> None:
        """Move the bank's rows of these images: momentum x old + (1 - momentum) x new, of unit length again."""
        if self.config.bound != "memory_bank":
            return
        for bank, new in zip((self.bank_1, self.bank_2), embeddings, strict=True):
            move_rows(bank, new, index=index, momentum=self.config.bank_momentum)


def gradient_penalty(joint: Tensor, views: tuple[Tensor, Tensor]) -> Tensor:
    """Mean over pairs of the squared gradient of the joint scores (B,) by both views, which must require gradients.

    BatchNorm couples the pairs of a batch a little; the gradient of the sum is taken for that of each.
    """
    gradients = torch.autograd.grad(joint.sum(), views, create_graph=True)
    return sum((gradient.square().flatten(1).sum(1).mean() for gradient in gradients), joint.new_zeros(()))
