"""A run over seeds: its files, its variance, what it does when games diverge, and the recipe that it writes."""

from __future__ import annotations

import math
import pickle
from pathlib import Path

import pytest
import torch

from pretrain.base.errors import ConfigError, UserError
from pretrain.base.record import read_record
from pretrain.good_views.interval import t_interval
from pretrain.good_views.view_learning import run as game_run
from pretrain.good_views.view_learning.loop import Outcome
from pretrain.good_views.view_learning.run import GameRunConfig, agreement, between_seeds, learn_views
from pretrain.views.generator import Generator, GeneratorConfig
from pretrain.views.generator_file import load_generator
from pretrain.views.pipeline import ViewMaker
from pretrain.views.recipe_file import load_recipe
from tests.pretrain.good_views.view_learning.tiny_game import game_config, write_classes

pytestmark = pytest.mark.slow  # seconds in all: left to `make test`


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_classes(tmp_path_factory.mktemp("classes"))


def learned(folder: Path, out: Path, *, seeds: tuple[int, ...] = (0, 1), resume: bool = False, messages=None, **over):
    config = GameRunConfig(folder, None, seeds, game_config(**over))
    announce = (messages if messages is not None else []).append
    return learn_views(config, out, resume=resume, command="test", announce=announce).details


@pytest.fixture(scope="module")
def run(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run") / "out"
    learned(folder, out, optimizer={"learning_rate": 1e-2})
    return out


@pytest.fixture
def without_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """They take longer than the games (the run above draws them, and test_game_pictures.py)."""
    for name in ("draw_channels", "draw_history"):
        monkeypatch.setattr(game_run, name, lambda *arguments, **options: None)


def test_a_run_leaves_its_files_and_its_variance(run: Path) -> None:
    names = {path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file()}
    per_seed = {
        f"seed_{n}/{name}" for n in (0, 1) for name in ("generator.safetensors", "history.jsonl", "seed_result.json")
    }
    own = {"generator.safetensors", "recipe.yaml", "channels.png", "history.png"}
    about = {"config.yaml", "record.json", "run.lock"}
    assert names == per_seed | own | about
    record = read_record(run / "record.json")
    assert (record.kind, record.status, record.commands) == ("view-learning", "done", ("test",))
    result = record.details
    assert record.figures["information"] == pytest.approx(result["between_seeds"]["information"]["mean"])
    assert result["kept_seed"] == 0 and [seed["steps"] for seed in result["seeds"]] == [6, 6]
    values = [seed["final"]["information"] for seed in result["seeds"]]
    spread = result["between_seeds"]["information"]
    assert (spread["low"], spread["high"]) == pytest.approx(t_interval(values)) and spread["num_seeds"] == 2
    assert 0 < result["agreement"]["channel_1"] <= 1
    kept, first = (load_generator(path / "generator.safetensors") for path in (run, run / "seed_0"))
    assert kept.record == first.record and kept.record.training["num_labelled"] == 24


def moved(run: Path, folder: Path) -> Path:
    """The run's recipe and its generator in `folder`."""
    for name in ("recipe.yaml", "generator.safetensors"):
        (folder / name).write_bytes((run / name).read_bytes())
    return folder / "recipe.yaml"


def test_a_recipe_moved_with_its_generator_splits_as_the_generator_does(run: Path, tmp_path: Path) -> None:
    recipe = load_recipe(moved(run, tmp_path))
    image = torch.randint(256, (24, 24, 3), dtype=torch.uint8).numpy()
    maker = pickle.loads(pickle.dumps(ViewMaker(recipe, image_size=16)))  # as a loader process gets it
    views = maker(image, seed=0, epoch=0, index=3)
    assert torch.equal(views.images, ViewMaker(recipe, image_size=16)(image, seed=0, epoch=0, index=3).images)
    frozen = load_generator(run / "generator.safetensors")
    halves = frozen.to_space(views.images / 255)
    spread = halves.std((2, 3))  # rounding to bytes and clipping leave a little of the other channels
    one, two = sorted(range(2), key=lambda view: float(spread[view, 1:].sum()))
    assert spread[one, 1:].max() < 0.35 * spread[two, 1:].max() and spread[two, 0] < 0.35 * spread[one, 0]


def test_a_recipe_whose_generator_is_missing_another_or_of_another_space_is_refused(run: Path, tmp_path: Path) -> None:
    recipe, generator = moved(run, tmp_path), tmp_path / "generator.safetensors"
    generator.write_bytes((run / "seed_1" / "generator.safetensors").read_bytes())
    with pytest.raises(UserError, match="not the one that the recipe was made with"):
        ViewMaker(load_recipe(recipe), image_size=16)
    generator.unlink()
    with pytest.raises(UserError, match="a recipe and its generator are moved together"):
        ViewMaker(load_recipe(recipe), image_size=16)
    text = "name: mine\nops:\n  - {op: RandomResizedCrop}\n  - {op: ChannelSplit, space: lab, generator: generator.safetensors}\n"
    recipe.write_text(text)
    generator.write_bytes((run / "generator.safetensors").read_bytes())
    with pytest.raises(ConfigError, match="the generator starts from rgb, found space: lab"):
        ViewMaker(load_recipe(recipe), image_size=16)


@pytest.mark.usefixtures("without_pictures")
def test_more_seeds_are_added_to_a_finished_run_without_playing_the_old_ones_again(
    folder: Path, tmp_path: Path
) -> None:
    alone = learned(folder, tmp_path / "a", seeds=(0,))
    assert alone["agreement"] is None and alone["between_seeds"]["information"]["std"] is None
    messages: list[str] = []
    both = learned(folder, tmp_path / "a", resume=True, messages=messages)
    assert "seed 0 is finished" in messages and len(both["seeds"]) == 2 and both["seeds"][0] == alone["seeds"][0]
    with pytest.raises(ConfigError, match="another configuration"):
        learned(folder, tmp_path / "a", resume=True, image_size=18)
    with pytest.raises(ConfigError, match="already holds a run"):
        learned(folder, tmp_path / "a")
    other = write_classes(tmp_path / "other", seed=5)
    before = (tmp_path / "a" / "record.json").read_bytes()
    continued = read_record(tmp_path / "a" / "record.json")
    assert len(continued.commands) == 2 and continued.seeds == {"run": 0, "run 2": both["seeds"][1]["seed"]}
    with pytest.raises(UserError, match="seed was played on other images"):
        learned(other, tmp_path / "a", resume=True)
    assert (tmp_path / "a" / "record.json").read_bytes() == before


@pytest.mark.usefixtures("without_pictures")
def test_where_every_game_diverges_everything_but_a_recipe_is_written(folder: Path, tmp_path: Path) -> None:
    messages: list[str] = []
    with pytest.raises(UserError, match=r"every game diverged \(2 of 2 seeds; at step \d+.*no recipe.*Lower optimizer"):
        learned(folder, tmp_path / "out", messages=messages, optimizer={"learning_rate": 30.0, "epochs": 20})
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert not {"recipe.yaml", "generator.safetensors"} & names
    record = read_record(tmp_path / "out" / "record.json")
    assert record.status == "failed" and "every game diverged" in record.error and len(record.details["seeds"]) == 2
    assert load_generator(tmp_path / "out" / "seed_1" / "generator.safetensors").record.seed == 1
    assert sum("diverged" in line for line in messages) == 2


@pytest.mark.usefixtures("without_pictures")
def test_the_first_sound_seed_is_kept_where_another_diverged(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = game_run.play

    def play(config, data, **rest):
        outcome = plain(config, data, **rest)
        return Outcome(**{**outcome.__dict__, "diverged": "planted"}) if data.seed == 0 else outcome

    monkeypatch.setattr(game_run, "play", play)
    result = learned(folder, tmp_path / "out")
    assert result["kept_seed"] == 1 and result["between_seeds"]["information"]["num_seeds"] == 1
    assert load_generator(tmp_path / "out" / "generator.safetensors").record.seed == 1


def test_a_run_that_cannot_start_leaves_no_folder(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="do not fill one batch of 99"):
        learned(folder, tmp_path / "out", optimizer={"batch_size": 99})
    config = GameRunConfig(folder, folder, (0,), game_config(mode="unsupervised"))
    with pytest.raises(ConfigError, match="leave --labelled out"):
        learn_views(config, tmp_path / "out", resume=False, command="", announce=print)
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("without_pictures")
def test_labels_that_a_mode_does_not_use_are_reported(folder: Path, tmp_path: Path) -> None:
    messages: list[str] = []
    learned(
        folder,
        tmp_path,
        messages=messages,
        seeds=(0,),
        mode="unsupervised",
        labels_per_class=2,
        optimizer={"epochs": 1},
    )
    assert "labels_per_class is not used" in messages[0]


def outcome(seed: int, information: float) -> Outcome:
    torch.manual_seed(seed)
    generator = Generator(GeneratorConfig(hidden_width=4))
    history = [{"step": 1.0, "epoch": 1.0, "information": information}]
    return Outcome(generator, seed, 1, 1, None, (0, 0, 0), (1, 1, 1), 0.0, history)


def test_variance_and_agreement_against_values_by_hand() -> None:
    outcomes = [outcome(0, 1.0), outcome(1, 2.0), outcome(2, 6.0)]
    spread = between_seeds(outcomes)["information"]
    assert spread["mean"] == pytest.approx(3) and spread["std"] == pytest.approx(math.sqrt(7))
    images = torch.randint(256, (8, 3, 8, 8), dtype=torch.uint8)
    assert agreement(outcomes, images) == pytest.approx({f"channel_{n}": 1.0 for n in (1, 2, 3)})  # all still the space
    torch.nn.init.constant_(outcomes[0].generator.blocks[0].first.layers[2].weight, 9.0)
    changed = agreement(outcomes, images)
    assert changed is not None and changed["channel_1"] < 0.95
    assert between_seeds([]) == {}
