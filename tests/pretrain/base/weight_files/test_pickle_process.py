"""The caps of the child hold, and a child that is stopped is an error that says so."""

from __future__ import annotations

import logging
import pickle
import sys
import tempfile

import pytest

from pretrain.base.errors import CheckpointError
from pretrain.base.weight_files import pickle_process
from pretrain.base.weight_files.pickle_process import Caps, reading


def plan_of(content: bytes) -> dict:
    with tempfile.TemporaryFile() as file, tempfile.TemporaryFile() as blob:
        file.write(content)
        file.flush()
        with reading(file, blob, "pickle", offset=0, size=len(content)) as child:
            return child.plan()


def test_a_small_pickle_is_read_within_the_caps():
    plan = plan_of(pickle.dumps({"a": 1}))
    assert plan["tree"] == ["dict", [["a", 1]]] and plan["capped"] is True


def test_the_caps_grow_with_the_file_and_start_above_what_a_million_operations_make():
    assert Caps.of(0).memory == 512 << 20 and Caps.of(0).seconds == 30
    assert Caps.of(1 << 30).memory > 5 << 30


HEAVY = b"\x80\x02(" + b"]" * 900_000 + b"t0}."  # 900 thousand lists


@pytest.mark.skipif(sys.platform != "linux", reason="caps on memory are exact on Linux only")
def test_memory_beyond_the_cap_is_refused(monkeypatch):
    monkeypatch.setattr(pickle_process, "BASE_MEMORY", 60 << 20)
    monkeypatch.setattr(pickle_process, "MEMORY_PER_BYTE", 0)
    with pytest.raises(CheckpointError, match="memory"):
        plan_of(HEAVY)


def test_the_same_pickle_passes_with_the_usual_cap():
    assert plan_of(HEAVY)["tree"] == ["dict", []]


def test_a_child_that_does_not_end_is_stopped(monkeypatch):
    monkeypatch.setattr(pickle_process, "START", "import time; time.sleep(60)")
    monkeypatch.setattr(pickle_process, "BASE_SECONDS", 0)
    with pytest.raises(CheckpointError, match="took more than 0 s"):
        plan_of(b"}.")


def test_a_child_that_uses_up_its_time_is_stopped(monkeypatch):
    loop = "import sys; sys.path.insert(0, sys.argv.pop(1)); from pretrain.base.weight_files.pickle_child import limit; limit(1 << 30, 1, 1 << 20)\nwhile True: pass"
    monkeypatch.setattr(pickle_process, "START", loop)
    with pytest.raises(CheckpointError, match=r"stopped \(SIG(XCPU|KILL); its caps are"):
        plan_of(b"}.")


def test_a_child_that_fails_says_how(monkeypatch):
    monkeypatch.setattr(pickle_process, "START", "raise ValueError('no luck')")
    with pytest.raises(CheckpointError, match="failed .ValueError: no luck"):
        plan_of(b"}.")


def test_a_system_without_caps_is_said_aloud(monkeypatch, caplog):
    without = pickle_process.START.replace("from pretrain", "sys.modules['resource'] = None; from pretrain")
    monkeypatch.setattr(pickle_process, "START", without)
    with caplog.at_level(logging.WARNING):
        assert plan_of(b"}.")["capped"] is False
    assert "no caps on a process" in caplog.text


def test_a_pickle_larger_than_any_weights_is_not_started(monkeypatch):
    monkeypatch.setattr(pickle_process, "MAX_BYTES", 1)
    with pytest.raises(CheckpointError, match="at most 1 are read"):
        plan_of(b"}.")
