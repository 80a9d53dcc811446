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
from transfer.detect.checkpointer import Newest, SafeCheckpointer, newest_checkpoint, read_for_detectron2, settle

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


def saving(folder, value=1.0):
    """A checkpointer of a one-layer model whose weight is `value`."""
    target = model()
    with torch.no_grad():
        target.weight.fill_(value)
    return SafeCheckpointer(target, str(folder), save_to_disk=True)


def test_the_log_of_the_run_says_what_was_saved(tmp_path, caplog):
    with caplog.at_level("INFO"):
        saving(tmp_path).save("model_0000041", iteration=41)
    (said,) = [line for line in caplog.records if "saved" in line.message]
    assert said.message == f"saved {tmp_path}/model_0000041.pth"
    # Below the one logger that a run gives a screen and a log.txt; Detectron2's formatter, where one is set up, shortens its name.
    assert said.name in ("detectron2.infomin_transfer", "d2.infomin_transfer")


def test_a_damaged_newest_checkpoint_is_put_aside_and_the_one_before_is_taken(tmp_path):
    for iteration in range(3):
        saving(tmp_path, iteration).save(f"model_{iteration:07d}", iteration=iteration)
    newest = tmp_path / "model_0000002.pth"
    assert newest_checkpoint(tmp_path) == Newest(newest)
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1  # one bit: torch would load it
    newest.write_bytes(content)
    found = newest_checkpoint(tmp_path)
    assert found.path.name == "model_0000001.pth" and "taking model_0000001.pth" in found.warnings[0]
    assert newest.exists()  # nothing is touched before the folder is held
    settle(found)
    assert newest.with_name("model_0000002.pth.damaged").exists() and not newest.exists()
    assert newest_checkpoint(tmp_path) == Newest(found.path)
    found.path.write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"none of the 1 checkpoints .* is readable, so the run cannot go on"):
        newest_checkpoint(tmp_path)


def test_a_disk_that_gives_back_something_else_leaves_what_was_saved_before(tmp_path, monkeypatch):
    saving(tmp_path, 1).save("model_0000000", iteration=0)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def damaged(path):
        raise CheckpointError("the checksum does not match")

    monkeypatch.setattr("pretrain.run.checkpoint.check_own_file", damaged)
    with pytest.raises(CheckpointError, match="what the disk gives back is not what was written"):
        saving(tmp_path, 2).save("model_0000001", iteration=1)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
