"""The three bounds against values by hand, the memory bank's bookkeeping, and the gradient penalty."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional

from pretrain.good_views.view_learning.estimator import Estimator, gradient_penalty
from pretrain.model.memory import draw_others
from tests.pretrain.good_views.view_learning.tiny_game import game_config


def estimator(seed: int = 0, num_images: int = 40, **over) -> Estimator:
    torch.manual_seed(seed)
    return Estimator(game_config(estimator=over).estimator, num_images=num_images, seed=seed)


def views(count: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return torch.rand(count, 1, 16, 16, generator=generator), torch.rand(count, 2, 16, 16, generator=generator)


def test_dv_is_the_mean_joint_score_less_the_log_mean_exponential_of_the_others() -> None:
    network = estimator(bound="dv")
    one, two = network.embed(*views())
    matrix = (one @ two.T / math.sqrt(8)).double()
    off = matrix[~torch.eye(8, dtype=torch.bool)]
    expected = matrix.diagonal().mean() - off.exp().mean().log()
    assert float(network(*views(), index=torch.arange(8), step=0).detach()) == pytest.approx(
        float(expected.detach()), abs=1e-6
    )
    assert not torch.allclose(one.norm(dim=1), torch.ones(8), atol=0.01)  # raw


def test_infonce_is_the_mean_of_both_directions() -> None:
    network = estimator(bound="infonce", temperature=0.3)
    one, two = network.embed(*views())
    assert torch.allclose(one.norm(dim=1), torch.ones(8))
    logits = one @ two.T / 0.3
    losses = [functional.cross_entropy(values, torch.arange(8)) for values in (logits, logits.T)]
    expected = math.log(8) - float(sum(losses).detach()) / 2
    assert float(network(*views(), index=torch.arange(8), step=0).detach()) == pytest.approx(expected, abs=1e-5)


def test_a_view_is_scored_against_the_other_view_s_bank() -> None:
    network = estimator(bound="memory_bank", temperature=0.3, num_negatives=12)
    index = torch.tensor([3, 1, 4, 15, 9, 2, 6, 5])
    one, two = (value.detach() for value in network.embed(*views()))
    first, second = network.scores((one, two), index=index, step=7)
    assert torch.allclose(first.positive, (one * network.bank_2[index]).sum(1) / 0.3)
    assert torch.allclose(second.positive, (two * network.bank_1[index]).sum(1) / 0.3)
    others = draw_others(40, 12, seed=0, step=7, device=torch.device("cpu")).tolist()
    for row, own in enumerate(index.tolist()):
        drawn = [[i for i in range(40) if i != own][other] for other in others]
        assert torch.allclose(first.negative[row], one[row] @ network.bank_2[drawn].T / 0.3)
        assert torch.allclose(second.negative[row], two[row] @ network.bank_1[drawn].T / 0.3)
    again, later = (network.scores((one, two), index=index, step=step)[0].negative for step in (7, 8))
    assert torch.equal(first.negative, again) and not torch.equal(first.negative, later)


def test_the_bank_s_rows_move_half_way_and_stay_of_unit_length() -> None:
    network = estimator(bound="memory_bank")
    index, before = torch.tensor([5, 0]), network.bank_1.clone()
    new = functional.normalize(torch.randn(2, 8)), functional.normalize(torch.randn(2, 8))
    network.remember(new, index=index)
    assert torch.allclose(network.bank_1[index], functional.normalize(before[index] + new[0]), atol=1e-6)
    untouched = [row for row in range(40) if row not in (5, 0)]
    assert torch.equal(network.bank_1[untouched], before[untouched])
    assert torch.allclose(network.bank_2.norm(dim=1), torch.ones(40), atol=1e-5)


def test_without_a_bank_there_are_no_rows() -> None:
    network = estimator(bound="dv")
    network.remember((torch.rand(2, 8), torch.rand(2, 8)), index=torch.arange(2))
    assert network.bank_1.shape == (0, 8)


def test_gradient_penalty_of_a_linear_critic_is_its_squared_slope() -> None:
    one, two = torch.rand(5, 1, 2, 2, requires_grad=True), torch.rand(5, 2, 2, 2, requires_grad=True)
    joint = 3 * one.sum((1, 2, 3)) - 2 * two.sum((1, 2, 3))
    assert float(gradient_penalty(joint, (one, two)).detach()) == pytest.approx(9 * 4 + 4 * 8)


def test_spectral_norm_holds_every_layer_to_one() -> None:
    network = estimator(spectral_norm=True)
    for _ in range(30):  # power iterations
        network.embed(*views())
    weights = [module.weight for module in network.modules() if isinstance(module, torch.nn.Conv2d | torch.nn.Linear)]
    assert len(weights) == 10
    assert all(float(torch.linalg.matrix_norm(w.detach().flatten(1), 2)) == pytest.approx(1, abs=0.02) for w in weights)
