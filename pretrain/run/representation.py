"""Figures of a representation without training anything on it: nearest neighbours, effective rank, spread, InfoNCE's bound.

In: features or embeddings of some images, one row each. Out: plain numbers.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

KNN_TEMPERATURE = 0.07  # of the votes, Wu et al., 2018
QUERY_ROWS = 512  # rows of a block of similarities


def knn_accuracy(
    *,
    bank: Tensor,
    bank_labels: Tensor,
    queries: Tensor,
    query_labels: Tensor,
    neighbours: int,
    temperature: float = KNN_TEMPERATURE,
) -> float:
    """Share of `queries` (M, D), in percent, whose class wins the vote of the `neighbours` nearest rows of `bank` (N, D).

    A neighbour of cosine s has exp(s / temperature) votes (Wu et al., 2018, section 3.4). Labels: int64 (N,), (M,). A bank
    smaller than `neighbours` votes as a whole; of classes with equal votes the first wins.
    """
    bank, queries = (F.normalize(rows.float(), dim=1) for rows in (bank, queries))
    num_classes = int(torch.cat([bank_labels, query_labels]).max()) + 1
    right = 0
    for rows, labels in zip(queries.split(QUERY_ROWS), query_labels.split(QUERY_ROWS), strict=True):
        similarity, nearest = (rows @ bank.T).topk(min(neighbours, len(bank)), dim=1)
        votes = torch.zeros(len(rows), num_classes, device=rows.device)
        # exp((s - 1) / T): the same winner, and no overflow for a small T.
        votes.scatter_add_(1, bank_labels[nearest], ((similarity - 1) / temperature).exp())
        right += int((votes.argmax(dim=1) == labels).sum())
    return 100 * right / len(queries)


def effective_rank(rows: Tensor) -> float:
    """exp of the entropy of the singular values of `rows` (N, D), divided by their sum; between 1 and min(N, D).

    Roy and Vetterli, 2007; of features it is RankMe (Garrido et al., 2023). Not centred, as there: a large common mean counts
    as one direction. Rows that are all zero have rank 1; what is not finite has none (NaN).
    """
    values = rows.double()
    if not values.isfinite().all():
        return math.nan
    # Of the smaller Gram matrix: a singular value below 1e-8 of the largest is rounding there, and adds nothing to the sum.
    gram = values.T @ values if values.shape[0] >= values.shape[1] else values @ values.T
    singular = torch.linalg.eigvalsh(gram).clamp_min(0).sqrt()
    total = float(singular.sum())
    if not total > 0:
        return 1.0
    share = singular / total
    return math.exp(float(torch.special.entr(share).sum()))


def spread(embeddings: Tensor) -> float:
    """Mean over the D entries of the standard deviation over the rows of unit vectors (N, D): 1/sqrt(D) where they are uniform on
    the sphere, 0 where all are one point."""
    return float(embeddings.double().std(dim=0, unbiased=False).mean())


def information_ceiling(num_negatives: int) -> float:
    """ln(K + 1) nats: what `information_bound` cannot pass, and the loss of a uniform guess."""
    return math.log(num_negatives + 1)


def information_bound(loss: float, *, num_negatives: int) -> float:
    """ln(K + 1) - L nats, InfoNCE's lower bound of the mutual information of two views, L the mean loss with K negatives.

    The convention of pretrain/good_views/information.py, which bounds it from held-out pairs. From a training loss it is an
    estimate: the pairs are those trained on, and the keys of a queue are older than the queries.
    """
    return information_ceiling(num_negatives) - loss
