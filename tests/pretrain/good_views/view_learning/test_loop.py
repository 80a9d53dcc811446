"""A killed game goes on bit for bit; a diverged one is reported and leaves a generator from before the fault."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
import torch

from pretrain.base.errors import CheckpointError, ConfigError, Terminated
from pretrain.good_views.view_learning.config import GameConfig
from pretrain.good_views.view_learning.game import Diverged, Game
from pretrain.good_views.view_learning.loop import HISTORY, STATE, Outcome, play
from tests.pretrain.good_views.view_learning.tiny_game import data_of, game_config, write_classes

pytestmark = pytest.mark.slow  # seconds in all: left to `make test`


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_classes(tmp_path_factory.mktemp("classes"))


def played(config: GameConfig, images: Path, out: Path, *, seed: int = 0, messages: list[str] | None = None) -> Outcome:
    return play(
        config,
        data_of(images, config, seed=seed),
        folder=out,
        device=torch.device("cpu"),
        fingerprint="the same",
        announce=(messages if messages is not None else []).append,
    )


def weights(outcome: Outcome) -> list[torch.Tensor]:
    return list(outcome.generator.state_dict().values())


@pytest.mark.parametrize("over", [{}, {"estimator": {"bound": "memory_bank"}}, {"estimator": {"spectral_norm": True}}])
def test_a_game_killed_after_any_step_ends_as_an_unbroken_one(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, over: dict
) -> None:
    config = game_config(runtime={"log_every_steps": 2, "save_every_steps": 3}, **over)
    whole = played(config, folder, tmp_path / "whole")
    assert whole.steps == whole.kept_step == 6 and whole.diverged is None
    plain, broken = Game.step, tmp_path / "broken"
    for kill_at in (2, 5):

        def step(self, batch, at=kill_at):
            if self.step_count == at:
                os.kill(os.getpid(), signal.SIGTERM)
            return plain(self, batch)

        monkeypatch.setattr(Game, "step", step)
        with pytest.raises(Terminated, match=f"saved at step {kill_at + 1} of 6"):
            played(config, folder, broken)
        monkeypatch.setattr(Game, "step", plain)
    messages: list[str] = []
    resumed = played(config, folder, broken, messages=messages)
    assert "resumed" in messages[0] and "at step 6" in messages[0]
    assert all(torch.equal(a, b) for a, b in zip(weights(whole), weights(resumed), strict=True))
    assert whole.history == resumed.history
    assert {path.name for path in broken.iterdir()} == {HISTORY}  # the state is dropped with the end


def test_history_holds_averages_and_is_written_line_by_line(tmp_path: Path, folder: Path) -> None:
    fine = played(game_config(), folder, tmp_path / "fine")
    coarse = played(game_config(runtime={"log_every_steps": 4}), folder, tmp_path / "coarse")
    assert [row["step"] for row in coarse.history] == [4, 6]
    mean = sum(row["information"] for row in fine.history[:4]) / 4
    assert coarse.history[0]["information"] == pytest.approx(mean, rel=1e-5)
    lines = (tmp_path / "coarse" / HISTORY).read_text().splitlines()
    assert [json.loads(line) for line in lines] == coarse.history
    assert coarse.final(share=0.5)["information"] == pytest.approx(coarse.history[1]["information"])


def test_a_huge_rate_diverges_and_the_generator_from_before_is_kept(tmp_path: Path, folder: Path) -> None:
    config = game_config(optimizer={"learning_rate": 30.0, "epochs": 20})
    messages: list[str] = []
    outcome = played(config, folder, tmp_path, messages=messages)
    assert outcome.diverged is not None and outcome.kept_step < outcome.steps < 60
    assert f"seed 0 diverged {outcome.diverged}; kept the generator of step {outcome.kept_step}" in messages[-1]
    assert all(bool(value.isfinite().all()) for value in weights(outcome)) and outcome.inverse_error < 1e-3
    assert not (tmp_path / STATE).exists()


def test_what_is_kept_was_set_aside_a_whole_interval_before_the_fault(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = game_config(runtime={"log_every_steps": 2}, optimizer={"epochs": 4})
    plain = Game.step

    def step(self, batch):
        if self.step_count == 7:
            raise Diverged("planted")
        return plain(self, batch)

    monkeypatch.setattr(Game, "step", step)
    outcome = played(config, folder, tmp_path / "a")
    assert (outcome.steps, outcome.kept_step, outcome.diverged) == (7, 4, "at step 7: planted")
    monkeypatch.setattr(Game, "step", plain)
    short = played(game_config(runtime={"log_every_steps": 2}, optimizer={"epochs": 4}), folder, tmp_path / "b")
    assert max(row["step"] for row in short.history) == 12
    # The kept weights are those of step 4, not of step 6 or 7.
    config = game_config(runtime={"log_every_steps": 2}, optimizer={"epochs": 4})
    data, game = data_of(folder, config), None
    game = Game(config, num_images=24, num_classes=3, steps_per_epoch=3, seed=0, device=torch.device("cpu"))
    for number in range(4):
        game.step(data.batch(number))
    assert all(torch.equal(a, b) for a, b in zip(weights(outcome), game.generator.state_dict().values(), strict=True))


def test_a_state_of_another_game_or_damaged_is_refused(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = Game.step

    def step(self, batch):
        os.kill(os.getpid(), signal.SIGTERM)
        return plain(self, batch)

    monkeypatch.setattr(Game, "step", step)
    with pytest.raises(Terminated):
        played(game_config(), folder, tmp_path)
    monkeypatch.setattr(Game, "step", plain)
    with pytest.raises(
        ConfigError, match=r"another configuration \(config.generator.coupling: 'additive' there, 'affine' now\)"
    ):
        played(game_config(generator={"coupling": "affine"}), folder, tmp_path)
    with pytest.raises(ConfigError, match="seed: 0 there, 1 now"):
        played(game_config(), folder, tmp_path, seed=1)
    state = tmp_path / STATE
    state.write_bytes(state.read_bytes()[:-2000])
    with pytest.raises(CheckpointError):
        played(game_config(), folder, tmp_path)
    torch.save({"format": "other"}, state)
    with pytest.raises(CheckpointError, match="not a saved game"):
        played(game_config(), folder, tmp_path)


def test_channel_figures_are_those_of_whole_training_images(tmp_path: Path, folder: Path) -> None:
    config = game_config()
    outcome = played(config, folder, tmp_path)
    images = data_of(folder, config).unlabelled.images / 255
    learned = outcome.generator.from_rgb(images)
    assert outcome.mean == pytest.approx(learned.mean((0, 2, 3)).tolist(), abs=1e-5)
    assert outcome.std == pytest.approx(learned.std((0, 2, 3)).tolist(), abs=1e-5)
