"""Mutual information of two views, bounded from critic scores: InfoNCE, Donsker-Varadhan (MINE), NWJ and SMILE.

In: `Scores`, a critic's values on joint pairs and on pairs drawn apart. Out: nats, as 0-d tensors to train on or as an
`Estimate` with its interval, its ceiling and whether it has run into it.

Legend: f(v1, v2) critic, B pairs, K negatives a pair, r = p(v1, v2) / p(v1)p(v2). The best critic of all four is log r.
InfoNCE is as content with log r + c(v1), so a critic trained by it may read too low by the others; Donsker-Varadhan and
SMILE allow for one constant, NWJ for none.

InfoNCE is log(K + 1) - L here, L the cross-entropy of the positive among itself and K negatives. docs/specification.md 3 writes
"log(K) - L": there the K of the paper's proof counts the candidates, positive included, and [LV] takes log(batch size),
which for in-batch negatives is this log(K + 1) exactly; its log(4096) - L of the bank is a looser bound, by log((K + 1)/K).

What a bound can hold: InfoNCE never passes log(K + 1); the others have no ceiling, but the standard deviation of
Donsker-Varadhan and NWJ grows at least as sqrt(e^I / number of negatives), and SMILE trades it for a bias that its clip sets.
Sources: van den Oord et al. 2018 (InfoNCE), Belghazi et al. 2018 (MINE), Nguyen et al. 2010 (NWJ), Poole et al. 2019
(comparison), Song and Ermon 2020 (SMILE).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pretrain.base.errors import ConfigError, DataError
from pretrain.good_views.interval import bootstrap_interval, t_interval

MIN_BATCHES = 5  # from so many on, the interval is Student's over batches; below, a bootstrap over pairs
MIN_PAIRS = 8  # of an estimate; fewer pairs say nothing about their own spread
# Within so many nats of its ceiling (or half the ceiling, where that is less) InfoNCE counts as saturated. Measured with the
# best critic of Gaussians of 1 to 16 dimensions: there it is 4 to 17 % low for batches of 64 to 1024 (12 to 22 % for 16),
# and from there on it stays behind more and more.
SATURATION_MARGIN = 1.5
LARGEST_EXPONENT = 80.0  # e^80 is finite in float32 too


@dataclass(frozen=True)
class Scores:
    """A critic's values, any float dtype, differentiable. Raises DataError for other shapes, B < 2 or K < 1.

    positive: (B,) f of joint pairs.
    negative: (B, K) f of v1 with K independent v2.
    within_batch: row i's negatives are the other rows' v2 in order, K = B - 1 (`in_batch` makes these); a bootstrap then
        draws a pair's two halves together.
    """

    positive: Tensor
    negative: Tensor
    within_batch: bool = False

    def __post_init__(self) -> None:
        positive, negative = tuple(self.positive.shape), tuple(self.negative.shape)
        if len(positive) != 1 or len(negative) != 2 or positive[0] != negative[0]:
            raise DataError(f"scores: expected positive (B,) and negative (B, K), found {positive} and {negative}")
        if positive[0] < 2 or negative[1] < 1:
            raise DataError(
                f"scores: expected at least 2 pairs and 1 negative a pair, found {positive[0]} and {negative[1]}; "
                "use a larger batch or a larger memory"
            )
        if self.within_batch and negative[1] != positive[0] - 1:
            raise DataError(f"scores: within_batch expects {positive[0] - 1} negatives a pair, found {negative[1]}")


def in_batch(matrix: Tensor) -> Scores:
    """f(v1_i, v2_j) as (B, B) -> the diagonal is joint, the other B - 1 of each row are its negatives. B >= 2."""
    rows = matrix.shape[0]
    if matrix.ndim != 2 or matrix.shape[1] != rows or rows < 2:
        raise DataError(f"in_batch: expected a square matrix of at least 2 pairs, found {tuple(matrix.shape)}")
    # Without its first entry, the flat matrix is B - 1 lines of B + 1 that each end on a diagonal entry.
    negative = matrix.flatten()[1:].view(rows - 1, rows + 1)[:, :-1].reshape(rows, rows - 1)
    return Scores(matrix.diagonal(), negative, within_batch=True)


# Every bound is a function of the positives (B,) and of log mean exp over each row's negatives (B,), with the weight (..., B)
# of each row: ones for a value, a row of counts for each resample of a bootstrap.
RowBound = Callable[[Tensor, Tensor, Tensor, int], Tensor]


def _mean(values: Tensor, weight: Tensor) -> Tensor:
    return (values * weight).sum(dim=-1) / weight.sum(dim=-1)


def _log_mean_exp(values: Tensor, weight: Tensor) -> Tensor:
    return torch.logsumexp(values + weight.log(), dim=-1) - weight.sum(dim=-1).log()


def _info_nce(positive: Tensor, partition: Tensor, weight: Tensor, num_negatives: int) -> Tensor:
    odds = partition + math.log(num_negatives) - positive  # log of (negatives' sum / positive)
    return math.log(num_negatives + 1) - _mean(nn.functional.softplus(odds), weight)


def _donsker_varadhan(positive: Tensor, partition: Tensor, weight: Tensor, num_negatives: int) -> Tensor:
    return _mean(positive, weight) - _log_mean_exp(partition, weight)


def _nwj(positive: Tensor, partition: Tensor, weight: Tensor, num_negatives: int) -> Tensor:
    exponent = _log_mean_exp(partition, weight)
    # Past the limit the exponential goes on as its tangent: value and gradient stay finite, and still pull the critic down.
    inside = exponent.clamp(max=LARGEST_EXPONENT)
    return _mean(positive, weight) + 1 - inside.exp() * (1 + exponent - inside)


_ROW_BOUNDS: dict[str, RowBound] = {
    "info_nce": _info_nce,
    "donsker_varadhan": _donsker_varadhan,
    "nwj": _nwj,
    "smile": _donsker_varadhan,  # of clipped negatives
}


def _wide(values: Tensor) -> Tensor:
    """At least float32."""
    return values if values.dtype == torch.float64 else values.float()


def _value(name: str, scores: Scores) -> Tensor:
    negative = _wide(scores.negative)
    count = negative.shape[1]
    # Sums over K in the input's precision, shifted by the largest (logsumexp); everything over B in float64.
    partition = torch.logsumexp(negative, dim=1).double() - math.log(count)
    positive = _wide(scores.positive).double()
    return _ROW_BOUNDS[name](positive, partition, torch.ones_like(positive), count)


def info_nce(scores: Scores) -> Tensor:
    """log(K + 1) - mean cross-entropy: nats, float64, differentiable. A lower bound of I that never passes log(K + 1)."""
    return _value("info_nce", scores)


def donsker_varadhan(scores: Scores) -> Tensor:
    """E[f] - log E'[e^f]: nats. A lower bound only with the true E'; the log of a sample mean adds about Var/2 (Jensen)."""
    return _value("donsker_varadhan", scores)


def nwj(scores: Scores) -> Tensor:
    """E[f] + 1 - E'[e^f]: nats, an unbiased estimate of a lower bound, tight at f = log r (not 1 + log r, as some write it).

    A critic that is off by a constant costs much here: c nats too high cost e^c - 1 - c.
    """
    return _value("nwj", scores)


def smile(scores: Scores, *, clip: float = 5.0) -> Tensor:
    """E[f] - log E'[e^clip(f, -clip, clip)]: nats. Low variance; no bound: where f passes the clip it may exceed I."""
    if clip <= 0:
        raise ConfigError(f"clip: expected a number above 0, found {clip}")
    return _value("smile", _clipped(scores, clip))


def _clipped(scores: Scores, clip: float = 5.0) -> Scores:
    return Scores(scores.positive, scores.negative.clamp(-clip, clip), scores.within_batch)


BOUNDS: dict[str, Callable[[Scores], Tensor]] = {
    "info_nce": info_nce,
    "donsker_varadhan": donsker_varadhan,
    "nwj": nwj,
    "smile": smile,
}


class MineObjective(nn.Module):
    """Donsker-Varadhan to maximise, with MINE's correction of the gradient's bias (Belghazi et al. 2018, section 3.2).

    The gradient of log E'[e^f] is E'[e^f grad f] / E'[e^f]; of a small batch this ratio is biased, so that its denominator
    is a moving average over steps, kept as a logarithm in the buffer `log_average` (NaN before the first step).
    """

    log_average: Tensor

    def __init__(self, *, rate: float = 0.01) -> None:
        """rate: weight of the newest batch in the average, in (0, 1]; 1 is the plain, biased gradient."""
        super().__init__()
        if not 0 < rate <= 1:
            raise ConfigError(f"rate: expected a number above 0 and at most 1, found {rate}")
        self.rate = rate
        self.register_buffer("log_average", torch.tensor(math.nan, dtype=torch.float64))

    def forward(self, scores: Scores) -> Tensor:
        """`donsker_varadhan(scores)` as a value (nats, float64); its gradient is the corrected one. Moves the average."""
        value = donsker_varadhan(scores)
        joint = _wide(scores.positive).double().mean()
        log_mean = joint - value
        newest = log_mean.detach()
        if self.log_average.isnan():
            self.log_average.copy_(newest)
        elif self.rate < 1:
            kept = self.log_average + math.log1p(-self.rate)
            self.log_average.copy_(torch.logaddexp(kept, newest + math.log(self.rate)))
        else:
            self.log_average.copy_(newest)
        # The average holds the newest batch already, so that this exponential is at most 1 / rate: no overflow.
        surrogate = joint - (log_mean - self.log_average).exp()
        return value.detach() + surrogate - surrogate.detach()


@dataclass(frozen=True)
class Estimate:
    """One bound on held-out pairs.

    bound: a name of BOUNDS.
    nats: mean over batches.
    low, high: 95 % interval of the *bound's* expected value with this critic, B and K (not of I: a weak critic is confidently low).
    ceiling: log(K + 1) for InfoNCE, None without one.
    saturated: nats has come within SATURATION_MARGIN of the ceiling, where it falls behind I.
    num_pairs: over all batches.
    num_negatives: K.
    """

    bound: str
    nats: float
    low: float
    high: float
    ceiling: float | None
    saturated: bool
    num_pairs: int
    num_negatives: int

    def to_plain(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


@torch.no_grad()
def estimate(bound: str, batches: Iterable[Scores]) -> Estimate:
    """The bound named in BOUNDS (SMILE with its default clip) over independent batches of one shape.

    Interval: Student's t over the batches' values where there are at least MIN_BATCHES; else a bootstrap over the pairs of
    each batch (and over the memory's rows), which is deterministic. Raises ConfigError for an unknown bound; DataError
    for no batch, unlike shapes, fewer than MIN_PAIRS pairs or a score that is not finite.
    """
    if bound not in BOUNDS:
        raise ConfigError(f"bound: expected one of {', '.join(BOUNDS)}, found {bound!r}")
    row_bound = _ROW_BOUNDS[bound]
    kept: list[Scores] = []
    values: list[float] = []
    for scores in batches:
        _check_batch(scores, kept)
        values.append(float(BOUNDS[bound](scores)))
        if len(kept) < MIN_BATCHES:  # more are not needed: the interval is then taken from `values`
            kept.append(_clipped(scores) if bound == "smile" else scores)
    num_batches = len(values)
    if not kept or (num_pairs := num_batches * len(kept[0].positive)) < MIN_PAIRS:
        found = num_batches * len(kept[0].positive) if kept else 0
        raise DataError(f"estimate: expected at least {MIN_PAIRS} held-out pairs, found {found}; use more images")
    nats = math.fsum(values) / num_batches
    if num_batches >= MIN_BATCHES:
        low, high = t_interval(values)
    else:
        low, high = bootstrap_interval(
            row_bound, [(scores.positive, scores.negative, scores.within_batch) for scores in kept], value=nats
        )
    count = kept[0].negative.shape[1]
    ceiling = math.log(count + 1) if bound == "info_nce" else None
    saturated = ceiling is not None and nats >= ceiling - min(SATURATION_MARGIN, ceiling / 2)
    return Estimate(bound, nats, low, high, ceiling, saturated, num_pairs, count)


def _check_batch(scores: Scores, earlier: list[Scores]) -> None:
    if earlier and scores.negative.shape != earlier[0].negative.shape:
        raise DataError(
            f"estimate: expected batches of one shape {tuple(earlier[0].negative.shape)}, found "
            f"{tuple(scores.negative.shape)}; leave the last, incomplete batch out (drop_last=True)"
        )
    if not (scores.positive.isfinite().all() and scores.negative.isfinite().all()):
        raise DataError("estimate: expected finite scores, found NaN or infinity; train the critic at a lower rate")


def saturation_warning(estimate: Estimate) -> str | None:
    """What to do about a saturated estimate; None for one that is not."""
    if not estimate.saturated or estimate.ceiling is None:
        return None
    return (
        f"{estimate.bound} = {estimate.nats:.2f} nats is close to its ceiling log(K + 1) = {estimate.ceiling:.2f} with "
        f"K = {estimate.num_negatives} negatives: the true information may be far higher, and views cannot be told apart "
        "there. Take more negatives (a larger batch or memory; twice as many lift the ceiling by 0.69 nats) or a bound "
        "without a ceiling (donsker_varadhan, smile), which then needs more than e^I negatives to be steady."
    )
