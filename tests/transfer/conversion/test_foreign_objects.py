"""Checkpoints that hold objects of other libraries beside the tensors: the tensors are read, nothing of the libraries is run."""

from __future__ import annotations

import argparse
import collections
import datetime
import decimal
import enum
import functools
import importlib
import logging
import pathlib
import random
import re
import runpy
import sys
import uuid
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from pretrain.base.weight_files.torch_files import ForeignObject, open_torch_file
from tests.transfer.conversion.tiny_encoders import tiny_state
from tests.transfer.conversion.weight_fuzz import child_in_this_process
from transfer.conversion.weight_files import read_weight_file

pytestmark = [pytest.mark.usefixtures("tiny_architectures"), pytest.mark.filterwarnings("ignore:torch.quantize")]
ROOT = Path(__file__).resolve().parents[3]
# A library that says so when it is imported or when one of its objects is made. {canary} becomes a path.
LIBRARY = """
import collections, dataclasses, enum, torch
open({canary!r}, "w").close()

class Loud:
    def __init__(self, value=None):
        self.value = value

    def __setstate__(self, state):
        open({canary!r}, "w").close()
        self.__dict__.update(state)

class HistoryBuffer(Loud):
    pass

class AttributeDict(dict):
    def __getattr__(self, name):
        return self[name]

class Reduced(Loud):
    def __reduce__(self):
        return make, (self.value,)

def make(value):
    open({canary!r}, "w").close()
    return Reduced(value)

class Stage(enum.Enum):
    TRAIN = "train"

class Flags(enum.Flag):
    A, B = 1, 2

@dataclasses.dataclass
class Settings:
    lr: float = 0.1
    stage: Stage = Stage.TRAIN

class Loss(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.center = torch.nn.Parameter(torch.ones(3))

class Special(torch.nn.Parameter):
    pass

class Nested:
    class Inner(Loud):
        pass

    def method(self):
        pass

Point = collections.namedtuple("Point", "x y")
"""
PLACES = ("mmengine/logging/history_buffer.py", "lightning/fabric/utilities/data.py", "my_project/all.py")


def optimizer() -> torch.optim.Optimizer:
    parameter = torch.nn.Parameter(torch.ones(3))
    made = torch.optim.AdamW([parameter])
    parameter.sum().backward()
    made.step()
    return made


def omega() -> Any:
    config = pytest.importorskip("omegaconf").OmegaConf.create({"model": {"lr": 0.1, "layers": [1, 2]}})
    return {"config": config, "part": config.model.layers}


# Kind -> (modules of LIBRARY) -> what stands beside the weights.
KINDS: dict[str, Callable[..., Any]] = {
    "MMSelfSup: message_hub": lambda mm, pl, own: {"log_scalars": {"loss": mm.HistoryBuffer(np.ones(3))}, "resumed": {"loss": True}},
    "Lightning: AttributeDict": lambda mm, pl, own: {"hyper_parameters": pl.AttributeDict(lr=0.1, inner=pl.AttributeDict())},
    "OmegaConf": lambda mm, pl, own: omega(),
    "own classes": lambda mm, pl, own: [own.Settings(), own.Reduced([1, 2]), own.Nested.Inner(3), own.Loud(own.Loud())],
    "own enumerations": lambda mm, pl, own: {own.Stage.TRAIN: own.Flags.A | own.Flags.B, "stage": own.Stage.TRAIN},
    "named tuples": lambda mm, pl, own: {"point": own.Point(1, 2), own.Point(3, 4): 5},
    "loss modules": lambda mm, pl, own: [own.Loss(), torch.nn.CrossEntropyLoss(weight=torch.ones(3)), torch.nn.Sequential()],
    "optimizers": lambda mm, pl, own: {"optimizer": optimizer(), "state": optimizer().state_dict()},
    "schedulers": lambda mm, pl, own: [torch.optim.lr_scheduler.OneCycleLR(optimizer(), 0.1, total_steps=9)],
    "parameters of own classes": lambda mm, pl, own: own.Special(torch.ones(3)),
    "other tensors": lambda mm, pl, own: [torch.eye(3).to_sparse(), torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8)],
    "dates": lambda mm, pl, own: [datetime.datetime.now(datetime.timezone.utc), datetime.date.today(), datetime.timedelta(1)],
    "numpy": lambda mm, pl, own: [
        *(np.float32(1), np.str_("a"), np.datetime64("2020-01-01"), np.array(["a"]), np.array([own.Loud()], dtype=object)),
        *(np.random.default_rng(0), np.random.RandomState(0).get_state(), np.ma.masked_array([1, 2], [0, 1]), np.dtype("f4")),
    ],
    "paths and options": lambda mm, pl, own: argparse.Namespace(root=pathlib.Path("/a/b"), own=own.Loud(), more=SimpleNamespace(a=1)),
    "functions": lambda mm, pl, own: [functools.partial(own.make, value=1), own.make, own.Nested.method, torch.relu, len, own.Loss],
    "torch's small things": lambda mm, pl, own: [torch.Size([1]), torch.float16, torch.device("cpu"), torch.complex64, torch.strided],
    "Python's containers": lambda mm, pl, own: [
        *(collections.deque([own.Loud()], 3), collections.defaultdict(own.Loud, a=1), collections.ChainMap({}), range(3), slice(1)),
        *(random.Random(0), random.getstate(), uuid.UUID(int=3), decimal.Decimal("0.1"), re.compile("a+"), 1 + 2j, ValueError("x")),
        *(logging.getLogger("x"), enum.Enum, type, Ellipsis, NotImplemented),
    ],
}  # fmt: skip


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    """(folder, canary) of packages of three names, which are importable until the tests of this file end."""
    folder = tmp_path_factory.mktemp("library")
    canary = folder / "canary"
    for place in PLACES:
        (folder / place).parent.mkdir(parents=True)
        (folder / place).write_text(LIBRARY.replace("{canary!r}", repr(str(canary))))
    sys.path.insert(0, str(folder))
    yield folder, canary
    sys.path.remove(str(folder))


@pytest.fixture
def checkpoint(library, tmp_path):
    """Function: kind, whether of the new format -> a file of that kind. Afterwards the library is as if it had never been loaded."""
    names = [place.removesuffix(".py").replace("/", ".") for place in PLACES]

    def write(kind: str, *, new: bool = True) -> Path:
        path = tmp_path / "checkpoint.pth"
        torch.save(
            {"state_dict": tiny_state(), "beside": KINDS[kind](*map(importlib.import_module, names))},
            path,
            _use_new_zipfile_serialization=new,
        )
        for name in [name for name in sys.modules if name.startswith(tuple(n.partition(".")[0] + "." for n in names))]:
            del sys.modules[name]
        library[1].unlink(missing_ok=True)
        return path

    return write


@pytest.mark.parametrize("kind", KINDS)
def test_the_tensors_beside_it_are_read_and_nothing_is_imported(checkpoint, library, kind):
    for new in (
        (True, False) if kind != "other tensors" else (True,)
    ):  # the older format keeps their storages under other names
        path = checkpoint(kind, new=new)
        with child_in_this_process():  # where the library could be imported
            found = read_weight_file(path)
        assert all(torch.equal(found["state_dict"][name], tensor) for name, tensor in tiny_state().items())
        assert not library[1].exists() and "my_project.all" not in sys.modules


@pytest.mark.slow
def test_the_tool_shows_them_all(checkpoint, library, monkeypatch, capsys):
    monkeypatch.setattr(sys, "path", ["tools", *sys.path])  # the tools drop the first entry
    for kind in KINDS:
        monkeypatch.setattr(sys, "path", ["tools", *sys.path])
        monkeypatch.setattr(sys, "argv", ["convert_weights.py", "--inspect", str(checkpoint(kind))])
        with pytest.raises(SystemExit) as stop:
            runpy.run_path(str(ROOT / "tools" / "convert_weights.py"), run_name="__main__")
        printed = capsys.readouterr()
        assert stop.value.code in (0, None), (kind, printed.err)
        assert "encoder     tiny18, 100 of 100 tensors" in printed.out and not library[1].exists(), kind


@pytest.mark.parametrize("kind", ["MMSelfSup: message_hub", "own classes"])
def test_the_control_does_import_and_run_it(checkpoint, library, kind):
    torch.load(checkpoint(kind), weights_only=False)
    assert library[1].exists()


def test_what_the_file_gave_to_an_object_stays_readable(checkpoint):
    file = open_torch_file(checkpoint("paths and options"))
    options = file.content["beside"]
    assert (options.root, options.more.a) == ("/a/b", 1) and isinstance(options.own, ForeignObject)
    assert (options.own.name, options.own.state) == ("my_project.all.Loud", {"value": None})
    assert file.foreign == ("my_project.all.Loud",)
    parameters = read_weight_file(checkpoint("Lightning: AttributeDict"))["beside"]["hyper_parameters"]
    assert parameters["lr"] == 0.1
