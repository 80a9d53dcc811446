"""Detectron2's DefaultTrainer with the project's evaluators, typed errors and channels-last convolutions on the CPU.

In: a frozen configuration whose data sets are registered. Out: Detectron2's files in OUTPUT_DIR. The loop is Detectron2's;
nothing in it is replaced.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import (
    DatasetCatalog,
    DatasetMapper,
    MetadataCatalog,
    build_detection_test_loader,
    build_detection_train_loader,
)
from detectron2.data.detection_utils import SizeMismatchError
from detectron2.engine import DefaultTrainer
from detectron2.evaluation import COCOEvaluator, DatasetEvaluator, PascalVOCDetectionEvaluator
from detectron2.utils import comm
from torch import nn

from pretrain.atomic import write_json
from pretrain.errors import ConfigError, DataError, UserError
from transfer.coco_annotations import ground_truth_json
from transfer.detection_records import DetectionData
from transfer.voc_evaluation import VocEvaluator


class CheckedMapper(DatasetMapper):
    """DatasetMapper whose failure to read an image is a DataError that names the file, also out of a worker process."""

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any] | None:
        """One record -> one training or test example. Raises DataError."""
        try:
            example: dict[str, Any] | None = super().__call__(dataset_dict)
        except (
            OSError,
            SizeMismatchError,
            SyntaxError,
        ) as error:  # Pillow: truncated (OSError), broken PNG (SyntaxError)
            raise DataError(f"cannot use the image {dataset_dict['file_name']}: {error}") from error
        return example


class DetectionTrainer(DefaultTrainer):
    """Training of one detector from one configuration.

    Differences from the base class: `build_evaluator` knows our data sets and the built-in COCO and VOC ones; images that
    cannot be read and losses that stop being finite end in a UserError; on the CPU the model is kept channels-last.
    """

    @classmethod
    def build_model(cls, cfg: CfgNode) -> nn.Module:
        """The model on cfg.MODEL.DEVICE. Channels-last makes a CPU step about a tenth faster and changes no value's place."""
        model = super().build_model(cfg)
        return model.to(memory_format=torch.channels_last) if cfg.MODEL.DEVICE == "cpu" else model

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> Iterable[list[dict[str, Any]]]:
        """Detectron2's loader around CheckedMapper."""
        return build_detection_train_loader(cfg, mapper=CheckedMapper(cfg, is_train=True))

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str) -> Iterable[list[dict[str, Any]]]:
        """Detectron2's loader around CheckedMapper."""
        return build_detection_test_loader(cfg, dataset_name, mapper=CheckedMapper(cfg, is_train=False))

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str) -> DatasetEvaluator:
        """The evaluator of a registered data set. Raises ConfigError for a data set that is neither COCO nor VOC."""
        metadata = MetadataCatalog.get(dataset_name)
        kind = metadata.get("evaluator_type")
        inference_dir = Path(cfg.OUTPUT_DIR) / "inference"
        if kind == "own_voc":
            return VocEvaluator(dataset_name)
        if kind == "pascal_voc":
            return PascalVOCDetectionEvaluator(dataset_name)
        if kind == "own_coco":
            with_masks = cfg.MODEL.MASK_ON and any("segmentation" in thing for thing in _things(dataset_name))
            _provide_ground_truth(dataset_name, inference_dir)
            return COCOEvaluator(
                dataset_name, tasks=("bbox", "segm") if with_masks else ("bbox",), output_dir=str(inference_dir)
            )
        if kind == "coco":
            return COCOEvaluator(dataset_name, output_dir=str(inference_dir))
        raise ConfigError(
            f"DATASETS.TEST {dataset_name}: no evaluator for data of kind {kind!r}; expected COCO or VOC data"
        )

    def train(self) -> Any:
        """Run all iterations. Raises UserError where the loss stops being finite."""
        with _quiet_user_errors():
            try:
                return super().train()
            except FloatingPointError as error:
                raise UserError(
                    f"training diverged: {error}. Lower SOLVER.BASE_LR (now {self.cfg.SOLVER.BASE_LR:g}) or lengthen "
                    f"SOLVER.WARMUP_ITERS (now {self.cfg.SOLVER.WARMUP_ITERS}), with another OUTPUT_DIR"
                ) from error


def _things(dataset_name: str) -> Iterable[dict[str, Any]]:
    return (thing for record in DatasetCatalog.get(dataset_name) for thing in record["annotations"])


def _provide_ground_truth(dataset_name: str, inference_dir: Path) -> None:
    """Write the file that COCOEvaluator reads, where the user's own cannot be evaluated against as it is."""
    metadata = MetadataCatalog.get(dataset_name)
    if metadata.get("json_file") is not None:
        return
    data = DetectionData(tuple(DatasetCatalog.get(dataset_name)), tuple(metadata.thing_classes))
    path = inference_dir / "ground_truth.json"
    if comm.is_main_process():
        inference_dir.mkdir(parents=True, exist_ok=True)
        write_json(path, ground_truth_json(data))
    comm.synchronize()
    ids = {index + 1: index for index in range(len(data.class_names))}
    metadata.set(json_file=str(path), thing_dataset_id_to_contiguous_id=ids)


class _quiet_user_errors(logging.Filter):
    """Detectron2 logs a traceback for every exception in its loop; a user's error is reported once, by the tool."""

    def __enter__(self) -> None:
        logging.getLogger("detectron2.engine.train_loop").addFilter(self)

    def __exit__(self, *_: object) -> None:
        logging.getLogger("detectron2.engine.train_loop").removeFilter(self)

    def filter(self, record: logging.LogRecord) -> bool:
        """Drop records whose exception is the user's to mend."""
        error = record.exc_info[1] if record.exc_info else None
        return not isinstance(error, (UserError, FloatingPointError))
