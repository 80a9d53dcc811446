"""Linear probes against Newton's method, closed forms, and invariances that a probe must have."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from pretrain.base.errors import DataError
from pretrain.good_views.probe import fit_classifier, fit_regressor
from tests.cases import each


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def labelled(num=300, dim=6, num_classes=4, seed=0):
    """Overlapping classes: labels drawn from a softmax of a random linear map."""
    features = normal(num, dim, seed=seed)
    logits = features @ normal(dim, num_classes, seed=seed + 1)
    chosen = torch.multinomial(logits.softmax(1), 1, generator=torch.Generator().manual_seed(seed + 2))
    return features, chosen[:, 0]


def newton(features, labels, num_classes, weight_decay, steps=30):
    """Full Newton steps on the whole parameter vector, in numpy: slow and plain."""
    x = features.numpy()
    x = (x - x.mean(0)) / x.std(0)
    x = np.hstack([x, np.ones((len(x), 1))])
    onehot = np.eye(num_classes)[labels.numpy()]
    penalty = np.r_[np.full(x.shape[1] - 1, weight_decay), 0.0]
    weights = np.zeros((num_classes, x.shape[1]))
    for _ in range(steps):
        logits = x @ weights.T
        probability = np.exp(logits - logits.max(1, keepdims=True))
        probability /= probability.sum(1, keepdims=True)
        gradient = (probability - onehot).T @ x / len(x) + penalty * weights
        size = weights.size
        hessian = np.zeros((size, size))
        for row, chance in zip(x, probability, strict=True):
            hessian += np.kron(np.diag(chance) - np.outer(chance, chance), np.outer(row, row)) / len(x)
        hessian += np.diag(np.tile(penalty, num_classes))
        # The biases may be moved together without effect, so the Hessian has one zero direction: pinv steps across it.
        weights = weights - (np.linalg.pinv(hessian) @ gradient.ravel()).reshape(weights.shape)
    return weights


def test_the_classifier_finds_the_optimum_that_newtons_method_finds():
    features, labels = labelled()
    expected = newton(features, labels, 4, 0.01)
    probe = fit_classifier(features, labels, num_classes=4, weight_decay=0.01)
    np.testing.assert_allclose(probe.weight.numpy(), expected[:, :-1], atol=2e-5)
    bias = probe.bias.numpy()
    np.testing.assert_allclose(bias - bias.mean(), expected[:, -1] - expected[:, -1].mean(), atol=2e-5)
    assert probe.gradient_norm < 1e-6


def test_a_binary_feature_gets_the_log_odds_of_the_counts():
    """80 of 100 are class 1 where the feature is 1, 30 of 100 where it is 0: the fit is those odds."""
    feature = torch.tensor([1.0] * 100 + [0.0] * 100)[:, None]
    labels = torch.tensor([1] * 80 + [0] * 20 + [1] * 30 + [0] * 70)
    logits = fit_classifier(feature, labels, num_classes=2, weight_decay=1e-9)(torch.tensor([[1.0], [0.0]]))
    odds = (logits[:, 1] - logits[:, 0]).tolist()
    assert odds == pytest.approx([math.log(80 / 20), math.log(30 / 70)], abs=1e-4)


def test_scale_and_shift_of_the_features_do_not_matter():
    features, labels = labelled()
    moved = features * torch.tensor([1e-3, 1, 50, 7, 1e4, 2]) + 100
    first = fit_classifier(features, labels, num_classes=4)
    second = fit_classifier(moved, labels, num_classes=4)
    torch.testing.assert_close(second(moved), first(features), rtol=1e-3, atol=1e-4)


def test_dead_features_change_nothing():
    features, labels = labelled()
    padded = torch.cat([features, torch.full((len(features), 3), 5.0, dtype=torch.float64)], dim=1)
    torch.testing.assert_close(
        fit_classifier(padded, labels, num_classes=4)(padded), fit_classifier(features, labels, num_classes=4)(features)
    )
    targets = normal(len(features), 2, seed=9)
    torch.testing.assert_close(fit_regressor(padded, targets)(padded), fit_regressor(features, targets)(features))


def test_accuracy_is_in_percent_and_chance_for_noise():
    features, labels = normal(4000, 5), torch.arange(4000) % 10
    probe = fit_classifier(features, labels, num_classes=10)
    assert probe.accuracy(normal(4000, 5, seed=1), labels) == pytest.approx(10, abs=2)
    separable = torch.eye(10, dtype=torch.float64)[labels]
    assert fit_classifier(separable, labels, num_classes=10).accuracy(separable, labels) == 100


def test_two_fits_are_equal_to_the_bit_and_need_no_seed():
    features, labels = labelled()
    state = torch.random.get_rng_state()
    first, second = (fit_classifier(features, labels, num_classes=4) for _ in range(2))
    assert torch.equal(first.weight, second.weight)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_it_fits_where_gradients_are_switched_off():
    features, labels = labelled()
    with torch.no_grad():
        probe = fit_classifier(features, labels, num_classes=4)
    assert torch.equal(probe.weight, fit_classifier(features, labels, num_classes=4).weight)


def test_the_regressor_is_ridge_by_augmented_least_squares():
    """Ridge equals ordinary least squares with sqrt(N wd) I stacked under the inputs."""
    features, targets = normal(200, 7) * 3 + 1, normal(200, 2, seed=3) + 5
    x = features.numpy()
    x = (x - x.mean(0)) / x.std(0)
    y = targets.numpy() - targets.numpy().mean(0)
    stacked = np.vstack([x, math.sqrt(200 * 0.3) * np.eye(7)])
    expected, *_ = np.linalg.lstsq(stacked, np.vstack([y, np.zeros((7, 2))]), rcond=None)
    probe = fit_regressor(features, targets, weight_decay=0.3)
    np.testing.assert_allclose(probe.weight.numpy(), expected.T, atol=1e-10)


def test_a_linear_target_is_met_and_the_distance_is_euclidean():
    features = normal(100, 4)
    targets = features @ normal(4, 2, seed=1) * 10 + 32
    probe = fit_regressor(features, targets, weight_decay=1e-12)
    assert probe.mean_distance(features, targets) < 1e-6
    assert probe.mean_distance(features, targets + torch.tensor([3.0, 4.0])) == pytest.approx(5, abs=1e-6)


def test_features_without_information_leave_the_mean():
    targets = normal(50, 2, seed=1) + 7
    probe = fit_regressor(torch.full((50, 3), 2.5), targets)
    torch.testing.assert_close(probe(torch.full((1, 3), 2.5))[0], targets.mean(0))


@each(
    ("arguments", "message"),
    [
        ((torch.zeros(4, 2), torch.zeros(5)), "N answers"),
        ((torch.zeros(0, 2), torch.zeros(0)), "N answers"),
        ((torch.zeros(4), torch.zeros(4)), "N answers"),
        ((torch.zeros(4, 2), torch.tensor([0, 1, 2, 3])), r"in \[0, 3\)"),
    ],
)
def test_wrong_shapes_and_labels_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        fit_classifier(*arguments, num_classes=3)


def test_a_weight_decay_of_zero_is_refused():
    with pytest.raises(ValueError, match="weight_decay"):
        fit_classifier(torch.eye(2), torch.arange(2), num_classes=2, weight_decay=0)
    with pytest.raises(ValueError, match="weight_decay"):
        fit_regressor(torch.eye(2), torch.eye(2), weight_decay=0)


def test_features_of_a_diverged_network_are_a_user_error():
    features = torch.eye(3)
    features[1, 1] = float("nan")
    with pytest.raises(DataError, match="lower learning rate"):
        fit_classifier(features, torch.arange(3), num_classes=3)
