"""Linear probes: what a linear layer reads off frozen features, as the exact optimum of a convex problem.

Nothing is drawn at random and no rate is chosen: the classifier's objective has one minimum (L-BFGS finds it), the
regressor's has a closed form. So two encoders differ by their features, never by a probe's luck. The readout with
augmented views and the paper's protocol is transfer/readout/linear.py.

Why not scikit-learn: LogisticRegression finds the same weights (within 3e-6 for 5,000 x 256 features of 10 classes, 0.16 s
for our 0.19 s on one core), but reads the CPU only, drops classes that no label has, and would be four packages more to save
25 lines: standardising, which leaves rounding out, and the refusals would stay.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from pretrain.base.errors import DataError

# A feature that varies by this share of its own size or less is float32 rounding, not signal; it is taken out.
DEAD_SHARE = 1e-6


@dataclass(frozen=True)
class Standardization:
    """mean (D,) and scale (D,) of the training features, float64: (x - mean) * scale has deviation 1; dead features are 0."""

    mean: Tensor
    scale: Tensor

    @classmethod
    def of(cls, features: Tensor) -> Standardization:
        """Measured on `features` (N, D)."""
        values = features.double()
        std = values.std(0, correction=0)
        alive = std > DEAD_SHARE * values.abs().amax(0)
        return cls(values.mean(0), torch.where(alive, 1 / std.clamp_min(1e-30), torch.zeros_like(std)))

    def __call__(self, features: Tensor) -> Tensor:
        """(N, D) of any float type -> float64 (N, D)."""
        return (features.double() - self.mean) * self.scale


@dataclass(frozen=True)
class LinearProbe:
    """A fitted linear layer on standardised features.

    standardization: of the training features.
    weight, bias: (M, D), (M,) for M classes or target values.
    gradient_norm: largest absolute entry of the objective's gradient at the end; above about 1e-4 L-BFGS had not arrived.
    """

    standardization: Standardization
    weight: Tensor
    bias: Tensor
    gradient_norm: float = 0.0

    def __call__(self, features: Tensor) -> Tensor:
        """features (N, D) -> logits, or predictions in the unit of the targets (N, M), float64."""
        return functional.linear(self.standardization(features), self.weight, self.bias)

    def accuracy(self, features: Tensor, labels: Tensor) -> float:
        """Share of `labels` (N,) met by the largest logit, percent."""
        _require_rows(features, labels)
        return 100 * (self(features).argmax(1) == labels).double().mean().item()

    def mean_distance(self, features: Tensor, targets: Tensor) -> float:
        """Mean Euclidean distance between prediction and target (N, M), in the unit of the targets."""
        _require_rows(features, targets)
        return torch.linalg.vector_norm(self(features) - targets.double(), dim=1).mean().item()


def fit_classifier(
    features: Tensor, labels: Tensor, *, num_classes: int, weight_decay: float = 1e-3, max_iterations: int = 500
) -> LinearProbe:
    """Multinomial logistic regression: minimises mean cross-entropy + weight_decay / 2 * |weight|^2 (bias is free).

    features (N, D) on any device, labels integers (N,) in [0, num_classes); a class may be absent. weight_decay > 0, since
    separable classes have no finite optimum without. Raises ValueError for shapes or labels that do not fit, DataError for
    features that are not finite (a network that diverged).
    """
    _require_rows(features, labels)
    if num_classes < 2 or labels.min() < 0 or labels.max() >= num_classes:
        raise ValueError(
            f"labels expected in [0, {num_classes}) with at least 2 classes, found {labels.min()} to {labels.max()}"
        )
    _require_positive(weight_decay)
    standardization = Standardization.of(features)
    inputs, labels = standardization(features), labels.long()
    weight = inputs.new_zeros(num_classes, inputs.shape[1], requires_grad=True)
    bias = inputs.new_zeros(num_classes, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weight, bias],
        max_iter=max_iterations,
        tolerance_grad=1e-7,
        tolerance_change=1e-12,
        history_size=20,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = functional.cross_entropy(functional.linear(inputs, weight, bias), labels)
        loss = loss + weight_decay / 2 * weight.square().sum()
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(closure)
        closure()  # the gradient where it stopped, not that of the last point tried
    assert weight.grad is not None and bias.grad is not None
    gradient_norm = max(weight.grad.abs().max().item(), bias.grad.abs().max().item())
    return LinearProbe(standardization, weight.detach(), bias.detach(), gradient_norm)


def fit_regressor(features: Tensor, targets: Tensor, *, weight_decay: float = 1e-3) -> LinearProbe:
    """Ridge regression in closed form: minimises mean |error|^2 + weight_decay * |weight|^2 (bias is free).

    features (N, D), targets (N, M) on one device. weight_decay > 0 (features may be dependent or dead). Raises ValueError for
    shapes that do not fit, DataError for features that are not finite.
    """
    _require_rows(features, targets)
    if targets.ndim != 2:
        raise ValueError(f"targets expected (N, M), found {tuple(targets.shape)}")
    _require_positive(weight_decay)
    standardization = Standardization.of(features)
    inputs = standardization(features)
    centre = targets.double().mean(0)
    gram = inputs.T @ inputs / len(inputs)
    gram.diagonal().add_(weight_decay)
    weight = torch.linalg.solve(gram, inputs.T @ (targets.double() - centre) / len(inputs)).T
    return LinearProbe(standardization, weight, centre)


def _require_rows(features: Tensor, answers: Tensor) -> None:
    if features.ndim != 2 or not len(features) or len(features) != len(answers):
        raise ValueError(
            f"expected features (N, D) and N answers, found {tuple(features.shape)} and {tuple(answers.shape)}"
        )
    if not torch.isfinite(features).all():
        raise DataError(
            "features to probe: expected finite numbers, found NaN or infinity: the encoder that made them has diverged; "
            "train it at a lower learning rate"
        )


def _require_positive(weight_decay: float) -> None:
    if not weight_decay > 0:
        raise ValueError(f"weight_decay expected positive, found {weight_decay}")
