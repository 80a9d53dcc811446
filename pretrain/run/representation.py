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
BANK_ROWS = 1 << 16  # rows of a bank that are brought to unit length at a time: 512 MiB of 2048 features


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

    See `vote_accuracy`. Labels: int64 (N,), (M,). A bank smaller than `neighbours` votes as a whole.
    """
    similarity, labels = nearest_rows(bank=bank, bank_labels=bank_labels, queries=queries, neighbours=neighbours)
    return vote_accuracy(similarity, labels, query_labels, temperature=temperature)


def nearest_rows(*, bank: Tensor, bank_labels: Tensor, queries: Tensor, neighbours: int) -> tuple[Tensor, Tensor]:
    """Cosine similarity (M, K) and class (M, K) of the K nearest rows of `bank` (N, D) to each of `queries` (M, D), the nearest
    first; K = min(neighbours, N). The bank may lie elsewhere (on disk, in half precision): it is read once, in blocks."""
    queries = F.normalize(queries.float(), dim=1)
    device = queries.device
    similarity = torch.empty(len(queries), 0, device=device)
    labels = torch.empty(len(queries), 0, dtype=bank_labels.dtype, device=device)
    for start in range(0, len(bank), BANK_ROWS):
        block = F.normalize(bank[start : start + BANK_ROWS].to(device).float(), dim=1)
        block_labels = bank_labels[start : start + BANK_ROWS].to(device)
        found: list[tuple[Tensor, Tensor]] = []
        for rows, near, own in zip(
            queries.split(QUERY_ROWS), similarity.split(QUERY_ROWS), labels.split(QUERY_ROWS), strict=True
        ):
            values, places = (rows @ block.T).topk(min(neighbours, len(block)), dim=1)
            values, own = torch.cat([near, values], dim=1), torch.cat([own, block_labels[places]], dim=1)
            best, places = values.topk(min(neighbours, values.shape[1]), dim=1)
            found.append((best, own.gather(1, places)))
        similarity, labels = (torch.cat(parts) for parts in zip(*found, strict=True))
    return similarity, labels


def vote_accuracy(similarity: Tensor, labels: Tensor, query_labels: Tensor, *, temperature: float) -> float:
    """Percent of queries whose class (M,) wins the vote of their neighbours, given by cosine and class (M, K).

    A neighbour of cosine s has exp(s / temperature) votes (Wu et al., 2018, section 3.4); with temperature=inf all have one. Of
    classes with equal votes the first wins.
    """
    num_classes = int(torch.cat([labels.flatten(), query_labels.to(labels.device)]).max()) + 1
    right = 0
    for values, own, truth in zip(
        similarity.split(QUERY_ROWS),
        labels.split(QUERY_ROWS),
        query_labels.to(labels.device).split(QUERY_ROWS),
        strict=True,
    ):
        votes = torch.zeros(len(values), num_classes, device=values.device)
        # exp((s - 1) / T): the same winner, and no overflow for a small T.
        votes.scatter_add_(1, own, ((values - 1) / temperature).exp())
        right += int((votes.argmax(dim=1) == truth).sum())
    return 100 * right / len(similarity)


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
