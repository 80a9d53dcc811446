"""What a detection run does between its steps: saving, evaluating, stopping, and going on exactly where it was.

In: the trainer's iteration, a stop signal of any rank. Out: checkpoints, rows of evaluations, the best model. What a checkpoint
holds beside Detectron2's own parts is `Progress`: with it a run that was killed ends in the very files of one that was not.

Order in an iteration (it matters): step, learning rate, BatchNorm statistics, save, evaluation, metrics. A save comes before the
evaluation of its iteration, so that a kill during that loses no step; a run that goes on from there evaluates first.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from detectron2.engine import HookBase
from detectron2.engine.hooks import PeriodicWriter, PreciseBN
from detectron2.evaluation import DatasetEvaluator
from detectron2.evaluation.testing import flatten_results_dict
from detectron2.utils import comm
from detectron2.utils.events import EventStorage, JSONWriter

from pretrain.base.signals import StopFlag
from pretrain.run.ranks import Ranks, gather_values, on_main
from transfer.detect.figures import figures_of

CLOCKS = (
    "time",
    "eta_seconds",
)  # of one start: Detectron2 leaves out its first iterations, and an old value would stay
SMOOTHING_WINDOW = 20  # iterations over which Detectron2's writers take the median
MOST_VALUES = 1000  # of a scalar, in so many iterations: its whole history need not be looked through
BEST_BY = ("segm/AP", "keypoints/AP", "bbox/AP")  # the first one that is measured


class MetricsFile(JSONWriter):
    """Detectron2's metrics.json, which a run that goes on cuts back to what it held at the checkpoint."""

    def __init__(self, path: Path) -> None:
        super().__init__(str(path), window_size=SMOOTHING_WINDOW)
        self._path = path

    def state_dict(self) -> dict[str, int]:
        """bytes: length of the file; written: the last iteration in it."""
        return {"bytes": self._path.stat().st_size, "written": self._last_write}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Inverse of `state_dict`; a file that is shorter (it was not copied along) stays."""
        if self._path.stat().st_size > state["bytes"]:
            self._file_handle.truncate(state["bytes"])
        self._last_write = state["written"]


class Progress:
    """What a run has measured so far, as a part of its checkpoints.

    history: a row an evaluation: {"iteration": iterations done, "bbox/AP": 12.3, ...}.
    best: {"metric", "value", "iteration"} of the best evaluation so far, None before the first.
    storage: Detectron2's scalars, while training. metrics: metrics.json, on the main rank.
    """

    def __init__(self) -> None:
        self.history: list[dict[str, Any]] = []
        self.best: dict[str, Any] | None = None
        self.storage: EventStorage | None = None
        self.metrics: MetricsFile | None = None
        self._restored: dict[str, Any] | None = None

    def state_dict(self) -> dict[str, Any]:
        """With the scalars that the next medians are taken of."""
        scalars = {}
        if self.storage is not None:
            smooth = self.storage.smoothing_hints()
            for name, values in self.storage.histories().items():
                if name not in CLOCKS:
                    first = values.values()[-1][1] - SMOOTHING_WINDOW
                    kept = [[value, at] for value, at in values.values()[-MOST_VALUES:] if at > first]
                    scalars[name] = {"smooth": smooth[name], "values": kept}
        metrics = self.metrics.state_dict() if self.metrics is not None else None
        return {"history": list(self.history), "best": self.best, "scalars": scalars, "metrics": metrics}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Rows and best at once; scalars and metrics.json when training begins."""
        self.history, self.best = list(state["history"]), state["best"]
        self._restored = dict(state)

    @property
    def restored(self) -> bool:
        """Whether a checkpoint has been read."""
        return self._restored is not None

    def begin(self, storage: EventStorage, *, anew: bool) -> None:
        """Training begins. anew: from its first iteration, whatever an earlier start, which saved nothing, left."""
        self.storage = storage
        restored = self._restored or {}
        for name, entry in restored.get("scalars", {}).items():
            for value, at in entry["values"]:
                storage.put_scalar(name, value, smoothing_hint=entry["smooth"], cur_iter=at)
        metrics = {"bytes": 0, "written": -1} if anew else restored.get("metrics")
        if self.metrics is not None and metrics is not None:
            self.metrics.load_state_dict(metrics)

    def add(self, row: Mapping[str, Any]) -> bool:
        """Keep a row. True where it is the best so far by the AP of masks, keypoints or boxes, the first that is measured."""
        self.history = [*(old for old in self.history if old["iteration"] < row["iteration"]), dict(row)]
        metric = next((name for name in BEST_BY if row.get(name) is not None), None)
        if metric is None:
            return False
        if self.best is not None and self.best["metric"] == metric and row[metric] <= self.best["value"]:
            return False
        self.best = {"metric": metric, "value": row[metric], "iteration": row["iteration"]}
        return True


class EvaluationStopped(Exception):
    """A stop signal arrived during an evaluation; raised on every rank."""


class StoppableEvaluator(DatasetEvaluator):
    """An evaluator that a stop signal of any rank ends between two batches, on all ranks.

    Every rank exchanges one value: where it stops, or when it has seen all its images.
    """

    def __init__(self, evaluator: DatasetEvaluator, stop: StopFlag, ranks: Ranks) -> None:
        self._evaluator = evaluator
        self._stop = stop
        self._ranks = ranks

    def reset(self) -> None:
        self._evaluator.reset()

    def process(self, inputs: Any, outputs: Any) -> None:
        """Raises EvaluationStopped."""
        if self._stop.is_set:
            self._agree()
        self._evaluator.process(inputs, outputs)

    def evaluate(self) -> Any:
        """Raises EvaluationStopped."""
        self._agree()
        return self._evaluator.evaluate()

    def _agree(self) -> None:
        if any(gather_values(self._stop.is_set, self._ranks)):
            raise EvaluationStopped


class FreshPreciseBN(PreciseBN):
    """PreciseBN that takes the same batches each time: where it left off the time before is in no checkpoint."""

    def update_stats(self) -> None:
        self._data_iter = None
        try:
            super().update_stats()
        finally:
            if self._data_iter is not None:
                self._data_iter.close()


class Saving(HookBase):
    """A checkpoint every `period` iterations (0: none on the way), after the last one, and where a rank was asked to stop."""

    def __init__(self, period: int) -> None:
        self._period = period

    def before_train(self) -> None:
        self.trainer.progress.begin(self.trainer.storage, anew=self.trainer.start_iter == 0)

    def after_step(self) -> None:
        trainer = self.trainer
        done, last = trainer.iter + 1, trainer.iter + 1 == trainer.max_iter
        if last or trainer.stopping or (self._period > 0 and done % self._period == 0):
            trainer.save(done)
        if trainer.stopping and not last:
            trainer.stop(done)


class Evaluation(HookBase):
    """An evaluation every `period` iterations (0: none on the way) and after the last one."""

    def __init__(self, period: int) -> None:
        self._period = period

    def _is_due(self, done: int) -> bool:
        return self._period > 0 and done % self._period == 0 and 0 < done < self.trainer.max_iter

    def before_train(self) -> None:
        """What a killed start left undone."""
        done = self.trainer.start_iter
        if self._is_due(done) and done not in [row["iteration"] for row in self.trainer.progress.history]:
            self._evaluate(done, index=done - 1)

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        if self._is_due(done):
            self._evaluate(done, index=done - 1)

    def after_train(self) -> None:
        """Detectron2 calls this also after an error: then the last iteration has not been counted."""
        if self.trainer.iter >= self.trainer.max_iter:
            self._evaluate(self.trainer.max_iter, index=self.trainer.max_iter)  # its own convention

    def _evaluate(self, done: int, *, index: int) -> None:
        """index: under which Detectron2 logs the figures."""
        trainer = self.trainer
        try:
            results = trainer.evaluate()
        except EvaluationStopped:
            trainer.stop(done)
            return
        if results:
            trainer.storage.put_scalars(**flatten_results_dict(results), smoothing_hint=False, cur_iter=index)

        def keep() -> None:
            if not results:
                return
            best = trainer.progress.add({"iteration": done, **figures_of(results)})
            if best and self._period > 0:
                trainer.checkpointer.save_best(iteration=done - 1, best=trainer.progress.best)

        on_main(keep, trainer.ranks)
        trainer.on_progress(done)


class PeriodicMetrics(PeriodicWriter):
    """PeriodicWriter that also writes the line of metrics.json which a killed start had left to do after its last save."""

    def before_train(self) -> None:
        trainer, progress = self.trainer, self.trainer.progress
        due = trainer.start_iter % self._period == 0 or trainer.start_iter == trainer.max_iter
        if due and progress.restored and progress.metrics is not None:
            progress.metrics.write()


def ranks_of_detectron2() -> Ranks:
    """Which process this is, as Detectron2's launcher says."""
    return Ranks(comm.get_rank(), comm.get_local_rank(), comm.get_world_size(), comm.get_local_size())
