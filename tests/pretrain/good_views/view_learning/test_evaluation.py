"""Pairs of views without leaks, features of both, figures that follow what the views share, and intervals over seeds."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pretrain.base.errors import ConfigError, DataError
from pretrain.base.strict import from_mapping, merge
from pretrain.good_views.interval import t_interval
from pretrain.good_views.view_learning.evaluation import ChannelViews, load_views
from pretrain.good_views.view_learning.evaluation import (
    EvaluationConfig,
    EvaluationData,
    evaluate_once,
    load_evaluation_config,
    load_evaluation_data,
    pairs,
    summarize,
)
from tests.pretrain.good_views.view_learning.tiny_game import CLASSES, SMALL, write_classes

TINY = {
    "image_size": 16,
    "encoder": SMALL,
    "embedding_dim": 8,
    "batch_size": 12,
    "epochs": 2,
    "device": "cpu",
    "learning_rate": 5e-3,
}
CPU = torch.device("cpu")


def config_of(**over) -> EvaluationConfig:
    return from_mapping(EvaluationConfig, merge(TINY, over), where="test")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    write_classes(root / "train", per_class=40)
    write_classes(root / "val", per_class=16, seed=1)
    return root


@pytest.fixture(scope="module")
def data(folder: Path) -> EvaluationData:
    return load_evaluation_data(folder, config_of(), announce=print)


def test_pairs_hold_channel_one_and_channels_two_and_three_of_two_crops_or_one(data: EvaluationData) -> None:
    index = ChannelViews("marked", lambda rgb: torch.stack([rgb[:, 0], rgb[:, 0] + 10, rgb[:, 0] + 20], dim=1), {})
    for same_crop in (True, False):
        config = config_of(same_crop=same_crop)
        one, two = next(pairs(index, data.train, config, seed=0, num_steps=1))
        assert one.shape == (12, 1, 16, 16) and two.shape == (12, 2, 16, 16)
        assert one.max() <= 1 and two[:, 0].min() >= 10 and two[:, 1].min() >= 20
        assert torch.allclose(one[:, 0], two[:, 0] - 10, atol=1e-5) is same_crop
        again, _ = next(pairs(index, data.train, config, seed=0, num_steps=1))
        assert torch.equal(one, again)


def test_views_that_share_nothing_have_no_information_and_leaking_ones_have_much(data: EvaluationData) -> None:
    """A planted leak, channel 1 written over channel 2, must show as information that honest noise does not have."""

    def noise(rgb: torch.Tensor) -> torch.Tensor:
        return torch.randn(rgb.shape, generator=torch.Generator().manual_seed(int(rgb.sum() * 1000)))

    def leaking(rgb: torch.Tensor) -> torch.Tensor:
        means = rgb.mean((2, 3), keepdim=True)[:, :1].expand(-1, 1, *rgb.shape[2:])
        return torch.cat((means, means, noise(rgb)[:, :1]), dim=1)

    config, found = config_of(epochs=10, same_crop=True), {}
    for name, transform in (("noise", noise), ("leak", leaking)):
        run = evaluate_once(ChannelViews(name, transform, {}), data, config, seed=0, device=CPU)
        found[name] = run["information"]["nats"]
    assert found["noise"] < 0.15 and found["leak"] > 0.5


def test_an_evaluation_is_a_function_of_its_seed_and_reads_the_classes(data: EvaluationData) -> None:
    config = config_of(epochs=6, encoder={"width": 16, "feature_dim": 32})
    one, other = (evaluate_once(load_views("ydbdr"), data, config, seed=0, device=CPU) for _ in range(2))
    assert one == other
    assert one["probe"]["top1"] > 100 / len(CLASSES) + 20 and one["probe"]["num_labels"] == 120
    assert one["information"]["num_negatives"] == 11 and one["training"]["steps"] == 60
    few = evaluate_once(load_views("ydbdr"), data, config_of(epochs=1, labels_per_class=5), seed=0, device=CPU)
    assert few["probe"]["num_labels"] == 15


def test_the_interval_is_over_seeds() -> None:
    def run(nats: float, top1: float) -> dict:
        information = {"bound": "info_nce", "nats": nats, "low": nats - 0.1, "high": nats + 0.1, "saturated": nats > 2}
        return {"information": information, "probe": {"top1": top1}}

    several = summarize([run(1.0, 40.0), run(1.5, 42.0), run(2.6, 47.0)])
    assert (several["information"]["low"], several["information"]["high"]) == pytest.approx(t_interval([1.0, 1.5, 2.6]))
    assert several["information"]["nats"] == pytest.approx(1.7) and several["information"]["saturated"]
    assert several["probe"]["top1"] == pytest.approx(43) and several["probe"]["low"] < 40
    single = summarize([run(1.0, 40.0)])
    assert single["information"]["low"] == 0.9 and single["probe"]["low"] is None
    assert single["information"]["interval"] == "batches of one seed"


def test_data_that_cannot_be_evaluated_is_refused(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(DataError, match="train/train: expected a folder with one folder a class"):
        load_evaluation_data(folder / "train", config_of(), announce=print)
    with pytest.raises(DataError, match="48 images do not fill a batch of 49; type batch_size=48"):
        load_evaluation_data(folder, config_of(batch_size=49), announce=print)
    (tmp_path / "train").symlink_to(folder / "train")
    (tmp_path / "val").mkdir()
    for name in CLASSES[:2]:
        (tmp_path / "val" / name).symlink_to(folder / "val" / name)
    with pytest.raises(DataError, match="other classes; only one of them has tiles"):
        load_evaluation_data(tmp_path, config_of(), announce=print)
    with pytest.raises(DataError, match="a class has 40 images; expected at least labels_per_class=41"):
        evaluate_once(
            load_views("rgb"), load_evaluation_data(folder, config_of(), announce=print),
            config_of(labels_per_class=41, epochs=1), seed=0, device=CPU,
        )  # fmt: skip


def test_unknown_keys_name_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean `same_crop`"):
        load_evaluation_config(None, ["same_crops=true"])
    with pytest.raises(ConfigError, match="held_out_passes"):
        load_evaluation_config(None, ["held_out_passes=0"])


def test_our_own_files_load() -> None:
    folder = Path(__file__).resolve().parents[4] / "configs" / "views"
    kinds = {
        name: load_evaluation_config(folder / f"evaluation_{name}.yaml").encoder.kind
        for name in ("small", "stl10", "nyu")
    }
    assert kinds == {"small": "small", "stl10": "resnet18_half", "nyu": "resnet18_half"}
