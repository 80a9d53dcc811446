"""A run whose recipe refers to a learned generator: the file goes with the run's folder, only its hash into what is written."""

from __future__ import annotations

import base64
import hashlib
import shutil
from pathlib import Path

import pytest
import torch
import yaml

from pretrain.base.contract import InputContract
from pretrain.base.errors import ConfigError
from pretrain.base.record import Record
from pretrain.config import load_run_config, to_plain
from pretrain.good_views.measure import load_critic
from pretrain.run.checkpoint import checkpoint_path, write_checkpoint
from pretrain.run.folder import RunDir
from pretrain.run.precision import choose_precision
from pretrain.run.ranks import Ranks
from pretrain.state import build_state
from pretrain.views.generator import Generator, GeneratorConfig
from pretrain.views.generator_file import EMBEDDED, record_of, write_generator
from pretrain.views.operations import RandomResizedCrop
from pretrain.views.paired import ChannelSplit
from pretrain.views.pipeline import ViewMaker
from pretrain.views.recipe_file import recipe_of, write_recipe
from pretrain.views.recipes import Recipe

pytestmark = pytest.mark.slow  # seconds in all: left to `make test`

CPU = choose_precision("fp32", torch.device("cpu"))
RECORD = Record("pretraining", {}, {}, {"run": 0})


@pytest.fixture
def learned(tmp_path: Path) -> Path:
    """Recipe and generator as tools/learn_views.py leaves them."""
    torch.manual_seed(0)
    generator = Generator(GeneratorConfig(hidden_width=4, num_blocks=1))
    path = tmp_path / "learned" / "generator.safetensors"
    record = record_of(generator, mode="unsupervised", seed=0, mean=(0, 0, 0), std=(1, 1, 1), training={})
    write_generator(path, generator, record)
    split = ChannelSplit("rgb", generator=str(path), sha256=hashlib.sha256(path.read_bytes()).hexdigest())
    write_recipe(path.with_name("recipe.yaml"), Recipe("learned", (RandomResizedCrop(), split)))
    return path.with_name("recipe.yaml")


def configured(tiny_config, folder: Path, recipe: Path):
    """The configuration of a tiny run as its user gives it."""
    values = to_plain(tiny_config(method={"jigsaw": False}))
    (folder / "run.yaml").write_text(yaml.safe_dump(values))
    return load_run_config(folder / "run.yaml", [f"views.recipe={recipe}"])


def views_made(config):
    image = torch.randint(256, (40, 40, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)).numpy()
    recipe = recipe_of(config.views.recipe, config.views.overrides)
    return ViewMaker(recipe, image_size=32)(image, seed=0, epoch=0, index=0).images


def test_the_run_s_folder_holds_the_generator_and_may_be_moved(tiny_config, tmp_path, learned):
    config = configured(tiny_config, tmp_path, learned)
    before = views_made(config)
    with RunDir(tmp_path / "run", config, resume=False) as run:
        run.begin(RECORD)
        checkpoint = checkpoint_path(run.checkpoints, 0)
        state = build_state(config, InputContract(), precision=CPU, ranks=Ranks())
        write_checkpoint(checkpoint, state.state_dict(config, InputContract(), 2))
    text = (tmp_path / "run" / "config.yaml").read_text()
    assert "sha256" in text and "base64" not in text and str(tmp_path / "learned") not in text and len(text) < 4000
    assert "base64" not in str(torch.load(checkpoint, weights_only=True)["config"])
    with RunDir(tmp_path / "run", config, resume=True) as run:  # the same command again
        run.begin(RECORD)
    shutil.rmtree(learned.parent)
    moved = (tmp_path / "run").rename(tmp_path / "moved")
    again = load_run_config(moved / "config.yaml")
    assert to_plain(again) == to_plain(config) and torch.equal(views_made(again), before)
    with RunDir(moved, again, resume=True) as run:  # and from its own config.yaml
        run.begin(RECORD)
    critic = load_critic(moved / "checkpoints" / checkpoint.name, CPU)
    assert torch.equal(views_made(critic.config), before)


def test_a_run_that_never_begins_leaves_nothing(tiny_config, tmp_path, learned):
    with RunDir(tmp_path / "run", configured(tiny_config, tmp_path, learned), resume=False):
        pass
    assert not (tmp_path / "run").exists()


def test_a_changed_or_missing_generator_is_refused(tiny_config, tmp_path, learned):
    config = configured(tiny_config, tmp_path, learned)
    with RunDir(tmp_path / "run", config, resume=False) as run:
        run.begin(RECORD)
    copy = tmp_path / "run" / "generator.safetensors"
    expected = hashlib.sha256(copy.read_bytes()).hexdigest()
    copy.write_bytes(copy.read_bytes()[:-1] + b"?")
    found = hashlib.sha256(copy.read_bytes()).hexdigest()
    with pytest.raises(ConfigError, match=f"expected sha256 {expected}, found {found}"):
        load_run_config(tmp_path / "run" / "config.yaml")
    with (
        RunDir(tmp_path / "run", config, resume=True) as run,
        pytest.raises(ConfigError, match=f"expected sha256 {expected}, found {found}"),
    ):
        run.begin(RECORD)
    copy.unlink()
    with pytest.raises(ConfigError, match=r"expected a file at .*run/generator\.safetensors, found none"):
        load_run_config(tmp_path / "run" / "config.yaml")


def test_a_folder_of_the_first_version_with_the_weights_in_its_files_still_loads(tiny_config, tmp_path, learned):
    config = configured(tiny_config, tmp_path, learned)
    values = to_plain(config)
    weights = EMBEDDED + base64.b64encode(learned.with_name("generator.safetensors").read_bytes()).decode()
    split = values["views"]["recipe"]["ops"][1]
    split["generator"] = weights
    del split["sha256"]
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "config.yaml").write_text(yaml.safe_dump(values))
    old = load_run_config(tmp_path / "old" / "config.yaml")
    assert to_plain(old) == to_plain(config) and torch.equal(views_made(old), views_made(config))
    checkpoint = checkpoint_path(tmp_path / "old" / "checkpoints", 0)
    state = build_state(config, InputContract(), precision=CPU, ranks=Ranks())
    write_checkpoint(checkpoint, {**state.state_dict(config, InputContract(), 2), "config": values})
    assert to_plain(load_critic(checkpoint, CPU).config) == to_plain(config)
