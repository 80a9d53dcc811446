"""The child answers what a pickle holds and makes, imports and runs nothing; its limits stop what is small but asks for much."""

from __future__ import annotations

import collections
import os
import pickle
import subprocess
import sys
import tempfile
import warnings
from collections import OrderedDict
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from pretrain.base.weight_files import pickle_child
from pretrain.base.weight_files.pickle_child import STAND_INS, Frozen, Plan, Refused, answer, find
from pretrain.base.weight_files.torch_files import read_torch_file

pytestmark = pytest.mark.child
ROOT = Path(__file__).resolve().parents[4]


def plan_of(content: bytes, kind: str = "pickle") -> dict[str, Any]:
    with tempfile.TemporaryFile() as file, tempfile.TemporaryFile() as blob:
        file.write(content)
        file.flush()
        plan = answer(kind, file.fileno(), 0, len(content), blob.fileno())
        blob.seek(0)
        return {**plan, "blob": blob.read()}


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_values_come_back_as_they_are(protocol):
    value = {"a": [1, 2.5, None, True, -(1 << 80)], "b": ("x", "\udc80", float("inf"), b"\xff"), 3: {}}
    assert plan_of(pickle.dumps(value, protocol=protocol))["tree"] == [
        "dict",
        [
            ["a", "b", 3],
            [
                ["list", [1, 2.5, None, True, -(1 << 80)]],
                ["tuple", ["x", "\udc80", float("inf"), ["bytes", "\xff"]]],
                ["dict", [[], []]],
            ],
        ],
    ]


def test_an_array_is_bytes_in_this_machines_order_a_shape_and_a_type():
    plan = plan_of(pickle.dumps(OrderedDict(w=np.arange(6, dtype=">i2").reshape(2, 3)), protocol=2))
    assert plan["tensors"] == [[[0, 12], "int16", "int16", 6, 0, [2, 3], [3, 1]]]
    assert plan["blob"][:12] == np.arange(6, dtype="<i2").tobytes()
    turned = plan_of(pickle.dumps(np.asfortranarray(np.zeros((2, 3, 4)))))
    assert turned["tensors"][0][-2:] == [[2, 3, 4], [1, 2, 6]]


def test_the_same_object_twice_is_described_once():
    array = np.zeros(4)
    assert plan_of(pickle.dumps([array, array]))["tree"] == ["list", [["tensor", 0], ["tensor", 0]]]
    one = collections.UserDict(a=1)
    plan = plan_of(pickle.dumps([one, one]))
    assert plan["tree"] == ["list", [["object", 0], ["object", 0]]] and len(plan["objects"]) == 1


def test_every_name_has_a_stand_in_and_known_torch_names_exist():
    assert all(isinstance(given, Frozen) for given in STAND_INS.values())
    assert isinstance(find("some.library", "Thing"), Frozen)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch does not like to be asked about typed storages
        for storage, dtype in pickle_child.STORAGES.items():
            assert getattr(torch, f"{storage}Storage").dtype == getattr(torch, dtype)
    for label in [label for label in STAND_INS if label.startswith("torch._utils.")]:
        assert hasattr(torch._utils, label.rpartition(".")[2])


def test_an_unknown_object_is_what_the_file_gave_to_it():
    class_and_state = b"\x80\x02clibrary.of\nThing\n)\x81}X\x02\x00\x00\x00lrK\x03sb."
    plan = plan_of(class_and_state)
    assert plan["objects"] == [["library.of.Thing", ["tuple", []], ["dict", [["lr"], [3]]]]]
    assert plan_of(b"\x80\x02clibrary\nfunction\nK\x01\x85R.")["objects"] == [
        ["library.function", ["tuple", [1]], None]
    ]
    assert plan_of(b"(ilibrary\nThing\n.")["objects"] == [["library.Thing", ["tuple", []], None]]
    assert plan_of(b"clibrary\nThing\n.")["tree"] == "library.Thing"
    assert plan_of(b"\x80\x02clibrary\nDict\n)\x81K\x01K\x02s.")["tree"] == ["dict", [[1], [2]]]
    assert plan_of(b"\x80\x02clibrary\nList\n)\x81K\x01a.")["tree"] == ["list", [1]]


def test_a_record_in_itself_is_described_once():
    plan = plan_of(b"\x80\x02clibrary\nNode\n)\x81q\x00}X\x06\x00\x00\x00parenth\x00sb.")
    assert plan["objects"] == [["library.Node", ["tuple", []], ["dict", [["parent"], [["object", 0]]]]]]


def test_of_a_record_beyond_the_limits_only_the_name_is_kept(monkeypatch):
    monkeypatch.setattr(pickle_child, "MAX_NODES", 50)
    plan = plan_of(pickle.dumps({"weights": np.ones(3), "data": collections.UserDict(enumerate(range(100)))}))
    assert plan["objects"] == [["collections.UserDict", ["tuple", []], None]] and len(plan["tensors"]) == 1


def test_the_message_names_what_the_pickle_wanted():
    assert "names os.system, which is not needed for weights and could run code" in plan_of(b"cos\nsystem\n.")["error"]


@pytest.mark.parametrize(
    ("limit", "value", "content", "message"),
    [
        ("MAX_NODES", 50, pickle.dumps([[[0] * 4] * 4] * 4), "more than 50 entries"),
        ("MAX_DEPTH", 5, pickle.dumps([[[[[[[]]]]]]]), "5 deep"),
        ("MAX_TEXT", 5, pickle.dumps(["abc", "def"]), "more than 5 characters"),
    ],
)
def test_each_limit_stops_what_is_one_beyond_it(monkeypatch, limit, value, content, message):
    assert "error" not in plan_of(content)
    monkeypatch.setattr(pickle_child, limit, value)
    assert message in plan_of(content)["error"]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_what_follows_a_pickle_is_found_and_a_cut_one_refused(protocol):
    content = pickle.dumps({"a": [1, "x" * 300]}, protocol=protocol)
    assert "bytes follow the end" in plan_of(content + pickle.dumps([2]))["error"]
    assert all("error" in plan_of(content[:end]) for end in range(len(content)))


@pytest.mark.parametrize(
    "inert",
    ["c_codecs\nencode\n", "cnumpy\ndtype\n", "ctorch\nfloat32\n", "ccollections\nOrderedDict\n", "cmine\nThing\n"],
)
@pytest.mark.parametrize("state", [b"(N}X\x08\x00\x00\x00__init__Nst", b"}X\x07\x00\x00\x00__new__Ns"])
def test_nothing_that_stands_for_a_name_can_be_changed_by_a_file(inert, state):
    assert "error" in plan_of(b"\x80\x02" + inert.encode() + state + b"b.")
    with pytest.raises(Refused):
        find("mine", "Thing").__init__ = None


@pytest.mark.parametrize(
    "fragment",
    [
        b"c__builtin__\nbytearray\nJ\x00\x00\x00\x7f\x85R",  # a number of bytes
        b"c__builtin__\nlist\nX\x04\x00\x00\x00text\x85R",  # of something that is no sequence
        b"c_codecs\nencode\nX\x01\x00\x00\x00aX\x05\x00\x00\x00rot13\x86R",
        b"c__builtin__\ngetattr\nX\x01\x00\x00\x00aX\x06\x00\x00\x00format\x86R",  # of a value, not of a name
        b"c__builtin__\ngetattr\ncpathlib\nPath\nX\x05\x00\x00\x00touch\x86R",
        b"ctorch._utils\n_rebuild_tensor_v2\n(K\x01K\x00))tR",
        b"ctorch._tensor\n_rebuild_from_type_v2\n(K\x01N)NtR",
    ],
)
def test_a_known_function_takes_only_what_weights_give_it(fragment):
    assert "error" in plan_of(b"\x80\x02" + fragment + b".")


def test_arrays_of_text_and_objects_are_records():
    for array in (np.array(["a"]), np.array([None]), np.zeros(2, "f4,i4"), np.zeros(2, "M8[s]"), np.zeros(2, complex)):
        assert plan_of(pickle.dumps({"x": array}, protocol=2))["tensors"] == []


def test_the_process_imports_neither_torch_nor_numpy():
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); import pretrain.base.weight_files.pickle_child; "
        "print([m for m in sys.modules if m.split('.')[0] in ('torch', 'numpy', 'yaml')])"
    )
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_plan_refuses_what_no_pickle_of_ours_makes():
    with pytest.raises(Refused, match="holds a object"):
        Plan(os.open(os.devnull, os.O_WRONLY)).of(object())


@pytest.fixture
def byol(monkeypatch):
    """Modules with the names and pickling of byol, haiku and jax (their repositories, 2020 to 2022)."""
    experiment, haiku, jax = (
        ModuleType(n) for n in ("byol.byol_experiment", "haiku._src.data_structures", "jax._src.device_array")
    )

    class _ByolExperimentState(NamedTuple):
        online_params: object
        target_params: object
        online_state: object
        target_state: object
        opt_state: object

    class FlatMapping(dict):
        def __reduce__(self):
            return FlatMapping, (dict(self),)

    def reconstruct_device_array(fun, args, arr_state, aval_state):
        raise AssertionError("called")

    class DeviceArray:
        def __init__(self, value):
            self.value = value

        def __reduce__(self):
            return reconstruct_device_array, (*self.value.__reduce__(), {"weak_type": False, "named_shape": {}})

    for module, member in ((experiment, _ByolExperimentState), (haiku, FlatMapping), (jax, reconstruct_device_array)):
        member.__module__, member.__qualname__ = module.__name__, member.__name__
        setattr(module, member.__name__, member)
        for parent in ("byol", "haiku", "haiku._src", "jax", "jax._src"):
            monkeypatch.setitem(sys.modules, parent, ModuleType(parent))
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return _ByolExperimentState, FlatMapping, DeviceArray


@pytest.mark.parametrize("protocol", [2, 4])
def test_a_file_of_byol_is_read_without_jax_or_haiku(tmp_path, byol, protocol):
    state, mapping, device_array = byol
    kernel = np.arange(8, dtype=np.float32).reshape(2, 2, 1, 2)
    params = mapping({"res_net50/~/initial_conv": mapping({"w": kernel})})
    other = mapping({"res_net50/~/initial_conv": mapping({"w": device_array(kernel + 1)})})
    content = {
        "experiment_state": state(params, other, mapping(), mapping(), (1,)),
        "step": 7,
        "rng": np.zeros(2, np.uint32),
    }
    (tmp_path / "byol.pkl").write_bytes(pickle.dumps(content, protocol=protocol))
    found = read_torch_file(tmp_path / "byol.pkl")["experiment_state"]
    assert torch.equal(found["online_params"]["res_net50/~/initial_conv"]["w"], torch.from_numpy(kernel))
    assert torch.equal(found["target_params"]["res_net50/~/initial_conv"]["w"], torch.from_numpy(kernel + 1))
    assert found["opt_state"] == (1,)
