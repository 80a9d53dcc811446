"""Bounds of mutual information against correlated Gaussians, a slow reference, invariances and planted faults."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pretrain.base.errors import ConfigError, DataError
from pretrain.good_views.information import (
    BOUNDS,
    LARGEST_EXPONENT,
    SATURATION_MARGIN,
    Estimate,
    MineObjective,
    Scores,
    donsker_varadhan,
    estimate,
    in_batch,
    info_nce,
    nwj,
    saturation_warning,
    smile,
)
from pretrain.model import loss
from tests.pretrain.gaussians import draw, ideal_batches, log_ratio, true_information

pytestmark = pytest.mark.slow  # seconds in all: left to `make test`

WORLDS = [(dim, rho) for dim in (1, 4, 16) for rho in (0.0, 0.3, 0.6, 0.9)]
OUT_OF_REACH = (16, 0.9)  # I = 13.3 nats: e^I = 589,000 negatives would be the least for DV and NWJ
BATCH = 128


def values_of(bound, batches):
    return torch.stack([bound(scores) for scores in batches])


# (i) The best critic


def findings(bound, dim, rho, *, name):
    """What theory says of a bound with the best critic and is not so here; empty for a sound implementation."""
    truth, ceiling = true_information(dim, rho), math.log(BATCH)
    values = values_of(bound, ideal_batches(dim, rho, count=30, size=BATCH))
    mean, error = float(values.mean()), max(float(values.std()) / math.sqrt(30), 1e-9)
    found = []
    if name == "info_nce":
        if values.max() > ceiling:
            found.append(f"a value of {values.max():.3f} above log(K + 1) = {ceiling:.3f}")
        if mean > min(truth, ceiling) + 4 * error:
            found.append(f"{mean:.3f} above the smaller of I and log(K + 1)")
        if truth > 2 * ceiling and mean < 0.98 * ceiling:
            found.append(f"{mean:.3f} short of log(K + 1) though I = {truth:.1f} is far above it")
        if truth < 0.5 * ceiling and mean < 0.92 * truth - 4 * error:
            found.append(f"{mean:.3f} far below I = {truth:.3f} though the ceiling is far")
    elif (dim, rho) != OUT_OF_REACH and abs(mean - truth) > 4 * error + 0.01 * truth:
        found.append(f"{mean:.3f}, not I = {truth:.3f}")
    return found


@pytest.mark.parametrize(("dim", "rho"), WORLDS)
@pytest.mark.parametrize("name", ["info_nce", "donsker_varadhan", "nwj"])
def test_bounds_with_the_best_critic_are_where_theory_puts_them(name, dim, rho):
    assert findings(BOUNDS[name], dim, rho, name=name) == []


def test_planted_faults_are_found():
    """Each fault of an InfoNCE estimator breaks the same check that the real one passes."""

    def positive_among_negatives(scores):
        return info_nce(Scores(scores.positive, torch.cat([scores.negative, scores.positive[:, None]], dim=1)))

    def log_of_twice_the_candidates(scores):
        return info_nce(scores) + math.log(2)

    def batch_forgotten(scores):
        return info_nce(scores) - math.log(BATCH)

    def no_mean_over_negatives(scores):
        return donsker_varadhan(scores) - math.log(scores.negative.shape[1])

    assert findings(positive_among_negatives, 16, 0.9, name="info_nce")
    assert findings(log_of_twice_the_candidates, 1, 0.0, name="info_nce")
    assert findings(log_of_twice_the_candidates, 16, 0.9, name="info_nce")
    assert findings(batch_forgotten, 4, 0.3, name="info_nce")
    assert findings(no_mean_over_negatives, 4, 0.3, name="donsker_varadhan")


def test_info_nce_stops_at_its_ceiling_and_the_others_do_not():
    truth = true_information(*OUT_OF_REACH)
    values = {
        name: values_of(bound, ideal_batches(*OUT_OF_REACH, count=20, size=BATCH)).mean()
        for name, bound in BOUNDS.items()
    }
    assert 0.98 * math.log(BATCH) < values["info_nce"] < math.log(BATCH) < truth
    assert values["donsker_varadhan"] > truth  # Jensen: the rare large negatives are missing from the sample
    assert values["smile"] > truth


@pytest.mark.parametrize("clip", [0.3, 1.0, 5.0])
def test_smile_is_off_by_exactly_what_its_clip_cuts(clip):
    """One dimension: E'[e^clip(f)] by numerical integration over the two independent normals."""
    rho = 0.98
    grid = torch.linspace(-7, 7, 2001, dtype=torch.float64)
    density = (-(grid**2) / 2).exp() * (grid[1] - grid[0]) / math.sqrt(2 * math.pi)
    ratio = log_ratio(grid[:, None, None], grid[None, :, None], rho)
    assert float(density @ ratio.exp() @ density) == pytest.approx(1, abs=1e-6)  # the grid is fine enough
    partition = float(density @ ratio.clamp(-clip, clip).exp() @ density)
    expected = true_information(1, rho) - math.log(partition)
    values = torch.stack([smile(scores, clip=clip) for scores in ideal_batches(1, rho, count=300, size=BATCH)])
    tolerance = 4 * float(values.std()) / math.sqrt(300)
    assert abs(float(values.mean()) - expected) < tolerance
    if clip < 5:
        assert abs(expected - true_information(1, rho)) > 2 * tolerance  # the claim is not empty


def test_spread_grows_with_information_for_dv_and_nwj_but_not_for_info_nce():
    """With N independent negatives the variance of E'[r] is (e^2I - 1) / N for Gaussians, above (e^I - 1) / N of theory."""
    generator = torch.Generator().manual_seed(0)
    spreads = {name: [] for name in BOUNDS}
    partition_variance = []
    for rho in (0.3, 0.6, 0.8):
        dim, rows = 4, 200
        first, second = draw(rows * 64, dim, rho, generator)
        _, apart = draw(rows * 64 * 8, dim, rho, generator)  # of its own: independent of `first`
        negative = log_ratio(first[:, None], apart.view(rows * 64, 8, dim), rho).view(rows, 64, 8)
        positive = log_ratio(first, second, rho).view(rows, 64)
        for name, bound in BOUNDS.items():
            values = torch.stack([bound(Scores(*scores)) for scores in zip(positive, negative, strict=True)])
            spreads[name].append(float(values.std()))
        truth = true_information(dim, rho)
        # Rows share `first` with 8 negatives each, so that the draws are not quite independent; one per row is.
        one_each = negative[:, :, 0].exp().mean(dim=1)
        partition_variance.append(float(one_each.var()) / ((math.exp(2 * truth) - 1) / 64))
        assert float(one_each.var()) > 0.5 * (math.exp(truth) - 1) / 64
    assert partition_variance[0] == pytest.approx(1, abs=0.3)
    for name in ("donsker_varadhan", "nwj"):
        assert spreads[name] == sorted(spreads[name])
        assert spreads[name][-1] > 2.5 * spreads[name][0]
    assert spreads["nwj"][-1] > spreads["smile"][-1] > spreads["info_nce"][-1]
    assert spreads["nwj"][-1] / spreads["nwj"][0] > 2 * spreads["info_nce"][-1] / spreads["info_nce"][0]


# (ii) A critic that has to be learned


class Critic(nn.Module):
    """f(v1, v2) of every pair of a batch: an MLP on both, (B, D), (B, D) -> (B, B)."""

    def __init__(self, dim):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3 * dim, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1))

    def forward(self, first, second):
        size = len(first)
        left, right = first[:, None].expand(size, size, -1), second[None].expand(size, size, -1)
        return self.layers(torch.cat([left, right, left * right], dim=2)).squeeze(2)


def learned_estimates(objective, *, dim, rho, steps=200):
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(1)
    critic = Critic(dim)
    optimizer = torch.optim.Adam(critic.parameters(), lr=4e-3)
    for _ in range(steps):
        first, second = draw(64, dim, rho, generator)
        optimizer.zero_grad()
        (-objective(in_batch(critic(first.float(), second.float())))).backward()
        optimizer.step()
    with torch.no_grad():
        held_out = [in_batch(critic(*(half.float() for half in draw(128, dim, rho, generator)))) for _ in range(12)]
    return {name: estimate(name, held_out) for name in BOUNDS}


@pytest.mark.parametrize("rho", [0.0, 0.6])
def test_a_learned_critic_recovers_known_information(rho):
    """Stated tolerance: within 12 % and 0.03 nats of I."""
    truth = true_information(2, rho)
    found = learned_estimates(info_nce, dim=2, rho=rho)["info_nce"]
    assert found.nats == pytest.approx(truth, abs=0.12 * truth + 0.03)


def test_mine_recovers_known_information():
    truth = true_information(2, 0.6)
    found = learned_estimates(MineObjective(), dim=2, rho=0.6)["donsker_varadhan"]
    assert found.nats == pytest.approx(truth, abs=0.12 * truth + 0.03)
    assert found.ceiling is None and not found.saturated


def test_an_untrained_critic_finds_nothing():
    """Control: the tolerance above is not met for free."""
    found = learned_estimates(info_nce, dim=2, rho=0.6, steps=0)
    assert all(figure.nats < 0.5 * true_information(2, 0.6) for figure in found.values())


# (iii) The training loss


def test_info_nce_is_log_k_plus_one_minus_the_training_loss():
    generator = torch.Generator().manual_seed(0)
    query, key = F.normalize(torch.randn(2, 6, 8, generator=generator), dim=2)
    memory = F.normalize(torch.randn(50, 8, generator=generator), dim=1)
    trained = loss.info_nce(query=query, key=key, queue=memory, temperature=0.15).loss
    bound = info_nce(Scores((query * key).sum(dim=1) / 0.15, query @ memory.T / 0.15))
    assert float(bound) == pytest.approx(math.log(51) - float(trained), abs=1e-5)


# Numbers


def slow(name, scores):
    """The formulas as they are written, without any care for overflow."""
    positive, negative = scores.positive.double(), scores.negative.double()
    if name == "info_nce":
        candidates = torch.cat([positive[:, None], negative], dim=1)
        return math.log(candidates.shape[1]) - F.cross_entropy(candidates, torch.zeros(len(positive), dtype=torch.long))
    if name == "nwj":
        return positive.mean() + 1 - negative.exp().mean()
    clipped = negative.clamp(-5, 5) if name == "smile" else negative
    return positive.mean() - clipped.exp().mean().log()


@pytest.mark.parametrize("name", list(BOUNDS))
def test_value_and_gradient_equal_the_written_formula(name):
    matrix = (2 * torch.randn(9, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)).requires_grad_()
    value = BOUNDS[name](in_batch(matrix))
    (gradient,) = torch.autograd.grad(value, matrix)
    expected = slow(name, in_batch(matrix))
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected, matrix)[0])


@pytest.mark.parametrize("name", list(BOUNDS))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_extreme_scores_give_finite_values_and_gradients(name, dtype):
    matrix = torch.full((4, 4), 9000.0, dtype=dtype).fill_diagonal_(-9000).requires_grad_()
    value = BOUNDS[name](in_batch(matrix))
    value.backward()
    assert value.isfinite() and value < -1000
    assert matrix.grad.isfinite().all() and matrix.grad.abs().sum() > 0


def test_nwj_past_its_limit_still_pulls_the_critic_down():
    below, above = (torch.full((3, 2), LARGEST_EXPONENT + shift).double().requires_grad_() for shift in (-1e-9, 5.0))
    for negative in (below, above):
        nwj(Scores(torch.zeros(3, dtype=torch.float64), negative)).backward()
        assert (negative.grad < -1e30).all()
    torch.testing.assert_close(below.grad, above.grad)  # the tangent's slope


def test_invariances_of_each_bound():
    scores = next(iter(ideal_batches(4, 0.6, count=1, size=BATCH)))
    up = Scores(scores.positive + 0.7, scores.negative + 0.7)
    per_row = torch.randn(BATCH, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rows = Scores(scores.positive + per_row, scores.negative + per_row[:, None])
    torch.testing.assert_close(donsker_varadhan(up), donsker_varadhan(scores))
    torch.testing.assert_close(info_nce(rows), info_nce(scores))
    assert abs(donsker_varadhan(rows) - donsker_varadhan(scores)) > 0.05
    partition = scores.negative.exp().mean()
    torch.testing.assert_close(nwj(scores) - nwj(up), partition * (math.exp(0.7) - 1) - 0.7)
    torch.testing.assert_close(smile(scores, clip=1e3), donsker_varadhan(scores))


# MINE's gradient


def test_mine_gradient_uses_the_moving_average_as_denominator():
    rate, average = 0.25, None
    objective = MineObjective(rate=rate)
    generator = torch.Generator().manual_seed(0)
    for step in range(4):
        matrix = (torch.randn(6, 6, generator=generator, dtype=torch.float64) + step).requires_grad_()
        scores = in_batch(matrix)
        value = objective(scores)
        (gradient,) = torch.autograd.grad(value, matrix)
        newest = float(scores.negative.exp().mean().detach())
        average = newest if average is None else (1 - rate) * average + rate * newest
        (expected,) = torch.autograd.grad(scores.positive.mean() - scores.negative.exp().mean() / average, matrix)
        torch.testing.assert_close(gradient, expected)
        torch.testing.assert_close(value, donsker_varadhan(scores))
    assert float(objective.log_average.exp()) == pytest.approx(average)


def test_mine_with_rate_one_is_the_plain_gradient_and_resumes():
    matrices = torch.randn(3, 6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    plain, averaged = MineObjective(rate=1), MineObjective(rate=0.1)
    for matrix in matrices[:2]:
        (gradient,) = torch.autograd.grad(plain(in_batch(matrix)), matrix)
        (expected,) = torch.autograd.grad(donsker_varadhan(in_batch(matrix)), matrix)
        torch.testing.assert_close(gradient, expected)
        averaged(in_batch(matrix))
    resumed, forgetful = MineObjective(rate=0.1), MineObjective(rate=0.1)
    resumed.load_state_dict(averaged.state_dict())
    last = [torch.autograd.grad(m(in_batch(matrices[2])), matrices)[0] for m in (averaged, resumed, forgetful)]
    assert torch.equal(last[0], last[1]) and not torch.allclose(last[0], last[2])


def test_mine_stays_finite_when_the_critic_explodes():
    objective = MineObjective()
    objective(in_batch(torch.zeros(4, 4)))
    matrix = torch.full((4, 4), 5000.0).requires_grad_()
    objective(in_batch(matrix)).backward()
    assert matrix.grad.isfinite().all()


# Saturation and errors


def test_a_saturated_estimate_is_marked_and_its_warning_names_the_way_out():
    calm, full = (
        estimate("info_nce", ideal_batches(*world, count=6, size=BATCH)) for world in ((4, 0.6), OUT_OF_REACH)
    )
    assert not calm.saturated and saturation_warning(calm) is None
    assert full.saturated and full.ceiling == pytest.approx(math.log(BATCH))
    warning = saturation_warning(full)
    assert warning is not None
    assert "more negatives" in warning and "donsker_varadhan" in warning and "K = 127" in warning


@pytest.mark.parametrize("gap", [0.01, -0.01])
def test_the_margin_is_where_it_is_documented(gap):
    """All positives at one height: the loss is exactly SATURATION_MARGIN + gap."""
    target = SATURATION_MARGIN + gap
    positive = -math.log((math.exp(target) - 1) / 63)  # softplus(ln 63 - f) = target
    scores = Scores(torch.full((16,), positive).double(), torch.zeros(16, 63).double())
    assert estimate("info_nce", [scores]).saturated == (gap < 0)


def test_a_tiny_batch_without_information_is_not_called_saturated():
    assert not estimate("info_nce", ideal_batches(1, 0.0, count=40, size=2)).saturated


@pytest.mark.parametrize("name", ["donsker_varadhan", "nwj", "smile"])
def test_bounds_without_ceiling_are_never_saturated(name):
    found = estimate(name, ideal_batches(*OUT_OF_REACH, count=6, size=BATCH))
    assert found.ceiling is None and not found.saturated and saturation_warning(found) is None


def test_estimate_is_plain_and_counts_its_pairs():
    found = estimate("info_nce", ideal_batches(4, 0.3, count=7, size=16))
    assert (found.num_pairs, found.num_negatives) == (7 * 16, 15)
    assert found.low < found.nats < found.high
    assert Estimate(**found.to_plain()) == found
    assert found.nats == pytest.approx(
        float(values_of(info_nce, ideal_batches(4, 0.3, count=7, size=16)).mean()), abs=1e-12
    )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: in_batch(torch.zeros(1, 1)), "at least 2 pairs"),
        (lambda: in_batch(torch.zeros(3, 4)), "square"),
        (lambda: Scores(torch.zeros(1), torch.zeros(1, 5)), "larger batch"),
        (lambda: Scores(torch.zeros(4), torch.zeros(4, 0)), "larger memory"),
        (lambda: Scores(torch.zeros(4), torch.zeros(3, 4)), r"\(B, K\)"),
        (lambda: Scores(torch.zeros(4), torch.zeros(4, 4), within_batch=True), "3 negatives"),
        (lambda: estimate("info_nce", []), "found 0"),
        (lambda: estimate("info_nce", [in_batch(torch.zeros(4, 4))]), "at least 8 held-out pairs, found 4"),
        (lambda: estimate("nwj", [in_batch(torch.zeros(n, n)) for n in (9, 8)]), "drop_last"),
        (lambda: estimate("nwj", [in_batch(torch.full((9, 9), math.nan))]), "finite"),
    ],
)
def test_what_cannot_be_estimated_is_refused(make, message):
    with pytest.raises(DataError, match=message):
        make()


def test_unknown_bounds_and_settings_are_refused():
    scores = in_batch(torch.zeros(9, 9))
    with pytest.raises(ConfigError, match="info_nce, donsker_varadhan, nwj, smile"):
        estimate("infonce", [scores])
    with pytest.raises(ConfigError, match="clip"):
        smile(scores, clip=0)
    with pytest.raises(ConfigError, match="rate"):
        MineObjective(rate=0)
