"""The examples of a step: the same whatever process reads them, and wherever the run started."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch

from pretrain.base.errors import ConfigError, DataError
from transfer.data.spec import PreparedData, parse_spec, prepare_data
from transfer.detect.config import load_detector_config
from transfer.detect.config_files import CONFIG_ROOT
from transfer.detect.examples import SharedReaderMapper, training_loader


@pytest.fixture
def data(damageable_scenes: Path) -> PreparedData:
    coco = damageable_scenes / "coco"
    return prepare_data(parse_spec(f"coco:{coco}/annotations/instances_train.json:{coco}/train"), None)


def loader(data: PreparedData, *words: str, workers: int = 0, first: int = 0):
    base = CONFIG_ROOT / "demo" / "R_18_FPN.yaml"
    small = ("INPUT.MIN_SIZE_TRAIN", "(40,48,56,64)", "INPUT.MASK_FORMAT", "bitmask", "SOLVER.IMS_PER_BATCH", "2")
    config = load_detector_config(base, (*small, "DATALOADER.NUM_WORKERS", str(workers), *words))
    config.DATASETS.TRAIN = (data.train_name,)
    found = training_loader(config, SharedReaderMapper(config, is_train=True))
    found.first = first
    return found


def taken(batches, count: int) -> list[list[tuple]]:
    """What tells an example: its file, its pixels, its boxes."""
    iterator = iter(batches)
    found = [
        [(one["file_name"], one["image"], one["instances"].gt_boxes.tensor) for one in batch]
        for batch in itertools.islice(iterator, count)
    ]
    iterator.close()
    return found


def same(here: list[list[tuple]], there: list[list[tuple]]) -> bool:
    pairs = zip(itertools.chain(*here), itertools.chain(*there), strict=True)
    return all(a[0] == b[0] and torch.equal(a[1], b[1]) and torch.equal(a[2], b[2]) for a, b in pairs)


def test_examples_do_not_depend_on_the_number_of_loader_processes_or_on_the_start(data) -> None:
    whole = taken(loader(data), 6)
    np.random.seed(99)  # from where Detectron2's augmentations would draw
    assert same(taken(loader(data, workers=2), 6), whole)
    assert same(taken(loader(data, workers=1, first=3), 3), whole[3:])
    assert not same(taken(loader(data, "SEED", "1"), 6), whole)
    sizes = {one[1].shape for batch in whole for one in batch if one[0] == whole[0][0][0]}
    assert len(sizes) > 1  # the same image is augmented anew in each epoch


def test_an_image_that_cannot_be_read_is_named_whatever_process_read_it(data) -> None:
    for record in data.train.records:
        Path(record["file_name"]).write_bytes(b"")
    for workers in (0, 1):
        with pytest.raises(DataError, match=r"^\S+\.jpg: the file is empty"):
            next(iter(loader(data, workers=workers)))


def test_repeat_factors_are_detectron2s_and_another_sampler_is_refused(data) -> None:
    def repeats(*words: str) -> list[float] | None:
        found = loader(data, *words).order.repeats
        return None if found is None else found.tolist()

    assert repeats() is None
    rare = repeats("DATALOADER.SAMPLER_TRAIN", "RepeatFactorTrainingSampler", "DATALOADER.REPEAT_THRESHOLD", "4.0")
    assert len(rare) == len(data.train.records) and min(rare) >= 2  # sqrt(4 / 1) of a class that is on every image
    with pytest.raises(ConfigError, match="SAMPLER_TRAIN Mine: expected TrainingSampler or RepeatFactor"):
        loader(data, "DATALOADER.SAMPLER_TRAIN", "Mine")
