"""Detectron2's DefaultTrainer with the project's reader and evaluators, typed errors and channels-last convolutions on the CPU.

In: a frozen configuration whose data sets are registered. Out: Detectron2's files in OUTPUT_DIR. The loop is Detectron2's; of its
step only that of an accumulated gradient is ours, which Detectron2 does not have.
"""

from __future__ import annotations

import copy
import logging
import math
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import (
    DatasetCatalog,
    DatasetMapper,
    MetadataCatalog,
    build_detection_test_loader,
    build_detection_train_loader,
)
from detectron2.data.transforms import AugInput, TransformList
from detectron2.engine import DefaultTrainer, SimpleTrainer, TrainerBase
from detectron2.engine.hooks import CallbackHook
from detectron2.evaluation import COCOEvaluator, DatasetEvaluator, PascalVOCDetectionEvaluator
from detectron2.utils import comm
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from pretrain.base.atomic import write_json
from pretrain.base.errors import CheckpointError, ConfigError, DataError, Terminated, UserError
from pretrain.base.image_files import MAX_PIXELS, read_image
from transfer.data.ground_truth import ground_truth_json
from transfer.data.records import DetectionData
from transfer.data.spec import COCO_METRIC, VOC_2007_METRIC, VOC_METRIC
from transfer.detect.checkpointer import CLASS_NAMES, SafeCheckpointer
from transfer.detect.evaluation import VocEvaluator

EVALUATED = ("own_coco", "coco", "own_voc", "pascal_voc")  # kinds of data, as their metadata call them


class SharedReaderMapper(DatasetMapper):
    """DatasetMapper on the reader that pre-training uses: the same bytes become the same pixels on both sides of the door.

    Detectron2's own reader saturates 16-bit images, drops transparency and stops at a broken EXIF block. On the images of
    COCO and VOC both give the same pixels. An image that cannot be used is a DataError that names the file.
    """

    def __call__(self, dataset_dict: Mapping[str, Any]) -> dict[str, Any]:
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


class CocoEvaluator(COCOEvaluator):
    """COCOEvaluator for which a detector that finds nothing has AP 0, not NaN: a figure of an early or a failed run is bad,
    not unknown. The sizes stay NaN: which of them the data hold is not asked."""

    def evaluate(self, img_ids: Any = None) -> Any:
        """{"bbox": {"AP", "AP50", ...}, "segm": {...}} in percent on the main process; None elsewhere."""
        results = super().evaluate(img_ids)
        for metrics in (results or {}).values():
            if all(math.isnan(value) for value in metrics.values()):
                metrics.update(AP=0.0, AP50=0.0, AP75=0.0)
        return results


class ClassNames:
    """The class names of a detector, in the order of its outputs, as a part of its checkpoints: without them nothing in a
    weight file says which output is the dog. Detectron2's own checkpointer passes over them."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = list(names)

    def state_dict(self) -> list[str]:
        """What a checkpoint holds."""
        return self._names

    def load_state_dict(self, names: Sequence[str]) -> None:
        """Compare with those of a checkpoint that training goes on from. Raises CheckpointError."""
        if list(names) != self._names:
            raise CheckpointError(
                f"the checkpoint's classes are {', '.join(names)}; those of the data are {', '.join(self._names)}. Give the "
                "data that it was trained on, or another OUTPUT_DIR"
            )


class AccumulatingTrainer(SimpleTrainer):
    """One step of the optimiser from several parts of a batch that are run one after another.

    The gradient is the mean of theirs, which is what as many processes of one part each would take, and the memory is that of one
    part. Norms see one part at a time: BatchNorm's statistics are those of the small batch. half_precision: as in AMPTrainer.
    """

    def __init__(
        self,
        model: nn.Module,
        data_loader: Any,
        optimizer: torch.optim.Optimizer,
        *,
        num_parts: int,
        half_precision: bool,
    ) -> None:
        super().__init__(model, data_loader, optimizer)
        self.num_parts = num_parts
        self.half_precision = half_precision
        self.grad_scaler = torch.amp.GradScaler("cuda", enabled=half_precision)

    def run_step(self) -> None:
        """One iteration: the batch of the loader in `num_parts` equal parts."""
        assert self.model.training
        start = time.perf_counter()
        data = next(self._data_loader_iter)
        data_time = time.perf_counter() - start
        assert len(data) % self.num_parts == 0, (len(data), self.num_parts)
        size = len(data) // self.num_parts
        self.optimizer.zero_grad()
        means: dict[str, Tensor] = {}
        for number in range(self.num_parts):
            last = number == self.num_parts - 1
            # Processes agree on the gradient once a step, not once a part.
            wait = isinstance(self.model, DistributedDataParallel) and not last
            with self.model.no_sync() if wait else nullcontext():
                with torch.autocast("cuda", torch.float16, enabled=self.half_precision):
                    losses = self.model(data[number * size : (number + 1) * size])
                self.grad_scaler.scale(sum(losses.values()) / self.num_parts).backward()
            for name, loss in losses.items():
                means[name] = means.get(name, 0) + loss.detach() / self.num_parts
        self._write_metrics(means, data_time)
        self.grad_scaler.step(self.optimizer)
        self.grad_scaler.update()

    def state_dict(self) -> dict[str, Any]:
        """With the scale of half precision, under AMPTrainer's name."""
        found: dict[str, Any] = super().state_dict()
        return {**found, "grad_scaler": self.grad_scaler.state_dict()} if self.half_precision else found

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        if self.half_precision:
            self.grad_scaler.load_state_dict(state_dict["grad_scaler"])


class DetectionTrainer(DefaultTrainer):
    """Training of one detector from one configuration.

    Differences from the base class: `build_evaluator` knows our data sets and the built-in COCO and VOC ones; images that
    cannot be read and losses that stop being finite end in a UserError; on the CPU the model is kept channels-last; weights
    are read through SafeCheckpointer; every checkpoint holds the class names.
    """

    checkpointer: Any  # Detectron2's, made by the base class

    def __init__(self, cfg: CfgNode, *, accumulate: int = 1) -> None:
        """accumulate: parts in which the images of a process are run; see AccumulatingTrainer."""
        super().__init__(cfg)
        if accumulate > 1:
            self._trainer = AccumulatingTrainer(
                self.model,
                self.data_loader,
                self.optimizer,
                num_parts=accumulate,
                half_precision=cfg.SOLVER.AMP.ENABLED,
            )
        names = MetadataCatalog.get(cfg.DATASETS.TRAIN[0]).thing_classes
        self.checkpointer.add_checkpointable(CLASS_NAMES, ClassNames(names))

    @property
    def iterations_done(self) -> int:
        """Of the whole run, earlier starts included."""
        return int(min(getattr(self, "iter", self.start_iter), self.max_iter))  # Detectron2 counts one on at the end

    @classmethod
    def build_model(cls, cfg: CfgNode) -> nn.Module:
        """The model on cfg.MODEL.DEVICE. Channels-last makes a CPU step about a tenth faster and changes no value's place."""
        model = super().build_model(cfg)
        return model.to(memory_format=torch.channels_last) if cfg.MODEL.DEVICE == "cpu" else model

    def on_checkpoint(self, act: Callable[[int], None]) -> None:
        """Call `act` with the number of iterations done, after every checkpoint that the run writes on its way."""
        period = self.cfg.SOLVER.CHECKPOINT_PERIOD

        def after_step(trainer: TrainerBase) -> None:
            if period > 0 and (trainer.iter + 1) % period == 0:
                act(trainer.iter + 1)

        self.register_hooks([CallbackHook(after_step=after_step)])

    def resume_or_load(self, resume: bool = True) -> None:
        """Detectron2's, reading through SafeCheckpointer; saving goes on with Detectron2's own."""
        saver = self.checkpointer
        self.checkpointer = SafeCheckpointer(self.model, saver.save_dir, **saver.checkpointables)
        try:
            super().resume_or_load(resume)
        finally:
            self.checkpointer = saver

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> Iterable[list[dict[str, Any]]]:
        """Detectron2's loader around SharedReaderMapper."""
        return build_detection_train_loader(cfg, mapper=SharedReaderMapper(cfg, is_train=True))

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str) -> Iterable[list[dict[str, Any]]]:
        """Detectron2's loader around SharedReaderMapper."""
        return build_detection_test_loader(cfg, dataset_name, mapper=SharedReaderMapper(cfg, is_train=False))

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str) -> DatasetEvaluator:
        """The evaluator of a registered data set. Raises ConfigError for a data set that is neither COCO nor VOC."""
        metadata = MetadataCatalog.get(dataset_name)
        inference_dir = Path(cfg.OUTPUT_DIR) / "inference"
        kind = _kind(dataset_name)
        if kind == "own_voc":
            return VocEvaluator(dataset_name, inference_dir)
        if kind == "pascal_voc":
            return PascalVOCDetectionEvaluator(dataset_name)
        if kind != "coco":
            _provide_ground_truth(dataset_name, inference_dir)
        tasks: tuple[str, ...] = ("bbox",)
        if cfg.MODEL.MASK_ON and metadata.get("can_evaluate_masks", True):
            tasks = (*tasks, "segm")
        if cfg.MODEL.KEYPOINT_ON:
            tasks = (*tasks, "keypoints")
        sigmas = cfg.TEST.KEYPOINT_OKS_SIGMAS
        return CocoEvaluator(dataset_name, tasks, output_dir=str(inference_dir), kpt_oks_sigmas=sigmas)

    @staticmethod
    def metric(dataset_name: str) -> str:
        """What the figures of `build_evaluator` on a data set are, in words. Raises ConfigError as that does."""
        metadata = MetadataCatalog.get(dataset_name)
        if metadata.get("metric"):  # the user's own data say it
            return str(metadata.metric)
        if _kind(dataset_name) not in ("own_voc", "pascal_voc"):
            return COCO_METRIC
        return VOC_2007_METRIC if metadata.year == 2007 else VOC_METRIC

    @classmethod
    def test(cls, cfg: CfgNode, model: nn.Module, evaluators: Any = None) -> Any:
        """Evaluate on DATASETS.TEST. Raises DataError for an image that cannot be read."""
        with _one_line_data_errors():
            return super().test(cfg, model, evaluators)

    def train(self) -> Any:
        """Run all iterations. Raises DataError for an image that cannot be read, UserError where the loss is not finite."""
        with _quiet_user_errors():
            try:
                with _one_line_data_errors():
                    return super().train()
            except FloatingPointError as error:
                raise UserError(
                    f"training diverged: {error}. Lower SOLVER.BASE_LR (now {self.cfg.SOLVER.BASE_LR:g}) or lengthen "
                    f"SOLVER.WARMUP_ITERS (now {self.cfg.SOLVER.WARMUP_ITERS}), with another OUTPUT_DIR"
                ) from error


def _kind(dataset_name: str) -> str:
    """Whose evaluator a data set has. Raises ConfigError for one that is neither COCO's nor VOC's."""
    kind = MetadataCatalog.get(dataset_name).get("evaluator_type")
    if kind not in EVALUATED:
        raise ConfigError(
            f"DATASETS.TEST {dataset_name}: no evaluator for data of kind {kind!r}; expected COCO or VOC data"
        )
    return str(kind)


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


@contextmanager
def _one_line_data_errors() -> Iterator[None]:
    """A DataError from a loader process arrives with that process's traceback as its text; only its last part is the user's."""
    try:
        yield
    except DataError as error:
        _, mark, text = str(error).rpartition(f"{DataError.__module__}.{DataError.__qualname__}: ")
        raise DataError(text.strip()) if mark else error from None


class _quiet_user_errors(logging.Filter):
    """Detectron2 logs a traceback for every exception in its loop; a user's error, or the signal to stop, is reported once, by
    the tool."""

    def __enter__(self) -> None:
        logging.getLogger("detectron2.engine.train_loop").addFilter(self)

    def __exit__(self, *_: object) -> None:
        logging.getLogger("detectron2.engine.train_loop").removeFilter(self)

    def filter(self, record: logging.LogRecord) -> bool:
        """Drop records whose exception the user can correct or caused."""
        error = record.exc_info[1] if record.exc_info else None
        return not isinstance(error, (UserError, FloatingPointError, Terminated))
