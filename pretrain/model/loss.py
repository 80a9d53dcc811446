"""InfoNCE: softmax cross-entropy of one positive among K negatives [specification 1.5]."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class ContrastOutput(NamedTuple):
    """Figures of one batch, 0-d.

    loss: mean InfoNCE (nats), with gradient.
    accuracy: share of queries nearest to their own key, in [0, 1].
    positive: mean cosine of a query and its key.
    """

    loss: Tensor
    accuracy: Tensor
    positive: Tensor


def info_nce(*, query: Tensor, key: Tensor, queue: Tensor, temperature: float) -> ContrastOutput:
    """-log( exp(q.k/T) / (exp(q.k/T) + sum_j exp(q.queue_j/T)) ), mean over the batch.

    query (B, D) carries gradient; key (B, D) and queue (K, D) do not. Computed in float32 whatever comes in, as
    log(1 + exp(lse(negatives) - positive)), so that the (B, K+1) logits with the positive in front are never copied
    together. At random initialisation the loss is about ln(K + 1) for small D-dimensional cosines.
    """
    with torch.autocast(query.device.type, enabled=False):
        scaled = query.float() / temperature
        positive = (scaled * key.detach().float()).sum(dim=1)
        negatives = scaled @ queue.detach().float().T
        loss = torch.nn.functional.softplus(torch.logsumexp(negatives, dim=1) - positive).mean()
        with torch.no_grad():
            accuracy = (negatives.amax(dim=1) < positive).float().mean()
            cosine = positive.mean() * temperature
    return ContrastOutput(loss, accuracy, cosine)
