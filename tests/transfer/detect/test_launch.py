"""Several processes of a detection run, without starting them: exit codes, and what the record says of one that ended.

Two real ones: tests/tools/test_train_net.py.
"""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.multiprocessing import ProcessExitedException

from pretrain.base.errors import ConfigError, Terminated
from pretrain.base.record import OpenRecord, Record, read_record
from transfer.detect.launch import Processes, carry_out, train_together, worker


def run_into(folder: Path) -> SimpleNamespace:
    weights = SimpleNamespace(weights="")
    return SimpleNamespace(config=SimpleNamespace(OUTPUT_DIR=str(folder)), weights=weights, options=None)


@pytest.fixture
def two(monkeypatch: pytest.MonkeyPatch) -> Processes:
    with monkeypatch.context() as patched:
        patched.setattr(torch.cuda, "device_count", lambda: 2)
        return Processes(num_gpus=2, num_machines=1, machine_rank=0, dist_url="auto")


def test_a_workers_exit_code_is_the_commands(two: Processes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    stopped, given = ProcessExitedException("stopped", 0, 1, 2), []

    def launch(function, *numbers, args):
        given.append((function, numbers, args))
        raise stopped

    monkeypatch.setattr("transfer.detect.launch.launch", launch)
    monkeypatch.setattr("transfer.detect.launch.open_output_dir", lambda options, config: nullcontext())
    run = run_into(tmp_path)
    assert carry_out(run, two) == 2
    assert given == [(worker, (2, 1, 0, "auto"), (run,))]  # with what was prepared once
    stopped.exit_code = -9
    with pytest.raises(ProcessExitedException):
        carry_out(run, two)


@pytest.mark.parametrize(
    ("stop", "error", "status"),
    [
        (ProcessExitedException("process 1 terminated with exit code 2", 1, 2, 2), None, "failed"),
        (Terminated("told to"), Terminated, "stopped"),
    ],
)
def test_a_worker_that_ends_leaves_no_record_that_says_running(
    two: Processes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, stop, error, status: str
) -> None:
    """The process that holds the record is killed together with the others."""

    def launch(*given, args):
        OpenRecord(tmp_path / "record.json", Record("detection", {}, {}, seeds={}))
        raise stop

    monkeypatch.setattr("transfer.detect.launch.launch", launch)
    with pytest.raises(error) if error else nullcontext():
        train_together(run_into(tmp_path), two)
    found = read_record(tmp_path / "record.json")
    assert found.status == status and found.error


def test_a_worker_leaves_with_the_code_of_its_error(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    def prepare(run):
        raise ConfigError("what to type")

    monkeypatch.setattr("transfer.detect.launch.enter_process", prepare)
    with pytest.raises(SystemExit) as left:
        worker(None)
    assert left.value.code == 2 and capsys.readouterr().err == "error: what to type\n"
