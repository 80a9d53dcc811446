"""What a run writes while it runs: figures averaged, logged at the asked steps, without lost stretches."""

from __future__ import annotations

import json

import torch

from pretrain.run.ranks import Ranks
from pretrain.run.recorder import Recorder, StepLog


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
    assert [json.loads(line)["step"] for line in (tmp_path / "log.jsonl").read_text().splitlines()] == [1, 2, 3, 4]


def test_figures_are_logged_every_few_steps_and_at_the_last(tmp_path):
    with Recorder(tmp_path, from_step=0, num_steps=5, log_every=2, batch_size=8, ranks=Ranks()) as recorder:
        for step in range(1, 6):
            recorder.record(step, {"loss": torch.tensor(1.0 / step)}, epoch=step / 5, learning_rate=0.1)
    entries = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in entries] == [2, 4, 5]
    assert entries[1]["loss"] == 0.25
    assert recorder.last["images_per_second"] > 0
