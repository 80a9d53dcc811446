"""The allow-list: what scripts store beside weights is read, DeepMind's BYOL files included; the list holds nothing that runs."""

from __future__ import annotations

import pickle
import sys
import warnings
from types import ModuleType
from typing import NamedTuple

import numpy as np
import pytest
import torch

from pretrain.base.weight_files import pickle_records
from pretrain.base.weight_files.pickle_names import ALLOWED
from pretrain.base.weight_files.torch_files import read_torch_file


def test_every_entry_is_a_record_of_ours():
    for asked, given in ALLOWED.items():
        kind = given if isinstance(given, type) else type(given)
        assert kind.__module__ == pickle_records.__name__, asked


def test_every_torch_name_exists_in_torch_and_storages_have_their_dtype():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch does not like to be asked about typed storages
        for (module, name), given in ALLOWED.items():
            if module == "torch":
                assert hasattr(torch, name), name
                if isinstance(given, pickle_records.StorageType):
                    assert getattr(torch, name).dtype == getattr(torch, given.text)


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
