"""The classifier of the readout against slow references, its schedule, its divergence, and the guard over the encoder."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from pretrain.base.errors import ConfigError
from tests.cases import each
from transfer.readout.config import LinearConfig
from transfer.readout.features import cached_batches, load_frozen_encoder, load_splits, state_hash
from transfer.readout.linear import Validation, accuracy, encoder_stands_still, measure, standardized, train_classifier

TINY = LinearConfig(
    epochs=4, batch_size=8, learning_rate=0.5, milestones=(2,), device="cpu", precision="fp32", num_workers=0
)
N, D, C = 21, 6, 4  # 21 images in batches of 8: the last batch is smaller


def make_problem(seed=0, views=2):
    generator = torch.Generator().manual_seed(seed)
    table = torch.randn(views, N, D, generator=generator)
    labels = torch.randint(0, C, (N,), generator=generator)
    held_out = torch.randn(9, D, generator=generator)
    return table, labels, Validation(held_out, torch.randint(0, C, (9,), generator=generator))


def train(config, table, labels, validation):
    batches = cached_batches(table, labels, config)
    return trained(config, batches, validation).history


def trained(config, batches, validation):
    return train_classifier(batches, validation, config, num_train=N, num_classes=C, announce=lambda text: None)


def test_the_last_epochs_answers_give_its_accuracy():
    table, labels, validation = make_problem()
    found = trained(TINY, cached_batches(table, labels, TINY), validation)
    right = found.best == validation.labels[:, None]
    assert found.history[-1]["top1"] == pytest.approx(100 * right[:, 0].float().mean().item())
    assert found.best.shape == (9, C) and 0 < right[:, 0].sum() < 9  # four classes: top-5 is all of them


def slow_accuracy(logits, labels, k):
    first = best = 0
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        order = sorted(range(len(row)), key=lambda c: -row[c])
        first += order[0] == label
        best += label in order[:k]
    return 100 * first / len(labels), 100 * best / len(labels)


@each("k", [1, 3, 5])
def test_accuracy_equals_a_slow_reference(k):
    generator = torch.Generator().manual_seed(k)
    logits, labels = torch.randn(200, 7, generator=generator), torch.randint(0, 7, (200,), generator=generator)
    assert accuracy(logits, labels, k=k) == pytest.approx(slow_accuracy(logits, labels, k), abs=1e-4)


def test_accuracy_by_hand():
    logits = torch.tensor([[3.0, 2.0, 1.0], [1.0, 2.0, 3.0], [3.0, 1.0, 2.0], [0.0, 1.0, 2.0]])
    assert accuracy(logits, torch.tensor([0, 1, 1, 2]), k=2) == (50.0, 75.0)


def slow_readout(config, table, labels, validation):
    """Softmax regression with momentum written out in float64: v <- m v + g, w <- w - lr v."""
    torch.manual_seed(config.seed)
    layer = nn.Linear(D, C)
    weight, bias = layer.weight.detach().double(), layer.bias.detach().double()
    speed = [torch.zeros_like(weight), torch.zeros_like(bias)]
    batches = cached_batches(table, labels, config)
    history = []
    for epoch in range(1, config.epochs + 1):
        rate = config.learning_rate * config.decay ** sum(epoch > milestone for milestone in config.milestones)
        losses = []
        for _ in range(math.ceil(N / config.batch_size)):
            x, y = next(batches)
            x = x.double()
            p = torch.softmax(x @ weight.T + bias, dim=1)
            losses += (-p[torch.arange(len(y)), y].log()).tolist()
            p[torch.arange(len(y)), y] -= 1
            gradients = [p.T @ x / len(y) + config.weight_decay * weight, p.mean(0) + config.weight_decay * bias]
            speed = [config.momentum * v + g for v, g in zip(speed, gradients, strict=True)]
            weight, bias = weight - rate * speed[0], bias - rate * speed[1]
        logits = validation.features.double() @ weight.T + bias
        top1, top5 = slow_accuracy(logits, validation.labels, C)
        history.append(
            {"epoch": epoch, "learning_rate": rate, "train_loss": sum(losses) / N, "top1": top1, "top5": top5}
        )
    return history


@pytest.mark.parametrize("weight_decay", [0.0, 0.01])
def test_history_equals_softmax_regression_written_out(weight_decay):
    problem = make_problem()
    config = replace(TINY, weight_decay=weight_decay)
    for fast, slow in zip(train(config, *problem), slow_readout(config, *problem), strict=True):
        assert fast == pytest.approx(slow, rel=1e-4)


def test_the_papers_rate_falls_after_epochs_30_40_and_50():
    table, labels, validation = make_problem()
    paper = replace(LinearConfig(), device="cpu", num_workers=0)
    history = train(paper, torch.zeros_like(table), labels, validation)
    rates = [entry["learning_rate"] for entry in history]
    assert rates == pytest.approx([30.0] * 30 + [6.0] * 10 + [1.2] * 10 + [0.24] * 10)
    assert [entry["epoch"] for entry in history] == list(range(1, 61))


def test_cosine_ends_at_the_references_eta_min():
    history = train(replace(TINY, learning_rate=30.0, schedule="cosine"), torch.zeros(1, N, D), *make_problem()[1:])
    assert history[-1]["learning_rate"] == pytest.approx(0.24)  # docs/specification.md 1.7
    assert history[0]["learning_rate"] < 30


def test_separable_features_are_learnt_completely():
    labels = torch.arange(N) % C
    features = nn.functional.one_hot(labels, D).float() * 5
    history = train(replace(TINY, epochs=30), features[None], labels, Validation(features, labels))
    assert history[-1]["top1"] == 100 and history[-1]["train_loss"] < 0.05 < history[0]["train_loss"]


def test_seed_decides_and_the_global_generator_is_left_alone():
    problem = make_problem()
    before = torch.random.get_rng_state()
    first, again, other = (train(replace(TINY, seed=seed), *problem) for seed in (1, 1, 2))
    assert first == again and first[0]["train_loss"] != other[0]["train_loss"]
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize("scale_with_batch", [False, True])
def test_divergence_names_the_rate_to_pass(scale_with_batch):
    table, labels, validation = make_problem()
    config = replace(TINY, learning_rate=1e30, scale_with_batch=scale_with_batch)
    with pytest.raises(ConfigError, match=r"diverged in epoch 1 .* pass learning_rate=1e\+29\b") as caught:
        train(config, table * 1e15, labels, validation)
    assert "--config-file small" in str(caught.value)


def test_validation_features_that_overflow_count_as_divergence():
    table, labels, validation = make_problem()
    broken = Validation(torch.full_like(validation.features, math.inf), validation.labels)
    with pytest.raises(ConfigError, match="diverged"):
        train(TINY, table, labels, broken)


def test_top5_of_fewer_classes_is_top_all():
    assert {entry["top5"] for entry in train(TINY, *make_problem())} == {100.0}  # four classes


def test_standardised_features_have_mean_0_and_deviation_1_and_dead_ones_are_0():
    table, _, validation = make_problem()
    table = table * torch.tensor([1, 1e-3, 1e3, 1, 1, 0]) + 7
    train_features, held_out = standardized(table, validation.features)
    flat = train_features.reshape(-1, D).double().numpy()
    assert flat.mean(0) == pytest.approx(0, abs=1e-3)
    assert flat.std(0) == pytest.approx([1, 1, 1, 1, 1, 0], abs=1e-3)
    raw = table.reshape(-1, D).double().numpy()
    expected = (validation.features.numpy() - raw.mean(0))[:, :5] / raw.std(0)[:5]
    assert held_out[:, :5].numpy() == pytest.approx(expected, rel=1e-3, abs=1e-3) and not held_out[:, 5].any()


def test_a_standardised_readout_does_not_see_the_scale_of_features():
    table, labels, validation = make_problem()
    histories = []
    for scale in (1, 4096):  # a power of two: nothing is rounded
        scaled, held_out = standardized(table * scale, validation.features * scale)
        histories.append(train(TINY, scaled, labels, Validation(held_out, validation.labels)))
    assert histories[0] == histories[1]
    assert train(TINY, table * 4096, labels, validation) != train(TINY, table, labels, validation)


def make_module():
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).eval()


def test_an_untouched_encoder_passes_and_its_hash_is_known():
    module = make_module()
    with encoder_stands_still(module) as hash_of:
        module(torch.randn(5, 3))
    assert hash_of() == state_hash(module)


def _step(module):
    with torch.no_grad():
        module[0].weight[0, 0] += 1e-7 + module[0].weight[0, 0].abs() * 1e-6


def _forward_in_training_mode(module):
    module.train()(torch.randn(5, 3))


def _count(module):
    module[1].num_batches_tracked += 1


@each("sabotage", [_step, _forward_in_training_mode, _count])
def test_an_encoder_that_moved_is_caught(sabotage):
    module = make_module()
    with pytest.raises(AssertionError, match="frozen encoder moved"), encoder_stands_still(module):
        sabotage(module)


@pytest.mark.slow
def test_views_cached_for_every_epoch_give_the_history_of_fresh_views(class_folders):
    train_images, val = load_splits(class_folders)
    config = replace(TINY, epochs=2, image_size=32, learning_rate=0.1)
    encoder = load_frozen_encoder("random:resnet18", config, branch=None)
    fresh = measure(encoder, train_images, val, config, announce=print).history
    cached = measure(encoder, train_images, val, replace(config, cached_views=2), announce=print).history
    one_view = measure(encoder, train_images, val, replace(config, cached_views=1), announce=print).history
    for a, b in zip(fresh, cached, strict=True):
        assert a == pytest.approx(b, rel=1e-3)
    assert fresh[1]["train_loss"] != pytest.approx(one_view[1]["train_loss"], rel=1e-3)
