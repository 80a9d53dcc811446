"""What a run writes while it runs: figures averaged, logged at the asked steps, without lost stretches; how long it waits."""

from __future__ import annotations

import contextlib
import json
import math
import time

import pytest
import torch

from pretrain.run import recorder as recorder_module
from pretrain.run.ranks import Ranks
from pretrain.run.recorder import Recorder, StepLog


def entries_of(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def recorder(folder, **changed):
    settings = {"from_step": 0, "num_steps": 5, "log_every": 1, "batch_size": 8, "ranks": Ranks()}
    return Recorder(folder, **{**settings, **changed})


def test_log_entries_after_the_checkpoint_are_dropped_on_resume(tmp_path):
    log = StepLog(tmp_path, from_step=0)
    for step in range(1, 6):
        log.write({"step": step, "loss": 1.0 / step})
    log.close()
    with open(tmp_path / "log.jsonl", "a") as file:
        file.write('{"step": 6, "lo')  # killed in mid-write
    log = StepLog(tmp_path, from_step=3)
    log.write({"step": 4, "loss": 0.5})
    log.close()
    assert [entry["step"] for entry in entries_of(tmp_path)] == [1, 2, 3, 4]


def test_figures_are_logged_every_few_steps_and_at_the_last(tmp_path):
    with recorder(tmp_path, log_every=2) as record:
        for step in range(1, 6):
            record.record(step, {"loss": torch.tensor(1.0 / step)}, epoch=step / 5, learning_rate=0.1)
    entries = entries_of(tmp_path)
    assert [entry["step"] for entry in entries] == [2, 4, 5]
    assert entries[1]["loss"] == 0.25
    assert record.final["images_per_second"] > 0


class Clock:
    """time.perf_counter that moves only where the test moves it."""

    def __init__(self):
        self.now = 100.0

    def perf_counter(self):
        return self.now


def test_speed_wait_and_time_left_are_those_of_the_clock(tmp_path, monkeypatch):
    clock = Clock()
    monkeypatch.setattr(recorder_module, "time", clock)

    def loader():
        while True:
            clock.now += 0.5  # the batch is waited for
            yield None

    with recorder(tmp_path, log_every=2, num_steps=6) as record:
        for step, _ in zip(range(1, 5), record.timed(loader()), strict=False):
            clock.now += 1.5  # the step
            record.record(step, {"loss": torch.tensor(1.0)}, epoch=0, learning_rate=0.1)
            if step == 2:
                began = clock.now
                clock.now += 60  # the monitor
                record.add(step, {"knn": 20.0}, epoch=0)
                record.pause(began)
    first, probe, second = entries_of(tmp_path)
    assert probe == {"step": 2, "epoch": 0, "knn": 20.0}
    assert first["images_per_second"] == pytest.approx(8 / 2)
    assert second["images_per_second"] == pytest.approx(8 / 2)  # the monitor's minute does not count
    for entry in (first, second):
        assert entry["data_wait_ms"] == pytest.approx(500, rel=1e-6) and entry["data_wait"] == pytest.approx(0.25)
    assert first["eta_seconds"] == pytest.approx(4 * 2)
    assert second["eta_seconds"] == pytest.approx(2 * (4 * 2 + 60) / 4)  # here it does


@pytest.mark.parametrize("from_step", [0, 3])
def test_a_measurement_before_the_first_step_is_no_step_of_the_time_left(tmp_path, monkeypatch, from_step):
    clock = Clock()
    monkeypatch.setattr(recorder_module, "time", clock)
    with recorder(tmp_path, from_step=from_step, num_steps=from_step + 5) as record:
        began = clock.now
        clock.now += 600  # random weights, or what the last start left undone
        record.pause(began)
        clock.now += 2
        record.record(from_step + 1, {"loss": torch.tensor(1.0)}, epoch=0, learning_rate=0.1)
    (entry,) = entries_of(tmp_path)
    assert entry["eta_seconds"] == pytest.approx(4 * 2)


def test_the_bound_is_logged_beside_the_loss_of_the_images(tmp_path):
    with recorder(tmp_path, num_negatives=99) as record:
        record.record(1, {"loss_instance": torch.tensor(3.0)}, epoch=0, learning_rate=0.1)
    assert entries_of(tmp_path)[0]["information_bound"] == pytest.approx(math.log(100) - 3)


def test_the_final_figures_are_those_of_the_last_step_alone_also_after_a_resume(tmp_path):
    with recorder(tmp_path, num_steps=2) as record:
        record.add(1, {"knn": 20.0, "effective_rank": 3.0}, epoch=0)
        record.record(2, {"loss": torch.tensor(3.0)}, epoch=0, learning_rate=0.1)
    with recorder(tmp_path, num_steps=2, from_step=2) as record:
        assert record.final["loss"] == 3 and not {"knn", "effective_rank"} & set(record.final)
        assert "eta_seconds" not in record.final  # says nothing of a run that has ended
        assert [entry["step"] for entry in record.entries] == [1, 2]
        record.add(2, {"knn": 30.0}, epoch=1)
        assert record.final["knn"] == 30


def test_the_bar_shows_loss_accuracy_speed_and_wait(tmp_path, capsys):
    with recorder(tmp_path) as record:
        time.sleep(0.01)
        figures = {"loss": torch.tensor(3.0), "accuracy": torch.tensor(0.25)}
        record.record(1, figures, epoch=0, learning_rate=0.1)
        record.record(2, figures, epoch=0, learning_rate=0.1)
    shown = capsys.readouterr().err
    assert all(word in shown for word in ("loss=3.000", "accuracy=0.250", "img/s=", "data wait=0 %", "<"))


def test_a_full_disk_names_the_log_and_leaves_no_second_error(tmp_path):
    with pytest.raises(OSError, match="No space left on device.*log.jsonl"), recorder(tmp_path) as recording:
        recording._log._file.close()
        recording._log._file = open("/dev/full", "a")  # noqa: SIM115 - the recorder closes it
        recording.record(1, {"loss": torch.tensor(1.0)}, epoch=0.5, learning_rate=0.1)


def test_a_full_disk_under_tensorboard_ends_the_run_without_a_traceback_of_its_thread(tmp_path, capfd):
    log = StepLog(tmp_path, from_step=0)
    with open("/dev/full", "wb", buffering=0) as full:
        log._board._get_file_writer().event_writer._async_writer._writer._writer = full
        with pytest.raises(OSError, match="No space left on device"):
            for step in range(10_000):
                log.write({"step": step, "loss": 1.0})
    with contextlib.suppress(OSError):
        log.close()
    assert "Traceback" not in capfd.readouterr().err
