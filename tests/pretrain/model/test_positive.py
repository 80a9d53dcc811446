"""A positive never stands among its own negatives: for queue, bank and batch, each with the fault that the test must find.

A published library leaves it in. What is compared are logits: where the positive's vector is among the negatives, two are equal.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pretrain.model import contrast
from pretrain.model import loss as loss_module
from pretrain.model.loss import full_precision
from pretrain.model.memory import draw_others
from pretrain.run.ranks import Ranks
from tests.pretrain.model.tiny_methods import NUM_IMAGES, PRESETS, batch_of, build, preset, use_tiny_encoders


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    use_tiny_encoders(monkeypatch)


def positives_among_negatives(name, patch, **over):
    """How many queries of eight steps have a negative with the logit of their positive."""
    found, honest = [], loss_module._cross_entropy

    def watched(positive, negatives, temperature):
        found.append(int(((negatives - positive[:, None]).abs() < 1e-9).any(dim=1).sum()))
        return honest(positive, negatives, temperature)

    patch.setattr(loss_module, "_cross_entropy", watched)
    method = build(preset(name, bank_negatives=NUM_IMAGES - 1, queue_size=12, **over))
    for step in range(8):
        # Every other step an image comes twice.
        batch = batch_of(
            6, step=step, index=[4, 9, 4, 2, 11, 7] if step % 2 and method.config.memory != "queue" else None
        )
        output = method.step(batch, forward=method.trained, ranks=Ranks(), step=step)
        method.after_step([output], ranks=Ranks(), momentum=0.9)
    return sum(found)


@pytest.mark.parametrize("name", PRESETS)
def test_no_preset_has_a_positive_among_its_negatives(name, monkeypatch):
    assert positives_among_negatives(name, monkeypatch, jigsaw=True) == 0


def enqueue_before_the_logits(patch):
    honest = contrast.info_nce

    def fault(*, query, key, queue, temperature):
        return honest(query=query, key=key, queue=torch.cat([queue[len(key) :], key]), temperature=temperature)

    patch.setattr(contrast, "info_nce", fault)


def sampler_that_may_hit_its_own(patch):
    def fault(*, query, bank, index, others, temperature):
        scaled = full_precision(query) / temperature
        return (scaled * bank[index]).sum(dim=1), scaled @ bank[others].T

    patch.setattr(loss_module, "bank_logits", fault)


def diagonal_left_in(patch):
    honest = contrast.batch_nce
    patch.setattr(
        contrast,
        "batch_nce",
        lambda *, candidate_index, **rest: honest(candidate_index=torch.full_like(candidate_index, -1), **rest),
    )


def masked_by_place(patch):
    """Mask what stands in the query's place: an image that comes twice is missed."""
    honest = contrast.batch_nce

    def fault(*, index, candidate_index, **rest):
        place = torch.arange(len(index))
        return honest(index=place, candidate_index=torch.arange(len(candidate_index) // 2).repeat(2), **rest)

    patch.setattr(contrast, "batch_nce", fault)


@pytest.mark.parametrize(
    ("name", "plant", "share"),
    [
        ("moco_v2", enqueue_before_the_logits, 1),
        ("instdis", sampler_that_may_hit_its_own, 0.5),
        ("simclr", diagonal_left_in, 1),
    ],
)
def test_control_the_fault_is_found(name, plant, share, monkeypatch):
    plant(monkeypatch)
    assert positives_among_negatives(name, monkeypatch) >= share * 8 * 6


def test_another_view_of_the_same_image_is_no_negative_either(monkeypatch):
    """An image that stands in for an unreadable one can come twice in a batch."""

    def other_negatives(patch):
        seen, honest = [], loss_module._cross_entropy

        def watched(positive, negatives, temperature):
            seen.append((negatives > -1e300).sum(dim=1).tolist())
            return honest(positive, negatives, temperature)

        patch.setattr(loss_module, "_cross_entropy", watched)
        method, batch = build(preset("simclr")), batch_of(6, step=0, index=[4, 9, 4, 2, 11, 7])
        method.step(batch, forward=method.trained, ranks=Ranks(), step=0)
        return seen

    with monkeypatch.context() as patch:
        assert other_negatives(patch) == [[8, 10, 8, 10, 10, 10]] * 2  # 2B - 2, twice two less
    masked_by_place(monkeypatch)
    assert other_negatives(monkeypatch) == [[10] * 6] * 2  # control


def test_draws_of_the_bank_are_uniform_over_the_other_images():
    """Each of the N - 1 others equally often, with replacement, and independent from step to step."""
    rows, count, steps = 12, 400, 50
    draws = torch.cat(
        [draw_others(rows, count, seed=1, step=step, device=torch.device("cpu")) for step in range(steps)]
    )
    bank = torch.eye(rows, dtype=torch.float64)
    for own in (0, 5, rows - 1):
        _, negatives = loss_module.bank_logits(
            query=torch.arange(rows, dtype=torch.float64)[None],  # the logit of a row is its number
            bank=bank,
            index=torch.tensor([own]),
            others=draws,
            temperature=1.0,
        )
        counts = np.bincount(negatives[0].long().numpy(), minlength=rows)
        assert counts[own] == 0
        expected = count * steps / (rows - 1)
        chi = ((np.delete(counts, own) - expected) ** 2 / expected).sum()
        assert chi < 29.6  # 0.1 % of a chi-square of 10 degrees
    half = draws.view(steps, count)
    assert len({tuple(row.tolist()) for row in half}) == steps
