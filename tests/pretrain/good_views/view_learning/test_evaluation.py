"""Views by name, pairs of them without leaks, features of both, figures that follow what they share, intervals over seeds."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pretrain.base.atomic import lock_folder
from pretrain.base.errors import CheckpointError, ConfigError, DataError
from pretrain.base.record import read_record
from pretrain.base.strict import from_mapping, merge
from pretrain.good_views.interval import t_interval
from pretrain.good_views.view_learning import evaluation
from pretrain.good_views.view_learning.evaluation import (
    ChannelViews,
    EvaluationConfig,
    EvaluationData,
    evaluate_once,
    evaluate_views,
    load_evaluation_config,
    load_evaluation_data,
    load_views,
    pairs,
    summarize,
    views_of,
)
from pretrain.views.colour import colour_space
from pretrain.views.generator import Generator, GeneratorConfig
from pretrain.views.generator_file import record_of, write_generator
from tests.pretrain.good_views.view_learning.tiny_game import CLASSES, SMALL, write_classes

pytestmark = pytest.mark.slow  # seconds in all: left to `make test`

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
    with pytest.raises(DataError, match="48 images do not fill a batch of 49; pass batch_size=48"):
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


def test_a_seed_that_fails_is_recorded_without_figures_and_warnings_are_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for part in ("train", "val"):
        write_classes(tmp_path / part, per_class=4)

    def once(views, data, config, *, seed, device):
        if seed == 1:
            raise DataError("planted")
        information = {"bound": "info_nce", "nats": 1.0, "low": 0.9, "high": 1.1, "saturated": True}
        return {"seed": seed, "information": information, "probe": {"top1": 50.0}, "warning": "close to its ceiling"}

    monkeypatch.setattr(evaluation, "evaluate_once", once)
    config, messages = load_evaluation_config(None, ["batch_size=4", "image_size=16", "device=cpu"]), []

    def evaluated(*seeds: int):
        out = tmp_path / "out"
        return evaluate_views(
            "rgb", tmp_path, config, seeds=seeds, output_dir=out, command="", announce=messages.append
        )

    with pytest.raises(DataError, match="planted"):
        evaluated(0, 1)
    failed = read_record(tmp_path / "out" / "record.json")
    assert (failed.status, failed.figures, failed.error) == ("failed", {}, "planted")
    assert any("close to its ceiling" in line for line in messages)
    done = evaluated(0)
    assert done.details["information"]["saturated"] and done.figures == {"top1": 50.0, "info_nce": 1.0}
    assert evaluated(0) == done == read_record(tmp_path / "out" / "record.json") and "finished already" in messages[-1]
    with pytest.raises(ConfigError, match=r"finished view evaluation.*seeds\.run 2: None there, 2 now"):
        evaluated(0, 2)


def test_an_output_folder_of_another_command_or_process_is_refused_and_left_alone(tmp_path: Path) -> None:
    for part in ("train", "val"):
        write_classes(tmp_path / part, per_class=4)
    config = load_evaluation_config(None, ["batch_size=4", "image_size=16", "device=cpu"])
    (tmp_path / "file").touch()
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    refused = {"run": "holds other files", "file/out": "cannot write", "busy": "in use by another"}
    with lock_folder(tmp_path / "busy", "run.lock"):
        for name, said in refused.items():
            with pytest.raises(ConfigError, match=said):
                evaluate_views(
                    "rgb", tmp_path, config, seeds=(0,), output_dir=tmp_path / name, command="", announce=print
                )
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["checkpoints"]


def test_unreadable_images_come_without_the_switch_of_another_command(tmp_path: Path) -> None:
    write_classes(tmp_path / "train", per_class=1)
    next((tmp_path / "train").rglob("*.png")).write_bytes(b"")
    with pytest.raises(DataError, match=r"1 of \d+ images cannot be read(.|\n)*repair or remove them$"):
        load_evaluation_data(tmp_path, config_of(), announce=print)


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


def test_a_colour_space_is_its_normalised_channels() -> None:
    rgb, space = torch.rand(2, 3, 4, 4), colour_space("lab")
    views = load_views("LAB")
    assert views.name == "lab" and views.about["channels"] == ["L", "a", "b"]
    assert torch.equal(views.to_channels(rgb), space.normalize(space.to_space(rgb)))


def test_a_generator_is_its_learned_channels_with_its_origin(tmp_path: Path) -> None:
    generator = Generator(GeneratorConfig(hidden_width=4))
    torch.nn.init.normal_(generator.blocks[0].first.layers[2].weight)
    record = record_of(generator, mode="unsupervised", seed=5, mean=(0, 0, 0), std=(1, 1, 1), training={"steps": 2})
    path = tmp_path / "generator.safetensors"
    write_generator(path, generator, record)
    views, rgb = load_views(str(path)), torch.rand(2, 3, 4, 4)
    assert torch.equal(views.to_channels(rgb), generator.from_rgb(rgb).detach())
    assert (views.about["seed"], views.about["mode"], views.about["training"]) == (5, "unsupervised", {"steps": 2})


def test_what_is_neither_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"path of a generator.*colour space.*did you mean 'ydbdr'"):
        load_views("ydrdb")
    with pytest.raises(CheckpointError, match="No such file"):
        load_views(str(tmp_path / "absent.safetensors"))
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(CheckpointError, match="not a readable generator"):
        load_views(str(tmp_path / "notes.txt"))
