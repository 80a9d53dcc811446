"""The 95 % interval covers the bound's expected value about as often as it says, over simulated experiments."""

from __future__ import annotations

import math

import pytest
import torch

from pretrain.good_views import interval as information_interval
from pretrain.good_views.information import _ROW_BOUNDS, BOUNDS, MIN_BATCHES, Scores, estimate, in_batch
from pretrain.good_views.interval import t_interval
from tests.pretrain.gaussians import draw, log_ratio

DIM, RHO, SIZE = 2, 0.8, 48  # I = 1.02 nats
NUM_EXPERIMENTS = 120  # of a true 0.95: standard deviation 0.02
LEAST, MOST = 0.88, 0.995


def critic(first, second):
    """Not the best one: for that, E'[e^f] given one key is 1 whatever the key, and chance in the keys would not matter."""
    return log_ratio(first, second, RHO) + 0.5 * second.sum(dim=-1)


def batch(generator):
    first, second = draw(SIZE, DIM, RHO, generator)
    return in_batch(critic(first[:, None], second[None]))


def memory_batch(generator):
    first, second = draw(SIZE, DIM, RHO, generator)
    memory = draw(SIZE, DIM, RHO, generator)[1]
    return Scores(critic(first, second), critic(first[:, None], memory[None]))


def coverage(name, make, *, num_batches):
    """Share of NUM_EXPERIMENTS intervals that hold the bound's expectation, itself the mean of 2000 fresh batches."""
    generator = torch.Generator().manual_seed(3)
    expected = float(torch.stack([BOUNDS[name](make(generator)) for _ in range(2000)]).mean())
    found = [estimate(name, [make(generator) for _ in range(num_batches)]) for _ in range(NUM_EXPERIMENTS)]
    return sum(figure.low <= expected <= figure.high for figure in found) / NUM_EXPERIMENTS


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("info_nce", batch),
        ("donsker_varadhan", batch),
        ("nwj", batch),
        ("info_nce", memory_batch),
        ("smile", memory_batch),
    ],
)
def test_bootstrap_of_one_batch_covers(name, make):
    assert LEAST <= coverage(name, make, num_batches=1) <= MOST


@pytest.mark.slow
def test_bootstrap_of_a_few_batches_covers():
    assert LEAST <= coverage("donsker_varadhan", batch, num_batches=2) <= MOST


@pytest.mark.slow
@pytest.mark.parametrize(("name", "num_batches"), [("info_nce", 12), ("nwj", MIN_BATCHES)])
def test_t_interval_over_batches_covers(name, num_batches):
    assert LEAST <= coverage(name, batch, num_batches=num_batches) <= MOST


@pytest.mark.slow
def test_rows_alone_would_cover_too_seldom(monkeypatch):
    """Control: the chance in the shared negatives left out. The check above must notice."""
    counts = information_interval._counts
    narrow = SIZE // 4

    def few_keys(generator):
        scores = memory_batch(generator)
        return Scores(scores.positive, scores.negative[:, :narrow])

    assert coverage("donsker_varadhan", few_keys, num_batches=1) >= LEAST
    monkeypatch.setattr(
        information_interval,
        "_counts",
        lambda size, generator: (
            torch.ones(information_interval.RESAMPLES_AT_ONCE, size, dtype=torch.float64)
            if size == narrow
            else counts(size, generator)
        ),
    )
    assert coverage("donsker_varadhan", few_keys, num_batches=1) < LEAST


def test_bootstrap_error_of_a_mean_is_the_textbook_one():
    """Without negatives that matter, NWJ is the mean of f: the half width is t s / sqrt(B)."""
    positive = torch.randn(200, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = estimate("nwj", [Scores(positive, torch.full((200, 5), -600.0, dtype=torch.float64))])
    expected = 1.972 * float(positive.std()) / math.sqrt(200)
    assert (found.high - found.low) / 2 == pytest.approx(expected, rel=0.08)  # 1000 resamples: 2.2 % each way


@pytest.mark.parametrize("name", list(BOUNDS))
def test_a_resample_equals_the_one_written_out(name, monkeypatch):
    """Pairs 0, 0, 0, 2, 3 of five: rows and keys are repeated, and a copy of a pair is no negative of it."""
    matrix = torch.randn(5, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    drawn = [0, 0, 0, 2, 3]
    counts = torch.tensor([3.0, 0, 1, 1, 0], dtype=torch.float64)
    monkeypatch.setattr(information_interval, "_counts", lambda *_: counts.expand(1, 5))
    monkeypatch.setattr(information_interval, "NUM_RESAMPLES", 1)
    monkeypatch.setattr(information_interval, "RESAMPLES_AT_ONCE", 1)
    scores = in_batch(matrix)
    found = information_interval._resampled(
        _ROW_BOUNDS[name], scores.positive, scores.negative, within=True, generator=torch.Generator()
    )
    partition = torch.stack(
        [torch.tensor([float(matrix[i, j].exp()) for j in drawn if j != i]).double().mean().log() for i in drawn]
    )
    ones = torch.ones(5, dtype=torch.float64)
    expected = _ROW_BOUNDS[name](matrix.diagonal()[drawn], partition, ones, 4)
    torch.testing.assert_close(found[0], expected, rtol=1e-6, atol=1e-6)


def test_the_rule_changes_at_five_batches_and_intervals_repeat():
    generator = torch.Generator().manual_seed(0)
    batches = [batch(generator) for _ in range(MIN_BATCHES)]
    several = estimate("info_nce", batches)
    values = [float(BOUNDS["info_nce"](scores)) for scores in batches]
    assert (several.low, several.high) == pytest.approx(t_interval(values))
    few = estimate("info_nce", batches[:-1])
    assert (few.low, few.high) != pytest.approx(t_interval(values[:-1]))
    assert few == estimate("info_nce", batches[:-1])


def test_bootstrap_unpacks_the_matrix_and_does_not_overflow():
    matrix = torch.randn(7, 7, generator=torch.Generator().manual_seed(0))
    unpacked = information_interval._unpacked(in_batch(matrix).negative)
    assert torch.equal(unpacked, matrix - torch.diag(matrix.diagonal()))
    for name in BOUNDS:
        wild = estimate(name, [in_batch(1e4 * torch.cat([matrix, matrix])[:, list(range(7)) * 2])])
        assert math.isfinite(wild.low) and math.isfinite(wild.high)
