"""InfoNCE against the textbook form, analytic values and invariances."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from pretrain.model.loss import info_nce


def unit(*shape, seed=0):
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64), dim=-1)


def textbook(query, key, queue, temperature):
    """(B, K+1) logits, the positive in column 0, cross-entropy: as the reference computes it."""
    logits = torch.cat([(query * key).sum(1, keepdim=True), query @ queue.T], dim=1) / temperature
    return F.cross_entropy(logits, torch.zeros(len(query), dtype=torch.long)), logits


def test_loss_and_gradient_equal_the_textbook_form():
    query, key, queue = unit(8, 16, seed=1), unit(8, 16, seed=2), unit(50, 16, seed=3)
    slow_query = query.clone().requires_grad_()
    expected, logits = textbook(slow_query, key, queue, 0.15)
    expected.backward()
    fast_query = query.clone().requires_grad_()
    output = info_nce(query=fast_query, key=key, queue=queue, temperature=0.15)
    output.loss.backward()
    torch.testing.assert_close(output.loss, expected, rtol=1e-12, atol=1e-12)  # float64 in, float64 out
    torch.testing.assert_close(fast_query.grad, slow_query.grad, rtol=1e-12, atol=1e-12)
    assert output.accuracy == (logits.argmax(1) == 0).double().mean()
    torch.testing.assert_close(output.positive, (query * key).sum(1).mean(), rtol=1e-12, atol=1e-12)


def test_equal_cosines_give_the_log_of_k_plus_one():
    """Positive and all K negatives at the same cosine: the guess is uniform over K + 1."""
    query = torch.zeros(4, 8)
    query[:, 0] = 1
    loss = info_nce(query=query, key=query, queue=query[:1].expand(99, 8), temperature=0.07).loss
    assert math.isclose(loss.item(), math.log(100), rel_tol=1e-6)


def test_a_perfect_match_among_opposites_costs_nothing():
    query = unit(4, 8).float()
    output = info_nce(query=query, key=query, queue=-query, temperature=0.02)
    assert output.loss < 1e-3
    assert output.accuracy == 1
    assert info_nce(query=query, key=-query, queue=query, temperature=0.02).accuracy == 0


def test_the_order_of_the_queue_does_not_matter():
    query, key, queue = unit(8, 16, seed=1), unit(8, 16, seed=2), unit(50, 16, seed=3)
    first = info_nce(query=query, key=key, queue=queue, temperature=0.2).loss
    torch.testing.assert_close(info_nce(query=query, key=key, queue=queue.flip(0), temperature=0.2).loss, first)


def test_no_gradient_reaches_key_or_queue():
    query, key, queue = (unit(4, 8, seed=i).requires_grad_() for i in range(3))
    info_nce(query=query, key=key, queue=queue, temperature=0.2).loss.backward()
    assert query.grad is not None
    assert key.grad is None
    assert queue.grad is None


def test_half_precision_inputs_are_computed_in_float32():
    query = unit(4, 8).to(torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert info_nce(query=query, key=query, queue=query, temperature=0.1).loss.dtype == torch.float32
