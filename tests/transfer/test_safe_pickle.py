"""Pickles of arrays are read; whatever else a pickle wants to do is refused before it happens."""

from __future__ import annotations

import io
import os
import pickle
import subprocess
from collections import OrderedDict

import numpy as np
import pytest
import torch

from pretrain.errors import CheckpointError
from transfer import safe_pickle
from transfer.safe_pickle import SafeUnpickler
from transfer.weight_files import read_weight_file

ARRAYS = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(3, dtype=">f8"), "n": np.float32(2.5)}


def load(data: bytes):
    return SafeUnpickler(io.BytesIO(data), size=len(data)).load()


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_arrays_of_every_protocol_come_back(protocol):
    found = load(pickle.dumps(OrderedDict(ARRAYS), protocol=protocol))
    assert list(found) == list(ARRAYS)
    assert all(np.array_equal(found[name], value) for name, value in ARRAYS.items())


def test_a_fortran_array_keeps_its_values():
    array = np.asfortranarray(np.arange(12.0).reshape(3, 4))
    assert np.array_equal(load(pickle.dumps(array, protocol=2)), array)


class Call:
    """An object whose pickle calls `function(*arguments)` on loading."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


def malicious(canary: str) -> dict[str, bytes]:
    """Name -> pickle that would create the file `canary`, or take the process down."""
    touch = f"open({canary!r}, 'w').close()"
    blob = io.BytesIO()
    torch.save({"x": torch.zeros(1)}, blob)
    calls = {
        "os.system": Call(os.system, f"touch {canary}"),
        "eval": Call(eval, touch),
        "exec": Call(exec, touch),
        "open": Call(open, canary, "w"),
        "subprocess": Call(subprocess.call, ["touch", canary]),
        "import": Call(__import__, "os"),
        "getattr": Call(getattr, os, "system"),
        "numpy.load": Call(np.load, io.BytesIO),
        "numpy.fromfile": Call(np.fromfile, canary),
        "torch.load": Call(torch.load, canary),
        "nested pickle": Call(pickle.loads, pickle.dumps(Call(os.system, f"touch {canary}"))),
        "huge array": Call(np.ndarray, (1 << 40,)),
        "object array": np.array([Call(os.system, f"touch {canary}")], dtype=object),
        "map": Call(map, eval, [touch]),
        "bytes bomb": Call(bytes, 1 << 40),
    }
    raw = {
        "proto 0 global": b"cos\nsystem\n(S'touch %s'\ntR." % canary.encode(),
        "inst": b"(S'touch %s'\nios\nsystem\n." % canary.encode(),
        "dotted": b"\x80\x04\x8c\x05numpy\x8c\x0d_globals.exit\x93.",
        "persistent id": b"\x80\x02X\x01\x00\x00\x00aQ.",
        "extension": b"\x80\x02\x82\x01.",
        "bytes named ndarray": b"cnumpy\nndarray\n(I9999999999\ntR.",
        "no stop": b"\x80\x02}",
        "memo": b"\x80\x02h\x05.",
        "stack underflow": b"\x80\x02R.",
        "empty frame": b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7f.",
    }
    return {
        **{name: pickle.dumps({"model": value}, protocol=2) for name, value in calls.items() if picklable(value)},
        **raw,
    }


def picklable(value) -> bool:
    try:
        pickle.dumps(value, protocol=2)
    except Exception:
        return False
    return True


CASES = sorted(malicious("canary"))


@pytest.mark.parametrize("name", CASES)
def test_a_malicious_pickle_is_refused_and_nothing_runs(tmp_path, name):
    canary = tmp_path / "canary"
    path = tmp_path / "weights.pkl"
    path.write_bytes(malicious(str(canary))[name])
    with pytest.raises(CheckpointError):
        read_weight_file(path)
    assert not canary.exists()


@pytest.mark.parametrize("name", ["os.system", "eval", "exec", "proto 0 global", "inst", "nested pickle"])
def test_the_same_pickles_do_run_under_the_plain_unpickler(tmp_path, name):
    """The control: without our unpickler the canary appears, so its absence above means something."""
    canary = tmp_path / "canary"
    pickle.loads(malicious(str(canary))[name])
    assert canary.exists()


def test_too_many_operations_are_refused_before_the_first(monkeypatch):
    monkeypatch.setattr(safe_pickle, "MAX_OPCODES", 50)
    with pytest.raises(CheckpointError, match="more than 50 operations"):
        load(pickle.dumps(list(range(100))))


def test_the_message_names_what_the_pickle_wanted():
    with pytest.raises(CheckpointError, match=r"import (posix|nt)\.system"):
        load(pickle.dumps(Call(os.system, "true")))
