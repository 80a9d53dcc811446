"""InfoNCE: softmax cross-entropy of one positive among K negatives [specification 1.5], for each memory.

| function   | positive                | negatives of a query                                  | gradient        |
|------------|-------------------------|-------------------------------------------------------|-----------------|
| `info_nce` | its key                 | the K rows of the queue                               | query           |
| `bank_nce` | its row of the bank     | K rows drawn from the N - 1 others, with replacement  | query           |
| `batch_nce`| its other view          | both views of the other images of the batch, 2B - 2   | query and keys  |

All compute in float32, in float64 where that comes in.
"""

from __future__ import annotations

from collections.abc import Sequence
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

    query (B, D) carries gradient; key (B, D) and queue (K, D) do not. At random initialisation the loss is about ln(K + 1) for
    small D-dimensional cosines.
    """
    with torch.autocast(query.device.type, enabled=False):
        scaled = full_precision(query) / temperature
        positive = (scaled * full_precision(key.detach())).sum(dim=1)
        negatives = scaled @ full_precision(queue.detach()).T
        return _cross_entropy(positive, negatives, temperature)


def bank_nce(*, query: Tensor, bank: Tensor, index: Tensor, others: Tensor, temperature: float) -> ContrastOutput:
    """InfoNCE against a memory bank: `bank_logits` says which rows are positive and negative."""
    with torch.autocast(query.device.type, enabled=False):
        positive, negatives = bank_logits(query=query, bank=bank, index=index, others=others, temperature=temperature)
        return _cross_entropy(positive, negatives, temperature)


def bank_logits(
    *, query: Tensor, bank: Tensor, index: Tensor, others: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """Cosines / T of each query with its own row, (B,), and with K others, (B, K).

    query (B, D) carries gradient, bank (N, D) does not; index (B,): a query's own row. others (K,): draws from the N - 1 rows
    that are left when a query's own is taken out, counted without it (memory.draw_others): from that row on they are one
    further in the bank. So no query meets its own row, one set of draws serves all of them, and the logits are two matrix
    products; to gather K rows for every query takes 1 GB at K = 65536 and 32 images [specification 1.5].
    """
    scaled, bank = full_precision(query) / temperature, full_precision(bank.detach())
    positive = (scaled * bank[index]).sum(dim=1)
    before, after = scaled @ bank[others].T, scaled @ bank[others + 1].T
    return positive, torch.where(others >= index[:, None], after, before)


def batch_nce(
    *, query: Tensor, key: Tensor, index: Tensor, candidates: Tensor, candidate_index: Tensor, temperature: float
) -> ContrastOutput:
    """InfoNCE with the batch as its memory: SimCLR's NT-Xent of one direction, with gradient to both sides.

    query, key (B, D): two views of the images `index` (B,). candidates (M, D): embeddings of both views of the whole batch, the
    queries and keys among them, of the images `candidate_index` (M,). Those of a query's own image are not its negatives, so that
    neither the query itself nor its key (nor the same image drawn twice) stands among them.
    """
    with torch.autocast(query.device.type, enabled=False):
        scaled = full_precision(query) / temperature
        positive = (scaled * full_precision(key)).sum(dim=1)
        negatives = scaled @ full_precision(candidates).T
        own = index[:, None] == candidate_index
        return _cross_entropy(positive, negatives.masked_fill(own, torch.finfo(negatives.dtype).min), temperature)


def mean_output(outputs: Sequence[ContrastOutput], weights: Sequence[float] | None = None) -> ContrastOutput:
    """The (weighted) mean of each figure."""
    if len(outputs) == 1:
        return outputs[0]
    shares = [1.0] * len(outputs) if weights is None else list(weights)
    return ContrastOutput(
        *(
            sum((share * value for share, value in zip(shares, values, strict=True)), torch.zeros_like(values[0]))
            / sum(shares)
            for values in zip(*outputs, strict=True)
        )
    )


def full_precision(values: Tensor) -> Tensor:
    """float64 as it is, anything else as float32."""
    return values if values.dtype == torch.float64 else values.float()


def _cross_entropy(positive: Tensor, negatives: Tensor, temperature: float) -> ContrastOutput:
    """Of logits (B,) and (B, K), as log(1 + exp(lse(negatives) - positive)): the (B, K+1) logits with the positive in front are
    never copied together."""
    loss = torch.nn.functional.softplus(torch.logsumexp(negatives, dim=1) - positive).mean()
    with torch.no_grad():
        accuracy = (negatives.amax(dim=1) < positive).to(loss.dtype).mean()
        cosine = positive.mean() * temperature
    return ContrastOutput(loss, accuracy, cosine)
