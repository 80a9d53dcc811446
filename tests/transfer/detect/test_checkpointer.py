"""Detectron2's checkpointer on our reader loads what Detectron2's own loads, by the same rules, and runs nothing."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from torch import nn

from pretrain.base.errors import CheckpointError
from transfer.detect.checkpointer import SafeCheckpointer, read_for_detectron2

ROOT = Path(__file__).resolve().parents[3]
ARRAYS = {"weight": np.arange(6, dtype=np.float32).reshape(2, 3), "bias": np.ones(2, np.float32)}


def model() -> nn.Linear:
    return nn.Linear(3, 2)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.pkl", {"model": ARRAYS, "__author__": "somebody", "matching_heuristics": True}),
        ("a.pkl", {**ARRAYS, "weight_momentum": np.zeros(1)}),
        ("a.pkl", {"blobs": {**ARRAYS, "weight_momentum": np.zeros(1)}}),
        ("a.pth", {"model": {k: torch.from_numpy(v) for k, v in ARRAYS.items()}, "iteration": 5}),
        ("a.pth", {k: torch.from_numpy(v) for k, v in ARRAYS.items()}),
        (
            "a.pyth",
            {
                "model_state": {
                    **{k: torch.from_numpy(v) for k, v in ARRAYS.items()},
                    "x.num_batches_tracked": torch.ones(1),
                }
            },
        ),
    ],
)
def test_what_detectron2_makes_of_a_file_is_what_we_make(tmp_path, name, content):
    path = tmp_path / name
    if name.endswith(".pkl"):
        path.write_bytes(pickle.dumps(content, protocol=2))
    else:
        torch.save(content, path)
    theirs = DetectionCheckpointer(model())
    theirs._parsed_url_during_load = __import__("urllib.parse").parse.urlparse(str(path))
    wanted, found = theirs._load_file(str(path)), read_for_detectron2(path)
    assert set(found) == set(wanted) and set(found["model"]) == set(wanted["model"])
    for key, value in wanted["model"].items():
        assert torch.equal(found["model"][key], torch.as_tensor(value))
    assert {k: v for k, v in found.items() if k != "model"} == {k: v for k, v in wanted.items() if k != "model"}


def test_weights_arrive_in_the_model(tmp_path):
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"model": ARRAYS, "__author__": "x", "matching_heuristics": True}))
    target = model()
    SafeCheckpointer(target).load(str(tmp_path / "a.pkl"))
    assert torch.equal(target.weight.detach(), torch.from_numpy(ARRAYS["weight"]))


def test_a_checkpoint_with_optimizer_and_iteration_resumes(tmp_path):
    before, after = model(), model()
    momentum = torch.optim.SGD(before.parameters(), lr=0.1, momentum=0.9)
    before(torch.ones(1, 3)).sum().backward()
    momentum.step()
    DetectionCheckpointer(before, str(tmp_path), optimizer=momentum).save("model_0000001", iteration=1)
    resumed = torch.optim.SGD(after.parameters(), lr=0.1, momentum=0.9)
    rest = SafeCheckpointer(after, str(tmp_path), optimizer=resumed).resume_or_load("", resume=True)
    assert rest["iteration"] == 1 and torch.equal(after.weight, before.weight)
    buffers = [state["momentum_buffer"] for state in resumed.state_dict()["state"].values()]
    assert all(
        torch.equal(a, b["momentum_buffer"])
        for a, b in zip(buffers, momentum.state_dict()["state"].values(), strict=True)
    )


@pytest.mark.parametrize(
    "content", [[1], {"blobs": 5}, {"model": Path("x"), "__author__": ""}, {"w": ARRAYS["bias"], "o": object()}]
)
def test_a_file_without_tensors_is_refused(tmp_path, content):
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(content))
    with pytest.raises(CheckpointError, match="holds no tensors"):
        read_for_detectron2(tmp_path / "a.pkl")


@pytest.mark.slow  # two processes
@pytest.mark.parametrize(
    ("reader", "ending"),
    [
        ("transfer.detect.checkpointer.read_for_detectron2", 0),
        ("transfer.conversion.weight_files.read_weight_file", -7),
    ],
    ids=["ours", "control: on the file's pages"],
)
def test_the_file_may_be_written_anew_while_its_tensors_are_in_use(tmp_path, reader, ending):
    path = tmp_path / "model_final.pth"
    torch.save({"model": {"weight": torch.ones(1 << 16)}}, path)
    module, _, name = reader.rpartition(".")
    program = f"""if True:
        import pathlib, resource
        from {module} import {name} as read
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        path = pathlib.Path({str(path)!r})
        weight = read(path)["model"]["weight"]
        open(path, "wb").close()
        assert weight.sum() == 1 << 16
    """
    assert subprocess.run([sys.executable, "-W", "ignore", "-c", program], cwd=ROOT).returncode == ending
