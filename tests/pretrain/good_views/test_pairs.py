"""Two encoders find what two views share, and nothing where they share nothing."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from pretrain.base.errors import ConfigError, UserError
from pretrain.good_views.pairs import PairEncoders, held_out_information, symmetric_information, train_pair


class Flat(nn.Module):
    """Vectors instead of images: one hidden layer."""

    def __init__(self, in_dim: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(in_dim, 32), nn.ReLU())
        self.feature_dim = 32

    def forward(self, values: Tensor) -> Tensor:
        return self.layers(values)


def networks(seed: int = 0) -> PairEncoders:
    torch.manual_seed(seed)
    return PairEncoders(Flat(4), Flat(6), embedding_dim=16)


def pairs(count: int, *, shared: bool, seed: int = 0, size: int = 64) -> Iterator[tuple[Tensor, Tensor]]:
    """Views of 4 and 6 numbers that hold the same class out of eight, or (not shared) one each."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(count):
        one = torch.randint(8, (size,), generator=generator)
        two = one if shared else torch.randint(8, (size,), generator=generator)
        codes = torch.randn(8, 10, generator=torch.Generator().manual_seed(9))
        noise = 0.1 * torch.randn(size, 10, generator=generator)
        yield codes[one, :4] + noise[:, :4], codes[two, 4:] + noise[:, 4:]


def test_shared_class_is_found_on_held_out_pairs_and_independent_views_share_nothing() -> None:
    found = {}
    for shared in (True, False):
        pair = networks()
        history = train_pair(pair, pairs(150, shared=shared), learning_rate=3e-3, num_steps=150)
        assert len(history) == 150
        found[shared] = held_out_information(pair, pairs(20, shared=shared, seed=1), temperature=0.1)
        assert pair.training
    assert 0.75 * math.log(8) < found[True].nats < math.log(8) + 0.05  # they share one of eight classes: log 8 nats
    assert found[False].nats < 0.05
    assert found[True].low > found[False].high
    assert found[True].ceiling == pytest.approx(math.log(64)) and not found[True].saturated


def test_symmetric_information_against_cross_entropies_by_hand() -> None:
    one, two = (nn.functional.normalize(torch.randn(5, 3, generator=torch.Generator().manual_seed(s))) for s in (0, 1))
    logits, targets = one @ two.T / 0.2, torch.arange(5)
    loss = 0.5 * (nn.functional.cross_entropy(logits, targets) + nn.functional.cross_entropy(logits.T, targets))
    assert float(symmetric_information(one, two, temperature=0.2)) == pytest.approx(math.log(5) - float(loss), abs=1e-5)


def test_features_are_both_encoders_without_heads() -> None:
    pair = networks()
    (one, two), *_ = pairs(1, shared=True)
    assert torch.equal(pair.features(one, two), torch.cat((pair.encoder_1(one), pair.encoder_2(two)), 1))
    assert {name.split(".")[0] for name in pair.state_dict()} == {"encoder_1", "encoder_2", "head_1", "head_2"}
    for embedding in pair(one, two):
        assert torch.allclose(embedding.norm(dim=1), torch.ones(64))


def test_training_is_a_function_of_seed_and_batches() -> None:
    runs = [train_pair(networks(3), pairs(5, shared=True)) for _ in range(2)]
    assert runs[0] == runs[1] and runs[0][-1] > runs[0][0]


def test_a_diverged_training_is_reported_and_changes_nothing_more() -> None:
    pair = networks()
    before = {name: value.clone() for name, value in pair.state_dict().items()}
    bad = [(torch.full((8, 4), math.nan), torch.zeros(8, 6))]
    with pytest.raises(UserError, match=r"diverged at step 0.*Lower the learning rate \(it is 0.5\)"):
        train_pair(pair, bad, learning_rate=0.5)
    assert all(torch.equal(before[name], value) for name, value in pair.state_dict().items())


def test_batches_without_negatives_and_temperature_zero_are_refused() -> None:
    with pytest.raises(ConfigError, match="at least 2 pairs"):
        train_pair(networks(), pairs(1, shared=True, size=1))
    with pytest.raises(ConfigError, match="positive number, found 0"):
        train_pair(networks(), pairs(1, shared=True), temperature=0)
