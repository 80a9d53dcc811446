"""Figures of a representation against slow references, analytic values and the library function that they stand for."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pretrain.good_views.information import Scores, info_nce
from pretrain.run import representation
from pretrain.run.representation import (
    effective_rank,
    information_bound,
    information_ceiling,
    knn_accuracy,
    nearest_rows,
    spread,
)
from tests.cases import each


def clusters(per_class, *, noise, seed):
    """(rows, labels) of four classes around four directions in 16 dimensions."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(4).repeat_interleave(per_class)
    return torch.eye(16)[labels] + noise * torch.randn(4 * per_class, 16, generator=generator), labels


def slow_knn(bank, bank_labels, queries, query_labels, neighbours):
    """Wu et al., 2018, one query at a time."""
    right = 0
    for query, label in zip(queries, query_labels.tolist(), strict=True):
        cosines = [float(F.cosine_similarity(query, row, dim=0)) for row in bank]
        votes = Counter()
        for index in sorted(range(len(bank)), key=lambda i: -cosines[i])[:neighbours]:
            votes[int(bank_labels[index])] += math.exp(cosines[index] / 0.07)
        right += votes.most_common(1)[0][0] == label
    return 100 * right / len(queries)


@each("neighbours", [1, 5, 200])
def test_knn_is_the_weighted_vote_of_a_slow_reference(neighbours):
    bank, bank_labels = clusters(12, noise=0.4, seed=0)
    queries, query_labels = clusters(6, noise=0.4, seed=1)
    queries = 7 * queries  # lengths do not matter
    found = knn_accuracy(
        bank=bank, bank_labels=bank_labels, queries=queries, query_labels=query_labels, neighbours=neighbours
    )
    assert found == pytest.approx(slow_knn(bank, bank_labels, queries, query_labels, neighbours))
    assert 40 < found < 100  # neither trivial nor at chance, which is 25


def test_knn_on_a_bank_in_blocks_is_knn_on_the_whole_bank(monkeypatch):
    bank, bank_labels = clusters(12, noise=0.4, seed=0)
    queries, _ = clusters(6, noise=0.4, seed=1)
    whole = nearest_rows(bank=bank, bank_labels=bank_labels, queries=queries, neighbours=7)
    monkeypatch.setattr(representation, "BANK_ROWS", 5)
    monkeypatch.setattr(representation, "QUERY_ROWS", 3)
    similarity, labels = nearest_rows(bank=bank, bank_labels=bank_labels, queries=queries, neighbours=7)
    assert torch.equal(labels, whole[1]) and similarity.shape == (24, 7)
    torch.testing.assert_close(similarity, whole[0])


def test_knn_weights_a_near_neighbour_more_than_two_far_ones():
    bank = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.6, 0.8]])
    for label, expected in ((0, 100.0), (1, 0.0)):
        found = knn_accuracy(
            bank=bank,
            bank_labels=torch.tensor([0, 1, 1]),
            queries=torch.tensor([[1.0, 0.0]]),
            query_labels=torch.tensor([label]),
            neighbours=3,
        )
        assert found == expected


@pytest.mark.parametrize("shape", [(40, 12), (12, 40)])
def test_effective_rank_is_the_entropy_of_the_singular_values(shape):
    rows = torch.randn(*shape, generator=torch.Generator().manual_seed(0)) + 0.5
    singular = np.linalg.svd(rows.double().numpy(), compute_uv=False)
    share = singular / singular.sum()
    assert effective_rank(rows) == pytest.approx(np.exp(-(share * np.log(share)).sum()), rel=1e-6)


def test_effective_rank_of_equal_directions_is_their_number_and_of_one_point_is_one():
    basis = torch.linalg.qr(torch.randn(30, 30, generator=torch.Generator().manual_seed(0)))[0]
    assert effective_rank(3 * basis[:7]) == pytest.approx(7)
    assert effective_rank(torch.ones(50, 8)) == pytest.approx(1, abs=1e-5)
    assert effective_rank(torch.zeros(50, 8)) == 1


def test_spread_is_one_over_root_d_on_the_sphere_and_zero_at_a_point():
    rows = F.normalize(torch.randn(20000, 64, generator=torch.Generator().manual_seed(0)), dim=1)
    assert spread(rows) == pytest.approx(1 / 8, rel=0.01)
    assert spread(rows[:1].expand(50, 64)) == pytest.approx(0, abs=1e-7)


def test_the_bound_from_a_loss_is_that_of_the_scores():
    generator = torch.Generator().manual_seed(0)
    positive, negative = torch.randn(32, generator=generator) + 3, torch.randn(32, 9, generator=generator)
    logits = torch.cat([positive[:, None], negative], dim=1)
    loss = float(F.cross_entropy(logits, torch.zeros(32, dtype=torch.int64)))
    bound = information_bound(loss, num_negatives=9)
    assert bound == pytest.approx(float(info_nce(Scores(positive, negative))), abs=1e-6)
    assert bound < information_ceiling(9) == pytest.approx(math.log(10))
