"""A result only once all seeds are done, each on its own generator."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pretrain.base.errors import ConfigError, DataError
from pretrain.good_views.view_learning import evaluation_run
from pretrain.good_views.view_learning.evaluation import load_evaluation_config
from pretrain.good_views.view_learning.evaluation import evaluate_views, views_of
from pretrain.views.generator import Generator, GeneratorConfig
from pretrain.views.generator_file import record_of, write_generator
from tests.pretrain.good_views.view_learning.tiny_game import write_classes


def test_nothing_is_written_where_a_seed_fails_and_warnings_are_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for part in ("train", "val"):
        write_classes(tmp_path / part, per_class=4)

    def once(views, data, config, *, seed, device):
        if seed == 1:
            raise DataError("planted")
        information = {"bound": "info_nce", "nats": 1.0, "low": 0.9, "high": 1.1, "saturated": True}
        return {"seed": seed, "information": information, "probe": {"top1": 50.0}, "warning": "close to its ceiling"}

    monkeypatch.setattr(evaluation_run, "evaluate_once", once)
    config, said = load_evaluation_config(None, ["batch_size=4", "image_size=16", "device=cpu"]), []

    def evaluated(*seeds: int):
        out = tmp_path / "out"
        return evaluate_views("rgb", tmp_path, config, seeds=seeds, output_dir=out, command="", announce=said.append)

    with pytest.raises(DataError, match="planted"):
        evaluated(0, 1)
    assert not (tmp_path / "out").exists() and any("close to its ceiling" in line for line in said)
    assert evaluated(0)["information"]["saturated"] and (tmp_path / "out" / "view_result.json").exists()


def test_a_folder_of_games_gives_every_seed_its_own_generator(tmp_path: Path) -> None:
    for seed in (0, 3):
        generator = Generator(GeneratorConfig(hidden_width=4))
        torch.nn.init.constant_(generator.blocks[0].first.layers[2].bias, seed + 1.0)
        record = record_of(generator, mode="unsupervised", seed=seed, mean=(0, 0, 0), std=(1, 1, 1), training={})
        write_generator(tmp_path / f"seed_{seed}" / "generator.safetensors", generator, record)
    rgb = torch.rand(1, 3, 4, 4)
    first, other = (views_of(str(tmp_path), seed) for seed in (0, 3))
    assert (first.about["seed"], other.about["seed"]) == (0, 3)
    difference = other.to_channels(rgb)[:, 0] - first.to_channels(rgb)[:, 0]
    assert torch.allclose(difference, torch.full((1, 4, 4), 3.0), atol=1e-5)
    assert views_of("lab", 7).name == "lab"
    with pytest.raises(ConfigError, match="--seeds out of its own, found seed_0, seed_3"):
        views_of(str(tmp_path), 1)
