"""What a detector is fed: records read into examples, and the batches of a training.

In: a configuration whose data sets are registered. Out: examples as Detectron2's models take them. Batches and their augmentation
are pure functions of (seed, step): they depend neither on the number of loader processes nor on where a run started.
"""

from __future__ import annotations

import copy
import itertools
import random
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetFromList, DatasetMapper, get_detection_dataset_dicts
from detectron2.data.samplers import RepeatFactorTrainingSampler
from detectron2.data.transforms import AugInput, TransformList
from detectron2.utils import comm
from torch import Tensor

from pretrain.base.errors import ConfigError, DataError
from pretrain.base.image_files import MAX_PIXELS, read_image
from pretrain.data.loader import build_loader
from pretrain.views.rng import DETECTION_STREAM, sample_generator
from transfer.detect.order import Key, TrainingOrder

Example = dict[str, Any]
ONCE = "TrainingSampler"  # values of DATALOADER.SAMPLER_TRAIN, by Detectron2's names
BY_CATEGORY = "RepeatFactorTrainingSampler"


class SharedReaderMapper(DatasetMapper):
    """DatasetMapper on the reader that pre-training uses: the same bytes become the same pixels on both sides of the door.

    Detectron2's own reader saturates 16-bit images, drops transparency and stops at a broken EXIF block. On the images of
    COCO and VOC both give the same pixels. An image that cannot be used is a DataError that names the file.
    """

    def __call__(self, dataset_dict: Mapping[str, Any]) -> Example:
        """One record -> one example: "image" uint8 (C, H, W) in INPUT.FORMAT, and "instances" where it is for training."""
        example = copy.deepcopy(dict(dataset_dict))
        # As many pixels as its annotation says, which was compared with the limit when the data were read.
        pixels = read_image(
            Path(example["file_name"]), max_pixels=max(MAX_PIXELS, example["height"] * example["width"])
        )
        expected, found = (example["height"], example["width"]), pixels.shape[:2]
        if found != expected:
            raise DataError(
                f"{example['file_name']} is {found[1]} x {found[0]} when upright, its annotation says {expected[1]} x {expected[0]}"
            )
        example["image"], transforms = self.network_input(pixels)
        if not self.is_train:
            example.pop("annotations", None)
        elif "annotations" in example:
            with warnings.catch_warnings():
                # Detectron2 stacks (and so copies) resized bitmasks, which PIL gave it read-only.
                warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
                self._transform_annotations(example, transforms, tuple(example["image"].shape[1:]))
        return example

    def network_input(self, pixels: np.ndarray) -> tuple[Tensor, TransformList]:
        """Upright RGB pixels, uint8 (H, W, 3) -> what the network is fed, uint8 (C, H', W') in INPUT.FORMAT, and how it came about."""
        seen = AugInput(pixels if self.image_format == "RGB" else pixels[:, :, ::-1])
        transforms = self.augmentations(seen)
        return torch.as_tensor(np.ascontiguousarray(seen.image.transpose(2, 0, 1))), transforms


def seed_generators(*, seed: int, epoch: int, index: int, view: int = 0, stream: int) -> None:
    """Put the global generators of Python, numpy and torch (CPU and CUDA), from which Detectron2 draws, into a state that is a
    function of these numbers. Whatever was drawn before, here or in an earlier start of the run, decides nothing."""
    draw = sample_generator(seed=seed, epoch=epoch, index=index, view=view, stream=stream)
    random.seed(int(draw.integers(2**63)))
    np.random.seed(draw.integers(2**32, size=4, dtype=np.uint32))
    torch.manual_seed(int(draw.integers(2**63)))


class TrainingExamples:
    """Keys -> examples, each augmented by its own key. An image that cannot be read is a DataError as a value."""

    def __init__(self, records: Sequence[Mapping[str, Any]], mapper: Callable[[Any], Example], *, seed: int) -> None:
        self._records = DatasetFromList(list(records), copy=False)  # one buffer, which loader processes share
        self._mapper = mapper
        self.seed = seed

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, keys: list[Key], /) -> list[Example] | DataError:
        try:
            return [self._example(*key) for key in keys]
        except DataError as error:
            return DataError(str(error))

    def _example(self, epoch: int, record: int, time: int) -> Example:
        seed_generators(seed=self.seed, epoch=epoch, index=record, view=time, stream=DETECTION_STREAM)
        return self._mapper(self._records[record])


class TrainingLoader:
    """The batches of this process, endless: a list of examples each.

    first: the iteration (from 0) whose batch is the first one.
    """

    def __init__(self, examples: TrainingExamples, order: TrainingOrder, *, num_workers: int) -> None:
        self.examples = examples
        self.order = order
        self.num_workers = num_workers
        self.first = 0

    def __iter__(self) -> Iterator[list[Example]]:
        rank, count = comm.get_rank(), comm.get_world_size()
        keys = itertools.islice(self.order.batches(self.first * count), rank, None, count)
        return build_loader(self.examples, keys, num_workers=self.num_workers)


def training_loader(config: CfgNode, mapper: Callable[[Any], Example]) -> TrainingLoader:
    """The loader of DATASETS.TRAIN. Raises ConfigError for a sampler that is not known, or data without a length."""
    records = _records(config, config.DATASETS.TRAIN)
    seed = config.SEED if config.SEED >= 0 else comm.shared_random_seed()  # of a run it is always given
    assert config.SOLVER.IMS_PER_BATCH % comm.get_world_size() == 0, config.SOLVER.IMS_PER_BATCH
    groups = None
    if config.DATALOADER.ASPECT_RATIO_GROUPING:
        groups = np.array([int(record["width"] <= record["height"]) for record in records])
    order = TrainingOrder(
        len(records),
        batch_size=config.SOLVER.IMS_PER_BATCH // comm.get_world_size(),
        seed=seed,
        groups=groups,
        repeats=_repeats(config, records),
    )
    return TrainingLoader(
        TrainingExamples(records, mapper, seed=seed), order, num_workers=config.DATALOADER.NUM_WORKERS
    )


def _records(config: CfgNode, names: Sequence[str]) -> list[dict[str, Any]]:
    """As Detectron2 chooses them: without images that have nothing to learn from."""
    keypoints = config.MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE if config.MODEL.KEYPOINT_ON else 0
    found = get_detection_dataset_dicts(
        list(names),
        filter_empty=config.DATALOADER.FILTER_EMPTY_ANNOTATIONS,
        min_keypoints=keypoints,
        proposal_files=config.DATASETS.PROPOSAL_FILES_TRAIN if config.MODEL.LOAD_PROPOSALS else None,
    )
    if isinstance(found, torch.utils.data.IterableDataset):
        raise ConfigError(
            f"DATASETS.TRAIN {', '.join(names)} is a stream without a length, in which a run cannot find its place again; "
            "register a list of records"
        )
    return list(found)


def _repeats(config: CfgNode, records: Sequence[Mapping[str, Any]]) -> np.ndarray | None:
    """How often each record comes in an epoch, on average: what DATALOADER.SAMPLER_TRAIN asks for; None: each once.

    LVIS: sqrt(threshold / frequency) of an image's rarest class, where that is more than 1. Detectron2's other samplers have no keys
    in its configuration.
    """
    name = config.DATALOADER.SAMPLER_TRAIN
    if name == ONCE:
        return None
    if name != BY_CATEGORY:
        raise ConfigError(f"DATALOADER.SAMPLER_TRAIN {name}: expected {ONCE} or {BY_CATEGORY}")
    values = RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(
        records, config.DATALOADER.REPEAT_THRESHOLD, sqrt=config.DATALOADER.REPEAT_SQRT
    )
    return values.double().numpy()
