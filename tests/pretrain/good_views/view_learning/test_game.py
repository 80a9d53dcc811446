"""Who moves, in which direction, on what, and when the game is stopped."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor

from pretrain.good_views.view_learning.config import GameOptimizerConfig
from pretrain.good_views.view_learning.game import Diverged, Game, GameBatch, learning_rate
from pretrain.views.generator import split_views
from tests.pretrain.good_views.view_learning.tiny_game import game_config, game_of, random_batch

pytestmark = pytest.mark.slow  # seconds in all: left to `make test`


def views_of(game: Game, batch: GameBatch) -> tuple[Tensor, Tensor]:
    return split_views(game.generator.from_rgb(batch.first), game.generator.from_rgb(batch.second))


def information_of(game: Game, batch: GameBatch) -> float:
    with torch.no_grad():
        return float(game.estimator(*views_of(game, batch), index=batch.index, step=0))


def estimator_raises(game: Game, batch: GameBatch, moves: int = 40) -> bool:
    before = information_of(game, batch)
    for _ in range(moves):
        one, two = views_of(game, batch)
        game.estimator_move((one.detach(), two.detach()), batch)
    return information_of(game, batch) > before + 0.1


def generator_lowers(game: Game, batch: GameBatch, moves: int = 40) -> bool:
    before = information_of(game, batch)
    for _ in range(moves):
        labelled = game.generator.from_rgb(batch.labelled)
        game.generator_move(views_of(game, batch), split_views(labelled, labelled), batch)
    return information_of(game, batch) < before - 0.05


BOUNDS = ["dv", "infonce", "memory_bank"]


@pytest.mark.parametrize("bound", BOUNDS)
def test_the_estimator_raises_what_the_generator_then_lowers(bound: str) -> None:
    config = game_config(
        mode="unsupervised", estimator={"bound": bound, "temperature": 0.2}, optimizer={"learning_rate": 5e-3}
    )
    game, batch = game_of(config), random_batch(config)
    assert estimator_raises(game, batch)
    assert generator_lowers(game, batch)


class Ascending(Game):
    """Planted fault: the generator's loss has the wrong sign."""

    def _descend(self, optimizer, loss, who):
        super()._descend(optimizer, -loss if who == "generator" else loss, who)


class Idle(Game):
    """Planted fault: the estimator descends what it should raise."""

    def _descend(self, optimizer, loss, who):
        super()._descend(optimizer, -loss if who == "estimator" else loss, who)


@pytest.mark.parametrize(("fault", "finds"), [(Ascending, generator_lowers), (Idle, estimator_raises)])
def test_a_game_that_ascends_instead_of_descending_is_found_by_these_tests(fault: type[Game], finds) -> None:
    config = game_config(
        mode="unsupervised", optimizer={"learning_rate": 5e-3}, health={"max_information": 1e6, "max_deviation": 1e6}
    )
    game = fault(config, num_images=24, num_classes=0, steps_per_epoch=3, seed=0, device=torch.device("cpu"))
    batch = random_batch(config)
    if finds is generator_lowers:
        assert estimator_raises(game, batch)
    assert not finds(game, batch)


def changed(before: dict[str, Tensor], module: torch.nn.Module) -> bool:
    return any(not torch.equal(value, dict(module.named_parameters())[name]) for name, value in before.items())


def copy_of(module: torch.nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in module.named_parameters()}


@pytest.mark.parametrize("move", ["estimator", "generator"])
def test_each_move_changes_its_own_player_only(move: str) -> None:
    config = game_config()
    game, batch = game_of(config), random_batch(config)
    players = {"estimator": game.estimator, "generator": game.generator, "classifiers": game.classifiers}
    before = {name: copy_of(module) for name, module in players.items()}
    one, two = views_of(game, batch)
    if move == "estimator":
        game.estimator_move((one.detach(), two.detach()), batch)
    else:
        labelled = game.generator.from_rgb(batch.labelled)
        game.generator_move((one, two), split_views(labelled, labelled), batch)
    moved = {name for name, module in players.items() if changed(before[name], module)}
    assert moved == ({"estimator"} if move == "estimator" else {"generator", "classifiers"})


@pytest.mark.parametrize(
    ("mode", "names"), [("unsupervised", set()), ("semi-supervised", {"ce"}), ("supervised", {"ce"})]
)
def test_modes_have_their_figures_and_their_objective(mode: str, names: set[str]) -> None:
    config = game_config(mode=mode, information_weight=0.5, classification_weight=2.0)
    figures = game_of(config).step(random_batch(config))
    entropies = [float(value) for name, value in figures.items() if name.startswith("cross_entropy")]
    assert bool(entropies) is bool(names)
    weight = 0.0 if mode == "supervised" else 0.5
    expected = weight * float(figures["information"]) + 2.0 * sum(entropies)
    assert float(figures["objective"]) == pytest.approx(expected, abs=1e-5)
    assert float(figures["log_determinant"]) == 0


def test_labels_move_the_generator_even_where_information_has_no_weight() -> None:
    config = game_config(mode="supervised")
    game, batch = game_of(config), random_batch(config)
    before = copy_of(game.generator)
    for _ in range(2):
        game.step(batch)
    assert changed(before, game.generator)


def test_supervised_games_do_not_depend_on_the_information(monkeypatch: pytest.MonkeyPatch) -> None:
    config = game_config(mode="supervised")
    batch = random_batch(config)
    ends = []
    for factor in (1.0, 100.0):
        game = game_of(config)
        plain = game.estimator.information
        monkeypatch.setattr(game.estimator, "information", lambda scores, f=factor, g=plain: f * g(scores))
        game.generator_move(views_of(game, batch), split_views(*(game.generator.from_rgb(batch.labelled),) * 2), batch)
        ends.append(copy_of(game.generator))
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


def test_a_game_is_a_function_of_its_seed() -> None:
    config = game_config()
    figures = [game_of(config, seed).step(random_batch(config)) for seed in (0, 0, 1)]
    assert figures[0]["objective"] == figures[1]["objective"] != figures[2]["objective"]


def test_the_state_holds_all_that_the_next_step_depends_on() -> None:
    config = game_config(estimator={"bound": "memory_bank"})
    one = game_of(config, seed=0)
    one.step(random_batch(config, 0))
    other = game_of(config, seed=0)
    for parameter in other.estimator.parameters():
        parameter.data.add_(1)
    other.load_state_dict(copy.deepcopy(one.state_dict()))  # torch's optimisers would share tensors
    ends = [game.step(random_batch(config, 1)) for game in (one, other)]
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0]) and other.step_count == 2


@pytest.mark.parametrize("option", [{"spectral_norm": True}, {"gradient_penalty": 10.0}])
def test_stability_options_hold_the_critic_s_slope_down(option: dict[str, object]) -> None:
    slopes = {}
    for name, over in (("plain", {}), ("option", option)):
        config = game_config(mode="unsupervised", estimator=over, optimizer={"learning_rate": 5e-3})
        game, batch = game_of(config), random_batch(config)
        estimator_raises(game, batch)
        views = tuple(view.detach().requires_grad_() for view in views_of(game, batch))
        scores, _ = game.estimator.scores(game.estimator.embed(*views), index=batch.index, step=0)
        gradients = torch.autograd.grad(scores.positive.sum(), views)
        slopes[name] = math.sqrt(sum(float(gradient.square().sum()) for gradient in gradients))
    assert slopes["option"] < 0.7 * slopes["plain"]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda game: game.generator.blocks[0].first.layers[2].bias.data.fill_(float("nan")), "deviation of nan"),
        (lambda game: game.estimator.heads[0].weight.data.mul_(1e5), "nats, beyond 50"),
        (lambda game: game.estimator.heads[0].weight.data.fill_(float("inf")), "estimate is nan nats"),
        (lambda game: game.classifiers[0].linear.bias.data.fill_(float("inf")), "generator's loss is"),
    ],
)
def test_a_diverged_game_is_stopped_before_the_move_is_made(spoil, message: str) -> None:
    config = game_config()
    game = game_of(config)
    spoil(game)
    before = copy_of(game.generator)
    with pytest.raises(Diverged, match=message):
        game.step(random_batch(config))
    now = copy_of(game.generator)
    assert all(torch.allclose(before[name], now[name], equal_nan=True) for name in before)
    assert game.step_count == 0


def test_a_collapsed_channel_is_found() -> None:
    config = game_config(generator={"coupling": "affine"}, health={"min_deviation": 0.5})
    game = game_of(config)
    for block in game.generator.blocks:
        block.first.layers[2].bias.data[0] = -2.0  # log scale tanh(-2) each
    with pytest.raises(Diverged, match="learned channel 1 has a deviation of"):
        game.step(random_batch(config))


def test_rates_fall_after_each_milestone() -> None:
    config = GameOptimizerConfig()
    rates = [learning_rate(config, epoch) for epoch in (0, 59, 60, 79, 80, 99)]
    assert rates == pytest.approx([2e-4, 2e-4, 4e-5, 4e-5, 8e-6, 8e-6])
    game = game_of(game_config(optimizer={"learning_rate": 0.01, "milestones": [1]}))
    for _ in range(4):  # three steps an epoch
        game.step(random_batch(game.config))
    assert game._estimator_optimizer.param_groups[0]["lr"] == pytest.approx(0.002)
    assert game._optimizer.param_groups[0]["lr"] == pytest.approx(0.01)
