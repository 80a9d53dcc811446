"""What a run does between its steps: evaluations that a signal ends on all ranks, the best model, metrics.json cut back."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils.events import EventStorage

from pretrain.base.errors import Terminated
from pretrain.base.signals import StopFlag, passed_to_children
from pretrain.run.ranks import Ranks
from tests.cases import each
from transfer.detect import progress as module
from transfer.detect.progress import Evaluation, EvaluationStopped, MetricsFile, Progress, StoppableEvaluator


class Counting(DatasetEvaluator):
    seen = 0

    def process(self, inputs, outputs) -> None:
        self.seen += 1

    def evaluate(self):
        return {"bbox": {"AP": 1.0}}


@each("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_ends_an_evaluation_between_two_batches(number: int) -> None:
    inner = Counting()
    with StopFlag() as stop:
        evaluator = StoppableEvaluator(inner, stop, Ranks())
        evaluator.process(None, None)
        assert evaluator.evaluate() == {"bbox": {"AP": 1.0}}  # the control
        os.kill(os.getpid(), number)
        with pytest.raises(EvaluationStopped):
            evaluator.process(None, None)
    assert inner.seen == 1


def test_a_rank_that_has_seen_all_its_images_hears_that_another_one_stops(monkeypatch) -> None:
    monkeypatch.setattr(module, "gather_values", lambda own, ranks: [own, True])
    with pytest.raises(EvaluationStopped):
        StoppableEvaluator(Counting(), StopFlag(), Ranks(world_size=2)).evaluate()


def test_the_best_is_by_masks_where_they_are_measured_and_the_earlier_of_two_equals() -> None:
    boxes, both = Progress(), Progress()
    assert [boxes.add({"iteration": i, "bbox/AP": ap}) for i, ap in enumerate([2.0, 1.0, 2.0, 3.0])] == [1, 0, 0, 1]
    assert boxes.best == {"metric": "bbox/AP", "value": 3.0, "iteration": 3}
    assert [both.add({"iteration": i, "bbox/AP": 9.0 - i, "segm/AP": i}) for i in range(3)] == [True] * 3
    assert both.best == {"metric": "segm/AP", "value": 2, "iteration": 2}
    assert not Progress().add({"iteration": 1, "bbox/AP": None})  # could not be computed


def test_metrics_go_on_with_the_lines_and_the_medians_of_the_checkpoint(tmp_path: Path) -> None:
    """The last of three starts is killed after the save at 24 iterations and loses what it wrote later."""

    def run(path: Path, first: int, last: int, state=None) -> dict:
        progress = Progress()
        progress.metrics = MetricsFile(path)
        if state is not None:
            progress.load_state_dict(state)
        with EventStorage(first) as storage:
            progress.begin(storage, anew=first == 0)
            for storage.iter in range(first, last):
                storage.put_scalar("loss", (storage.iter * 7) % 11)
                storage.put_scalar("time", first, smoothing_hint=False)
                if (storage.iter + 1) % 20 == 0:
                    progress.metrics.write()
            saved = progress.state_dict()
            if last == 24:  # what comes after the save, up to the kill
                storage.put_scalar("loss", 1e9, cur_iter=30)
                progress.metrics.write()
        progress.metrics.close()
        return saved

    run(tmp_path / "whole.json", 0, 60)
    run(tmp_path / "cut.json", 24, 60, run(tmp_path / "cut.json", 0, 24))
    lines = [
        (tmp_path / name).read_text().replace('"time": 24.0', '"time": 0.0') for name in ("whole.json", "cut.json")
    ]
    assert lines[0] == lines[1] and lines[0].count("\n") == 3 and "1000000000" not in lines[0]


def test_an_evaluation_that_a_kill_left_undone_comes_first(monkeypatch) -> None:
    done = []
    hook = Evaluation(2)
    monkeypatch.setattr(hook, "_evaluate", lambda count, index: done.append((count, index)))
    for start, rows in ((4, [2]), (4, [2, 4]), (3, [2]), (0, []), (6, [2, 4])):  # the last one comes after training
        progress = SimpleNamespace(history=[{"iteration": row} for row in rows])
        hook.trainer = SimpleNamespace(start_iter=start, max_iter=6, progress=progress)
        hook.before_train()
    assert done == [(4, 3)]


def test_a_signal_before_any_process_was_started_ends_the_launcher() -> None:
    with pytest.raises(Terminated) as stopped, passed_to_children("go on"):
        os.kill(os.getpid(), signal.SIGTERM)
    assert stopped.value.exit_code == 143 and "go on" in str(stopped.value)
