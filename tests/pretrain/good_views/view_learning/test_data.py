"""Batches are functions of (seed, step); labels that are missing or too few are refused before the first step."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pretrain.base.errors import DataError
from pretrain.good_views.view_learning.data import GameData
from tests.pretrain.good_views.view_learning.tiny_game import data_of, game_config, images_of, write_classes


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_classes(tmp_path_factory.mktemp("classes"))


def test_batches_are_functions_of_seed_and_step(folder: Path) -> None:
    config = game_config()
    one, other = data_of(folder, config), data_of(folder, config)
    for step in (5, 0):
        a, b = one.batch(step), other.batch(step)
        assert all(torch.equal(getattr(a, name), getattr(b, name)) for name in a.__dataclass_fields__)
    assert not torch.equal(one.batch(0).first, one.batch(1).first)
    assert not torch.equal(one.batch(0).first, data_of(folder, config, seed=1).batch(0).first)


def test_the_two_crops_of_an_image_differ_and_an_epoch_sees_every_image_once(folder: Path) -> None:
    data = data_of(folder, game_config())
    batches = [data.batch(step) for step in range(data.steps_per_epoch)]
    assert sorted(torch.cat([batch.index for batch in batches]).tolist()) == list(range(24))
    assert not torch.equal(batches[0].first, batches[0].second)
    assert batches[0].first.shape == (8, 3, 16, 16) and batches[0].labelled.shape == (6, 3, 16, 16)


def test_labels_belong_to_their_images(folder: Path) -> None:
    config = game_config(crop_scale=[1.0, 1.0])
    data = data_of(folder, config)
    known = data.labelled
    assert known is not None
    batch = data.batch(2)
    for crop, label in zip(batch.labelled, batch.labels.tolist(), strict=True):
        pictures = torch.nn.functional.interpolate(known.images / 255, size=16, mode="bilinear")
        # Within the nearest image (mirrored or not), the label must be that image's.
        gaps = torch.stack([(pictures - view).abs().mean((1, 2, 3)) for view in (crop, crop.flip(2))]).amin(0)
        assert int(known.labels[gaps.argmin()]) == label


def test_so_many_labels_a_class_are_drawn_by_the_seed(folder: Path) -> None:
    config = game_config(labels_per_class=2)
    images = images_of(folder, config)
    drawn = [GameData.of(images, config, seed=seed).labelled for seed in (0, 0, 1)]
    assert all(known.labels.tolist() == [0, 0, 1, 1, 2, 2] for known in drawn)
    assert torch.equal(drawn[0].images, drawn[1].images) and not torch.equal(drawn[0].images, drawn[2].images)


def test_unsupervised_games_see_no_label_and_need_no_class_folder(tmp_path: Path, folder: Path) -> None:
    config = game_config(mode="unsupervised")
    data = data_of(folder, config)
    assert data.labelled is None and len(data.batch(0).labelled) == 0
    flat = tmp_path / "flat"
    flat.mkdir()
    for number, path in enumerate(sorted(folder.rglob("*.png"))):
        (flat / f"{number}.png").write_bytes(path.read_bytes())
    assert len(data_of(flat, config).unlabelled) == 24
    with pytest.raises(DataError, match=r"semi-supervised game needs labels: .*--labelled FOLDER.*--mode unsupervised"):
        data_of(flat, game_config())
    assert len(images_of(flat, game_config(), labelled=folder).labelled) == 24


@pytest.mark.parametrize(
    ("over", "message"),
    [
        ({"labels_per_class": 9}, "a class has 8 images, expected at least labels_per_class=9"),
        ({"optimizer": {"batch_size": 25}}, "24 images do not fill one batch of 25"),
        ({"optimizer": {"labelled_batch_size": 25}}, r"24 labelled images .*optimizer\.labelled_batch_size=24"),
        ({"labels_per_class": 1}, r"3 labelled images .*labelled_batch_size=3"),
        (
            {"estimator": {"bound": "memory_bank", "num_negatives": 24}},
            r"at most 23 .*pass estimator\.num_negatives=23",
        ),
    ],
)
def test_too_few_images_or_labels_are_refused(folder: Path, over: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        images_of(folder, game_config(**over))


def test_one_class_is_no_class(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "only").symlink_to(folder / "cross")
    with pytest.raises(DataError, match=r"one class \(only\)"):
        images_of(folder, game_config(), labelled=tmp_path)


def test_labelled_images_of_another_size_are_refused(tmp_path: Path, folder: Path) -> None:
    write_classes(tmp_path, size=24)
    with pytest.raises(DataError, match=r"images of \(24, 24\) px.*data\.side=24"):
        images_of(folder, game_config(), labelled=tmp_path)
    assert images_of(folder, game_config(data={"side": 18}), labelled=tmp_path).labelled.images.shape[2:] == (18, 18)
