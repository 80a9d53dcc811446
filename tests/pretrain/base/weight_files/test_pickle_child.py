"""The child answers what a pickle holds and makes nothing; its limits stop what is small but asks for much."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import tempfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest

from pretrain.base.weight_files import pickle_child, pickle_operations
from pretrain.base.weight_files.pickle_child import Plan, answer, check_operations, read_one
from pretrain.base.weight_files.pickle_records import Refused

ROOT = Path(__file__).resolve().parents[4]


def plan_of(content: bytes, kind: str = "pickle") -> dict:
    with tempfile.TemporaryFile() as file, tempfile.TemporaryFile() as blob:
        file.write(content)
        file.flush()
        plan = answer(kind, file.fileno(), 0, len(content), blob.fileno())
        blob.seek(0)
        return {**plan, "blob": blob.read()}


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_values_come_back_as_they_are(protocol):
    value = {"a": [1, 2.5, None, True, -(1 << 80)], "b": ("x", "\udc80", float("inf")), 3: {}}
    plan = plan_of(pickle.dumps(value, protocol=protocol))
    assert plan["tree"] == [
        "dict",
        [
            ["a", ["list", [1, 2.5, None, True, -(1 << 80)]]],
            ["b", ["tuple", ["x", "\udc80", float("inf")]]],
            [3, ["dict", []]],
        ],
    ]


def test_an_array_is_bytes_a_shape_and_a_type():
    array = np.arange(6, dtype=">i2").reshape(2, 3)
    plan = plan_of(pickle.dumps(OrderedDict(w=array), protocol=2))
    assert plan["tensors"] == [["array", 0, ">i2", [2, 3], False]]
    assert plan["blob"][:12] == array.tobytes()


def test_the_same_object_twice_is_one_tensor():
    array = np.zeros(4)
    assert plan_of(pickle.dumps([array, array]))["tree"] == ["list", [["tensor", 0], ["tensor", 0]]]


def test_the_message_names_what_the_pickle_wanted():
    assert "import os.system, which is not needed for weights and could run code" in plan_of(b"cos\nsystem\n.")["error"]


@pytest.mark.parametrize(
    ("limit", "value", "content", "message"),
    [
        ("MAX_OPCODES", 50, pickle.dumps(list(range(100))), "more than 50 operations"),
        ("MAX_MEMO", 10, b"\x80\x02}r\x0b\x00\x00\x00.", "numbers an object 11"),
        ("MAX_NODES", 50, pickle.dumps([[[0] * 4] * 4] * 4), "more than 50 entries"),
        ("MAX_DEPTH", 5, pickle.dumps([[[[[[[]]]]]]]), "5 deep"),
        ("MAX_TEXT", 5, pickle.dumps(["abc", "def"]), "more than 5 characters"),
    ],
)
def test_each_limit_stops_what_is_one_beyond_it(monkeypatch, limit, value, content, message):
    assert "error" not in plan_of(content) or limit == "MAX_MEMO"
    monkeypatch.setattr(pickle_operations if hasattr(pickle_operations, limit) else pickle_child, limit, value)
    assert message in plan_of(content)["error"]


def test_operations_are_refused_before_the_first_one_runs(monkeypatch):
    class Never:
        def __init__(self, *arguments):
            raise AssertionError("the unpickler was started")

    monkeypatch.setattr(pickle_child, "PlanUnpickler", Never)
    with pytest.raises(Refused, match="uses INST"):
        read_one(b"}(ios\nsystem\n.", None)


def test_where_a_pickle_ends_is_found_without_running_it():
    first, second = pickle.dumps({"a": 1}), pickle.dumps([2])
    assert check_operations(first + second) == len(first)
    with pytest.raises(Refused, match="bytes follow the end"):
        read_one(first + second, None)


@pytest.mark.parametrize(
    "inert", ["c_codecs\nencode\n", "cnumpy\ndtype\n", "ctorch\nfloat32\n", "ccollections\nOrderedDict\n"]
)
def test_nothing_that_stands_for_a_name_can_be_changed_by_a_file(inert):
    state = b"(N}X\x08\x00\x00\x00__init__Nst"  # (None, {"__init__": None})
    assert "error" in plan_of(b"\x80\x02" + inert.encode() + state + b"b.")


def test_the_process_imports_neither_torch_nor_numpy():
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); import pretrain.base.weight_files.pickle_child; "
        "print([m for m in sys.modules if m.split('.')[0] in ('torch', 'numpy', 'yaml')])"
    )
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_plan_refuses_what_is_no_weight():
    with pytest.raises(Refused, match="holds a object"):
        Plan(os.open(os.devnull, os.O_WRONLY)).encode(object())


def test_reading_does_not_move_the_descriptor():
    with tempfile.TemporaryFile() as file:
        file.write(b"0123456789")
        file.seek(3)
        assert pickle_child.read_bytes(file.fileno(), 5, 4) == b"5678" and file.tell() == 3
        with pytest.raises(Refused, match="shorter"):
            pickle_child.read_bytes(file.fileno(), 5, 6)
