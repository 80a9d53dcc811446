"""Detectron2's DefaultTrainer with the project's reader, evaluators and checkpoints, typed errors and channels-last on the CPU.

In: a frozen configuration whose data sets are registered. Out: Detectron2's files in OUTPUT_DIR. The loop is Detectron2's; the step
is ours: it accumulates, looks at the loss before the optimiser does, and draws at random from (seed, iteration, rank) alone. What
lies between the steps is in transfer/detect/progress.py, what a step is fed in transfer/detect/examples.py.
"""

from __future__ import annotations

import logging
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, NoReturn

import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog, build_detection_test_loader
from detectron2.engine import DefaultTrainer, HookBase, SimpleTrainer, TrainerBase, create_ddp_model
from detectron2.engine.hooks import IterationTimer, LRScheduler
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from detectron2.utils.events import CommonMetricPrinter, EventWriter, TensorboardXWriter
from detectron2.utils.logger import setup_logger
from fvcore.nn.precise_bn import get_bn_modules
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from pretrain.base.atomic import write_json
from pretrain.base.errors import CheckpointError, ConfigError, DataError, Terminated, UserError
from pretrain.base.signals import StopFlag
from pretrain.data.loader import start_worker
from pretrain.run.ranks import gather_values, is_lost_rank, on_main
from pretrain.run.watch import NotFinite, Watch
from pretrain.views.rng import DETECTION_STEP_STREAM
from transfer.data.ground_truth import ground_truth_json
from transfer.data.records import DetectionData
from transfer.data.spec import COCO_METRIC, VOC_2007_METRIC, VOC_METRIC
from transfer.detect.builtin_voc import BuiltinVocEvaluator
from transfer.detect.checkpointer import CLASS_NAMES, FINAL, SafeCheckpointer, name_of
from transfer.detect.coco_evaluation import CocoEvaluator
from transfer.detect.evaluation import VocEvaluator
from transfer.detect.examples import SharedReaderMapper, TrainingLoader, seed_generators, training_loader
from transfer.detect.figures import METRICS
from transfer.detect.progress import (
    SMOOTHING_WINDOW,
    Evaluation,
    FreshPreciseBN,
    MetricsFile,
    PeriodicMetrics,
    Progress,
    Saving,
    StoppableEvaluator,
    ranks_of_detectron2,
)

Batch = list[dict[str, Any]]
EVALUATED = ("own_coco", "coco", "own_voc", "pascal_voc")  # kinds of data, as their metadata call them


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
    """One step of the optimiser from several parts of a batch that are run one after another; with one part, SimpleTrainer's step.

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
        before_forward: Callable[[int], None] = lambda iteration: None,
        before_optimizer: Callable[[Tensor, Batch, Mapping[str, Tensor]], None] = lambda loss, batch, parts: None,
    ) -> None:
        """before_forward: told the iteration once its batch is there. before_optimizer: told the loss (0-d), the batch and the parts
        of the loss by name; what it raises ends the step before a parameter has changed."""
        super().__init__(model, data_loader, optimizer)
        self.num_parts = num_parts
        self.half_precision = half_precision
        self.grad_scaler = torch.amp.GradScaler("cuda", enabled=half_precision)
        self._before_forward = before_forward
        self._before_optimizer = before_optimizer

    def run_step(self) -> None:
        """One iteration: the batch of the loader in `num_parts` equal parts."""
        assert self.model.training
        start = time.perf_counter()
        data = next(self._data_loader_iter)
        data_time = time.perf_counter() - start
        assert len(data) % self.num_parts == 0, (len(data), self.num_parts)
        size = len(data) // self.num_parts
        self._before_forward(self.iter)
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
        total: Tensor = sum(means.values())  # type: ignore[assignment]  # of no losses there is no step
        self._before_optimizer(total, data, means)
        self._write_metrics(means, data_time)
        self.grad_scaler.step(self.optimizer)
        self.grad_scaler.update()

    def close(self) -> None:
        """End the loader's processes."""
        close = getattr(self._data_loader_iter_obj, "close", None)
        if close is not None:
            close()

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
    cannot be read and losses that stop being finite end in a UserError on every rank; on the CPU the model is kept channels-last;
    checkpoints are written and read through SafeCheckpointer, hold the class names, and go on exactly; a stop signal saves.

    progress: what was measured. stopping: some rank was asked to stop. saved: iterations done at the newest checkpoint.
    on_progress: called with the iterations done after every checkpoint and evaluation.
    """

    checkpointer: Any  # ours; the base class makes Detectron2's

    def __init__(self, cfg: CfgNode, *, accumulate: int = 1, stop: StopFlag | None = None) -> None:
        """accumulate: parts in which the images of a process are run; see AccumulatingTrainer. stop: of this process."""
        # Detectron2's own __init__ builds what would be replaced here, and wraps a model on the CPU as one on a GPU.
        TrainerBase.__init__(self)
        if not logging.getLogger("detectron2").isEnabledFor(logging.INFO):
            setup_logger()
        cfg = DefaultTrainer.auto_scale_workers(cfg, comm.get_world_size())
        self.cfg = cfg
        self.start_iter, self.max_iter, self.saved = 0, cfg.SOLVER.MAX_ITER, 0
        self.progress = Progress()
        self.ranks = ranks_of_detectron2()
        self.on_progress: Callable[[int], None] = lambda iterations: None
        self._stop = stop or StopFlag()
        self._watch = Watch(self._stop, self.ranks, torch.device(cfg.MODEL.DEVICE), late=False)
        self._batch: tuple[list[str], Mapping[str, Tensor]] = ([], {})  # files and losses of the step that is looked at
        own = weakref.proxy(self)
        model = self.build_model(cfg)
        optimizer = self.build_optimizer(cfg, model)
        placed = {"device_ids": None} if cfg.MODEL.DEVICE == "cpu" else {}
        self._trainer = AccumulatingTrainer(
            create_ddp_model(model, broadcast_buffers=False, **placed),
            self.build_train_loader(cfg),
            optimizer,
            num_parts=accumulate,
            half_precision=cfg.SOLVER.AMP.ENABLED,
            before_forward=lambda iteration: own._seed_step(iteration),
            before_optimizer=lambda loss, batch, parts: own._look_at(loss, batch, parts),
        )
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        names = ClassNames(MetadataCatalog.get(cfg.DATASETS.TRAIN[0]).thing_classes)
        parts = {"trainer": own, CLASS_NAMES: names, "progress": self.progress}
        self.checkpointer = SafeCheckpointer(self.model, cfg.OUTPUT_DIR, **parts)
        self.register_hooks(self.build_hooks())

    def _seed_step(self, iteration: int) -> None:
        """Proposals are sampled: from here on the draws of this step are those of this iteration, whatever came before."""
        seed = self.data_loader.examples.seed
        seed_generators(seed=seed, epoch=iteration, index=self.ranks.rank, stream=DETECTION_STEP_STREAM)

    def _look_at(self, loss: Tensor, batch: Batch, parts: Mapping[str, Tensor]) -> None:
        """Raises NotFinite on every rank where the loss of one is not finite."""
        self._batch = [str(example.get("file_name", "?")) for example in batch], parts
        self._watch.ask(loss, None, explain=lambda what: what or "another rank's loss")

    @property
    def stopping(self) -> bool:
        """Some rank had a stop signal, as all of them know since the same step."""
        return self._watch.stopping

    def save(self, done: int) -> None:
        """A checkpoint after `done` iterations, once. Raises the main rank's CheckpointError on all."""
        if self.saved == done:
            return
        name = FINAL if done == self.max_iter else name_of(done)
        on_main(lambda: self.checkpointer.save(name, iteration=done - 1), self.ranks)
        self.saved = done
        self.on_progress(done)

    def stop(self, done: int) -> NoReturn:
        """Save after `done` iterations and raise Terminated, on every rank: none leaves before the checkpoint is there."""
        self.save(done)
        raise self._stop.terminated(
            f"saved after iteration {done} of {self.max_iter}; give the same command again to continue"
        )

    def build_hooks(self) -> list[HookBase | None]:
        """Detectron2's, with saving and evaluation as transfer/detect/progress.py has them. Their order matters (see there)."""
        cfg, hooks = self.cfg, [IterationTimer(), LRScheduler()]
        if cfg.TEST.PRECISE_BN.ENABLED and get_bn_modules(self.model):
            alone = cfg.clone()
            alone.defrost()
            alone.DATALOADER.NUM_WORKERS = 0
            loader = self.build_train_loader(alone)
            hooks.append(FreshPreciseBN(cfg.TEST.EVAL_PERIOD, self.model, loader, cfg.TEST.PRECISE_BN.NUM_ITER))
        hooks += [Saving(cfg.SOLVER.CHECKPOINT_PERIOD), Evaluation(cfg.TEST.EVAL_PERIOD)]
        if comm.is_main_process():
            hooks.append(PeriodicMetrics(self.build_writers(), period=SMOOTHING_WINDOW))
        return hooks

    def build_writers(self) -> list[EventWriter]:
        """Detectron2's, with a metrics.json that goes on exactly."""
        self.progress.metrics = MetricsFile(Path(self.cfg.OUTPUT_DIR) / METRICS)
        return [CommonMetricPrinter(self.max_iter), self.progress.metrics, TensorboardXWriter(self.cfg.OUTPUT_DIR)]

    def evaluate(self) -> Any:
        """Figures on DATASETS.TEST, on the main rank. Raises EvaluationStopped on every rank after a stop signal of one.

        All ranks evaluate the network that a checkpoint holds: running statistics of BatchNorm differ between them.
        """
        if self.ranks.world_size > 1:
            for buffer in self.model.buffers():
                torch.distributed.broadcast(buffer, 0)
        evaluators = [
            StoppableEvaluator(self.build_evaluator(self.cfg, name), self._stop, self.ranks)
            for name in self.cfg.DATASETS.TEST
        ]
        self._last_eval_results = self.test(self.cfg, self.model, evaluators)
        return self._last_eval_results

    @property
    def iterations_done(self) -> int:
        """Of the whole run, earlier starts included."""
        counted = min(getattr(self, "iter", self.start_iter), self.max_iter)  # Detectron2 counts one on at the end
        return int(max(counted, self.saved))

    @classmethod
    def build_model(cls, cfg: CfgNode) -> nn.Module:
        """The model on cfg.MODEL.DEVICE. Channels-last makes a CPU step about a tenth faster and changes no value's place."""
        model = super().build_model(cfg)
        return model.to(memory_format=torch.channels_last) if cfg.MODEL.DEVICE == "cpu" else model

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> TrainingLoader:
        """Batches of this process through SharedReaderMapper, a function of the iteration."""
        return training_loader(cfg, SharedReaderMapper(cfg, is_train=True))

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str) -> Iterable[list[dict[str, Any]]]:
        """Detectron2's loader around SharedReaderMapper; its processes outlive a stop signal to all of a run."""
        loader = build_detection_test_loader(cfg, dataset_name, mapper=SharedReaderMapper(cfg, is_train=False))
        loader.worker_init_fn = start_worker
        return loader

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str) -> DatasetEvaluator:
        """The evaluator of a registered data set. Raises ConfigError for a data set that is neither COCO nor VOC."""
        metadata = MetadataCatalog.get(dataset_name)
        inference_dir = Path(cfg.OUTPUT_DIR) / "inference"
        kind = _kind(dataset_name)
        if kind == "own_voc":
            return VocEvaluator(dataset_name, inference_dir)
        if kind == "pascal_voc":
            return BuiltinVocEvaluator(dataset_name, inference_dir)
        if kind != "coco":
            _provide_ground_truth(dataset_name, inference_dir)
        tasks: tuple[str, ...] = ("bbox",)
        if cfg.MODEL.MASK_ON and metadata.get("can_evaluate_masks", True):
            tasks = (*tasks, "segm")
        if cfg.MODEL.KEYPOINT_ON:
            tasks = (*tasks, "keypoints")
        sigmas = cfg.TEST.KEYPOINT_OKS_SIGMAS
        return CocoEvaluator(dataset_name, tasks, output_dir=inference_dir, kpt_oks_sigmas=sigmas)

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
        """Run all iterations. Raises DataError for an image that cannot be read, UserError where the loss is not finite or another
        rank is gone, Terminated after a stop signal (state saved)."""
        self.data_loader.first = self.saved = self.start_iter
        with _quiet_user_errors():
            try:
                with _one_line_data_errors():
                    return super().train()
            except NotFinite as error:
                raise UserError(self._diverged(error)) from error
            except RuntimeError as error:
                words = _what_ended(error)
                if words is None:
                    raise
                raise UserError(words) from error
            finally:
                self._trainer.close()
                if self.progress.metrics is not None:
                    self.progress.metrics.close()

    def _diverged(self, error: NotFinite) -> str:
        """Of every rank whose loss is not finite: its parts, and the images. Every rank is here."""
        files, parts = self._batch
        own = (files, {name: float(value) for name, value in parts.items()})
        shares = gather_values(own, self.ranks)
        bad = [shares[entry["rank"]] for entry in error.report if entry["not_finite"]]
        losses = "; ".join(", ".join(f"{name} {value:.4g}" for name, value in found.items()) for _, found in bad)
        images = ", ".join(name for names, _ in bad for name in names)
        return (
            f"training diverged: the loss of iteration {self.iter + 1} is not finite ({losses}), on the images {images}. No parameter was "
            f"changed by it; the checkpoint after {self.saved} iterations is the newest. Lower SOLVER.BASE_LR (now "
            f"{self.cfg.SOLVER.BASE_LR:g}) or lengthen SOLVER.WARMUP_ITERS (now {self.cfg.SOLVER.WARMUP_ITERS}), with another OUTPUT_DIR"
        )


def _what_ended(error: RuntimeError) -> str | None:
    """In words: a process of the run that is gone. None for any other error."""
    if "DataLoader worker" in str(error):
        return (
            f"a loader process was killed ({str(error).splitlines()[0]:.120}), often for lack of memory: lower "
            "DATALOADER.NUM_WORKERS, and give the same command again"
        )
    if is_lost_rank(error):
        return "another process of the run has ended; what it printed says why. Give the same command again"
    return None


def _kind(dataset_name: str) -> str:
    """Whose evaluator a data set has. Raises ConfigError for one that is neither COCO's nor VOC's."""
    kind = MetadataCatalog.get(dataset_name).get("evaluator_type")
    if kind not in EVALUATED:
        raise ConfigError(
            f"DATASETS.TEST {dataset_name}: no evaluator for data of kind {kind!r}; expected COCO or VOC data"
        )
    return str(kind)


def _provide_ground_truth(dataset_name: str, inference_dir: Path) -> None:
    """Write the file that CocoEvaluator reads, where the user's own cannot be evaluated against as it is."""
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
