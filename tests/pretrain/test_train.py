"""The loop: resuming is exact at every step, no part of the state can be dropped unnoticed, a bad loss updates nothing."""

from __future__ import annotations

import hashlib
import json
import shutil

import pytest
import torch

from pretrain import train as train_module
from pretrain.base.contract import InputContract
from pretrain.base.errors import ConfigError, DataError, Terminated, UserError
from pretrain.base.signals import StopFlag
from pretrain.data.stream import open_stream
from pretrain.run.checkpoint import checkpoint_path, read_checkpoint, write_checkpoint
from pretrain.run.precision import choose_precision
from pretrain.run.ranks import Ranks
from pretrain.run.watch import Watch
from pretrain.train import build_state, train, train_step

STEPS = 6


def state_hash(path):
    """sha256 over every tensor of model and optimiser, names included."""
    state = read_checkpoint(path)
    digest = hashlib.sha256()
    momenta = {str(key): value["momentum_buffer"] for key, value in state["optimizer"]["state"].items()}
    for name, tensor in sorted({**state["model"], **momenta}.items()):
        digest.update(name.encode() + tensor.numpy().tobytes())
    return digest.hexdigest()


def final_hash(directory):
    return state_hash(checkpoint_path(directory / "checkpoints", STEPS))


def run(config, directory, *, resume=False):
    return train(config, output_dir=directory, resume=resume, ranks=Ranks())


@pytest.fixture
def whole_run(tmp_path, tiny_config, monkeypatch):
    """A run of six steps that kept the checkpoint of each, and its configuration."""
    monkeypatch.setattr(train_module, "prune_checkpoints", lambda *args, **kwargs: None)
    config = tiny_config(runtime={"checkpoint_every_steps": 1})
    run(config, tmp_path / "whole")
    return tmp_path / "whole", config


def cut_at(whole, step, directory):
    """A copy of the run as a kill right after the checkpoint of `step` would have left it."""
    shutil.copytree(whole, directory)
    (directory / "result.json").unlink()
    for path in (directory / "checkpoints").iterdir():
        if path != checkpoint_path(directory / "checkpoints", step):
            path.unlink()
    return directory


@pytest.mark.slow
def test_resuming_at_every_step_is_bit_exact(whole_run, tmp_path):
    whole, config = whole_run
    for step in range(1, STEPS):
        part = cut_at(whole, step, tmp_path / f"cut{step}")
        run(config, part, resume=True)
        assert final_hash(part) == final_hash(whole), step
        steps = [json.loads(line)["step"] for line in (part / "log.jsonl").read_text().splitlines()]
        assert steps == list(range(1, STEPS + 1))  # the lost stretch is not logged twice


@pytest.mark.slow
@pytest.mark.parametrize(
    "field",
    [
        "memory.features",
        "memory.pointer",
        "key.encoder.conv1.weight",
        "query.encoder.bn1.running_mean",
        "momentum",
        "step",
    ],
)
def test_dropping_a_part_of_the_state_shows(whole_run, tmp_path, field):
    whole, config = whole_run
    part = cut_at(whole, 3, tmp_path / "cut")
    path = checkpoint_path(part / "checkpoints", 3)
    state = read_checkpoint(path)
    if field == "momentum":
        state["optimizer"]["state"] = {}
    elif field == "step":
        state["progress"]["step"] = 2
    else:
        state["model"][field].zero_()
    write_checkpoint(path, {name: value for name, value in state.items() if name not in ("format", "version")})
    run(config, part, resume=True)
    assert final_hash(part) != final_hash(whole)


@pytest.mark.slow
def test_worker_processes_change_nothing(tiny_config, tmp_path):
    for workers in (0, 2):
        run(tiny_config(data={"num_workers": workers}, optimizer={"epochs": 1}), tmp_path / str(workers))
    hashes = {state_hash(checkpoint_path(tmp_path / str(workers) / "checkpoints", 2)) for workers in (0, 2)}
    assert len(hashes) == 1


class Stopped(train_module.StopFlag):
    """SIGTERM has come before the first step is done."""

    def __init__(self):
        super().__init__()
        self.is_set = True


def test_a_stop_signal_saves_the_step_and_says_so(tiny_config, tmp_path, monkeypatch):
    monkeypatch.setattr(train_module, "StopFlag", Stopped)
    with pytest.raises(Terminated, match="step 1 of 6"):
        run(tiny_config(), tmp_path)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step_00000001.pt"]


def test_a_loss_that_is_not_finite_updates_nothing(tiny_config):
    config = tiny_config()
    precision = choose_precision("fp32", torch.device("cpu"))
    state = build_state(config, InputContract(), precision=precision, ranks=Ranks())
    stream = open_stream(config, ranks=Ranks(), announce=lambda text: None)
    batch = next(stream.batches(from_step=0, num_steps=1))
    step_one = {
        "learning_rate": 0.03,
        "precision": precision,
        "ranks": Ranks(),
        "watch": Watch(StopFlag(), Ranks(), torch.device("cpu")),
    }
    with torch.no_grad():
        state.method.memory.features[0, 0] = float("nan")
    before = {name: value.clone() for name, value in state.method.state_dict().items() if "running" not in name}
    with pytest.raises(UserError, match="not finite at step 0"):
        train_step(state, batch, **step_one)
    after = state.method.state_dict()
    untouched = [name for name in before if "num_batches" not in name]
    assert all(torch.equal(before[name], after[name]) or "memory.features" in name for name in untouched)
    with torch.no_grad():  # control: the same step with the NaN gone does update
        state.method.memory.features[0] = state.method.memory.features[1]
    train_step(state, batch, **step_one)
    assert not torch.equal(
        before["query.encoder.conv1.weight"], state.method.state_dict()["query.encoder.conv1.weight"]
    )


def test_an_output_directory_is_not_reused_by_accident(tiny_config, tmp_path):
    config = tiny_config(optimizer={"epochs": 1})
    result = run(config, tmp_path / "run")
    with pytest.raises(ConfigError, match="--resume auto"):
        run(config, tmp_path / "run")
    assert run(config, tmp_path / "run", resume=True)["steps"] == result["steps"]  # finished: nothing to do
    with pytest.raises(ConfigError, match="optimizer.epochs: 1 there, 2 now"):
        run(tiny_config(optimizer={"epochs": 2}), tmp_path / "run", resume=True)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").touch()
    with pytest.raises(ConfigError, match=r"thesis\.tex"):
        run(config, tmp_path / "other")


@pytest.mark.slow
def test_a_run_does_not_go_on_with_other_images(tiny_config, image_folder, tmp_path, monkeypatch):
    root = shutil.copytree(image_folder, tmp_path / "images")
    config = tiny_config(data={"root": str(root)})
    with monkeypatch.context() as patch, pytest.raises(Terminated):
        patch.setattr(train_module, "StopFlag", Stopped)
        run(config, tmp_path / "run")
    shutil.copy(root / "000.png", root / "zzz.png")
    with pytest.raises(DataError, match="not those that this run began with"):
        run(config, tmp_path / "run", resume=True)
    (root / "zzz.png").unlink()
    assert run(config, tmp_path / "run", resume=True)["steps"] == STEPS  # control
