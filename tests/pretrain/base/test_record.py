"""The record of a run: what it says while the run goes on, when it ends, when it is killed, and when two are one experiment."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pretrain.base import record as record_module
from pretrain.base.errors import ConfigError, DataError, Terminated, UserError
from pretrain.base.record import (
    DataRecord,
    Initialisation,
    OpenRecord,
    Record,
    experiment_hash,
    find_finished,
    read_record,
    record_beside,
    what_differs,
    without,
)
from tests.cases import each

PLAIN = Record(
    kind="readout",
    experiment={"config": {"learning_rate": 30.0, "milestones": (30, 40)}, "data": "abc"},
    config={"learning_rate": 30.0, "milestones": (30, 40), "seed": 1},
    seeds={"run": 1, "pretraining": None},
    commands=("python tools/linear_eval.py",),
    data={"train": DataRecord("folder", "abc", 10)},
    class_names=("cat", "dog"),
    metric="top-1",
    initialisation=Initialisation("random", "random", random_seed=1),
)


def test_record_reads_back_as_it_was_finished(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    with OpenRecord(path, PLAIN) as record:
        assert read_record(path).status == "running"
        written = record.finish({"top1": 50.0, "top5": float("nan")}, history=({"epoch": 1},))
    found = read_record(path)
    assert found.status == "done" and found.ended is not None
    assert found.figures == {"top1": 50.0, "top5": None}
    assert found.initialisation == PLAIN.initialisation and found.data == PLAIN.data
    assert found.hash == written.hash == experiment_hash(PLAIN.experiment)
    assert found.environment["first"]["host"] == found.holder["host"]


@each(
    ("error", "status", "said"),
    [
        (KeyboardInterrupt(), "stopped", "KeyboardInterrupt"),
        (Terminated("saved at step 3"), "stopped", "saved at step 3"),
        (UserError("the loss is not finite"), "failed", "the loss is not finite"),
        (ZeroDivisionError("a bug"), "failed", "ZeroDivisionError: a bug"),
    ],
)
def test_record_says_how_a_run_ended(tmp_path: Path, error: BaseException, status: str, said: str) -> None:
    path = tmp_path / "record.json"
    with pytest.raises(type(error)), OpenRecord(path, PLAIN):
        raise error
    found = read_record(path)
    assert found.status == status and (found.error or "").removesuffix(": ") == said and found.ended is not None


def test_killed_run_says_running_and_names_its_holder(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    code = (
        "import os, signal\nfrom pathlib import Path\nfrom pretrain.base import record\n"
        "from pretrain.base.record import *\n"
        "record.environment = dict  # which would import torch\n"
        f"OpenRecord(Path({str(path)!r}), Record('readout', {{}}, {{}}, {{'run': 0}}))\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], env={**os.environ})
    assert process.wait() == -signal.SIGKILL
    found = read_record(path)
    assert found.status == "running" and found.holder["pid"] == process.pid and found.ended is None


def test_second_start_keeps_first_environment_commands_and_cost(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    with pytest.raises(KeyboardInterrupt), OpenRecord(path, PLAIN) as record:
        record.update(cost=record.spend(images=100, devices=2), environment={"first": {"a": 1}, "latest": {"a": 1}})
        raise KeyboardInterrupt
    before = read_record(path)
    with OpenRecord(path, replace(PLAIN, commands=("again",))) as record:
        record.finish({}, cost=record.spend(images=50))
    found = read_record(path)
    assert found.commands == (*PLAIN.commands, "again")
    assert found.environment["first"] == {"a": 1} != found.environment["latest"]
    assert found.cost.images == 150 and found.cost.seconds >= before.cost.seconds
    assert found.started == before.started


def test_hash_ignores_order_and_kind_of_number_and_nothing_else() -> None:
    first = experiment_hash({"a": 1, "b": [0.5, 2]})
    assert first == experiment_hash({"b": (0.5, 2.0), "a": 1.0})
    others: list[dict[str, Any]] = [
        {"a": 2, "b": [0.5, 2]},
        {"a": 1, "b": [2, 0.5]},
        {"a": 1, "b": [0.5, 2], "c": None},
        {"a": "1", "b": [0.5, 2]},
        {"a": True, "b": [0.5, 2]},
    ]
    assert len({first, *map(experiment_hash, others)}) == 1 + len(others)


def test_left_out_keys_are_whole_keys_or_groups() -> None:
    config = {"MODEL": {"DEVICE": "cpu", "RESNETS": {"DEPTH": 50}}, "SEED": 1, "SEEDS": 2}
    assert without(config, ("MODEL.DEVICE", "SEED")) == {"MODEL.RESNETS.DEPTH": 50, "SEEDS": 2}
    assert without(config, ("MODEL",)) == {"SEED": 1, "SEEDS": 2}


def test_what_differs_names_the_key() -> None:
    other = replace(PLAIN, experiment={**PLAIN.experiment, "config": {"learning_rate": 3.0, "milestones": (30, 40)}})
    assert what_differs(PLAIN, other) == ["config.learning_rate: 30 there, 3 now"]


@each(
    ("key", "value", "said"),
    [
        ("version", 2, "version 1"),
        ("format", "x", "not a record"),
        ("status", "finished", "status"),
        ("figures", {"top1": "50"}, "figures.top1"),
        ("cost", {"seconds": 1, "euros": 3}, "cost"),
        ("surprise", 1, "surprise"),
        ("history", [{"epoch": 1}, 2], "history"),
        ("class_names", ["cat", 7], "class_names"),
        ("figures", {"top1": float("nan")}, "NaN is no JSON"),
        ("experiment", {"config": {}}, "edited by hand"),
    ],
)
def test_file_that_is_not_what_was_written_is_refused(tmp_path: Path, key: str, value: Any, said: str) -> None:
    path = tmp_path / "record.json"
    OpenRecord(path, PLAIN).finish({"top1": 50.0})
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    with pytest.raises(DataError, match=said):
        read_record(path)


def test_record_of_a_file_lies_beside_it(tmp_path: Path) -> None:
    assert record_beside(tmp_path / "weights.pth") == tmp_path / "weights.record.json"


def test_numbers_of_numpy_and_keys_of_any_type_read_back_as_what_they_are(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    odd = {
        "count": np.int64(3),
        "rate": np.float32(0.5),
        "names": {1: "cat", False: "dog", None: "none"},
        "p": Path("/x"),
    }
    plain = {"count": 3, "rate": 0.5, "names": {"1": "cat", "False": "dog", "None": "none"}, "p": "/x"}
    assert experiment_hash(odd) == experiment_hash(plain)
    record = replace(PLAIN, experiment=odd, details={"loss": np.float32("nan"), "text": "\u00e9\udcff"})
    OpenRecord(path, record).finish({"top1": np.float32(0.5), "top5": np.float64("inf")})  # type: ignore[dict-item]
    found = read_record(path)
    assert found.experiment == plain and found.figures == {"top1": 0.5, "top5": None}
    assert found.details == {"loss": None, "text": "\u00e9\udcff"}


def test_record_of_another_command_is_refused_and_stays(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    OpenRecord(path, replace(PLAIN, kind="pretraining"))
    before = path.read_bytes()
    for start in (lambda: OpenRecord(path, PLAIN), lambda: find_finished(path, PLAIN)):
        with pytest.raises(ConfigError, match="is the record of a pretraining, not of a readout"):
            start()
    assert path.read_bytes() == before


def test_run_whose_last_write_fails_is_failed_not_running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, write = tmp_path / "record.json", record_module.write_json

    def full_once(*arguments: Any) -> None:
        monkeypatch.setattr(record_module, "write_json", write)
        raise OSError(28, "No space left on device")

    with pytest.raises(DataError, match="what it said before is untouched"), OpenRecord(path, PLAIN) as record:
        monkeypatch.setattr(record_module, "write_json", full_once)
        record.finish({"top1": 50.0})
    found = read_record(path)
    assert found.status == "failed" and "No space left" in (found.error or "") and found.figures == {}


def test_record_where_nothing_can_be_written_is_the_users_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"could not write .*file/record\.json"):
        OpenRecord(tmp_path / "file" / "record.json", PLAIN)
